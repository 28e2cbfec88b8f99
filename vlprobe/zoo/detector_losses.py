"""The detector's loss on a batch of scenes: proposals, then what the heads say of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from vlprobe.regions.conventions import STRIDE, Conventions
from vlprobe.regions.network import POOLED, Network
from vlprobe.regions.operators import roi_pool
from vlprobe.regions.proposals import anchor_grid, propose
from vlprobe.zoo.detector_targets import NOTHING, Sampled, Things, Weights, deltas, match, sample

ANCHOR_OVERLAPS = 0.3, 0.7
"""Below the first an anchor is background, from the second on it is a thing (Ren et al. 2015)."""
ROI_OVERLAP = 0.5
"""From which a proposal is a thing (Girshick 2015)."""
ANCHORS, ANCHOR_SHARE = 64, 0.5
"""Anchors of a picture that are learnt from, and how many of them are things at most."""
REGIONS, REGION_SHARE = 8, 0.75
"""Proposals of a picture that are learnt from, and how many of them are things at most."""
BEND = 1 / 9
"""Where the smooth L1 loss turns from a parabola into a line: sigma = 3 of py-faster-rcnn."""
UNIT: Weights = (1.0, 1.0, 1.0, 1.0)
"""Weights of the anchors' deltas."""


@dataclass(frozen=True)
class Batch:
    """Pictures of one size and what is to be found in them."""

    pixels: torch.Tensor
    """(picture, 3, side, side), as the network takes them."""
    things: Sequence[Things]
    """One for each picture."""


@dataclass(frozen=True)
class Regions:
    """Proposals of a batch that the heads learn from, pictures one after the other."""

    pooled: torch.Tensor
    """(region, channel, POOLED, POOLED)."""
    boxes: torch.Tensor
    """(region, 4) in pixels of the input."""
    targets: torch.Tensor
    """(thing, 4): boxes of the things that the first entries of `real` stand for."""
    real: torch.Tensor
    """(thing,) int64: which regions are things."""
    shapes: torch.Tensor
    """(region,) int64 classes, 0 the background."""
    colours: torch.Tensor
    """(thing,) int64 attributes, 0 "no attribute"."""


def losses(
    network: Network, batch: Batch, conventions: Conventions, regression: Weights, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Return the five parts of the loss, each a mean.

    Args:
        network: in training.
        batch: pictures and things.
        conventions: how proposals are chosen, in training as afterwards.
        regression: weights of the heads' deltas.
        rng: draws anchors and proposals.
    """
    states = network.map(batch.pixels)
    objectness, moves = network.objectness_and_deltas(states)
    found = anchor_losses(network.cell_anchors, objectness, moves, batch.things, rng)
    with torch.no_grad():
        shape = (int(batch.pixels.shape[2]), int(batch.pixels.shape[3]))
        proposals = [
            propose(objectness[row], moves[row], network.cell_anchors, shape, 1.0, conventions)[0]
            for row in range(len(states))
        ]
    return found | head_losses(network, regions_of(states, proposals, batch.things, rng), regression)


def anchor_losses(
    cell: torch.Tensor,
    objectness: torch.Tensor,
    moves: torch.Tensor,
    things: Sequence[Things],
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """Return what the proposal network got wrong on a sample of anchors.

    Args:
        cell: (anchor, 4), those of the first position.
        objectness: (picture, anchor, height, width) logits.
        moves: (picture, 4 * anchor, height, width).
        things: of each picture.
        rng: draws anchors.
    """
    grid = anchor_grid(cell, int(objectness.shape[2]), int(objectness.shape[3]))
    logits = objectness.permute(0, 2, 3, 1).reshape(len(things), -1)
    predicted = moves.permute(0, 2, 3, 1).reshape(len(things), -1, 4)
    asked, answers, moved, wanted = [], [], [], []
    for row, here in enumerate(things):
        chosen = sample(match(grid.numpy(), here.boxes, *ANCHOR_OVERLAPS, nearest=True), ANCHORS, ANCHOR_SHARE, rng)
        real = chosen.things >= 0
        asked.append(logits[row, chosen.boxes])
        answers.append(torch.from_numpy(real.astype(np.float32)))
        moved.append(predicted[row, chosen.boxes[real]])
        wanted.append(deltas(grid[chosen.boxes[real]], torch.from_numpy(here.boxes[chosen.things[real]]), UNIT))
    return {
        "objectness": F.binary_cross_entropy_with_logits(torch.cat(asked), torch.cat(answers)),
        "anchors": F.smooth_l1_loss(torch.cat(moved), torch.cat(wanted), beta=BEND),
    }


def regions_of(
    states: torch.Tensor, proposals: Sequence[torch.Tensor], things: Sequence[Things], rng: np.random.Generator
) -> Regions:
    """Draw regions among proposals and the things themselves, which early on are the only good ones.

    Args:
        states: (picture, channel, height, width).
        proposals: (roi, 4) of each picture.
        things: of each picture.
        rng: draws regions.
    """
    pooled, boxes, targets, chosen = [], [], [], []
    for row, here in enumerate(things):
        given = torch.cat([proposals[row], torch.from_numpy(here.boxes)])
        found = match(given.numpy(), here.boxes, ROI_OVERLAP, ROI_OVERLAP, nearest=False)
        picked = sample(found, REGIONS, REGION_SHARE, rng)
        real = picked.things[picked.things >= 0]
        boxes.append(given[picked.boxes])
        pooled.append(roi_pool(states[row], boxes[-1], STRIDE, POOLED))
        targets.append(torch.from_numpy(here.boxes[real]))
        chosen.append(picked)
    return Regions(
        pooled=torch.cat(pooled),
        boxes=torch.cat(boxes),
        targets=torch.cat(targets),
        real=torch.from_numpy(np.flatnonzero(np.concatenate([picked.things for picked in chosen]) != NOTHING)),
        shapes=torch.from_numpy(np.concatenate([_classes(p, t) for p, t in zip(chosen, things, strict=True)])),
        colours=torch.from_numpy(
            np.concatenate([t.colours[p.things[p.things >= 0]] + 1 for p, t in zip(chosen, things, strict=True)])
        ),
    )


def _classes(picked: Sampled, things: Things) -> np.ndarray:
    """Return (region,) int64: 0 for the background, else 1 + the thing's shape."""
    return np.where(picked.things >= 0, things.shapes[picked.things] + 1, 0)


def head_losses(network: Network, regions: Regions, regression: Weights) -> dict[str, torch.Tensor]:
    """Return what the heads got wrong: classes of all regions, deltas and attributes of those that are things.

    The attribute head is given the true class: later it is given the likeliest (Anderson et al. 2018).
    """
    features = network.res5(regions.pooled.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
    real, truth = regions.real, regions.shapes[regions.real]
    moves = network.bbox_pred(features[real]).reshape(len(real), network.sizes.classes - 1, 4)
    wanted = deltas(regions.boxes[real], regions.targets, regression)
    hidden = F.relu(network.fc_attr(torch.cat([features[real], network.cls_embedding(truth)], dim=1)))
    return {
        "classes": F.cross_entropy(network.cls_score(features), regions.shapes),
        "boxes": F.smooth_l1_loss(moves[torch.arange(len(real)), truth - 1], wanted, beta=1.0),
        "attributes": F.cross_entropy(network.attr_score(hidden), regions.colours),
    }
