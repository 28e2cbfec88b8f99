"""Controls that look at no layer: made of the examples alone, once for a task, a condition and a seed.

They are the same whatever the model, and stand beside each model that sees what they are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from vlprobe.controls.pixels import Looks
from vlprobe.controls.rows import Rows, rows_of
from vlprobe.controls.words import probe_words, words_of
from vlprobe.digest import digest
from vlprobe.examples import Examples
from vlprobe.extraction import ImageDigests
from vlprobe.listening import Heard, Layer, majority, on_test
from vlprobe.probes.linear import Probed, probe_sets
from vlprobe.types import SPLITS, Example, Modality, Task

VERSION = 2
"""Part of every key: raise it when the same examples would no longer give the same result."""

MADE_OF: dict[str, Modality | None] = {"majority": None, "bag-of-words": "text", "n-grams": "text", "pixels": "image"}
"""Control -> what it is made of; None: the targets alone."""


@dataclass(frozen=True)
class Surface:
    """One such control on one task under one condition with one seed."""

    control: str
    """One of `MADE_OF`."""
    task: Task
    """The task."""
    seed: int
    """The seed that drew the parts and the pairing."""
    parts: Mapping[str, Examples]
    """Train and validation as the condition shows them that is trained on, test as that which is tested on."""
    looks: Looks
    """Of the images."""
    key: str
    """Content address of the result."""

    def stands_beside(self, modalities: Sequence[Modality]) -> bool:
        """Say whether it is made of what a model sees that reads `modalities`."""
        side = MADE_OF[self.control]
        return side is None or side in modalities

    def hear(self) -> Heard:
        """Fit on train and validation, answer the test part.

        Raises:
            BadRow: an image cannot be opened.
        """
        rows = {name: rows_of(self.parts[name]) for name in SPLITS}
        layer = Layer(self.task, self.seed, {name: rows[name].features() for name in SPLITS})
        if self.control == "majority":
            return majority(layer)
        probed = self._pixels(layer, rows) if self.control == "pixels" else self._words(layer, rows)
        return on_test(layer, "", layer.kind.__name__.lower(), probed)

    def _pixels(self, layer: Layer, rows: Mapping[str, Rows]) -> Probed:
        train, validation, test = (self.looks.of(rows[name], self.task.unit == "region") for name in SPLITS)
        return probe_sets(layer.kind, (train, validation, test), [layer.labels("")])[0]

    def _words(self, layer: Layer, rows: Mapping[str, Rows]) -> Probed:
        whole = self.task.unit != "word" or self.task.facts.one_target
        grams = 2 if self.control == "n-grams" else 1
        train, validation, test = (words_of(rows[name], whole, grams) for name in SPLITS)
        return probe_words((train, validation, test), layer.labels(""), layer.kind.metric)


@dataclass(frozen=True)
class Shown:
    """All examples of a task under a condition `A>B`, and their parts."""

    task: Task
    """The task."""
    seed: int
    """Drew parts and pairing."""
    part: np.ndarray
    """(example,) uint8: index into `SPLITS`."""
    trained: Examples
    """(example,) as A shows them."""
    tested: Examples
    """(example,) as B shows them."""

    @cached_property
    def sides(self) -> set[Modality]:
        """Text, image: what is there in every example on both sides."""
        both = (self.trained,) if self.tested is self.trained else (self.trained, self.tested)
        found: set[Modality] = {"text", "image"}
        for example in chain(*both):
            found = {side for side in found if getattr(example, side) is not None}
            if not found:
                break
        return found

    def shows(self, side: Modality | None) -> bool:
        """Say whether text or image is there in every example on both sides."""
        return side is None or side in self.sides


def surfaces(controls: Sequence[str], shown: Shown, images: ImageDigests, looks: Looks) -> dict[str, Surface]:
    """Return those controls, by name, whose text or image the condition shows; `majority` is always there.

    Args:
        controls: names; those that look at a layer are passed over.
        shown: the examples.
        images: their digests.
        looks: kept for the study, so that each image is looked at once.
    """
    known = [name for name, side in MADE_OF.items() if name in ("majority", *controls) and shown.shows(side)]
    parts = {}
    for name in SPLITS:
        examples = shown.tested if name == "test" else shown.trained
        parts[name] = examples.take(np.flatnonzero(shown.part == SPLITS.index(name)))
    return {
        name: Surface(name, shown.task, shown.seed, parts, looks, _key(name, shown, parts, images)) for name in known
    }


def _key(control: str, shown: Shown, parts: Mapping[str, Examples], images: ImageDigests) -> str:
    side = MADE_OF[control]

    def content(example: Example) -> list[object]:
        asked = [(k, target) for k, target in enumerate(example.target) if target is not None]
        named: list[object] = [example.id, example.group, [target for _, target in asked]]
        if side is None:
            return named
        which = [k for k, _ in asked]
        if side == "text":
            return [*named, example.text, example.words, which]
        # A word task asks about the whole image: where the word stood is nothing to go by.
        return [*named, images(example), *([example.boxes, which] if shown.task.unit == "region" else [])]

    rows = {
        part: (content(example) for example in examples if any(target is not None for target in example.target))
        for part, examples in parts.items()
    }
    task = shown.task
    one_target = task.facts.one_target
    return digest(VERSION, control, task.name, bool(task.classes), task.unit, one_target, shown.seed, rows)
