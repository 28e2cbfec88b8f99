"""The control `pixels`: what a thumbnail and a colour histogram of the image, or of a region of it, tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlprobe.controls.rows import Rows
from vlprobe.digest import image_digest
from vlprobe.images import open_image
from vlprobe.ledger import Ledger, key_of
from vlprobe.records import Records
from vlprobe.types import Example, ImageData

SIDE = 8
"""Thumbnails are so many pixels wide and high, whatever the shape of the image."""
LEVELS = 4
"""Of each of red, green and blue in the histogram: 64 colours."""
FINEST = 64
"""The histogram counts the pixels of an image scaled to so many a side."""
WIDTH = SIDE * SIDE * 3 + LEVELS**3
"""Numbers of one look."""

Box = tuple[float, float, float, float]


class Looks:
    """What images look like at a glance, each decoded once and its look kept on disk."""

    def __init__(self) -> None:
        self._known, self._records = Ledger(), Records()

    def __call__(self, example: Example, box: Box | None = None) -> np.ndarray:
        """Return (WIDTH,) float32: a thumbnail row by row, then the shares of 64 colours, all in [0, 1].

        Args:
            example: must have an image.
            box: of a region, as in `Example.boxes`; None: the whole image.

        Raises:
            BadRow: the image cannot be opened (see `open_image`).
        """
        if example.image is None:
            raise ValueError(f"example {example.id} has no image to look at")
        image = example.image
        key = key_of(str(image) if isinstance(image, Path) else image_digest(image), repr(box))
        number = self._known.get(key)
        if number < 0:
            number = self._records.add(_look(image, example.place, box).tobytes())
            self._known.setdefault(key, number)
        return np.frombuffer(self._records[number], np.float32)

    def of(self, rows: Rows, regions: bool) -> np.ndarray:
        """Return (row, WIDTH): each row's image, or its region of it."""
        boxes = [e.boxes[k] if regions else None for e, k in zip(rows.examples, rows.index, strict=True)]
        return np.stack([self(example, box) for example, box in zip(rows.examples, boxes, strict=True)])


def _look(image: ImageData, place: str, box: Box | None) -> np.ndarray:
    from PIL import Image

    opened = open_image(image, place)
    if box is not None:
        opened = opened.crop(_corners(box, opened.width, opened.height))
    fine = np.asarray(opened.resize((FINEST, FINEST), Image.Resampling.BOX))
    step = FINEST // SIDE
    thumbnail = fine.reshape(SIDE, step, SIDE, step, 3).mean(axis=(1, 3), dtype=np.float64) / 255
    red, green, blue = (fine.reshape(-1, 3) // (256 // LEVELS)).astype(np.int64).T
    colours = np.bincount((red * LEVELS + green) * LEVELS + blue, minlength=LEVELS**3) / FINEST**2
    return np.concatenate([thumbnail.ravel(), colours]).astype(np.float32)


def _corners(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box in whole pixels, at least one wide and high, inside the image."""
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return left, top, min(right, width), min(bottom, height)


def quarters(look: np.ndarray) -> str:
    """Return which quarters of an image are brighter than the whole: an average hash of two by two, e.g. `1001`."""
    grey = look[: SIDE * SIDE * 3].reshape(2, SIDE // 2, 2, SIDE // 2, 3).mean(axis=(1, 3, 4), dtype=np.float64)
    return "".join("1" if value > grey.mean() else "0" for value in grey.ravel())
