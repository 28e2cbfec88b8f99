"""Files that are there whole or not at all: written aside, flushed to the disk, then given their name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile

UNFINISHED = 3600
"""Seconds after which what is not finished is taken to be of a process that was killed."""


@contextmanager
def aside(path: Path, first: bool = False, flushed: bool = True) -> Iterator[Path]:
    """Yield the file to write to; once all is written, it becomes `path`. Where something goes wrong, it is removed.

    Its name is nobody else's: processes of two machines that share a folder may have one number.

    Args:
        path: what it is to be called; its folder is made where it is not there.
        first: leave a file of that name alone that is there by then: whoever reads it must not see it change.
        flushed: wait until the disk has it, which takes milliseconds; else a machine that loses its power may leave it
            empty or half, which whoever reads it must notice.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{token_hex(16)}.tmp")
    try:
        yield temporary
        if flushed:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if not first or not _linked(temporary, path):
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Say whether a file is there under its name, this one or another's; False: this file system has no links."""
    with suppress(OSError):  # unlike a renaming, a link never takes another's place
        path.hardlink_to(temporary)
    return path.exists()


def leftovers(folder: Path, deep: bool = False) -> Iterator[Path]:
    """Yield what processes that were killed left in a folder unfinished, not what a living one may still write.

    Args:
        folder: where they wrote; it need not be there.
        deep: look into the folders inside it, too.
    """
    found = sorted(folder.rglob("*.tmp") if deep else folder.glob("*.tmp"))
    now = _now(folder) if found else 0
    for path in found:
        with suppress(FileNotFoundError):  # it was finished by now
            if abs(now - path.stat().st_mtime) > UNFINISHED:  # of the future: a clock was wrong, and has been set since
                yield path


def _now(folder: Path) -> float:
    """Return what time it is where a folder lies: the clock of a file server may be another than this machine's."""
    try:
        with TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def sweep(*folders: Path) -> None:
    """Remove the `leftovers` of some folders, as far as they may be written to."""
    for folder in folders:
        for path in leftovers(folder):
            with suppress(OSError):
                path.unlink()
