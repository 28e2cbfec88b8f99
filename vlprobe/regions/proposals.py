"""Proposals: from what the network says at every position to the boxes that are looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vlprobe.regions.conventions import STRIDE, Conventions
from vlprobe.regions.operators import suppress

CAFFE_ANCHORS = (
    (-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
    (-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
    (-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
)  # fmt: skip
"""lib/rpn/generate_anchors.py with scales 4, 8, 16, 32: for ratio in 1/2, 1, 2, for scale; rounded, around 7.5."""


def centred_anchors(sizes: Sequence[float] = (64, 128, 256, 512), ratios: Sequence[float] = (0.5, 1, 2)) -> list[list]:
    """Return detectron2's anchors: for size, for ratio, around 0, of area size^2 and height / width = ratio."""
    anchors = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            anchors.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    return anchors


def anchor_grid(cell: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the anchors of every position: (height * width * anchor, 4), the anchor fastest.

    Args:
        cell: (anchor, 4), those of the first position.
        height: of the map, cells.
        width: of the map, cells.
    """
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * STRIDE
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * STRIDE
    corners = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1).repeat(1, 2)
    return (corners[:, None] + cell[None]).reshape(-1, 4)


def regress(
    boxes: torch.Tensor, deltas: torch.Tensor, conventions: Conventions, weights: tuple[float, float, float, float]
) -> torch.Tensor:
    """Move and grow boxes: centre + d * side, side * exp(d) (Girshick et al., R-CNN, 2014, appendix C).

    Args:
        boxes: (..., 4).
        deltas: (..., 4): dx, dy, dw, dh, each to be divided by its weight.
        conventions: how wide a box is, and how much it may grow.
        weights: of dx, dy, dw, dh.

    Returns:
        (..., 4). With a border of 1 the last corner is not taken back by it, as in lib/fast_rcnn/bbox_transform.py.
    """
    sides = boxes[..., 2:] - boxes[..., :2] + conventions.border
    centres = boxes[..., :2] + 0.5 * sides
    deltas = deltas / deltas.new_tensor(weights)
    centres = deltas[..., :2] * sides + centres
    sides = torch.exp(deltas[..., 2:].clamp(max=conventions.clamp)) * sides
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides], dim=-1)


def clip(boxes: torch.Tensor, shape: tuple[int, int], conventions: Conventions) -> torch.Tensor:
    """Return boxes cut at the edges of an input of (height, width) `shape`."""
    height, width = shape
    limit = boxes.new_tensor([width, height, width, height]) - conventions.border
    return torch.minimum(boxes, limit).clamp(min=0)


def propose(
    objectness: torch.Tensor,
    deltas: torch.Tensor,
    cell: torch.Tensor,
    shape: tuple[int, int],
    scale: float,
    conventions: Conventions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the proposals of one image.

    Args:
        objectness: (anchor, height, width) logits.
        deltas: (4 * anchor, height, width).
        cell: (anchor, 4).
        shape: (height, width) of the network's input, pixels.
        scale: pixels of the input per pixel of the image.
        conventions: what is dropped, kept and suppressed.

    Returns:
        (roi, 4) in pixels of the input, most likely an object first, and (roi,) their logits.
    """
    logits = objectness.permute(1, 2, 0).reshape(-1)
    grid = anchor_grid(cell, *objectness.shape[1:])
    boxes = regress(grid, deltas.permute(1, 2, 0).reshape(-1, 4), conventions, (1.0, 1.0, 1.0, 1.0))
    boxes = clip(boxes, shape, conventions)
    if conventions.small_first:
        large = _large(boxes, scale, conventions)
        boxes, logits = boxes[large], logits[large]
        # The original ranks probabilities, which saturate; ties it orders as its unstable sort happens to.
        order = logits.sigmoid().argsort(descending=True, stable=True)[: conventions.before]
    else:
        order = logits.argsort(descending=True, stable=True)[: conventions.before]
        order = order[_large(boxes[order], scale, conventions)]
    boxes, logits = boxes[order], logits[order]
    kept = suppress(
        boxes,
        conventions.overlap,
        border=conventions.border,
        inclusive=conventions.inclusive,
        limit=conventions.after,
    )
    return boxes[kept], logits[kept]


def _large(boxes: torch.Tensor, scale: float, conventions: Conventions) -> torch.Tensor:
    """Return which boxes are large enough: (box,) bool."""
    sides = boxes[:, 2:] - boxes[:, :2] + conventions.border
    if conventions.smallest == 0:
        return (sides > 0).all(dim=1)
    return (sides >= conventions.smallest * scale).all(dim=1)
