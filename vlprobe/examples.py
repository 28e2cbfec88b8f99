"""Examples that are made when they are looked at: of a task that may have more of them than fit into memory."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from vlprobe.records import Records
from vlprobe.stored import Span, StoredImage
from vlprobe.types import Example, ImageData, Modality

BLOCK = 128
"""Neighbours that are read together, where more than one of them is asked for."""
STEP = 16
"""Rows that one who goes through them passes over at most: those of other parts."""
BLOCKS = 32
"""So many blocks stay in memory: a task of some thousand examples is read once."""

Change = Callable[[Example], Example]
"""What is done to an example before it is shown."""


class Origin(ABC):
    """All examples of a task, by number."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, row: int) -> Example: ...

    @property
    @abstractmethod
    def ranks(self) -> np.ndarray:
        """(example,) int32: the place of its group's name among all names, sorted: equal where the names are."""


class Held(Origin):
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = tuple(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int) -> Example:
        return self._examples[row]

    @cached_property
    def ranks(self) -> np.ndarray:
        """As in `Origin`."""
        place = {name: i for i, name in enumerate(sorted({example.group for example in self._examples}))}
        return np.array([place[example.group] for example in self._examples], np.int32)


class Kept(Origin):
    """Examples on disk.

    Args:
        records: one an example, as `written` makes them.
        leader: (example,) int32: the row whose label is the name of the example's group.
        ranks: as in `Origin`.
    """

    def __init__(self, records: Records, leader: np.ndarray, ranks: np.ndarray) -> None:
        self._records, self._leader, self._ranks = records, leader, ranks
        self._blocks: OrderedDict[int, list[Example | bytes]] = OrderedDict()
        self._missed: deque[int] = deque(maxlen=8)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Example:
        block = row // BLOCK
        held = self._blocks.get(block)
        if held is None:
            if len(self) > BLOCK * BLOCKS and not self._going(row):
                return self._read(row, self._records[row])
            last = min((block + 1) * BLOCK, len(self))
            held = self._blocks[block] = [*self._records.between(block * BLOCK, last)]
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        found = held[row % BLOCK]
        if isinstance(found, bytes):  # it may be of another part than those that are asked for
            found = held[row % BLOCK] = self._read(row, found)
        return found

    def _going(self, row: int) -> bool:
        """Say whether one of the last that were asked for was a little before this one: then its neighbours will be.

        A partner from anywhere is read alone.
        """
        going = any(0 < row - missed <= STEP for missed in self._missed)
        self._missed.append(row)
        return going

    @property
    def ranks(self) -> np.ndarray:
        """As in `Origin`."""
        return self._ranks

    def _read(self, row: int, record: bytes) -> Example:
        leader = int(self._leader[row])
        said = record.decode()
        group, end = _decoded(said)
        if leader != row:
            group = label_in(self._records[leader])
        name, text, image, target, words, boxes, place, ties = _decoded(said, end)[0]
        return Example(
            name,
            group,
            text,
            _image(image),
            tuple(target),
            tuple(map(tuple, words)) if words else (),
            tuple(map(tuple, boxes)) if boxes else (),
            place,
            tuple(map(tuple, ties)),
        )


_decoded = json.JSONDecoder().raw_decode
_encoded = json.JSONEncoder(separators=(",", ":")).encode


def written(example: Example, label: str) -> bytes:
    """Return an example as a record: the label of its group, and what else it has."""
    image: Any = example.image
    if isinstance(image, Path):
        image = str(image)
    elif isinstance(image, bytes):
        image = [base64.b64encode(image).decode()]
    elif isinstance(image, StoredImage):
        image = [image.sha256, str(image.file), image.name, image.where.offset, image.where.size]
    content = (example.id, example.text, image, example.target, example.words, example.boxes, example.place)
    return f"{_encoded(label)}{_encoded((*content, example.ties))}".encode()


def label_in(record: bytes) -> str:
    """Return the label of a record."""
    label: str = _decoded(record.decode())[0]
    return label


def image_in(record: bytes) -> ImageData | None:
    """Return the image of a record."""
    said = record.decode()
    return _image(_decoded(said, _decoded(said)[1])[0][2])


def _image(said: Any) -> ImageData | None:
    if said is None or isinstance(said, str):
        return None if said is None else Path(said)
    if len(said) == 1:
        return base64.b64decode(said[0])
    sha256, file, name, *at = said
    return StoredImage(sha256, _path(file), Span(*at), name)


_path = lru_cache(maxsize=64)(Path)


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Some of a task's examples, in some order, as a condition shows them; each is made when it is asked for."""

    origin: Origin
    """Holds all of the task."""
    rows: np.ndarray
    """(example,) which of them."""
    donors: np.ndarray | None = None
    """(example,) the row of `origin` whose text or image it is given; None: its own."""
    moved: Modality = "image"
    """Which of both."""
    changes: tuple[Change, ...] = ()
    """What is done to each, one after the other."""
    altered: Mapping[int, Example] = field(default_factory=dict)
    """Row of `origin` -> what stands in its place."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Examples:
        """Return a list of examples as one of this kind."""
        return (
            examples
            if isinstance(examples, Examples)
            else cls(Held(examples), np.arange(len(examples), dtype=np.int32))
        )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Examples: ...
    def __getitem__(self, at: int | slice) -> Example | Examples:
        if isinstance(at, slice):
            return self.take(np.arange(len(self), dtype=np.int32)[at])
        row = int(self.rows[at])
        example = self.altered[row] if row in self.altered else self.origin[row]
        if self.donors is not None:
            donor = self.origin[int(self.donors[at])]
            example = replace(example, **{self.moved: getattr(donor, self.moved)})
        for change in self.changes:
            example = change(example)
        return example

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Say whether another sequence holds the same examples."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == its for one, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Send to another process the examples themselves: their file is of this one alone."""
        return Examples.of, (tuple(self),)

    @property
    def ranks(self) -> np.ndarray:
        """(example,) int32: the place of its group's name among all names of the task, sorted."""
        return self.origin.ranks[self.rows]

    def take(self, which: np.ndarray) -> Examples:
        """Return some of them: (example,) indices, or a mask."""
        donors = None if self.donors is None else self.donors[which]
        return replace(self, rows=self.rows[which], donors=donors)

    def changed(self, change: Change) -> Examples:
        """Return them with something done to each."""
        return replace(self, changes=(*self.changes, change))


def together(parts: Sequence[Examples]) -> Examples:
    """Return examples of one origin, shown alike, as one sequence."""
    first = parts[0]
    donors = None if first.donors is None else np.concatenate([part.donors for part in parts])
    altered = {row: example for part in parts for row, example in part.altered.items()}
    return replace(first, rows=np.concatenate([part.rows for part in parts]), donors=donors, altered=altered)


def of_one_origin(splits: Mapping[str, Sequence[Example]]) -> dict[str, Examples]:
    """Return a task's splits as parts of one origin, which they are already if the task was read from files."""
    found = {name: Examples.of(examples) for name, examples in splits.items()}
    if len({id(part.origin) for part in found.values()}) < 2:
        return found
    origin = Held([example for part in found.values() for example in part])
    edges = np.cumsum([0, *(len(part) for part in found.values())])
    return {
        name: Examples(origin, np.arange(a, b, dtype=np.int32))
        for name, a, b in zip(found, edges, edges[1:], strict=False)
    }
