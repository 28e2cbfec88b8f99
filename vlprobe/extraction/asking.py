"""Examples -> what one model is to be asked of them, named by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from vlprobe.digest import digest, image_digest
from vlprobe.encoders.encoder import Encoder, Profile, profile, side_of, sides_of
from vlprobe.examples import Examples
from vlprobe.extraction.questions import LENGTH, MODALITIES, Extraction, Heading, Questions
from vlprobe.images import open_image
from vlprobe.ledger import Ledger, key_of, keys_of
from vlprobe.pairing import show
from vlprobe.pooling import SIDES
from vlprobe.records import Records
from vlprobe.types import FULL, Example, Modality, Numbers, Unit

VERSION = 3
"""Part of every address: raise it when the same input would no longer give the same features."""
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
    sides: dict[str, Questions] = {}
    host: Questions | None = None
    apart = _apart(known, seen, how)
    for side, needed in sorted(apart.items(), key=lambda each: len(each[1]) == 1):  # where both meet comes first
        shown = seen.changed(partial(show, modalities=needed)) if needed else seen
        sides[side] = _questions(shown, unit, how, images, side)
        if len(needed) != 1:
            host = host or sides[side]
        elif host is not None:
            sides[side] = replace(sides[side], examples=host.examples, inputs=host.inputs, words=host.words, along=True)
    return Put({side: sides[side] for side in apart} or {"": _questions(seen, unit, how, images)}, unit, how)


def reads(known: Profile) -> tuple[object, ...]:
    """Return what `put` depends on of a model: models that agree in it are asked the same."""
    return tuple(known.modalities), tuple(sides_of(known).items()) if known.reads else ()


def addressed(known: Profile, asked: Put, numbers: Numbers = FULL) -> Extraction:
    """Return an extraction of one of the models that something is put to; see `request`."""
    used = [dict(known.usage)] if known.usage else []
    home = digest(VERSION, known.revision, known.family, numbers.run, numbers.kept, *used)
    # By content, whatever the order: an image model's mismatch is the same extraction.
    key = digest(home, asked.unit, asked.how, _distinct(asked.sides.values()))
    if "" in asked.sides:
        pairs = digest(key, _addresses(asked.sides[""]))
        return Extraction(asked.sides, asked.unit, asked.how, home, key, pairs, {"": pairs}, {})
    paired = {
        side: digest(home, asked.unit, asked.how, _addresses(questions)) for side, questions in asked.sides.items()
    }
    whose = {layer: side_of(known, layer) for layer in known.layers}
    return Extraction(asked.sides, asked.unit, asked.how, home, key, digest(key, paired), paired, whose)


def _addresses(questions: Questions) -> Iterator[list[str]]:
    return ([*address] for address in questions.addresses())


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


def _apart(known: Profile, seen: Sequence[Example], how: str) -> dict[str, tuple[Modality, ...]]:
    """Return side -> what it reads, empty for all that there is, of sides that are asked by themselves.

    None where all layers may depend on all. A side that some examples do not have what it reads for, or that a pooling
    has no positions in, is not asked.
    """
    if not known.reads:
        return {}
    pooled = SIDES.get(how)
    lacking = {side for example in seen for side in MODALITIES if getattr(example, side) is None}
    return {
        side: needed
        for side, needed in sides_of(known).items()
        if not needed or (pooled in (None, *needed) and lacking.isdisjoint(needed))
    }


def _questions(examples: Examples, unit: Unit, how: str, images: ImageDigests, side: str = "") -> Questions:
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
        given = tuple(each for each in MODALITIES if getattr(example, each) is not None)
        kind[i] = kinds.setdefault(Heading(unit, how, given, side).name, len(kinds))
        asked[i] = len(units)
        if example.words:
            words[i] = int.from_bytes(key_of(str(example.words))[:8], "big") | 1
    order = sorted(kinds)
    kind = np.array([order.index(section) for section in kinds], np.uint8)[kind] if count else kind
    one, wordless = bool((asked == 1).all()), not words.any()
    return Questions(examples, names, inputs, tuple(order), kind, None if one else asked, None if wordless else words)
