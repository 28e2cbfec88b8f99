"""What one model is to be asked: examples -> questions, named by their content."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlprobe.digest import digest, image_digest
from vlprobe.encoders.encoder import Encoder, Profile, profile
from vlprobe.images import open_image
from vlprobe.pairing import show
from vlprobe.pooling import SIDES
from vlprobe.store import Store
from vlprobe.types import FULL, Example, ImageData, Modality, Numbers, Unit

VERSION = 2
"""Part of every address: raise it when the same input would no longer give the same features."""
CHUNK = 512
"""Inputs that are run and written together: what a killed run can lose."""
LENGTH = 32
"""Hexadecimal digits of a question's address."""


class ImageDigests:
    """sha256 of images, each file read and decoded once: so a damaged file is found before a model runs."""

    def __init__(self) -> None:
        self._known: dict[ImageData, str] = {}

    def __call__(self, example: Example) -> str:
        """Return the digest of an example's image, empty for none.

        Raises:
            BadRow: the image cannot be opened (see `open_image`).
        """
        image = example.image
        if image is None:
            return ""
        if image not in self._known:
            open_image(image, example.place)
            self._known[image] = image_digest(image)
        return self._known[image]

    def files(self) -> dict[str, str]:
        """Return file -> digest of all image files asked for so far."""
        return {str(path): known for path, known in self._known.items() if isinstance(path, Path)}


@dataclass(frozen=True, slots=True)
class Question:
    """One input, and what is to be pooled from its states."""

    example: Example
    """As the model sees it: what it does not read is taken out."""
    name: str
    """Content address: of the input, its words and boxes, and the units that are asked about."""
    input: str
    """Content address of what the model is run on; two tasks may ask different things of one input."""
    section: str
    """Unit, pooling and modalities: `word:first:text+image`. Rows of one section have the same layers."""


@dataclass(frozen=True)
class Extraction:
    """A task's examples under one condition, put to one model, pooled one way."""

    sides: Mapping[str, tuple[Question, ...]]
    """Stream -> (example,) what is asked of its layers; equal ones share a name. "" stands for all streams of a model;
    where they never meet, each is asked about what it reads itself."""
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

    @property
    def questions(self) -> list[Question]:
        """Return what is asked, of all streams."""
        return [question for questions in self.sides.values() for question in questions]

    @property
    def examples(self) -> list[Example]:
        """Return (example,) the examples as the model, or its first stream, sees them."""
        return [question.example for question in next(iter(self.sides.values()))]

    def of(self, layer: str) -> tuple[Question, ...]:
        """Return (example,) what is asked of a layer."""
        return self.sides["" if "" in self.sides else layer.partition(".")[0]]

    def knows(self, layer: str) -> bool:
        """Say whether a layer's stream is given anything."""
        return "" in self.sides or layer.partition(".")[0] in self.sides

    @property
    def sections(self) -> dict[str, list[str]]:
        """Return section -> its distinct questions, sorted."""
        return sections(self.questions)


def sections(questions: Iterable[Question]) -> dict[str, list[str]]:
    """Return section -> the distinct questions of it, sorted."""
    found: dict[str, set[str]] = {}
    for question in questions:
        found.setdefault(question.section, set()).add(question.name)
    return {section: sorted(names) for section, names in sorted(found.items())}


def request(
    encoder: Encoder | Profile,
    examples: Sequence[Example],
    unit: Unit,
    how: str,
    images: ImageDigests,
    numbers: Numbers = FULL,
) -> Extraction:
    """Say what is to be computed, without computing it.

    Args:
        encoder: the model, or what is known of it.
        examples: as a condition pairs them.
        unit: what one row belongs to.
        how: pooling.
        images: knows their digests.
        numbers: how the model is run and its rows are kept.

    Raises:
        BadRow: an image cannot be opened.
    """
    known = encoder if isinstance(encoder, Profile) else profile(encoder)
    seen = [show(example, known.modalities) for example in examples]
    if unit == "word" and not any(example.words for example in seen):
        unit, how = "input", "auto"  # one target each, asked of the image: see `show`
    apart = _towers(known, seen, how)
    sides = {
        stream: tuple(_question(show(example, (side,)), unit, how, images) for example in seen)
        for stream, side in apart.items()
    } or {"": tuple(_question(example, unit, how, images) for example in seen)}
    used = [dict(known.usage)] if known.usage else []
    home = digest(VERSION, known.revision, known.family, numbers.run, numbers.kept, *used)
    names = [(question.section, question.name) for questions in sides.values() for question in questions]
    # By content, whatever the order: an image model's mismatch is the same extraction.
    key = digest(home, unit, how, sorted(set(names)))
    return Extraction(sides, unit, how, home, key, digest(key, names))


