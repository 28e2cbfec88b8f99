"""The layers of a .caffemodel -> weights in the keys of detectron2."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from vlprobe.errors import CheckpointError
from vlprobe.regions.caffe import read_caffemodel
from vlprobe.regions.keys import HEADS, NAMES, RPN

CAFFE = {
    "rpn_conv/3x3": f"{RPN}.conv",
    "rpn_cls_score": f"{RPN}.objectness_logits",
    "rpn_bbox_pred": f"{RPN}.anchor_deltas",
    **{name: f"{HEADS}.{name}" for name in ("cls_score", "bbox_pred", "cls_embedding", "fc_attr", "attr_score")},
}
"""Caffe's layers outside the residual network -> keys of detectron2."""
BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
CAFFE_CONV = re.compile(r"(res|bn|scale)([2-5])(a|b\d{1,2}|[b-z])_branch(1|2[abc])")


def read_caffe_detector(path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return weights by key, and a line on the layers that only training used, which are left out.

    Raises:
        CheckpointError: the file cannot be read, or a batch norm has not its three blobs.
    """
    layers = read_caffemodel(path)
    tensors: dict[str, torch.Tensor] = {}
    unused = []
    for layer, blobs in layers.items():
        place = _caffe_place(layer)
        if place is None:
            unused.append(layer)
        elif place[1] == "bn":
            if len(blobs) != 3:
                raise CheckpointError(
                    f"{path}: layer '{layer}' has {len(blobs)} blobs, expected mean, variance, factor"
                )
            factor = float(blobs[2].ravel()[0]) if blobs[2].size else 0.0
            # caffe/src/caffe/layers/batch_norm_layer.cpp: sums are kept, to be divided by how many they are of.
            scale = 0.0 if factor == 0 else 1 / factor
            tensors[f"{place[0]}.norm.running_mean"] = torch.from_numpy(blobs[0].ravel() * np.float32(scale))
            tensors[f"{place[0]}.norm.running_var"] = torch.from_numpy(blobs[1].ravel() * np.float32(scale))
        else:
            prefix = f"{place[0]}.norm" if place[1] == "scale" else place[0]
            for part, blob in zip(("weight", "bias"), blobs, strict=False):
                tensors[f"{prefix}.{part}"] = torch.from_numpy(_bare(blob, prefix, part))
    left_out = (f"layers of training: {', '.join(sorted(unused))}",) if unused else ()
    return tensors, left_out


def _caffe_place(layer: str) -> tuple[str, str] | None:
    """Return (key, kind) of a caffe layer, the kind being res, bn, scale or plain; None: not part of the detector."""
    if layer in CAFFE:
        return CAFFE[layer], "plain"
    if layer in ("conv1", "bn_conv1", "scale_conv1"):
        return NAMES["stem"], layer.removesuffix("conv1").rstrip("_") or "res"
    match = CAFFE_CONV.fullmatch(layer)
    if match is None:
        return None
    kind, stage, block, branch = match.groups()
    # Blocks are a, b, c, ... or, where they are many, a, b1, b2, ...
    number = int(block[1:]) if len(block) > 1 else ord(block) - ord("a")
    part = NAMES["res5"] if stage == "5" else f"backbone.res{stage}"
    return f"{part}.{number}.{BRANCHES[branch]}", kind


def _bare(blob: np.ndarray, prefix: str, part: str) -> np.ndarray:
    """Return a blob without the leading ones of caffe's four-dimensional shapes."""
    if part == "bias" or prefix.endswith(".norm"):
        return blob.ravel()
    return blob.reshape(blob.shape[-2:]) if prefix.startswith(HEADS) and blob.ndim == 4 else blob
