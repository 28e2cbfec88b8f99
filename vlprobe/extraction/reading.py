"""Features, read back from the store: one layer after another of the same examples."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from vlprobe.digest import digest
from vlprobe.errors import DataError
from vlprobe.extraction.questions import Extraction, Questions
from vlprobe.store import Store
from vlprobe.types import Features, Target

Read = Callable[[str, str, str, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""`Store.read`, or what does the same."""


class Readable(Protocol):
    """What features are read from: a store, or rows that go by."""

    def read(self, home: str, section: str, layer: str, names: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, questions and units as `Store.read` does."""


class Memory:
    """Memory for the rows of a layer, lent again as soon as nothing looks at it any more.

    The system zeroes fresh memory page by page, which takes about as long as reading a layer into it.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.float32)
        self._lent: weakref.ref[np.ndarray] | None = None

    def __call__(self, shape: tuple[int, int]) -> np.ndarray:
        """Return (row, width) float32 that hold anything: fresh ones, while somebody looks at those lent before."""
        if self._lent is not None and self._lent() is not None:
            return np.empty(shape, np.float32)
        count = shape[0] * shape[1]
        if len(self._block) < count:
            self._block = np.empty(count, np.float32)
        # Of a buffer, not of an array: whatever is cut from these rows holds on to them, not to the block.
        rows = np.frombuffer(self._block.data, np.float32, count)
        self._lent = weakref.ref(rows)
        return rows.reshape(shape)


@dataclass
class _Side:
    """What is asked of one side, and what the answers are to be."""

    questions: Questions
    """(example,) what is asked."""
    ids: np.ndarray = field(init=False)
    """(example,) str."""
    groups: np.ndarray = field(init=False)
    """(example,) str."""
    targets: list[tuple[Target, ...]] = field(init=False)
    """(example,) of each of its units."""
    _last: tuple[np.ndarray, ...] = field(init=False, default=())
    """Owner and unit of the rows of the layer before, and `answers` to them: layers of a side have the same."""

    def __post_init__(self) -> None:
        examples = list(self.questions.examples)
        self.ids = np.array([example.id for example in examples])
        self.groups = np.array([example.group for example in examples])
        self.targets = [example.target for example in examples]

    def answers(self, owner: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return (row,) targets, groups and ids.

        Args:
            owner: (row,) the example.
            unit: (row,) which of its units.
        """
        if not self._last or not all(map(np.array_equal, self._last, (owner, unit))):
            y = np.array([self.targets[i][k] for i, k in zip(owner.tolist(), unit.tolist(), strict=True)])
            self._last = owner, unit, y, self.groups[owner], self.ids[owner]
            for array in self._last[2:]:
                array.setflags(write=False)  # the next layer is given the same
        return self._last[2:]


class Reader:
    """Reads layers of one extraction from a store, one after another, in parts.

    The rows of a layer are forgotten when those of the next are read, unless somebody still looks at them.

    Args:
        extraction: whose layers are read.
        store: that holds them.
        parts: of each part, (example,) which examples, in the order that their rows are to have; None: one, of all.
    """

    def __init__(self, extraction: Extraction, store: Store, parts: Sequence[np.ndarray] | None = None) -> None:
        self._extraction, self._read = extraction, partial(store.read, memory=Memory())
        everything = [np.arange(len(extraction.examples))]
        self._edges = np.cumsum([0, *map(len, parts if parts is not None else everything)])
        self._order = None if parts is None else np.concatenate(parts)
        self._sides: dict[str, _Side] = {}

    def read(self, layer: str) -> list[Features]:
        """Return one layer's features of every part.

        Rows follow the examples, and inside one its units; an example that was left out has none.

        Raises:
            DataError: all examples were left out.
            Damaged: a shard is not what was written; it has been removed, and what it held is to be computed again.
        """
        side = self._extraction.side(layer)
        if side not in self._sides:
            asked = self._extraction.of(layer)
            self._sides[side] = _Side(asked if self._order is None else asked.take(self._order))
        return _features(self._extraction, self._sides[side], self._read, layer, self._edges)


def features(extraction: Extraction, store: Readable, layer: str) -> Features:
    """Return one layer's features of all examples; see `Reader.read`."""
    side = _Side(extraction.of(layer))
    return _features(extraction, side, store.read, layer, np.array([0, len(side.ids)]))[0]


def _features(extraction: Extraction, side: _Side, read: Read, layer: str, edges: np.ndarray) -> list[Features]:
    """Return features of the examples between one edge and the next."""
    X, owner, unit = _rows(extraction.home, side.questions, read, layer)
    if not len(X):
        raise DataError(f"layer {layer}: no example is left; all were left out as bad rows")
    y, group, name = side.answers(owner, unit)
    cuts = np.searchsorted(owner, edges)
    key = digest(extraction.paired[extraction.side(layer)], layer)
    return [
        Features(layer, X[a:b], y[a:b], group[a:b], name[a:b], unit[a:b], key)
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]


def _rows(home: str, questions: Questions, read: Read, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, (row,) the example and (row,) the unit of each, in the order of the examples."""
    if len(questions.kinds) == 1:
        return read(home, questions.kinds[0], layer, questions.names)
    found = []
    for kind in np.unique(questions.kind).tolist():
        mine = np.flatnonzero(questions.kind == kind)
        X, owner, unit = read(home, questions.kinds[kind], layer, questions.names[mine])
        found.append((X, mine[owner], unit))
    there = [each for each in found if len(each[0])] or found[:1]
    X, owner, unit = (np.concatenate(parts) for parts in zip(*there, strict=True))
    order = np.argsort(owner, kind="stable")
    return X[order], owner[order], unit[order]
