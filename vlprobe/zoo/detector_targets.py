"""What the detector is to answer: which boxes stand for which thing, which of them count, and by how much they are off.

Ren et al., Faster R-CNN (2015), section 3.1.2; Girshick, Fast R-CNN (2015), section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.regions.operators import overlaps
from vlprobe.scenes.scene import COLOURS, SHAPES, Scene

NOTHING, IGNORED = -1, -2
"""What a box stands for where it is no thing: background, or nothing that one learns from."""
Weights = tuple[float, float, float, float]


@dataclass(frozen=True)
class Things:
    """What is to be found in one picture."""

    boxes: np.ndarray
    """(thing, 4) float32: x1, y1, x2, y2 in pixels of the network's input."""
    shapes: np.ndarray
    """(thing,) int64: index into `SHAPES`."""
    colours: np.ndarray
    """(thing,) int64: index into `COLOURS`."""


@dataclass(frozen=True)
class Sampled:
    """Boxes of one picture that a head learns from."""

    boxes: np.ndarray
    """(box,) int64: which of those that were matched."""
    things: np.ndarray
    """(box,) int64: the thing that each stands for, or `NOTHING`."""


def things_of(scene: Scene, side: int) -> Things:
    """Return what is to be found in a scene that is drawn on `side` pixels."""
    return Things(
        boxes=np.array([thing.box for thing in scene.things], dtype=np.float32) * side,
        shapes=np.array([SHAPES.index(thing.shape) for thing in scene.things]),
        colours=np.array([COLOURS.index(thing.colour) for thing in scene.things]),
    )


def match(boxes: np.ndarray, things: np.ndarray, low: float, high: float, *, nearest: bool) -> np.ndarray:
    """Return what each box stands for: the thing that it overlaps most, `NOTHING` or `IGNORED`.

    A box is a thing from an overlap of `high`, background below `low`, and between them it does not count.

    Args:
        boxes: (box, 4).
        things: (thing, 4), at least one.
        low: intersection over union.
        high: intersection over union.
        nearest: whether the boxes that overlap a thing most stand for it however little that is: an anchor for
            every thing (Ren et al., condition i).

    Returns:
        (box,) int64.
    """
    overlap = overlaps(boxes, things, 0.0)
    best = overlap.max(axis=1)
    found = np.where(best >= high, overlap.argmax(axis=1), np.where(best < low, NOTHING, IGNORED))
    if nearest:
        top = overlap.max(axis=0)
        for thing in np.flatnonzero(top > 0):
            found[overlap[:, thing] == top[thing]] = thing
    return found


def sample(found: np.ndarray, count: int, share: float, rng: np.random.Generator) -> Sampled:
    """Draw boxes that a head learns from, without replacement.

    Args:
        found: (box,): as `match` returns it.
        count: how many are wanted; where there is too little background, there are fewer.
        share: at most this part of them are things.
        rng: draws.
    """
    things, rest = np.flatnonzero(found >= 0), np.flatnonzero(found == NOTHING)
    some = rng.permutation(things)[: int(count * share)]
    chosen = np.concatenate([some, rng.permutation(rest)[: count - len(some)]])
    return Sampled(chosen, found[chosen])


def deltas(boxes: torch.Tensor, targets: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Return what moves boxes onto targets: the inverse of `vlprobe.regions.proposals.regress` without a border.

    Args:
        boxes: (box, 4).
        targets: (box, 4).
        weights: by which `regress` divides dx, dy, dw and dh.

    Returns:
        (box, 4).
    """
    sides, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    return torch.cat([shift, (wanted / sides).log()], dim=1) * boxes.new_tensor(weights)
