"""WebDataset shards: tar archives whose members of one name, up to the first dot, are one sample.

Nothing is unpacked and no link is followed. An archive is read once, from its start to its end; of an image, where it
lies and its digest are kept.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vlprobe.errors import BadRow, DataError
from vlprobe.records import Records
from vlprobe.stored import Span, StoredImage
from vlprobe.tasks.folders import IGNORED
from vlprobe.tasks.rows import Row
from vlprobe.tasks.tables import OnBadRow, Table
from vlprobe.types import Source

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of images; the one of a sample is its column `image`."""
TEXTS = ("txt", "cls", "json")
"""Endings of members that are read; others are left alone."""
LARGEST_IMAGE = 2**29
"""Bytes of an image's file, encoded."""
LARGEST_TEXT = 2**24
"""Bytes of a member that is read as text."""
LARGEST_HEADER = 2**20
"""Bytes of what an archive says about one member."""
PIECE = 2**20
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""How a compressed file begins -> what unpacks it."""


def read_tar(path: Path, shown: str, on_bad_row: OnBadRow) -> Table:
    """Read the index of a shard: a row for every sample.

    Columns are `image` (the member .jpg, .jpeg, .png or .webp, not decoded), `txt`, `cls`, `__key__`, and the fields of
    the .json; of a member with two endings both, as `left.jpg`. A member stands before a field of its name.

    Args:
        path: the archive.
        shown: how messages call it.
        on_bad_row: called with every sample that cannot be used.

    Raises:
        DataError: missing, compressed, cut off, or no archive; the message names the last member that was whole.
    """
    try:
        with path.open("rb") as file:
            _check_start(file.read(6), path, shown)
            file.seek(0)
            forward = _Forward(file, path.stat().st_size)
            columns: dict[str, None] = {}
            kept = Records()
            for row in _rows(forward, path, shown, on_bad_row):
                columns |= dict.fromkeys(row.values)
                kept.add(_written(row))
            sha256 = forward.finish()
    except FileNotFoundError:
        raise DataError(f"{shown}: there is no such file ({path})") from None
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error}") from None
    rows = (_read(kept[number], path) for number in range(len(kept)))
    return Table(tuple(columns), rows, Source(str(path), sha256))


def _written(row: Row) -> bytes:
    """Return a row as a record: which columns there are is known at the end of the archive only."""
    images = {name: value for name, value in row.values.items() if isinstance(value, StoredImage)}
    said = {name: None if name in images else value for name, value in row.values.items()}
    places = {name: (image.sha256, *astuple(image.where), image.name) for name, image in images.items()}
    return json.dumps((row.place, row.number, said, places)).encode()


def _read(record: bytes, path: Path) -> Row:
    place, number, values, places = json.loads(record)
    images = {
        name: StoredImage(sha256, path, Span(offset, size), called)
        for name, (sha256, offset, size, called) in places.items()
    }
    return Row(place, number, values | images)


def _check_start(start: bytes, path: Path, shown: str) -> None:
    for magic, command in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{shown} is compressed, and an image in the middle of it cannot be read by itself: unpack it "
                f"({command} {path.name}); JPEG and PNG are compressed already"
            )


class _Forward:
    """A file that is read forward only and hashed on the way, as `tarfile` wants it.

    An archive cannot send the reader back, where some versions of `tarfile` would go round for ever, nor make it take a
    huge header into memory.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._sha256, self._hashed, self._place = hashlib.sha256(), 0, 0
        self.last = b""

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        if place < self._hashed - 1:  # tarfile steps one byte back, to see that a member is whole
            raise tarfile.ReadError("a header points back to what was read already")
        self._place = place

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        back = self._hashed - self._place
        if back < 0:
            self._skip(-back)
        if back > 0:
            self._file.seek(self._place)
        found = self._file.read(size)
        self._sha256.update(found[max(back, 0) :])
        self._place += len(found)
        self._hashed = max(self._hashed, self._place)
        self.last = found
        return found

    def _skip(self, count: int) -> None:
        while count and (piece := self._file.read(min(count, PIECE))):
            self._sha256.update(piece)
            self._hashed += len(piece)
            count -= len(piece)

    def finish(self) -> str:
        """Return the sha256 of the whole file."""
        self._skip(self.size - self._hashed)
        return self._sha256.hexdigest()