def _towers(encoder: Profile, seen: Sequence[Example], how: str) -> dict[str, Modality]:
    """Return stream -> modality of the streams that are asked by themselves; none where streams meet.

    A stream that some examples have nothing for, or that a pooling has no positions in, is not asked.
    """
    if set(encoder.towers) != {layer.partition(".")[0] for layer in encoder.layers}:
        return {}
    reads = SIDES.get(how)
    return {
        stream: side
        for stream, side in encoder.towers.items()
        if reads in (None, side) and all(getattr(example, side) is not None for example in seen)
    }


def numbers_of(encoder: Encoder | Profile, question: Question) -> int:
    """Return how many numbers a question's rows hold, those of all layers that are given anything."""
    rows = sum(target is not None for target in question.example.target)
    idle = {stream for stream, side in encoder.towers.items() if getattr(question.example, side) is None}
    return rows * sum(size for layer, size in encoder.layers.items() if layer.partition(".")[0] not in idle)


def _question(example: Example, unit: Unit, how: str, images: ImageDigests) -> Question:
    asked = [k for k, target in enumerate(example.target) if target is not None]
    picture = images(example)
    name = digest(example.text, picture, example.words, example.boxes, asked)[:LENGTH]
    given = [side for side, there in (("text", example.text), ("image", example.image)) if there is not None]
    section = sys.intern(":".join((unit, how, "+".join(given) or "nothing")))
    return Question(example, name, digest(example.text, picture, example.boxes), section)


@dataclass(frozen=True, slots=True)
class Forward:
    """One input of a model, and the questions that its states answer."""

    example: Example
    """What is run."""
    name: str
    """Content address."""
    questions: tuple[Question, ...]
    """Distinct in section and name."""


def forwards(extractions: Iterable[Extraction]) -> list[Forward]:
    """Return the distinct inputs of one model, each with all that is asked of it, in the order of their names.

    Tasks that share inputs share their forward passes. Words are found while a text is read, so that questions about
    other cuts of one text into words need a pass of their own; a question on the whole input goes along with any.
    """
    wanted: dict[str, dict[tuple[str, str], Question]] = {}
    for extraction in extractions:
        for question in extraction.questions:
            wanted.setdefault(question.input, {}).setdefault((question.section, question.name), question)
    found = []
    for name, questions in sorted(wanted.items()):
        by_words: dict[tuple[tuple[int, int], ...], list[Question]] = {}
        for _, question in sorted(questions.items()):
            by_words.setdefault(question.example.words, []).append(question)
        wordless = by_words.pop((), [])
        for number, (words, asked) in enumerate(sorted(by_words.items()) or [((), [])]):
            together = (*asked, *(wordless if not number else ()))
            found.append(Forward(_bare(together[0].example), digest(name, words), together))
    return found


def _bare(example: Example) -> Example:
    """Return an example without its answers: what is run must not know them."""
    return replace(example, target=())


def chunks(passes: Sequence[Forward]) -> list[Sequence[Forward]]:
    """Return the units of work: the same study always has the same ones, whatever the store holds already."""
    return [passes[start : start + CHUNK] for start in range(0, len(passes), CHUNK)]


def lacking(home: str, passes: Sequence[Forward], store: Store) -> list[Forward]:
    """Return the passes that some question still waits for, with just the questions that wait."""
    found = []
    for each in passes:
        waiting = tuple(q for q in each.questions if q.name not in store.held(home, q.section))
        if waiting:
            found.append(replace(each, questions=waiting))
    return found


def missing(extractions: Iterable[Extraction], store: Store) -> int:
    """Return the number of inputs that one model would still be run on."""
    asked = list(extractions)
    return len(lacking(asked[0].home, forwards(asked), store)) if asked else 0


def layers_of(extraction: Extraction, store: Store) -> Mapping[str, str]:
    """Return layer -> how it was pooled, for every layer that the unit could be pooled from, whatever the example.

    Empty as long as the store holds none of it.
    """
    poolable: dict[str, str] = {}
    for questions in extraction.sides.values():
        found = [layers for section in sections(questions) if (layers := store.layers(extraction.home, section))]
        if not found:
            return {}
        poolable |= {layer: how for layer, how in found[0].items() if all(layer in layers for layers in found)}
    return poolable
