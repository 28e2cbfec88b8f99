"""Statistics on disk: arrays under names, written whole or not at all."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.aside import aside
from vlprobe.errors import DataError, unwritable
from vlprobe.probes.moments import Moments
from vlprobe.store.shard import ANOTHER

if TYPE_CHECKING:
    from vlprobe.cells import Cell

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises over files that are no archive of arrays."""
ABOUT = "about.json"
"""What a person reads to know what a folder holds."""


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of statistics.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    try:
        with aside(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise unwritable("statistics", path.parent, error, ANOTHER) from error


def read(path: Path, start: str = "") -> dict[str, np.ndarray]:
    """Return what a file holds under names that start so; the others are not read.

    Raises:
        DataError: it is damaged; it has been removed.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file if name.startswith(start)}
    except UNREADABLE as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{path} was damaged ({error}); run the study again, which makes it anew") from None


def moments_to(name: str, moments: Moments) -> dict[str, np.ndarray]:
    """Return moments as arrays under names that start alike."""
    return {f"{name}|{each}": getattr(moments, each) for each in ("classes", "count", "mean", "scatter")}


def moments_of(name: str, arrays: Mapping[str, np.ndarray]) -> Moments | None:
    """Return the moments that stand under a name, if there are any."""
    if f"{name}|count" not in arrays:
        return None
    return Moments(*(arrays[f"{name}|{each}"] for each in ("classes", "count", "mean", "scatter")))


def describe(place: Path, cell: Cell) -> None:
    """Write down what a folder holds the statistics of, unless it is there.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    path, model = place / ABOUT, cell.model
    if path.exists():
        return
    said: dict[str, str | int] = {"model": model.name, "stage": model.stage, "revision": model.revision}
    said |= {"task": cell.task.name, "condition": cell.condition, "seed": cell.seed}
    try:
        with aside(path) as temporary:
            temporary.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise unwritable("statistics", place, error, ANOTHER) from error


@dataclass(frozen=True)
class Kept:
    """A folder of statistics that wait for their results."""

    path: Path
    """The folder."""
    about: Mapping[str, str | int]
    """What it says of itself; empty where that is missing or damaged."""
    files: tuple[Path, ...]
    """Of statistics, and of probes fitted on them."""
    leftovers: tuple[Path, ...]
    """What processes that were killed left unfinished."""

    def __str__(self) -> str:
        if not self.about:
            return f"{self.path.name} (nothing says of what)"
        said = self.about
        return f"{said['model']} ({said['stage']}), {said['task']}, {said['condition']}, seed {said['seed']}"


def kept(store: Path) -> Iterator[Kept]:
    """Yield the folders of statistics of a store, in the order of their names."""
    for path in sorted(each for each in (store / "streams").glob("*") if each.is_dir()):
        try:
            said = json.loads((path / ABOUT).read_text("utf-8"))
            known = {"model", "stage", "revision", "task", "condition", "seed"} <= said.keys()
        except (OSError, ValueError, AttributeError):
            known = False
        files, leftovers = (tuple(sorted(path.glob(f"*{ending}"))) for ending in (".npz", ".tmp"))
        yield Kept(path, said if known else {}, files, leftovers)


def damage(path: Path) -> str:
    """Return what is wrong with a file of statistics, by the checksums inside it; empty: nothing."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except UNREADABLE as error:
        return f"{path}: {error}"
    return f"{path}: the checksum of {bad} does not hold" if bad else ""
