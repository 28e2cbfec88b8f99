"""What one model is to be asked: examples -> questions, named by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np

from vlprobe.digest import digest, image_digest
from vlprobe.encoders.encoder import Encoder, Profile, profile
from vlprobe.examples import Examples
from vlprobe.images import open_image
from vlprobe.ledger import Ledger, key_of, keys_of
from vlprobe.pairing import show
from vlprobe.pooling import SIDES
from vlprobe.records import Records
from vlprobe.types import FULL, Example, Modality, Numbers, Unit

VERSION = 3
"""Part of every address: raise it when the same input would no longer give the same features."""
LENGTH = 32
"""Hexadecimal digits of a question's address."""
PICTURE = 6
"""Bytes of the address of a pair that are its image's."""


class ImageDigests(Mapping[str, str]):
    """sha256 of images, each read and decoded once: so a damaged one is found before a model runs.

    As a mapping: file -> digest, of all image files asked for so far.
    """

    def __init__(self) -> None:
        self._known, self._files = Ledger(), Records()

    def __call__(self, example: Example) -> str:
        """Return the digest of an example's image, empty for none.

        Raises:
            BadRow: the image cannot be opened (see `open_image`).
        """
        image = example.image
        if image is None:
            return ""
        if isinstance(image, Path):
            return self._of_file(image, example.place)
        sha256 = image_digest(image)
        key = key_of("", sha256)
        if key not in self._known:
            open_image(image, example.place)
            self._known.setdefault(key, 0)
        return sha256

    def _of_file(self, path: Path, place: str) -> str:
        key = key_of(str(path))
        number = self._known.get(key)
        if number < 0:
            open_image(path, place)
            sha256 = image_digest(path)
            self._known.setdefault(key, self._files.add(sha256.encode() + os.fsencode(path)))
            return sha256
        return self._files[number][:64].decode()

    def __getitem__(self, file: str) -> str:
        number = self._known.get(key_of(file))
        if number < 0:
            raise KeyError(file)
        return self._files[number][:64].decode()

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(self._files[number][64:]) for number in range(len(self._files)))

    def __len__(self) -> int:
        return len(self._files)


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


@dataclass(frozen=True, eq=False)
class Questions(Sequence[Question]):
    """What is asked of one stream of a model, a question an example; each is made when it is looked at.

    What stays in memory of an example is 49 bytes, and 8 more for a word task.
    """

    examples: Examples
    """(question,) as the model sees them."""
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
        return Questions(self.examples.take(which), names, inputs, self.kinds, kind, asked, words)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield (section, name) of every question, in their order."""
        for kind, name in zip(self.kind, self.names, strict=True):
            yield self.kinds[kind], name.tobytes().hex()


@dataclass(frozen=True)
class Extraction:
    """A task's examples under one condition, put to one model, pooled one way."""

    sides: Mapping[str, Questions]
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
    def examples(self) -> Examples:
        """Return (example,) the examples as the model, or its first stream, sees them."""
        return next(iter(self.sides.values())).examples

    def of(self, layer: str) -> Questions:
        """Return (example,) what is asked of a layer."""
        return self.sides["" if "" in self.sides else layer.partition(".")[0]]

    def knows(self, layer: str) -> bool:
        """Say whether a layer's stream is given anything."""
        return "" in self.sides or layer.partition(".")[0] in self.sides


@dataclass(frozen=True)
class Put:
    """What is asked of models that read alike."""

    sides: Mapping[str, Questions]
    """As in `Extraction`."""
    unit: Unit
    """As in `Extraction`."""
    how: str
    """As in `Extraction`."""


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
    return addressed(known, put(known, examples, unit, how, images), numbers)


def put(known: Profile, examples: Sequence[Example], unit: Unit, how: str, images: ImageDigests) -> Put:
    """Return what is asked: the same for all models that read alike (`reads`); see `request`."""
    seen = Examples.of(examples).changed(partial(show, modalities=known.modalities))
    if unit == "word" and not any(example.words for example in seen):
        unit, how = "input", "auto"  # one target each, asked of the image: see `show`
    apart = _towers(known, seen, how)
    sides = {
        stream: _questions(seen.changed(partial(show, modalities=(side,))), unit, how, images)
        for stream, side in apart.items()
    } or {"": _questions(seen, unit, how, images)}
    return Put(sides, unit, how)


