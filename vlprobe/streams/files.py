"""Statistics on disk: arrays under names, written whole or not at all."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.moments import Moments

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
    # A name of its own: processes of several machines may have one number.
    temporary = path.with_suffix(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path.parent, error) from error


def _unwritable(place: Path, error: OSError) -> DataError:
    return DataError(
        f"statistics cannot be written to {place} ({error}); what is finished is kept. Make room, or name another "
        "folder with `store` in the study or VLPROBE_CACHE"
    )


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
    temporary = path.with_name(f"{ABOUT}.{uuid4().hex}.tmp")
    try:
        place.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(place, error) from error
