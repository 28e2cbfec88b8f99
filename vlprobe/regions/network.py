"""The network: Faster R-CNN on ResNet C4, with attributes that depend on the class.

Ren et al., Faster R-CNN (2015); He et al. (2015) for the residual blocks; Anderson et al. (2018) for the attributes.
Weights stand here in one form, whatever file they came from: background and "no attribute" first, one objectness
logit per anchor, no regression of the background. Batch norms are not folded into the convolutions: it would save 5 %,
and move proposals by up to a thousandth of a pixel from those of the original.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from vlprobe.regions.conventions import STRIDE
from vlprobe.regions.operators import roi_pool

POOLED = 14
"""Bins per side of a pooled region."""
STAGES = ("res2", "res3", "res4")
"""Residual stages that run on the whole image; the fourth, res5, runs on regions."""


@dataclass(frozen=True)
class Sizes:
    """How large each part of the network is."""

    stem: int
    """Channels of the first convolution."""
    blocks: tuple[int, int, int, int]
    """Residual blocks of res2 to res5."""
    inner: tuple[int, int, int, int]
    """Channels inside a block, res2 to res5."""
    outer: tuple[int, int, int, int]
    """Channels of a block's output, res2 to res5; the last is the length of a feature vector."""
    rpn: int
    """Channels of the proposal network."""
    anchors: int
    """Boxes proposed at every position."""
    classes: int
    """Object classes, background included."""
    embedding: int = 0
    """Length of a class's embedding in the attribute head; 0: no attribute head."""
    attribute_hidden: int = 0
    """Hidden units of the attribute head."""
    attributes: int = 0
    """Attribute classes, "no attribute" included."""


RESNET101 = Sizes(
    64, (3, 4, 23, 3), (64, 128, 256, 512), (256, 512, 1024, 2048), 512, 12, 1601, 256, 512, 401
)  # fmt: skip
"""The published detector: 1600 object classes, 400 attributes."""


@dataclass(frozen=True)
class Heads:
    """What the heads say about regions."""

    classes: torch.Tensor
    """(region, class) logits, background first."""
    deltas: torch.Tensor
    """(region, class - 1, 4): regression of the region for every class but the background."""
    attributes: torch.Tensor | None
    """(region, attribute) logits, "no attribute" first; None: the network has no attribute head."""


class FrozenNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias, per channel: a batch norm that no longer learns."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what has the shape of x: (image, channel, height, width)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)


