"""What `similarity.json` holds: of every task, how alike all layers of all models represent its items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlprobe.results import Results, read_made

FILE = "similarity.json"

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerOf:
    """One layer of one model."""

    model: str
    """Model name, as the study calls it."""
    stage: str
    """The checkpoint's stage."""
    layer: str
    """Layer address."""


@dataclass(frozen=True)
class Alike:
    """How alike layers represent the items of one task, matched: rows are the same items in the same order."""

    task: str
    """Task name."""
    seed: int
    """The seed whose test part it is: the study's first."""
    n: int
    """Items, one of each group, that all the models answered."""
    layers: tuple[LayerOf, ...]
    """Of all models, in the study's order."""
    cka: Matrix
    """(layer, layer) debiased linear CKA; null for a layer that is the same for all items."""
    biased: Matrix
    """(layer, layer) linear CKA as first published, which is higher where items are few: to compare with papers."""


@dataclass(frozen=True)
class AllAlike:
    """What `similarity.json` holds."""

    made_of: str
    """Content address of what was compared: as long as it is the same, nothing is computed again."""
    tasks: tuple[Alike, ...]
    """In the study's order."""
    lacking: tuple[str, ...]
    """What could not be compared, and why."""


def write_similarity(results: Results, found: AllAlike) -> None:
    """Write `similarity.json`, all of it or nothing."""
    results.write(FILE, asdict(found) | {"tasks": [_plain(asdict(task)) for task in found.tasks]})


def _plain(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold: six decimals, which is what is known of them, and null for NaN."""
    rounded = {
        name: [[None if math.isnan(value) else round(value, 6) for value in row] for row in task[name]]
        for name in ("cka", "biased")
    }
    return dict(task) | rounded


def read_similarity(folder: str | Path) -> AllAlike:
    """Return what `similarity.json` of a results folder holds.

    Raises:
        DataError: it is missing, or not of this version.
    """
    return read_made(folder, FILE, _all)


def _all(content: Mapping[str, Any]) -> AllAlike:
    return AllAlike(content["made_of"], tuple(_read(task) for task in content["tasks"]), tuple(content["lacking"]))


def _read(task: Mapping[str, Any]) -> Alike:
    layers = tuple(LayerOf(**layer) for layer in task["layers"])
    numbers = {
        name: tuple(tuple(math.nan if value is None else value for value in row) for row in task[name])
        for name in ("cka", "biased")
    }
    return Alike(**dict(task) | {"layers": layers} | numbers)
