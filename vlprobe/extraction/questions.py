"""What one model is asked: nouns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from vlprobe.encoders.encoder import side_of
from vlprobe.examples import Examples
from vlprobe.types import Example, Modality, Unit

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder, Profile

LENGTH = 32
"""Hexadecimal digits of a question's address."""
MODALITIES: tuple[Modality, ...] = ("text", "image")
"""In the order in which they are named."""


class Heading(NamedTuple):
    """What the questions of a section of the store have in common, as its name says it: `word:first:text+image`,
    `input:auto:text:language`.
    """

    unit: Unit
    """What one row belongs to."""
    how: str
    """Pooling."""
    given: tuple[Modality, ...]
    """What the layers are given of an input; of a tower, what it reads."""
    side: str
    """The layers that are asked about (`side_of`): a stream, or those of it that read less than others; empty: all that
    the model has."""

    @classmethod
    def named(cls, name: str) -> Heading:
        """Return what a section's name says."""
        unit, how, given, *side = name.split(":")
        sides: tuple[Modality, ...] = tuple(side for side in MODALITIES if side in given.split("+"))
        return cls(unit, how, sides, ":".join(side))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Return the section's name in the store."""
        return ":".join((self.unit, self.how, "+".join(self.given) or "nothing", *filter(None, [self.side])))

    def asks(self, known: Encoder | Profile, layer: str) -> bool:
        """Say whether it is a layer of a model that is asked about."""
        return self.side in ("", side_of(known, layer))


@dataclass(frozen=True, slots=True)
class Question:
    """One input, and what is to be pooled from its states."""

    example: Example
    """What is run: what the model does not read is taken out."""
    name: str
    """Content address: of what the layers asked about read of it, words, boxes, and the units that are asked about."""
    input: str
    """Content address of what the model is run on; two tasks may ask different things of one input."""
    section: str
    """Name of the section that keeps its rows, see `Heading`; rows of one section have the same layers."""


@dataclass(frozen=True, eq=False)
class Questions(Sequence[Question]):
    """What is asked of one side of a model, a question an example; each is made when it is looked at.

    What stays in memory of each is 49 bytes, and 8 more for a word task; of questions that go along with others, 17.
    """

    examples: Examples
    """(question,) what is run."""
    names: np.ndarray
    """(question, 16) uint8: content addresses."""
    inputs: np.ndarray
    """(2, question, 16) uint8: content addresses of what the model is run on, their first halves and their second;
    those of one image with several texts begin alike, so that inputs in the order of addresses have them together."""
    kinds: tuple[str, ...]
    """Sections, sorted."""
    kind: np.ndarray
    """(question,) uint8: index into `kinds`."""
    asked: np.ndarray | None
    """(question,) int32: how many units are asked about; None: one."""
    words: np.ndarray | None
    """(question,) uint64: equal where the words are, 0 where there are none; None: nowhere are any."""
    along: bool = False
    """Whether they are asked of a text, or an image, on the way of a pair that is run for other layers. The same
    question goes along with many pairs then, and is answered with the first of them."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Question: ...
    @overload
    def __getitem__(self, at: slice) -> list[Question]: ...
    def __getitem__(self, at: int | slice) -> Question | list[Question]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        section = self.kinds[self.kind[at]]
        name, run = self.names[at].tobytes().hex(), self.inputs[:, at].tobytes().hex()
        return Question(self.examples[at], name, run, section)

    def __iter__(self) -> Iterator[Question]:
        return map(self.__getitem__, range(len(self)))

    def take(self, which: np.ndarray) -> Questions:
        """Return some of them: (question,) a mask."""
        asked, words = (None if array is None else array[which] for array in (self.asked, self.words))
        names, inputs, kind = self.names[which], self.inputs[:, which], self.kind[which]
        return Questions(self.examples.take(which), names, inputs, self.kinds, kind, asked, words, self.along)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield (section, name) of every question, in their order."""
        for kind, name in zip(self.kind, self.names, strict=True):
            yield self.kinds[kind], name.tobytes().hex()


@dataclass(frozen=True)
class Extraction:
    """A task's examples under one condition, put to one model, pooled one way."""

    sides: Mapping[str, Questions]
    """Side -> (example,) what is asked of its layers (`side_of`); equal ones share a name. "" stands for all layers of
    a model; where some read the text or the image alone, each is asked about what it reads itself."""
    unit: Unit
    """What one row belongs to."""
    how: str
    """Pooling."""
    home: str
    """Content address of the model in the store."""
    key: str
    """Content address of the set of distinct questions: two conditions may share it."""
    pairs: str
    """Content address of which example was given which input: two conditions may share `key`, never this."""
    paired: Mapping[str, str]
    """Side -> content address of which example it was given which input for: conditions share that of layers that do
    not read what they change."""
    whose: Mapping[str, str]
    """Layer -> its side, whether that is asked anything or not; empty where one side stands for all layers."""

    @property
    def examples(self) -> Examples:
        """Return (example,) the examples as the model, or its first side, sees them."""
        return next(iter(self.sides.values())).examples

    def side(self, layer: str) -> str:
        """Return which of `sides` a layer belongs to, whether it is there or not."""
        return self.whose.get(layer, "")

    def of(self, layer: str) -> Questions:
        """Return (example,) what is asked of a layer."""
        return self.sides[self.side(layer)]

    def knows(self, layer: str) -> bool:
        """Say whether a layer is given anything."""
        return self.side(layer) in self.sides
