"""Images that come with the rows of a table or a stream: each is written to the cache, a file for what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlprobe.aside import aside
from vlprobe.errors import DataError
from vlprobe.records import cache
from vlprobe.stored import Span, StoredImage


def folder() -> Path:
    """Return `$VLPROBE_CACHE/images`, or `~/.cache/vlprobe/images` where that is not set."""
    return cache().absolute() / "images"


def keep(data: bytes, path: Any = None) -> StoredImage:
    """Return an image in a file of the cache that holds just its bytes and is named by their sha256.

    It is written if need be, and appears whole or not at all, however many processes write it; one that was damaged is
    written again.

    Args:
        data: encoded, as they came.
        path: what the data say of where they came from, if they say anything.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    name = hashlib.sha256(data).hexdigest()
    file = folder() / name[:2] / name
    try:
        if not _holds(file, data):
            with aside(file, flushed=False) as temporary:  # `_holds` notices what is not whole; images are many
                temporary.write_bytes(data)
    except OSError as error:
        raise DataError(
            f"the images that come with the rows cannot be kept in {folder()} ({error}); make room, or set "
            "the environment variable VLPROBE_CACHE to a folder on a larger disk; what is there is not written again"
        ) from None
    return StoredImage.of(data, file, Span(0, len(data)), path)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def unbroken(rows: Iterable[Mapping[str, Any]], shown: str, told: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a stream.

    Args:
        rows: the stream.
        shown: how messages call it.
        told: rows that it is said to have; 0: nobody says.

    Raises:
        DataError: it breaks off, or does not have as many rows as is said.
    """
    stream, count = iter(rows), 0
    while True:
        try:
            values = next(stream, None)
        except Exception as error:  # noqa: BLE001 (datasets hands on whatever network, files and parsers raise)
            problem = str(error).strip().split("\n")[0]
            raise DataError(
                f"{shown}: the stream broke off after row {count}: {type(error).__name__}: {problem}; run again "
                "(images that came are not written again), or leave out streaming: true, so that `datasets` fetches "
                "all of it first"
            ) from error
        if values is None:
            break
        count += 1
        yield values
    if told and count != told:
        raise DataError(
            f"{shown}: the stream ended after row {count}, and the data set says that it has {told} rows; run again, "
            "or, where what it says of itself is wrong, name another revision"
        )
