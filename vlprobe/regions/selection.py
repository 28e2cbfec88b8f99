"""The boxes of an image: which proposals are kept, in which order, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.regions.conventions import Conventions
from vlprobe.regions.network import Heads
from vlprobe.regions.operators import overlaps, suppress, suppresses, survivors
from vlprobe.regions.proposals import clip, regress


@dataclass(frozen=True)
class Selection:
    """What is kept of one image's proposals."""

    keep: torch.Tensor
    """(region,) int64: which proposals, in the order of the conventions."""
    boxes: torch.Tensor
    """(region, 4) in pixels of the original image."""


@dataclass(frozen=True)
class Place:
    """Where regions are looked for, and what the choice among them depends on besides the conventions."""

    shape: tuple[int, int]
    """(height, width) of the network's input."""
    scale: tuple[float, float]
    """Pixels of the input per pixel of the image, along x and y."""
    threshold: float = 0.2
    """Score from which a region is kept; only `caffe` looks at it."""
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """By which the regression of boxes is divided; that of the weights file."""


def select(
    rois: torch.Tensor,
    probabilities: torch.Tensor,
    heads: Heads,
    place: Place,
    conventions: Conventions,
) -> Selection:
    """Choose regions among proposals.

    Args:
        rois: (roi, 4) in pixels of the input.
        probabilities: (roi, class), background first.
        heads: what the network says of the proposals.
        place: the input's size and scale.
        conventions: how to choose.
    """
    return _SELECT[conventions.select](rois, probabilities, heads, place, conventions)


def attribute_probabilities(logits: torch.Tensor, conventions: Conventions) -> torch.Tensor:
    """Return (region, attribute - 1) probabilities of the attributes that are one."""
    if conventions.softmax_none:
        return logits.softmax(dim=1)[:, 1:]
    return logits[:, 1:].softmax(dim=1)


def in_image(boxes: torch.Tensor, place: Place) -> torch.Tensor:
    """Return boxes in pixels of the original image.

    In float32, as the original divides; a later numpy would promote to double and move the last digit.
    """
    return boxes / boxes.new_tensor([*place.scale, *place.scale])


def _select_proposals(
    rois: torch.Tensor, probabilities: torch.Tensor, heads: Heads, place: Place, conventions: Conventions
) -> Selection:
    """Best score with which a proposal survives suppression in some class; at least `threshold`, within the limits.

    tools/generate_tsv.py: in the order of the proposals when the number is within the limits, else best first.
    """
    boxes = in_image(rois, place)
    fewest, most = conventions.boxes
    scores, corners = probabilities[:, 1:].to("cpu").numpy(), boxes.to("cpu").numpy()
    close = suppresses(
        overlaps(corners, corners, conventions.border), conventions.class_overlaps[0], inclusive=conventions.inclusive
    )
    best = np.where(survivors(scores, close), scores, 0).max(axis=1, initial=0).astype(np.float64)
    keep = np.flatnonzero(best >= place.threshold)
    if not fewest <= len(keep) <= most:
        keep = np.argsort(-best, kind="stable")[: fewest if len(keep) < fewest else most]
    chosen = torch.from_numpy(keep).to(rois.device)
    return Selection(chosen, boxes[chosen])


def _select_regressed(
    rois: torch.Tensor, probabilities: torch.Tensor, heads: Heads, place: Place, conventions: Conventions
) -> Selection:
    """Suppress over the regressed boxes of the best classes, less and less until enough are left; the best first.

    Where even the last threshold leaves too few, those are kept: huggingface's code would stop with an error there
    (modeling_frcnn.py, `do_nms`), airsplay's go on like this.
    """
    fewest, most = conventions.boxes
    scores, classes = probabilities[:, 1:].max(dim=1)
    deltas = heads.deltas[torch.arange(len(rois), device=rois.device), classes]
    boxes = clip(regress(rois, deltas, conventions, place.weights), place.shape, conventions)
    order = scores.argsort(descending=True, stable=True)
    keep = order[:0]
    for threshold in conventions.class_overlaps:
        kept = suppress(boxes[order], threshold, border=conventions.border, inclusive=conventions.inclusive)
        keep = order[kept[:most]]
        if len(keep) >= fewest:
            break
    return Selection(keep, in_image(boxes[keep], place))


_SELECT: dict[str, Callable[[torch.Tensor, torch.Tensor, Heads, Place, Conventions], Selection]] = {
    "proposals": _select_proposals,
    "regressed": _select_regressed,
}
