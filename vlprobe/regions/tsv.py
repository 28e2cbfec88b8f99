"""Tab separated feature files: a line an image, arrays in base64, no header.

LXMERT's come from its data/mscoco_imgfeat/extract_coco_image.py, bottom-up-attention's from its tools/generate_tsv.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlprobe.errors import DataError
from vlprobe.regions.checks import checked, in_pixels
from vlprobe.regions.entries import Entries, EntryWriter
from vlprobe.regions.sidecar import Sidecar
from vlprobe.types import Regions

LONGEST = 1 << 26
"""Bytes of the longest line that is read: 100 boxes of 2,048 features take 1.1 million."""


@dataclass(frozen=True)
class Columns:
    """The fields of a line, in order."""

    names: tuple[str, ...]
    """As the original's FIELDNAMES."""
    arrays: dict[str, tuple[str, str]]
    """Column of base64 -> field of `Regions` and type of its numbers."""
    layout: str
    """As `FORMATS` calls it."""


LXMERT = Columns(
    names=(
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    ),
    arrays={
        "objects_id": ("objects", "<i8"),
        "objects_conf": ("confidence", "<f4"),
        "attrs_id": ("attributes", "<i8"),
        "attrs_conf": ("attribute_confidence", "<f4"),
        "boxes": ("boxes", "<f4"),
        "features": ("features", "<f4"),
    },
    layout="lxmert-tsv",
)
BUTD = Columns(
    names=("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    arrays={"boxes": ("boxes", "<f4"), "features": ("features", "<f4")},
    layout="butd-tsv",
)
BY_LENGTH = {len(columns.names): columns for columns in (LXMERT, BUTD)}


class TsvEntries(Entries):
    """Lines of a TSV, found by their byte offsets.

    Args:
        path: the file, of any size: it is read through once, then line by line as asked.

    Raises:
        DataError: not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        self.columns = _columns(path)
        kept = Sidecar(path, self.files)
        index = _kept_index(kept.read().get("lines"))
        if index is None:
            index, sha256 = _index(path)
            kept.add(lines=index, sha256=sha256)
        self.names = [name for name, _ in index]
        self._offsets = dict(index)

    def read(self, name: str) -> Regions:
        """Return one entry."""
        place = f"{self.path}, entry '{name}'"
        with self.path.open("rb") as file:
            file.seek(self._offsets[name])
            line = file.readline(LONGEST)
        cells = line.rstrip(b"\r\n").split(b"\t")
        if cells[0] != name.encode():
            raise DataError(f"{place}: the file was changed while it was in use; run again")
        if len(cells) != len(self.columns.names):
            raise DataError(
                f"{place}: {len(cells)} columns, expected {len(self.columns.names)} ({', '.join(self.columns.names)}); "
                "the file is damaged or was cut off here: get it again, or remove the line"
            )
        return _decode(place, dict(zip(self.columns.names, cells, strict=True)), self.columns)


def _columns(path: Path) -> Columns:
    with path.open("rb") as file:
        line = file.readline(LONGEST)
    if not line:
        raise DataError(f"{path} is empty; expected a line an image")
    cells = line.split(b"\t")
    columns = BY_LENGTH.get(len(cells))
    if columns is None:
        known = "; ".join(f"{len(row.names)} ({', '.join(row.names)})" for row in BY_LENGTH.values())
        raise DataError(f"{path}, line 1: {len(cells)} tab separated columns; expected {known}")
    if not all(_is_number(cells[columns.names.index(name)]) for name in columns.names[1:3]):
        found = b" ".join(cells[1:3])[:60].decode(errors="replace")
        raise DataError(
            f"{path}, line 1: expected {columns.names[1]} and {columns.names[2]}, two numbers; found {found!r}. "
            "These files have no header line"
        )
    return columns


def _is_number(cell: bytes) -> bool:
    return cell.isdigit() and len(cell) < 10


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the bytes of every line."""
    offset = 0
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            raise DataError(f"{path}, byte {offset}: a line of {LONGEST:,} bytes and more; the file is damaged")
        yield offset, line
        offset += len(line)


def _index(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Return (name, offset) of every line, and the file's sha256: one pass for both."""
    index: list[tuple[str, int]] = []
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        for offset, line in _lines(file, path):
            hashed.update(line)
            name, tab, _ = line.partition(b"\t")
            if not tab:
                raise DataError(f"{path}, line {len(index) + 1}: no tab in it; the file is damaged or was cut off here")
            try:
                index.append((name.decode(), offset))
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {len(index) + 1}: the image name {name[:40]!r} is not UTF-8") from None
    return index, hashed.hexdigest()


def _kept_index(kept: Any) -> list[tuple[str, int]] | None:
    """Return a sidecar's index; None: it does not look like one, another program may have written it."""
    try:
        index = [(name, offset) for name, offset in kept]
    except (TypeError, ValueError):
        return None
    good = all(isinstance(name, str) and type(offset) is int and offset >= 0 for name, offset in index)
    return index if good else None


def _decode(place: str, cells: dict[str, bytes], columns: Columns) -> Regions:
    side = {name[-1]: _integer(place, name, cells[name]) for name in columns.names[1:3]}
    count = _integer(place, "num_boxes", cells["num_boxes"])
    arrays = {field: _array(place, name, cells[name], kind) for name, (field, kind) in columns.arrays.items()}
    boxes, features = arrays.pop("boxes"), arrays.pop("features")
    if len(boxes) != count * 4:
        raise DataError(f"{place}: num_boxes is {count}, and boxes hold {len(boxes)} numbers, not {count * 4}")
    if not count or len(features) % count:
        raise DataError(f"{place}: {len(features)} numbers in features do not divide among {count} boxes; cut off?")
    return checked(
        place, boxes.reshape(-1, 4), features.reshape(count, -1), (side["w"], side["h"]), pixels=True, **arrays
    )


def _integer(place: str, name: str, cell: bytes) -> int:
    if not _is_number(cell):
        raise DataError(f"{place}: {name} is {cell[:40].decode(errors='replace')!r}; expected a whole number")
    return int(cell)


def _array(place: str, name: str, cell: bytes, kind: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(cell, validate=True), dtype=kind)
    except (binascii.Error, ValueError):
        raise DataError(
            f"{place}: {name} is not base64 of {np.dtype(kind).name} numbers ({len(cell):,} characters); "
            "the file is damaged or was cut off here"
        ) from None


class TsvWriter(EntryWriter):
    """Adds lines to a TSV; a last line that a killed run left torn is cut off first.

    Args:
        path: the file; created when absent.
        columns: `LXMERT` or `BUTD`.

    Raises:
        DataError: the file is there and has other columns.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path, self.columns = path, columns
        path.parent.mkdir(parents=True, exist_ok=True)
        self._names = self._resume()
        self._file = path.open("ab")

    def holds(self, image: str) -> bool:
        """Say whether there is a line of an image."""
        return image in self._names

    def write(self, image: str, regions: Regions) -> None:
        """Add the line of an image."""
        place = f"{self.path}, entry '{image}'"
        if "\t" in image or "\n" in image or "\r" in image:
            raise DataError(f"{place}: the name holds a tab or a line end, which this format cannot; rename the image")
        boxes = in_pixels(regions, place)
        cells = {self.columns.names[0]: image.encode(), "num_boxes": str(len(boxes)).encode()}
        for name in self.columns.names[1:3]:
            cells[name] = str(regions.size["wh".index(name[-1])]).encode()
        for name, (field, kind) in self.columns.arrays.items():
            array = boxes if field == "boxes" else getattr(regions, field)
            if array is None:
                raise DataError(
                    f"{place}: the format {self.columns.layout} holds {name}, and the detector gave no {field}; "
                    "choose another format: butd-tsv, volta-h5"
                )
            cells[name] = base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes())
        self._file.write(b"\t".join(cells[name] for name in self.columns.names) + b"\n")
        self._file.flush()
        self._names.add(image)

    def close(self) -> None:
        """Flush the file to disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _resume(self) -> set[str]:
        if not self.path.exists() or not self.path.stat().st_size:
            return set()
        names, whole = set(), 0
        with self.path.open("rb") as file:
            for offset, line in _lines(file, self.path):
                if line.endswith(b"\n"):
                    names.add(line.partition(b"\t")[0].decode(errors="replace"))
                    whole = offset + len(line)
        if names and (columns := _columns(self.path)) is not self.columns:
            raise DataError(
                f"{self.path} is there and is {columns.layout}, not {self.columns.layout}; choose another output, "
                f"or go on with --format {columns.layout}"
            )
        os.truncate(self.path, whole)
        return names
