"""UNITER's npz files: a file an image in one folder, arrays norm_bb, features, conf, soft_labels."""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vlprobe.aside import aside
from vlprobe.errors import DataError
from vlprobe.regions.checks import checked
from vlprobe.regions.entries import Entries, EntryWriter
from vlprobe.types import Regions

ARRAYS = {"conf": "confidence", "soft_labels": "probabilities"}
"""Array of the archive -> field of `Regions`, besides boxes and features."""
LARGEST = 1 << 28
"""Bytes of the largest array that is unpacked; 100 boxes of 2,048 float32 features take 0.8 million."""


def read_arrays(file: Path | BinaryIO, place: str, wanted: set[str] | None = None) -> dict[str, np.ndarray]:
    """Return arrays of an npz archive, running nothing that it may hold.

    Args:
        file: the archive.
        place: for messages.
        wanted: only these, where they are there. None: all. The archives of old versions of numpy hold one more,
            without dimensions, named `allow_pickle`; it is of no use to anybody.

    Raises:
        DataError: not a whole archive of plain arrays.
    """
    try:
        # Opened here: of a damaged file, numpy leaves the one that it opened itself open.
        with (
            file.open("rb") if isinstance(file, Path) else file as opened,
            np.load(opened, allow_pickle=False) as archive,
        ):
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{place} is a single array, not an npz archive")
            names = [name for name in archive.files if wanted is None or name in wanted]
            for name in names:
                _check_size(archive, name, place)
            return {name: archive[name] for name in names}
    except DataError:
        raise
    except (ValueError, EOFError, OSError, KeyError, MemoryError, NotImplementedError) as error:
        raise _damaged(place, error) from None
    except (zipfile.BadZipFile, zlib.error, SyntaxError, TypeError, OverflowError, RuntimeError) as error:
        raise _damaged(place, error) from None


def _damaged(place: str, error: Exception) -> DataError:
    if "pickle" in str(error).lower():
        return DataError(
            f"{place} holds Python objects (a pickle), which could run anything when loaded; it is not read. "
            "Feature files hold plain arrays only: get it from its publisher"
        )
    return DataError(f"{place} is not a whole npz archive ({str(error) or type(error).__name__}); get it again")


def _check_size(archive: np.lib.npyio.NpzFile, name: str, place: str) -> None:
    zipped = archive.zip
    known = set(zipped.namelist()) if zipped is not None else set()
    for member in (name, f"{name}.npy"):
        if zipped is not None and member in known and zipped.getinfo(member).file_size > LARGEST:
            raise DataError(f"{place}: array '{name}' unpacks to more than {LARGEST:,} bytes; not a feature file")


def uniter_regions(arrays: Mapping[str, np.ndarray], place: str) -> Regions:
    """Return UNITER's arrays as regions; `norm_bb` is (region, 6): x1, y1, x2, y2, width, height as fractions.

    Raises:
        DataError: arrays are missing or do not fit together.
    """
    missing = [name for name in ("norm_bb", "features") if name not in arrays]
    if missing:
        raise DataError(
            f"{place}: no array '{missing[0]}'; UNITER's files hold norm_bb, features, conf and soft_labels, "
            f"this one {', '.join(sorted(arrays)[:8]) or 'none of them'}"
        )
    boxes = arrays["norm_bb"]
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise DataError(f"{place}: norm_bb has shape {boxes.shape}; expected (region, 6)")
    others = {field: arrays.get(name) for name, field in ARRAYS.items()}
    return checked(place, boxes[:, :4], arrays["features"], (0, 0), pixels=False, **others)


def uniter_arrays(regions: Regions) -> dict[str, np.ndarray]:
    """Return regions as UNITER's arrays, float32."""
    sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
    made = {"norm_bb": np.concatenate([regions.boxes, sides], axis=1), "features": regions.features}
    others = {name: getattr(regions, field) for name, field in ARRAYS.items()}
    return made | {name: array for name, array in others.items() if array is not None}


def uniter_name(image: str) -> str:
    """Return the entry name of an image: COCO's in lower case, as UNITER looks them up."""
    return (image.lower() if re.fullmatch(r"COCO_[a-z]+\d{4}_\d+", image) else image) + ".npz"


class NpzEntries(Entries):
    """The npz files of a folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with os.scandir(path) as found:
            self.names = sorted(file.name for file in found if file.name.endswith(".npz"))
        self.files = [path / name for name in self.names]

    def read(self, name: str) -> Regions:
        """Return one entry."""
        place = str(self.path / name)
        return uniter_regions(read_arrays(self.path / name, place, {"norm_bb", "features", *ARRAYS}), place)


class NpzWriter(EntryWriter):
    """Adds npz files to a folder, each under a temporary name until it is whole.

    Args:
        path: the folder; created when absent.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file; the format uniter-npz writes a folder: name another output")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    def holds(self, image: str) -> bool:
        """Say whether there is a file of an image."""
        return (self.path / uniter_name(image)).exists()

    def write(self, image: str, regions: Regions) -> None:
        """Add the file of an image."""
        write_arrays(self.path / uniter_name(image), uniter_arrays(regions))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz archive: all of it, or nothing."""
    with aside(path) as temporary:
        temporary.write_bytes(packed(arrays, compressed=False))


def packed(arrays: Mapping[str, np.ndarray], *, compressed: bool) -> bytes:
    """Return the bytes of an npz archive."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()