class NormedConv(nn.Conv2d):
    """A convolution without bias, and the norm after it; padding keeps the size."""

    def __init__(self, channels: int, outer: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(channels, outer, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
        self.norm = FrozenNorm(outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (image, outer, height / stride, width / stride)."""
        normed: torch.Tensor = self.norm(super().forward(x))
        return normed


class Bottleneck(nn.Module):
    """relu(shortcut(x) + conv1x1(relu(conv3x3(relu(conv1x1(x)))))), the stride in the first 1x1 (He et al., 2015)."""

    def __init__(self, channels: int, inner: int, outer: int, *, first: bool, stride: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = NormedConv(channels, outer, stride=stride) if first else None
        self.conv1 = NormedConv(channels, inner, stride=stride)
        self.conv2 = NormedConv(inner, inner, 3, dilation=dilation)
        self.conv3 = NormedConv(inner, outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output: (image, outer, height / stride, width / stride)."""
        inside = F.relu_(self.conv2(F.relu_(self.conv1(x))))
        out: torch.Tensor = self.conv3(inside)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class Network(nn.Module):
    """The network's parts; `vlprobe.regions.detector` runs them in order."""

    cell_anchors: torch.Tensor
    """(anchor, 4): the boxes proposed at the first position."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        outer = (sizes.stem, *sizes.outer)
        pairs = list(pairwise(outer))
        stages = [
            _stage(*pairs[index], sizes.inner[index], sizes.blocks[index], stride=2 if index else 1, dilation=1)
            for index in range(3)
        ]
        self.stem = NormedConv(3, sizes.stem, 7, 2)
        self.backbone = nn.Sequential(OrderedDict(zip(STAGES, stages, strict=True)))
        # Every region keeps its 14 x 14 cells: no stride, and a dilation in its stead (the original's test.prototxt).
        self.res5 = _stage(*pairs[3], sizes.inner[3], sizes.blocks[3], stride=1, dilation=2)
        self.rpn_conv = nn.Conv2d(sizes.outer[2], sizes.rpn, 3, padding=1)
        self.objectness = nn.Conv2d(sizes.rpn, sizes.anchors, 1)
        self.anchor_deltas = nn.Conv2d(sizes.rpn, 4 * sizes.anchors, 1)
        self.cls_score = nn.Linear(sizes.outer[3], sizes.classes)
        self.bbox_pred = nn.Linear(sizes.outer[3], 4 * (sizes.classes - 1))
        if sizes.attributes:
            self.cls_embedding = nn.Embedding(sizes.classes, sizes.embedding)
            self.fc_attr = nn.Linear(sizes.outer[3] + sizes.embedding, sizes.attribute_hidden)
            self.attr_score = nn.Linear(sizes.attribute_hidden, sizes.attributes)
        self.register_buffer("cell_anchors", torch.zeros(sizes.anchors, 4))

    def start(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the stem's output: (image, stem, about height / 4, about width / 4).

        Caffe pools without padding and rounds the size up: the last window may hang over the edge.
        """
        return F.max_pool2d(F.relu_(self.stem(pixels)), 3, 2, ceil_mode=True)

    def map(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return res4 of images of one size: (image, outer[2], about height / 16, about width / 16)."""
        states: torch.Tensor = self.backbone(self.start(pixels))
        return states

    def objectness_and_deltas(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image, anchor, height, width) logits and (image, 4 * anchor, height, width) deltas."""
        hidden = F.relu_(self.rpn_conv(states))
        return self.objectness(hidden), self.anchor_deltas(hidden)

    def describe(self, states: torch.Tensor, rois: torch.Tensor, chunk: int) -> torch.Tensor:
        """Return the features of regions: (roi, outer[3]), the mean of res5 over a region's cells.

        Args:
            states: (outer[2], height, width) of one image.
            rois: (roi, 4) in pixels of the input.
            chunk: regions at a time; the states of all 300 would need gigabytes.
        """
        features = states.new_empty((len(rois), self.sizes.outer[3]))
        for start in range(0, len(rois), chunk):
            part = slice(start, start + chunk)
            pooled = roi_pool(states, rois[part], STRIDE, POOLED)
            # Channels last: its convolutions are then plain matrix products, a quarter faster on a CPU.
            features[part] = self.res5(pooled.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
        return features

    def heads(self, features: torch.Tensor) -> Heads:
        """Return what the heads say about (region, outer[3]) features."""
        classes: torch.Tensor = self.cls_score(features)
        deltas = self.bbox_pred(features).reshape(len(features), self.sizes.classes - 1, 4)
        if not self.sizes.attributes:
            return Heads(classes, deltas, None)
        likely = self.cls_embedding(classes.argmax(dim=1))  # the background too has an embedding
        hidden = F.relu_(self.fc_attr(torch.cat([features, likely], dim=1)))
        return Heads(classes, deltas, self.attr_score(hidden))


def _stage(channels: int, outer: int, inner: int, blocks: int, *, stride: int, dilation: int) -> nn.Sequential:
    """Return the residual blocks of one stage; only the first changes the number of channels."""
    return nn.Sequential(
        *(
            Bottleneck(
                outer if index else channels,
                inner,
                outer,
                first=not index,
                stride=1 if index else stride,
                dilation=dilation,
            )
            for index in range(blocks)
        )
    )