@dataclass
class _Sample:
    """Members of one key, as far as they were read."""

    key: str
    """The name of its members up to the first dot."""
    members: dict[str, Any] = field(default_factory=dict)
    """By column."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of its .json."""
    problem: str = ""
    """Why it cannot be used."""

    @property
    def values(self) -> dict[str, Any]:
        """Cell by column."""
        return {**self.fields, **self.members, "__key__": self.key}


def _rows(file: _Forward, path: Path, shown: str, on_bad_row: OnBadRow) -> Iterator[Row]:
    sample, number = None, 0
    for member in _members(file, shown):
        name = member.name.removeprefix("./")
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if member.isdir() or base.startswith(".") or base.lower() in IGNORED:
            continue
        key = ascii(name)[1:-1] if not name.isprintable() else f"{folder}{slash}{stem}"
        if sample is None or sample.key != key:
            if sample is not None:
                number += 1
                yield from _row(sample, number, shown, on_bad_row)
            sample = _Sample(key)
        try:
            _add(sample, member, name, ending.lower(), file, path)
        except ValueError as error:
            sample.problem = sample.problem or f"its member {name!a} {error}"
    if sample is not None:
        yield from _row(sample, number + 1, shown, on_bad_row)


def _row(sample: _Sample, number: int, shown: str, on_bad_row: OnBadRow) -> Iterator[Row]:
    place = f"{shown}, sample {sample.key}"
    if sample.problem:
        on_bad_row(BadRow(place, sample.problem))
    else:
        yield Row(place, number, sample.values)


def _members(file: _Forward, shown: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive that lie wholly inside it.

    Raises:
        DataError: it is no archive, damaged, or cut off.
    """
    last = "before its first member"
    try:
        with closing(tarfile.open(fileobj=file, mode="r:")) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()
                if member.size < 0 or (member.isreg() and member.offset_data + member.size > file.size):
                    raise DataError(
                        f"{shown}: member {member.name!a} is to have {member.size:,} bytes, and the file ends before "
                        "that: it is cut off; fetch or write it again"
                    )
                yield member
                last = f"after member {member.name!a}"
            end = file.last
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise DataError(f"{shown} is no whole tar archive, {last}: {error}; fetch or write it again") from None
    # tarfile takes a damaged header, and the end of a file, for the end of the archive.
    if end != bytes(tarfile.BLOCKSIZE):
        how = "has a damaged header" if len(end) == tarfile.BLOCKSIZE else "is cut off: its end mark is missing,"
        raise DataError(f"{shown} {how} {last}; fetch or write it again")
    while piece := file.read(LARGEST_HEADER):
        if piece.strip(b"\0"):
            raise DataError(
                f"{shown} goes on behind the end mark of its archive, {last}: two archives in one file? name each as a "
                "shard of its own"
            )


def _add(sample: _Sample, member: tarfile.TarInfo, name: str, ending: str, file: _Forward, path: Path) -> None:
    """Read one member into its sample; ValueError says why it cannot be used."""
    if not name.isprintable():
        raise ValueError("has a name with characters that cannot be printed")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError("has a name that leaves the archive")
    if not member.isreg() or member.issparse():
        raise ValueError("is no plain file: links, devices and sparse files are not followed")
    kind = ending.rpartition(".")[2]
    if not kind:
        raise ValueError("has no ending that says what it is")
    if kind not in (*IMAGES, *TEXTS):
        return
    column = "image" if ending in IMAGES else ending
    if column in sample.members:
        raise ValueError(f"is the second '{column}' of its sample")
    largest = LARGEST_IMAGE if kind in IMAGES else LARGEST_TEXT
    if not 0 < member.size <= largest:
        raise ValueError(f"has {member.size:,} bytes; from 1 to {largest:,} can be read")
    file.seek(member.offset_data)
    pieces = _pieces(file, member.size)
    if kind in IMAGES:
        found = hashlib.sha256()
        for piece in pieces:
            found.update(piece)
        where = Span(member.offset_data, member.size)
        sample.members[column] = StoredImage(found.hexdigest(), path, where, name.rpartition("/")[2])
        return
    text = b"".join(pieces).decode("utf-8-sig").rstrip("\r\n")
    if kind != "json":
        sample.members[column] = text
        return
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("is no JSON object {...}")
    sample.fields |= values


def _pieces(file: _Forward, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = file.read(min(size, PIECE))
        if not piece:
            raise OSError("it became shorter while it was read")
        size -= len(piece)
        yield piece
