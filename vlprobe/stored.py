"""Images that lie inside other files, as in tar archives, or in files of the cache: read when they are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vlprobe.errors import DataError


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes as they are in the file."""

    offset: int
    """Of the first one."""
    size: int
    """How many."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The encoded bytes of an image that lie in a file: equal to another one of the same bytes, wherever they lie."""

    sha256: str
    """Of its bytes, by which it is compared."""
    file: Path = field(compare=False)
    """That holds it."""
    where: Span = field(compare=False)
    """In the file."""
    name: str = field(default="", compare=False)
    """File name that the archive or table gives it, without folders; empty: none."""

    @classmethod
    def of(cls, data: bytes, file: Path, where: Span, path: Any = None) -> StoredImage:
        """Return a reference to some bytes.

        Args:
            data: the bytes.
            file: that they lie in.
            where: in it.
            path: what a data set says of where they came from, if it says anything.
        """
        name = PurePosixPath(path).name if isinstance(path, str) else ""
        return cls(hashlib.sha256(data).hexdigest(), file, where, name)

    def __str__(self) -> str:
        return f"the image {self.name or 'embedded'} in {self.file}"

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            DataError: the file is gone, damaged, or holds something else than when the task was read.
        """
        try:
            with self.file.open("rb") as file:
                file.seek(self.where.offset)
                found = file.read(self.where.size)
        except OSError as error:
            raise DataError(f"{self} cannot be read: {error}") from None
        if hashlib.sha256(found).hexdigest() != self.sha256:
            raise DataError(
                f"{self} is not what it was when the task was read: the file has changed since; run again from the "
                "start, and let nothing write to data that a study reads"
            )
        return found
