"""Overlap, non-maximum suppression and RoI max pooling, without compiled extensions.

Boxes are x1, y1, x2, y2. Whether the last pixel belongs to a box is its `border`: 1 in Caffe, whose widths are
x2 - x1 + 1, and 0 in detectron2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

BLOCK = 256
"""Boxes that are compared with each other at a time: few enough that boxes after the last one kept cost nothing."""

ADAPTIVE = ("cpu", "cuda")
"""Devices on which torch's adaptive maximum is right; on mps it gives other numbers, without a word, where the parts
are not of one size (github.com/pytorch/pytorch/issues/190064)."""


def overlaps(first: np.ndarray, second: np.ndarray, border: float) -> np.ndarray:
    """Intersection over union: |a & b| / (|a| + |b| - |a & b|), in float32 as the originals compute it.

    Args:
        first: (n, 4).
        second: (m, 4).
        border: 1 or 0, see the module.

    Returns:
        (n, m) float32; NaN where both boxes are empty.
    """
    one = np.float32(border)
    width = np.minimum(first[:, None, 2], second[None, :, 2]) - np.maximum(first[:, None, 0], second[None, :, 0])
    height = np.minimum(first[:, None, 3], second[None, :, 3]) - np.maximum(first[:, None, 1], second[None, :, 1])
    shared = np.maximum(width + one, 0) * np.maximum(height + one, 0)
    areas = [(box[:, 2] - box[:, 0] + one) * (box[:, 3] - box[:, 1] + one) for box in (first, second)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(shared / (areas[0][:, None] + areas[1][None, :] - shared), dtype=np.float32)


def suppresses(overlap: np.ndarray, threshold: float, *, inclusive: bool) -> np.ndarray:
    """Return whether an overlap is too large: >= threshold where inclusive (Caffe), else > threshold.

    The threshold stays a double: as float32, an overlap of 0.7 would not be below 0.7.
    """
    limit = np.float64(threshold)
    return np.asarray(overlap >= limit if inclusive else overlap > limit)


def suppress(
    boxes: torch.Tensor, threshold: float, *, border: float, inclusive: bool, limit: int | None = None
) -> torch.Tensor:
    """Greedy non-maximum suppression: keep a box unless one that was kept before overlaps it too much.

    It runs on the CPU in numpy wherever the boxes are: it is a chain of small decisions, which would cost a device
    one round trip each and torch one parallel region each.

    Args:
        boxes: (box, 4), best first.
        threshold: overlap above which the later box goes.
        border: 1 or 0, see the module.
        inclusive: whether an overlap equal to the threshold suppresses.
        limit: stop after so many.

    Returns:
        (kept,) int64 indices, ascending, on the device of the boxes.
    """
    rows = boxes.detach().to("cpu", torch.float32).numpy()
    wanted = len(rows) if limit is None else limit
    kept: list[int] = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        before = overlaps(rows[kept], block, border)
        alive = np.asarray(~suppresses(before, threshold, inclusive=inclusive).any(axis=0))
        among = suppresses(overlaps(block, block, border), threshold, inclusive=inclusive)
        for index in range(len(block)):
            if alive[index] and len(kept) < wanted:
                alive &= ~among[index]
                kept.append(start + index)
        if len(kept) >= wanted:
            break
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def survivors(scores: np.ndarray, too_close: np.ndarray) -> np.ndarray:
    """Non-maximum suppression of the same boxes once per class, all classes at a time.

    Step r looks at the r-th best box of every class. What is suppressed is held as bits, so that 1600 classes of 300
    boxes cost 300 steps over 60 kB.

    Args:
        scores: (box, class).
        too_close: (box, box) bool, symmetric: whether the better of the two suppresses the other.

    Returns:
        (box, class) bool.
    """
    count, classes = scores.shape
    order = np.argsort(-scores, axis=0, kind="stable")
    shadow = np.packbits(too_close, axis=1)
    gone = np.zeros((classes, shadow.shape[1]), dtype=np.uint8)
    alive = np.zeros((count, classes), dtype=bool)
    each = np.arange(classes)
    for best in order:
        here = (gone[each, best >> 3] >> (7 - (best & 7)) & 1) == 0
        alive[best[here], each[here]] = True
        gone[here] |= shadow[best[here]]
    return alive


def roi_pool(states: torch.Tensor, rois: torch.Tensor, stride: int, bins: int) -> torch.Tensor:
    """RoI max pooling (Girshick, Fast R-CNN, 2015): the maximum in each of bins x bins parts of a box.

    A box's corners are rounded to cells, halves away from zero, and both belong to it; parts may share cells. A part
    without a cell of the map is 0.

    Args:
        states: (channel, height, width).
        rois: (roi, 4), in pixels of the network's input.
        stride: pixels per cell.
        bins: parts per side.

    Returns:
        (roi, channel, bins, bins).
    """
    # Doubles, which Apple's GPUs do not have: on the CPU.
    cells = torch.floor(rois.detach().to("cpu").double() / stride + 0.5).to(torch.int64).tolist()
    pooled = states.new_empty((len(cells), states.shape[0], bins, bins))
    with one_thread(states.device):
        for row, (left, top, right, bottom) in enumerate(cells):
            pooled[row] = _pool_one(states, left, top, max(right, left), max(bottom, top), bins)
    return pooled


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Keep torch to one CPU thread: a parallel region per box stalls wherever another process has a core."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pool_one(states: torch.Tensor, left: int, top: int, right: int, bottom: int, bins: int) -> torch.Tensor:
    """Return (channel, bins, bins) of the box that covers the cells left..right and top..bottom."""
    height, width = states.shape[1:]
    rows, columns = bottom - top + 1, right - left + 1
    inside = left >= 0 and top >= 0 and right < width and bottom < height
    adaptive = inside and states.device.type in ADAPTIVE
    if adaptive and _bins_are_exact(rows, bins) and _bins_are_exact(columns, bins):
        return F.adaptive_max_pool2d(states[:, top : bottom + 1, left : right + 1], bins)
    pooled = states
    for axis, corner, extent in ((1, top, rows), (2, left, columns)):
        cells = pooled.shape[axis]
        bounds = [(max(corner + first, 0), min(corner + last, cells)) for first, last in edges(extent, bins)]
        parts = [
            pooled.narrow(axis, first, last - first).amax(axis)
            if last > first
            else pooled.new_zeros([size for side, size in enumerate(pooled.shape) if side != axis])
            for first, last in bounds
        ]
        pooled = torch.stack(parts, dim=axis)
    return pooled


def edges(extent: int, bins: int) -> list[tuple[int, int]]:
    """Return first and one past last cell of every part: floor(i s) and ceil((i + 1) s), s = extent / bins in float32.

    In float32, because that is what the original layer rounds (caffe `roi_pooling_layer.cpp`): at 57 and 62 cells the
    result is not that of whole numbers.
    """
    size = np.float32(extent) / np.float32(bins)
    index = np.arange(bins, dtype=np.float32)
    first, last = np.floor(index * size), np.ceil((index + np.float32(1)) * size)
    return [(int(a), int(b)) for a, b in zip(first, last, strict=True)]


@lru_cache(maxsize=4096)
def _bins_are_exact(extent: int, bins: int) -> bool:
    """Return whether the parts of `edges` are those of adaptive pooling, which divides whole numbers."""
    return edges(extent, bins) == [(i * extent // bins, -((i + 1) * -extent // bins)) for i in range(bins)]
