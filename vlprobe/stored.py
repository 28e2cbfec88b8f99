"""Images that lie inside other files, tar archives and Parquet tables: read when they are asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from vlprobe.errors import DataError

HELD = 16 * 2**20
"""Bytes of row groups that a process keeps, beside the one that was read last."""
LARGEST_GROUP = 256 * 2**20
"""One image is read by reading its row group, which must not be larger."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes as they are in the file."""

    offset: int
    """Of the first one."""
    size: int
    """How many."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a Parquet table."""

    column: str
    """Path in the schema: `image`, or `image.bytes` of a struct."""
    group: int
    """Row group."""
    row: int
    """Inside the row group."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The encoded bytes of an image that lie in a file: equal to another one of the same bytes, wherever they lie."""

    sha256: str
    """Of its bytes, by which it is compared."""
    file: Path = field(compare=False)
    """That holds it."""
    where: Span | Cell = field(compare=False)
    """In the file."""
    name: str = field(default="", compare=False)
    """File name that the archive or table gives it, without folders; empty: none."""

    def __str__(self) -> str:
        return f"the image {self.name or 'embedded'} in {self.file}"

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            DataError: the file is gone, damaged, or holds something else than when the task was read.
        """
        try:
            found = _span(self.file, self.where) if isinstance(self.where, Span) else _cell(self.file, self.where)
        except OSError as error:
            raise DataError(f"{self} cannot be read: {error}") from None
        if hashlib.sha256(found).hexdigest() != self.sha256:
            raise DataError(
                f"{self} is not what it was when the task was read: the file has changed since; run again from the "
                "start, and let nothing write to data that a study reads"
            )
        return found


def _span(path: Path, span: Span) -> bytes:
    with path.open("rb") as file:
        file.seek(span.offset)
        return file.read(span.size)


def _cell(path: Path, cell: Cell) -> bytes:
    found = path.stat()
    return _GROUPS.value((path, found.st_mtime_ns, found.st_size), cell)


Version = tuple[Path, int, int]
"""A file, when it was written and how large it is: another one in its place is not taken for it."""


class _Groups:
    """The row groups that were read last: a table of small ones, or a small table, is not read for every image anew."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Version, str, int], Any] = OrderedDict()
        self._lock = Lock()

    def value(self, version: Version, cell: Cell) -> bytes:
        """Return the bytes of a cell; empty where the file has no such cell any more."""
        key = version, cell.column, cell.group
        with self._lock:
            if key not in self._held:
                self._held[key] = _column(*key)
            self._held.move_to_end(key)
            column = self._held[key]
            while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > HELD:
                self._held.popitem(last=False)
        found = column[cell.row].as_py() if cell.row < len(column) else b""
        return bytes(found.get("bytes") or b"") if isinstance(found, dict) else bytes(found or b"")


_GROUPS = _Groups()


def _column(version: Version, column: str, group: int) -> Any:
    import pyarrow as pa

    try:
        return _parquet(version, column).read_row_group(group, columns=[column], use_threads=False).column(0)
    except (pa.ArrowException, ValueError, IndexError) as error:
        raise DataError(f"{version[0]} is damaged in row group {group}: {error}") from None


@lru_cache(maxsize=8)
def _parquet(version: Version, column: str) -> Any:
    from pyarrow import parquet

    # As a dictionary: a value that stands in many rows is held once, as in the file, so that none unpacks to gigabytes.
    return parquet.ParquetFile(version[0], read_dictionary=[column])


def embedded(value: Any, file: Path, where: Span | Cell) -> Any:
    """Return a cell, bytes or {bytes, path}, with a reference in the place of its bytes, if it has any.

    Args:
        value: of the cell.
        file: that it is in.
        where: the bytes lie there.
    """
    held, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if not held:
        return value
    name = PurePosixPath(path).name if isinstance(path, str) else ""
    image = StoredImage(hashlib.sha256(held).hexdigest(), file, where, name)
    return {**value, "bytes": image} if isinstance(value, dict) else image


def check_groups(file: Any, column: str, shown: str) -> None:
    """Check that single images of a Parquet file can be read in little memory.

    Args:
        file: a `pyarrow.parquet.ParquetFile`.
        column: path in the schema of the one that holds images.
        shown: how messages call the file.

    Raises:
        DataError: a row group holds more than `LARGEST_GROUP` bytes of images.
    """
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        sizes = [group.column(k) for k in range(group.num_columns)]
        size = sum(one.total_uncompressed_size for one in sizes if one.path_in_schema == column)
        if size > LARGEST_GROUP:
            raise DataError(
                f"{shown}: row group {number} holds {size >> 20:,} MB of '{column}' in {group.num_rows} rows; an "
                f"image is read with its row group, of at most {LARGEST_GROUP // 2**20} MB: write the table with "
                "row_group_size=100, or as tar shards"
            )
