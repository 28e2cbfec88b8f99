"""Content addresses: the same content gives the same name, on every machine and in every process."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np

from vlprobe.ledger import Ledger, key_of
from vlprobe.types import ImageData

AT_ONCE = 256
"""Items of an iterator that are written together; files of an iterator that are read together."""
READERS = 16
"""Files that are read at a time: a disk that is far away answers late, and hashing leaves a processor to the others."""


def digest(*parts: object) -> str:
    """Return the sha256 of `parts` written as canonical JSON, in hexadecimal.

    An iterator, as a part or as a value of a dictionary that is one, stands for the list of what it yields, which is
    not held.
    """
    if not any(isinstance(part, (Iterator, dict)) for part in parts):
        return hashlib.sha256(_json(parts).encode()).hexdigest()
    sha256 = hashlib.sha256(b"[")
    for number, part in enumerate(parts):
        sha256.update(b"," if number else b"")
        for piece in _pieces(part):
            sha256.update(piece.encode())
    sha256.update(b"]")
    return sha256.hexdigest()


_json = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, Iterator):
        yield "["
        before = ""
        while some := list(islice(value, AT_ONCE)):
            yield before + _json(some)[1:-1]
            before = ","
        yield "]"
    elif isinstance(value, dict) and any(isinstance(item, Iterator) for item in value.values()):
        yield "{"
        for number, (key, item) in enumerate(sorted(value.items())):
            yield f"{',' if number else ''}{_json(key)}:"
            yield from _pieces(item)
        yield "}"
    else:
        yield _json(value)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_digest(image: ImageData) -> str:
    """Return the sha256 of an image's encoded bytes, wherever they lie; a file is read once, unless it changes.

    Raises:
        OSError: its file cannot be read.
    """
    if isinstance(image, Path):
        return _FILES(image)
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image.sha256


def image_digests(files: Iterable[Path]) -> Iterator[str]:
    """Yield the `image_digest` of each of some files, several of which are read at a time; empty: it cannot be read."""
    waiting = iter(files)
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(islice(waiting, AT_ONCE)):
            yield from readers.map(_digest_or_nothing, some)


def file_size(file: Path) -> int:
    """Return a file's size in bytes; -1: there is none to be read."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def alike_in_size(sizes: np.ndarray) -> np.ndarray:
    """Return (file,) places of the files whose size another one has: only these can hold the same as another.

    Args:
        sizes: (file,) int64, as `file_size` returns them.
    """
    _, which, count = np.unique(sizes, return_inverse=True, return_counts=True)
    return np.flatnonzero((sizes >= 0) & (count[which] > 1))


class _FileDigests:
    """sha256 of image files: kept in 56 bytes each, by name, size and when it was written."""

    def __init__(self) -> None:
        self._known, self._held, self._lock = Ledger(), bytearray(), Lock()

    def __call__(self, file: Path) -> str:
        found = file.stat()
        key = key_of(str(file), str(found.st_size), str(found.st_mtime_ns))
        with self._lock:
            number = self._known.get(key)
            if number >= 0:
                return self._held[32 * number : 32 * (number + 1)].hex()
        said = file_digest(file)
        with self._lock:
            if self._known.setdefault(key, len(self._held) // 32) == len(self._held) // 32:
                self._held += bytes.fromhex(said)
        return said


_FILES = _FileDigests()


def _digest_or_nothing(file: Path) -> str:
    try:
        return _FILES(file)
    except OSError:
        return ""


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """Return a random generator of its own for every seed and purpose.

    Two purposes never share a stream, so adding a draw to one does not move another's.
    """
    words = np.frombuffer(hashlib.sha256("\x1f".join(purpose).encode()).digest(), dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))
