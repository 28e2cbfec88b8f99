"""Content addresses: the same content gives the same name, on every machine and in every process."""

import hashlib
import json
from pathlib import Path

import numpy as np

from vlprobe.types import ImageData


def digest(*parts: object) -> str:
    """Return the sha256 of `parts` written as canonical JSON, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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