def reads(known: Profile) -> tuple[object, ...]:
    """Return what `put` depends on of a model: models that agree in it are asked the same."""
    return tuple(known.modalities), tuple(known.towers.items()), tuple(sorted(known.streams))


def addressed(known: Profile, asked: Put, numbers: Numbers = FULL) -> Extraction:
    """Return an extraction of one of the models that something is put to; see `request`."""
    used = [dict(known.usage)] if known.usage else []
    home = digest(VERSION, known.revision, known.family, numbers.run, numbers.kept, *used)
    # By content, whatever the order: an image model's mismatch is the same extraction.
    key = digest(home, asked.unit, asked.how, _distinct(asked.sides.values()))
    every = ([*address] for questions in asked.sides.values() for address in questions.addresses())
    return Extraction(asked.sides, asked.unit, asked.how, home, key, digest(key, every))


def _distinct(sides: Iterable[Questions]) -> Iterator[list[str]]:
    """Yield [section, name] of the distinct questions, sorted."""
    for section, names in sections(sides).items():
        for name in names:
            yield [section, name.tobytes().hex()]


def sections(sides: Iterable[Questions]) -> dict[str, np.ndarray]:
    """Return section -> (question, 16) uint8: the distinct questions of it, sorted."""
    found: dict[str, list[np.ndarray]] = {}
    for questions in sides:
        for kind, section in enumerate(questions.kinds):
            alone = len(questions.kinds) == 1
            found.setdefault(section, []).append(questions.names if alone else questions.names[questions.kind == kind])
    return {section: _sorted(names) for section, names in sorted(found.items()) if any(map(len, names))}


def _sorted(names: Sequence[np.ndarray]) -> np.ndarray:
    keys = np.sort(keys_of(names[0] if len(names) == 1 else np.concatenate(names)))
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    return (keys if new.all() else keys[new]).view(np.uint8).reshape(-1, LENGTH // 2)


def _towers(encoder: Profile, seen: Sequence[Example], how: str) -> dict[str, Modality]:
    """Return stream -> modality of the streams that are asked by themselves; none where streams meet.

    A stream that some examples have nothing for, or that a pooling has no positions in, is not asked.
    """
    if set(encoder.towers) != encoder.streams:
        return {}
    reads = SIDES.get(how)
    return {
        stream: side
        for stream, side in encoder.towers.items()
        if reads in (None, side) and all(getattr(example, side) is not None for example in seen)
    }


def _questions(examples: Examples, unit: Unit, how: str, images: ImageDigests) -> Questions:
    count = len(examples)
    names, inputs = np.empty((count, LENGTH // 2), np.uint8), np.empty((2, count, 16), np.uint8)
    kind, asked, words = np.empty(count, np.uint8), np.empty(count, np.int32), np.zeros(count, np.uint64)
    kinds: dict[str, int] = {}
    for i, example in enumerate(examples):
        units = [k for k, target in enumerate(example.target) if target is not None]
        picture = images(example)
        name = digest(example.text, picture, example.words, example.boxes, units)
        names[i] = np.frombuffer(bytes.fromhex(name[:LENGTH]), np.uint8)
        run = bytes.fromhex(digest(example.text, picture, example.boxes))
        if example.text is not None and example.image is not None:
            run = bytes.fromhex(picture[: 2 * PICTURE]) + run[PICTURE:]
        inputs[:, i] = np.frombuffer(run, np.uint8).reshape(2, 16)
        given = [side for side, there in (("text", example.text), ("image", example.image)) if there is not None]
        kind[i] = kinds.setdefault(":".join((unit, how, "+".join(given) or "nothing")), len(kinds))
        asked[i] = len(units)
        if example.words:
            words[i] = int.from_bytes(key_of(str(example.words))[:8], "big") | 1
    order = sorted(kinds)
    kind = np.array([order.index(section) for section in kinds], np.uint8)[kind] if count else kind
    one, wordless = bool((asked == 1).all()), not words.any()
    return Questions(examples, names, inputs, tuple(order), kind, None if one else asked, None if wordless else words)
