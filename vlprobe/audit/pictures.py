"""Images, read once and one after the other: of each its digest, a 64-bit hash and a thumbnail are kept.

The hash is the difference hash (Krawetz 2013): the image in grey, 9 x 8, one bit a pair of neighbours, set where the
left one is the brighter. Two images are near duplicates if their hashes differ in at most `BITS` of 64 bits and their
thumbnails, 16 x 16 in colour, differ nowhere by more than `APART` of 255 once one is made as light and as rich in
contrast as the other. The second test is for drawings, many of which share a hash.

Measured on 128 photographs (COCO) and 986 drawings (NLVR v1): of every photograph its copies were found at half the
size, at a third of it compressed with quality 50, a third darker, a third richer in contrast, and stretched to a
square; most of the copies a third lighter, or cut by 1 % on every side; a quarter of those turned grey; next to none of
those mirrored, or cut by 3 %. No two different photographs were taken for near duplicates, nor any two drawings, some
of which differ in one square only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.digest import image_digest
from vlprobe.errors import BadRow
from vlprobe.images import open_image
from vlprobe.types import Example, ImageData

if TYPE_CHECKING:
    from PIL import Image

BITS = 6
"""Near duplicates differ in at most so many bits of their hash."""
APART = 40
"""And their thumbnails at most by this in any place, of 255."""
GAIN = 2.0
"""One is at most so many times as rich in contrast as the other."""
FLAT = 4.0
"""An image whose thumbnail deviates less from its mean is of one colour, and near none."""
SIDE = 16
"""Pixels of a thumbnail's side: 768 bytes an image are kept in memory."""
CROWD = 2000
"""Of more images with a part of the hash in common, only those with the same whole hash are compared."""


@dataclass(frozen=True)
class Pictures:
    """What is known of the distinct images of a task."""

    known: Mapping[Path | str, str]
    """File, or sha256 of embedded bytes -> sha256; damaged ones are not in it."""
    hashes: np.ndarray
    """(image,) uint64, in the order of `order`."""
    thumbnails: np.ndarray
    """(image, 768) uint8: red, green and blue, row by row."""
    order: tuple[str, ...]
    """(image,) sha256."""
    damaged: Mapping[Path | str, str]
    """File, or sha256 of embedded bytes -> what is wrong with it."""

    def digest(self, example: Example) -> str:
        """Return the sha256 of an example's image; empty for none, or a damaged one."""
        return self.known.get(_key(example.image), "") if example.image is not None else ""

    def problem(self, example: Example) -> str:
        """Return what is wrong with an example's image; empty where nothing is."""
        return self.damaged.get(_key(example.image), "") if example.image is not None else ""


def scan(examples: Iterable[Example]) -> Pictures:
    """Read every distinct image once; only digest, hash and thumbnail stay in memory."""
    known: dict[Path | str, str] = {}
    damaged: dict[Path | str, str] = {}
    seen: dict[str, tuple[int, np.ndarray]] = {}
    for example in examples:
        if example.image is None or (key := _key(example.image)) in known or key in damaged:
            continue
        try:
            digest = key if isinstance(key, str) else image_digest(key)
            if digest not in seen:
                seen[digest] = hashed(open_image(example.image, example.place))
            known[key] = digest
        except BadRow as problem:
            damaged[key] = problem.problem
        except OSError as problem:
            damaged[key] = f"{key} cannot be read: {problem}"
    hashes = np.array([value for value, _ in seen.values()], dtype=np.uint64)
    thumbnails = np.array([thumbnail for _, thumbnail in seen.values()], dtype=np.uint8).reshape(-1, SIDE * SIDE * 3)
    return Pictures(known, hashes, thumbnails, tuple(seen), damaged)


def _key(image: ImageData) -> Path | str:
    return image if isinstance(image, Path) else image_digest(image)


def hashed(image: Image.Image) -> tuple[int, np.ndarray]:
    """Return (difference hash of 64 bits, (768,) uint8 thumbnail)."""
    from PIL.Image import Resampling

    small = np.asarray(image.convert("L").resize((9, 8), Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Resampling.BOX), dtype=np.uint8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), thumbnail.ravel()


def near(pictures: Pictures) -> Iterator[tuple[str, str, float]]:
    """Yield (sha256, sha256, largest difference) of every two images that are near duplicates, each pair once.

    Hashes that differ in at most `BITS` bits agree in one of `BITS` + 1 pieces: only images with a piece in common are
    compared, so that memory and, where images differ, time grow with their number and not with its square.
    """
    thumbnails = pictures.thumbnails
    patterned = thumbnails.std(axis=1) > FLAT if len(thumbnails) else np.zeros(0, dtype=bool)
    for i, others in _candidates(pictures.hashes):
        if not patterned[i]:
            continue
        close = others[patterned[others] & (np.bitwise_count(pictures.hashes[others] ^ pictures.hashes[i]) <= BITS)]
        for j, apart in zip(close.tolist(), differences(thumbnails[i], thumbnails[close]).tolist(), strict=True):
            if apart <= APART:
                yield pictures.order[i], pictures.order[j], apart


def differences(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (other,) the largest difference of a thumbnail to others, of two one made as light and rich as the other.

    Lightness and contrast are matched by least squares, in both directions; infinite where it takes more than `GAIN`
    times the contrast, or less than its inverse.

    Args:
        one: (768,).
        others: (other, 768).
    """
    a = one - one.mean(dtype=np.float32)
    b = others - others.mean(axis=1, keepdims=True, dtype=np.float32)
    both = b @ a
    there, back = both / (a @ a), both / np.einsum("ij,ij->i", b, b)
    apart = np.maximum(np.abs(there[:, None] * a - b).max(axis=1), np.abs(back[:, None] * b - a).max(axis=1))
    fits = (np.maximum(there, back) <= GAIN) & (np.minimum(there, back) >= 1 / GAIN)
    return np.where(fits, apart, np.inf)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (image, later images that share a piece of its hash), each pair once."""
    edges = np.linspace(0, 64, BITS + 2).round().astype(int)
    masks = [((1 << int(high - low)) - 1) << int(low) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    pieces = np.stack([hashes & np.uint64(mask) for mask in masks])
    buckets = [_members(values) for values in pieces]
    whole = _members(hashes)
    for i in range(len(hashes)):
        found = []
        for values, held in zip(pieces, buckets, strict=True):
            members = held[int(values[i])]
            found.append(members if len(members) <= CROWD else whole[int(hashes[i])])
        together = np.unique(np.concatenate(found))
        yield i, together[together > i]


def _members(values: np.ndarray) -> dict[int, np.ndarray]:
    """Return value -> places that hold it, in order."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(values[order][1:] != values[order][:-1]) + 1
    return {int(values[group[0]]): group for group in np.split(order, starts) if len(group)}


def pairs_by_row(pairs: Sequence[tuple[str, str, float]]) -> dict[str, list[tuple[str, float]]]:
    """Return sha256 -> its near duplicates with their difference, the nearest first."""
    found: dict[str, list[tuple[str, float]]] = {}
    for a, b, apart in pairs:
        found.setdefault(a, []).append((b, apart))
        found.setdefault(b, []).append((a, apart))
    return {key: sorted(others, key=lambda other: (other[1], other[0])) for key, others in found.items()}
