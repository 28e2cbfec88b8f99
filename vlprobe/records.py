"""Records on disk, so that memory need not hold them: a file that nobody else sees, and that goes with its process."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from pathlib import Path
from typing import BinaryIO

from vlprobe.errors import DataError

BUFFER = 2**20
"""Bytes of records that wait in memory; fewer altogether are never written."""


def cache() -> Path:
    """Return `$VLPROBE_CACHE`, or `~/.cache/vlprobe` where that is not set."""
    root = os.environ.get("VLPROBE_CACHE", "").strip()
    return Path(root) if root else Path.home() / ".cache" / "vlprobe"


class Records:
    """Records of bytes, by number, in the order in which they came; eight bytes of memory each."""

    def __init__(self) -> None:
        self._ends = array("q", [0])
        self._waiting = bytearray()
        self._written = 0
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, record: bytes) -> int:
        """Keep one more record and return its number.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        self._waiting += record
        self._ends.append(self._ends[-1] + len(record))
        if len(self._waiting) > BUFFER:
            self._write()
        return len(self) - 1

    def __getitem__(self, number: int) -> bytes:
        return self.between(number, number + 1)[0]

    def between(self, first: int, last: int) -> list[bytes]:
        """Return the records from `first` up to, and without, `last`."""
        edges = self._ends[first : last + 1]
        start = edges[0]
        found = self._bytes(start, edges[-1])
        return [found[a - start : b - start] for a, b in zip(edges, edges[1:], strict=False)]

    def _bytes(self, start: int, end: int) -> bytes:
        ahead = self._from_file(start, min(end, self._written)) if start < self._written else b""
        waiting = self._waiting[max(start - self._written, 0) : max(end - self._written, 0)]
        return ahead + bytes(waiting)

    def _from_file(self, start: int, end: int) -> bytes:
        if self._file is None:
            raise DataError("records were written to no file")
        pieces = []
        while start < end:  # one call reads 2 GiB at most
            piece = os.pread(self._file.fileno(), end - start, start)
            if not piece:
                raise DataError("the file that examples are kept in while a study runs has become shorter")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def _write(self) -> None:
        try:
            if self._file is None:
                cache().mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=cache())  # noqa: SIM115 (it lives as long as these records)
                weakref.finalize(self, self._file.close)
            self._file.write(self._waiting)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"examples cannot be kept in {cache()} while the study runs ({error}); make room, or set the "
                "environment variable VLPROBE_CACHE to a folder on a larger disk"
            ) from None
        self._written += len(self._waiting)
        self._waiting.clear()
