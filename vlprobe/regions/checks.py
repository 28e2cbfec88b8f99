"""What is true of the regions of every image, whichever file they come from, and the choice of the best few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.types import Regions

CONFIDENT = 0.2
"""UNITER counts the boxes whose confidence is above this (`conf_th`, data/data.py of ChenRocks/UNITER)."""
OUTSIDE = 1e-3
"""Fraction of the image by which a box may leave it: half a step of float16 near 1; cut off, more is an error."""
PER_REGION = ("features", "confidence", "objects", "attributes", "attribute_confidence", "probabilities")


def checked(
    place: str, boxes: Any, features: Any, size: tuple[int, int], *, pixels: bool, **others: np.ndarray | None
) -> Regions:
    """Return the arrays of one entry as `Regions`, float32 and int64.

    Args:
        place: the file and the entry, for messages.
        boxes: (region, 4) x1, y1, x2, y2.
        features: (region, width).
        size: (width, height) of the image, pixels; (0, 0): not known.
        pixels: whether boxes are in pixels; otherwise they are fractions of the image.
        others: the optional fields of `Regions`.

    Raises:
        DataError: no region, lengths that differ, values that are no finite numbers, boxes outside the image.
    """
    boxes, features = np.asarray(boxes), np.asarray(features)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise DataError(f"{place}: expected boxes (region, 4), at least one; found shape {boxes.shape}")
    if features.ndim != 2 or not features.shape[1]:
        raise DataError(f"{place}: expected features (region, width), found shape {features.shape}")
    if pixels and min(size) < 1:
        raise DataError(f"{place}: its boxes are in pixels, and the image is said to be {size[0]} x {size[1]} pixels")
    made = Regions(
        # In float32, as LXMERT and UNITER divide: the same last bit.
        boxes=_floats(place, "boxes", boxes) / np.array(size * 2 if pixels else 1, dtype=np.float32),
        features=_floats(place, "features", features),
        size=size,
        **{name: _column(place, name, array) for name, array in others.items()},
    )
    for name in PER_REGION:
        array = getattr(made, name)
        if array is not None and len(array) != len(boxes):
            raise DataError(f"{place}: lengths differ: {len(boxes)} boxes and {len(array)} {name}")
    _check_boxes(place, made.boxes, size)
    return replace(made, boxes=np.clip(made.boxes, 0, 1))


def _column(place: str, name: str, array: np.ndarray | None) -> np.ndarray | None:
    if array is None:
        return None
    if array.ndim != (2 if name == "probabilities" else 1):
        raise DataError(f"{place}: {name} have shape {array.shape}; expected one row a region")
    if name in ("objects", "attributes"):
        if array.dtype.kind not in "iu":
            raise DataError(f"{place}: {name} are {array.dtype}; expected integers")
        return array.astype(np.int64)
    return _floats(place, name, array)


def _floats(place: str, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise DataError(f"{place}: {name} are {array.dtype}; expected numbers")
    made = array.astype(np.float32)
    if not np.isfinite(made).all():
        row = int(np.argwhere(~np.isfinite(made))[0][0])
        raise DataError(f"{place}: {name} of region {row} are not finite; the file is damaged, extract it again")
    return made


def _check_boxes(place: str, boxes: np.ndarray, size: tuple[int, int]) -> None:
    said = f" of an image of {size[0]} x {size[1]} pixels" if min(size) else ""
    outside = (boxes < -OUTSIDE).any(axis=1) | (boxes > 1 + OUTSIDE).any(axis=1)
    turned = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    for wrong, what in ((outside, "leaves the image"), (turned, "ends before it begins")):
        if wrong.any():
            row = int(wrong.argmax())
            found = ", ".join(f"{value:.4g}" for value in boxes[row])
            raise DataError(f"{place}: box {row}{said} {what}: ({found}) as fractions of width and height")


def select(regions: Regions, boxes: tuple[int, int], place: str) -> Regions:
    """Return the best n rows: n = min(most, max(fewest, number of confidences > 0.2)), or n = fewest = most.

    So does UNITER count (`DetectFeatLmdb` and `_compute_nbb`). Rows without confidences, in a file that its detector
    cut already, are taken as they are.

    Args:
        regions: of one image, in the file's order.
        boxes: (fewest, most).
        place: the file and the entry, for messages.

    Raises:
        DataError: fewer than `fewest`; confidences are needed and absent.
    """
    fewest, most = boxes
    there = len(regions.boxes)
    if there < fewest:
        raise DataError(f"{place}: {there} boxes, fewer than the {fewest} asked for; lower `boxes`, or extract again")
    if fewest == most or regions.confidence is None:
        return most_confident(regions, most, place)
    confident = int((regions.confidence > np.float32(CONFIDENT)).sum())
    return most_confident(regions, min(most, max(fewest, confident)), place)


def most_confident(regions: Regions, n: int, place: str) -> Regions:
    """Return the n rows of highest confidence, in the file's order; of equals, the first.

    The originals cut off what comes after row n, of files that their detector sorted by confidence: there it is the
    same. Not every file is sorted: bottom-up attention keeps the order of its proposals where their number is within
    the limits (tools/generate_tsv.py).

    Args:
        regions: of one image.
        n: all of them, where there are no more.
        place: the file and the entry, for messages.

    Raises:
        DataError: there are more, and no confidences.
    """
    there = len(regions.boxes)
    if n >= there:
        return regions
    if regions.confidence is None:
        raise DataError(
            f"{place}: {there} boxes without confidences, of which the best {n} cannot be told: the file's order need "
            "not be that of confidence. Take all of them, or a file that was extracted with as many as are wanted"
        )
    keep = np.sort(np.argsort(-regions.confidence, kind="stable")[:n])
    held = {name: getattr(regions, name) for name in ("boxes", *PER_REGION)}
    return replace(regions, **{name: array[keep] for name, array in held.items() if array is not None})


def in_pixels(regions: Regions, place: str) -> np.ndarray:
    """Return the boxes in pixels, (region, 4) float32.

    Raises:
        DataError: the size of the image is not known.
    """
    if min(regions.size) < 1:
        raise DataError(f"{place}: boxes are written in pixels, and the size of the image is not known")
    # Through float64: the way back, in float32, is then off by one step at most.
    return (regions.boxes.astype(np.float64) * np.array(regions.size * 2)).astype(np.float32)
