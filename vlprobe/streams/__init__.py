"""Probes of a study on representations that are never kept: each input goes by once, and leaves statistics behind.

Every part of a cell goes by in turn: train leaves moments, of which probes of every strength are fitted; validation
leaves moments and what these got right, by which the strength is chosen; test leaves the answers of the probe that is
fitted on both. Inputs are dealt into buckets by their content. A bucket of a part is the unit of work: it is run in one
order, its statistics are one file, and files are merged in their order: so the numbers are the same on every engine,
and however many processes share the buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
VERSION = 2
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
    """Of all cells, those whose statistics are there included: what is run together must not depend on what is left."""


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


def statistics_lacking(cells: Sequence[Cell], count: int, store: Path) -> int:
    """Return about how many bytes the statistics of a model's cells still take, beside those that are there."""
    places = places_of(cells, store)
    there = sum(path.stat().st_size for place in places for path in place.glob("*.npz"))
    return max(statistics_size(list(places.values()), count) - there, 0)


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


def places_of(cells: Sequence[Cell], store: Path) -> dict[Path, Cell]:
    """Return folder of statistics -> cell, of one model's; two conditions may show a model the same."""
    return {folder(store, cell): cell for cell in cells}


def files_of(place: Path, part: str, count: int) -> list[Path]:
    """Return the files of a part's buckets, in the order in which they are merged."""
    return [place / f"{part}-{number}-{count}.npz" for number in range(count)]


def lacking(places: Collection[Path], part: str, count: int) -> list[int]:
    """Return the buckets of a part that have not left their statistics in all of some folders."""
    there = [[path.exists() for path in files_of(place, part, count)] for place in places]
    return [number for number in range(count) if not all(each[number] for each in there)]


def passes_of(cells: Sequence[Cell], count: int, store: Path, mine: Collection[int] | None = None) -> Rounds:
    """Return the forward passes that one model still lacks: the parts of its cells go by one after the other.

    Args:
        cells: of the model.
        count: of the buckets.
        store: where their statistics are.
        mine: buckets to look at; None: all.
    """
    places, rounds = places_of(cells, store), []
    for part in SPLITS:
        left = [number for number in lacking(places, part, count) if mine is None or number in mine]
        rounds.append(forwards(_dealt(extraction_of(cell, part), count, left) for cell in places.values()))
    return Rounds(rounds)


def passings(cells: Sequence[Cell], part: str, count: int, asked: Asked, numbers: Sequence[int]) -> list[Passing]:
    """Return the jobs of some buckets of one part of a model's cells: always the same ones for the same cells."""
    if not numbers:
        return []
    places = places_of(cells, asked.store)
    whole = [(cell, place, extraction_of(cell, part), _labels(cell, part)) for place, cell in places.items()]
    made = []
    for number in numbers:
        streams = []
        for cell, place, extraction, labels in whole:
            streams.append(
                Stream(
                    path=files_of(place, part, count)[number],
                    part=part,
                    fitted=place / AFTER["validation" if part == "test" else "train"],
                    extraction=_dealt(extraction, count, [number]),
                    layers=(*cell.layers, *cell.zeroth),
                    classes=bool(cell.task.classes),
                    labels=labels,
                )
            )
        made.append(Passing(asked, cells[0].trained.home, tuple(streams)))
    return made


def _dealt(extraction: Extraction, count: int, numbers: Sequence[int]) -> Extraction:
    """Return the examples whose inputs are dealt into some buckets."""
    if len(numbers) == count:
        return extraction
    sides = {
        side: questions.take(np.isin(_bucket(questions, count), numbers))
        for side, questions in extraction.sides.items()
    }
    return replace(extraction, sides=sides)


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
