"""The distinct inputs of a model, each with all that is asked of it, made a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from vlprobe.digest import digest
from vlprobe.extraction.questions import Extraction, Heading, Question, Questions
from vlprobe.ledger import keys_of
from vlprobe.pooling import SIDES, WHOLE
from vlprobe.store import Store
from vlprobe.types import Example, Modality

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder, Profile

CHUNK = 512
"""Inputs that are run and written together: what a killed run can lose."""


OTHER: dict[Modality, str] = {"text": "vision", "image": "language"}
"""What a pooling reads -> the stream that has no positions of it."""
AT_ONCE = 2**16
"""Questions that are looked through together."""


@dataclass(frozen=True, slots=True)
class Forward:
    """One input of a model, and the questions that its states answer."""

    example: Example
    """What is run."""
    name: str
    """Content address."""
    questions: tuple[Question, ...]
    """Distinct in section and name."""


class Passes(Sequence[Forward]):
    """The distinct inputs of one model, in the order of their names; 8 bytes of memory each.

    Tasks that share inputs share their forward passes. Words are found while a text is read, so that questions about
    other cuts of one text into words need a pass of their own; a question on the whole input goes along with any. So
    does one on the text, or the image, of a pair: with the first pair that holds it.

    Args:
        asked: what is asked of the model.
        some: of its inputs, the questions that count, as another one has them; None: all.
    """

    def __init__(self, asked: Sequence[Questions], some: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        self._asked = asked
        self._edges = np.cumsum([0, *map(len, asked)])
        self._places, self._starts = some or _distinct(asked)
        cuts = self._cuts()
        self._input = None if (cuts == 1).all() else np.repeat(np.arange(len(cuts)), cuts)

    def _cuts(self) -> np.ndarray:
        """Return (input,) in how many ways its text is cut into words."""
        count = len(self._starts) - 1
        if all(questions.words is None for questions in self._asked):
            return np.ones(count, np.int64)
        none = [np.zeros(len(questions), np.uint64) for questions in self._asked]
        every = [q.words if q.words is not None else zero for q, zero in zip(self._asked, none, strict=True)]
        words = np.concatenate([np.zeros(0, np.uint64), *every])[self._places]
        whose = np.repeat(np.arange(count), np.diff(self._starts))
        distinct = np.unique(np.stack([whose.astype(np.uint64), words], axis=1)[words > 0], axis=0)
        return np.maximum(np.bincount(distinct[:, 0].astype(np.int64), minlength=count), 1)

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._input is None else len(self._input)

    @overload
    def __getitem__(self, at: int) -> Forward: ...
    @overload
    def __getitem__(self, at: slice) -> list[Forward]: ...
    def __getitem__(self, at: int | slice) -> Forward | list[Forward]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        which, turn = at, 0
        if self._input is not None:
            which = int(self._input[at])
            turn = at - int(np.searchsorted(self._input, which))
        if not 0 <= at < len(self):
            raise IndexError(at)
        questions = [self._question(place) for place in self._places[self._starts[which] : self._starts[which + 1]]]
        return _cut(questions)[turn]

    def __iter__(self) -> Iterator[Forward]:
        return map(self.__getitem__, range(len(self)))

    def _question(self, place: int) -> Question:
        side = int(np.searchsorted(self._edges, place, side="right")) - 1
        return self._asked[side][int(place - self._edges[side])]

    def lacking(self, home: str, store: Store) -> Passes:
        """Return those that some question still waits for, with just the questions that wait."""
        waiting = np.zeros(len(self._places), bool)
        for which, questions, inside in self._by_side():
            for kind, section in enumerate(questions.kinds):
                here = np.flatnonzero(questions.kind[inside] == kind)
                waiting[which[here]] = ~store.holds(home, section, questions.names[inside[here]])
        whose = np.repeat(np.arange(len(self._starts) - 1, dtype=self._starts.dtype), np.diff(self._starts))[waiting]
        starts = np.append(np.flatnonzero(np.diff(whose, prepend=-1)), len(whose)).astype(self._starts.dtype)
        return Passes(self._asked, (self._places[waiting], starts))

    def _by_side(self) -> Iterator[tuple[np.ndarray, Questions, np.ndarray]]:
        """Yield (question,) which, a few at a time, of one side; the side; (question,) places in it."""
        for start in range(0, len(self._places), AT_ONCE):
            places = self._places[start : start + AT_ONCE]
            sides = np.searchsorted(self._edges, places, side="right") - 1
            for side in np.unique(sides).tolist():
                which = np.flatnonzero(sides == side)
                yield start + which, self._asked[side], places[which] - self._edges[side]

    def numbers(self, encoder: Encoder | Profile) -> int:
        """Return how many numbers their rows hold, those of all layers that they can be pooled from."""
        total = 0
        for _, questions, inside in self._by_side():
            rows = np.ones(len(inside), np.int64) if questions.asked is None else questions.asked[inside]
            for kind, name in enumerate(questions.kinds):
                heading = Heading.named(name)
                idle = OTHER[SIDES[heading.how]] if heading.how in SIDES else ""
                width = sum(
                    size
                    for layer, size in encoder.layers.items()
                    if heading.asks(encoder, layer)
                    and layer.partition(".")[0] != idle
                    and not (heading.unit != "input" and layer.endswith(WHOLE))
                )
                total += width * int(rows[questions.kind[inside] == kind].sum())
        return total


class Rounds(Sequence[Forward]):
    """The inputs of one round after another, some of them perhaps in several.

    Args:
        rounds: what is run in each.
    """

    def __init__(self, rounds: Sequence[Passes]) -> None:
        self._rounds = rounds

    def __len__(self) -> int:
        return sum(map(len, self._rounds))

    @overload
    def __getitem__(self, at: int) -> Forward: ...
    @overload
    def __getitem__(self, at: slice) -> list[Forward]: ...
    def __getitem__(self, at: int | slice) -> Forward | list[Forward]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        for each in self._rounds:
            if at < len(each):
                return each[at]
            at -= len(each)
        raise IndexError(at)


def chunks(passes: Passes) -> Iterator[list[Forward]]:
    """Yield the units of work: the same study always has the same ones, whatever the store holds already."""
    for start in range(0, len(passes), CHUNK):
        yield passes[start : start + CHUNK]


def _distinct(asked: Sequence[Questions]) -> tuple[np.ndarray, np.ndarray]:
    """Return (question,) places of the distinct ones, by input, section and name; (input + 1,) where inputs begin."""
    if not asked:
        return np.zeros(0, np.int32), np.zeros(1, np.int32)
    lengths = [len(questions) for questions in asked]
    whole = np.int32 if sum(lengths) < 2**31 else np.int64
    # Half of an input's address: it is as distinct, and in the same order.
    inputs = keys_of(_joined([questions.inputs[0] for questions in asked]))
    names = keys_of(_joined([questions.names for questions in asked]))
    kinds = sorted({kind for questions in asked for kind in questions.kinds})
    kind = _joined([_ranked(questions, kinds) for questions in asked])
    # Stable: of equal questions, the one that was asked first.
    order = np.lexsort((names, kind, inputs)).astype(whole)
    order = order[_new(inputs, order) | _new(names, order) | _new(kind, order)]
    if any(questions.along for questions in asked):
        order = _once(order, names, kind, np.repeat([not questions.along for questions in asked], lengths))
    starts = np.flatnonzero(_new(inputs, order))
    return order, np.append(starts, len(order)).astype(whole)


def _once(order: np.ndarray, names: np.ndarray, kind: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Return places in their order, each question once: with the first input that it goes along with, if with any."""
    turn = np.lexsort((alone[order], names[order], kind[order]))  # stable: of equal ones, the first input
    place = order[turn]
    return order[np.sort(turn[_new(names, place) | _new(kind, place)])]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _new(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return (value,) whether each, in this order, differs from the one before it."""
    found = np.ones(len(order), bool)
    for start in range(1, len(order), AT_ONCE):
        some = values[order[start - 1 : start + AT_ONCE]]
        found[start : start + len(some) - 1] = some[1:] != some[:-1]
    return found


def _ranked(questions: Questions, kinds: Sequence[str]) -> np.ndarray:
    """Return (question,) uint8: the place of its section among those of all sides."""
    return np.array([*map(kinds.index, questions.kinds), 0], np.uint8)[questions.kind]


def _cut(questions: Sequence[Question]) -> list[Forward]:
    """Return the passes that the questions about one input take."""
    by_words: dict[tuple[tuple[int, int], ...], list[Question]] = {}
    for question in questions:
        by_words.setdefault(question.example.words, []).append(question)
    wordless = by_words.pop((), [])
    found = []
    for number, (words, asked) in enumerate(sorted(by_words.items()) or [((), [])]):
        together = (*asked, *(wordless if not number else ()))
        found.append(Forward(_bare(together[0].example), digest(together[0].input, words), together))
    return found


def _bare(example: Example) -> Example:
    """Return an example without its answers: what is run must not know them."""
    return replace(example, target=())


def forwards(extractions: Iterable[Extraction]) -> Passes:
    """Return the distinct inputs of one model, each with all that is asked of it, in the order of their names."""
    return Passes([questions for extraction in extractions for questions in extraction.sides.values()])


def lacking(home: str, passes: Sequence[Forward], store: Store) -> list[Forward]:
    """Return the passes of a chunk that some question still waits for, with just the questions that wait."""
    found = []
    for each in passes:
        waiting = tuple(q for q in each.questions if q.name not in store.held(home, q.section))
        if waiting:
            found.append(replace(each, questions=waiting))
    return found


def missing(extractions: Iterable[Extraction], store: Store) -> int:
    """Return the number of inputs that one model would still be run on."""
    asked = list(extractions)
    return len(forwards(asked).lacking(asked[0].home, store)) if asked else 0


def layers_of(extraction: Extraction, store: Store) -> dict[str, str]:
    """Return layer -> how it was pooled, for every layer that the unit could be pooled from, whatever the example.

    Empty as long as the store holds none of it.
    """
    poolable: dict[str, str] = {}
    for questions in extraction.sides.values():
        found = [layers for section in questions.kinds if (layers := store.layers(extraction.home, section))]
        if not found:
            return {}
        poolable |= {layer: how for layer, how in found[0].items() if all(layer in layers for layers in found)}
    return {layer: how for layer, how in poolable.items() if how}
