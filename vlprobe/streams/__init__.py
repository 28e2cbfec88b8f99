"""Probes of a study on representations that are never kept: each input goes by once, and leaves statistics behind.

Every part of a cell goes by in turn: train leaves moments, of which probes of every strength are fitted; validation
leaves moments and what these got right, by which the strength is chosen; test leaves the answers of the probe that is
fitted on both. Inputs are dealt into buckets by their content. A bucket of a part is the unit of work: it is run in one
order, its statistics are one file, and files are merged in their order: so the numbers are the same on every engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vlprobe.cells import Cell
from vlprobe.digest import digest, generator
from vlprobe.extraction import Extraction, Rounds, forwards
from vlprobe.extraction.jobs import Asked
from vlprobe.extraction.questions import Questions
from vlprobe.probes.streaming import SHRINKAGES
from vlprobe.types import SPLITS, Target

BUCKET = 32_768
"""Inputs whose statistics are one file: of so many, features of 768 numbers take ten times what their moments take."""
AFTER = {"train": "fitted.npz", "validation": "chosen.npz"}
"""Part -> the file of the probes that are fitted once it has gone by."""
VERSION = 1
"""Part of every name: raise it when the same rows would no longer leave the same statistics."""


@dataclass(frozen=True)
class Stream:
    """One bucket of one part of one cell: what a worker must know of it."""

    path: Path
    """Where its statistics go."""
    part: str
    """Train, validation or test."""
    fitted: Path
    """Probes that are to answer, of the parts before it; there is none for train."""
    extraction: Extraction
    """What is asked, of each stream of the model the inputs of this bucket alone."""
    layers: tuple[str, ...]
    """Addresses to probe."""
    classes: bool
    """Whether targets are classes."""
    labels: Mapping[str, Mapping[tuple[str, int], Target]]
    """What probes are trained on, a control or "" -> (example id, unit) -> label, where that is not the true one."""


@dataclass(frozen=True)
class Passing:
    """Streams of one model that share a bucket, and so their forward passes."""

    asked: Asked
    """The model."""
    home: str
    """Its content address in the store."""
    streams: tuple[Stream, ...]
    """Of all cells."""


def folder(store: Path, cell: Cell) -> Path:
    """Return where the statistics of a cell are, until its results are made."""
    return store / "streams" / digest(VERSION, cell.key, cell.layers, cell.zeroth, cell.controls)[:32]


def buckets(cells: Sequence[Cell]) -> int:
    """Return how many buckets the inputs of a model are dealt into, by the largest of all its cells."""
    return max(1, *(len(cell.trained.examples) // BUCKET for cell in cells))


def controls_of(cell: Cell) -> tuple[str, ...]:
    """Return what the probes of a cell are trained on."""
    return ("", "shuffled-labels") if "shuffled-labels" in cell.controls else ("",)


def statistics_size(cells: Sequence[Cell], count: int) -> int:
    """Return about how many bytes the statistics of a model's cells take: of train and validation, in all buckets."""
    size = 0
    for cell in cells:
        widths = [cell.model.layers[layer] for layer in (*cell.layers, *cell.zeroth)]
        moments = sum(width * (width + len(cell.task.classes)) for width in widths)
        fitted = len(SHRINKAGES) * len(cell.task.classes) * sum(widths)
        size += (2 * count * moments + fitted) * len(controls_of(cell)) * 8
    return size


def within(extraction: Extraction, part: Mapping[str, str], name: str) -> Extraction:
    """Return the examples of one part."""
    sides = {
        stream: questions.take(np.array([part[example.id] == name for example in questions.examples], bool))
        for stream, questions in extraction.sides.items()
    }
    return replace(extraction, sides=sides)


def extraction_of(cell: Cell, part: str) -> Extraction:
    """Return what a cell asks of one part."""
    return within(cell.tested if part == "test" else cell.trained, cell.part, part)


def passes_of(cells: Sequence[Cell]) -> Rounds:
    """Return the forward passes of one model: the parts of its cells go by one after the other."""
    return Rounds([forwards(extraction_of(cell, part) for cell in cells) for part in SPLITS])


def passings(cells: Sequence[Cell], part: str, count: int, asked: Asked) -> list[Passing]:
    """Return the jobs of one part of a model's cells: always the same ones for the same cells."""
    distinct = {folder(asked.store, cell): cell for cell in cells}  # two conditions may show a model the same
    whole = [(cell, extraction_of(cell, part), _labels(cell, part)) for cell in distinct.values()]
    made = []
    for number in range(count):
        streams = []
        for cell, extraction, labels in whole:
            here = {
                side: questions.take(_bucket(questions, count) == number)
                for side, questions in extraction.sides.items()
            }
            place = folder(asked.store, cell)
            streams.append(
                Stream(
                    path=place / f"{part}-{number}-{count}.npz",
                    part=part,
                    fitted=place / AFTER["validation" if part == "test" else "train"],
                    extraction=replace(extraction, sides=here),
                    layers=(*cell.layers, *cell.zeroth),
                    classes=bool(cell.task.classes),
                    labels=labels,
                )
            )
        made.append(Passing(asked, cells[0].trained.home, tuple(streams)))
    return made


def _bucket(questions: Questions, count: int) -> np.ndarray:
    """Return (question,) the bucket that its input is dealt into."""
    return np.ascontiguousarray(questions.inputs[0, :, :4]).view(">u4")[:, 0] % count


def _labels(cell: Cell, part: str) -> dict[str, dict[tuple[str, int], Target]]:
    """Return the labels of a part: shuffled ones are drawn as those of the linear probe are."""
    controls = controls_of(cell)
    if part == "test" or len(controls) == 1:
        return {control: {} for control in controls}
    units = [
        (example.id, unit, target)
        for example in extraction_of(cell, part).examples
        for unit, target in enumerate(example.target)
        if target is not None
    ]
    order = generator(cell.seed, "shuffled-labels", cell.task.name, part).permutation(len(units))
    drawn = {(name, unit): units[place][2] for (name, unit, _), place in zip(units, order, strict=True)}
    return {"": {}, "shuffled-labels": drawn}
