"""Content addresses: the same content gives the same name, on every machine and in every process."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from vlprobe.types import ImageData

AT_ONCE = 256
"""Items of an iterator that are written together."""


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
    """Return the sha256 of an image's encoded bytes, wherever they lie.

    Raises:
        OSError: its file cannot be read.
    """
    if isinstance(image, Path):
        return file_digest(image)
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image.sha256


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """Return a random generator of its own for every seed and purpose.

    Two purposes never share a stream, so adding a draw to one does not move another's.
    """
    words = np.frombuffer(hashlib.sha256("\x1f".join(purpose).encode()).digest(), dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))
