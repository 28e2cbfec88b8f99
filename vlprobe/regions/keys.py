"""What the detector's weights are called: in detectron2's files, in MILVLG's, and in our network."""

from __future__ import annotations

import re

RPN = "proposal_generator.rpn_head"
HEADS = "roi_heads.box_predictor"
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
NAMES = {
    "stem": "backbone.stem.conv1",
    "res5": "roi_heads.res5",
    "rpn_conv": f"{RPN}.conv",
    "objectness": f"{RPN}.objectness_logits",
    "anchor_deltas": f"{RPN}.anchor_deltas",
    **{name: f"{HEADS}.{name}" for name in ("cls_score", "bbox_pred", "cls_embedding", "fc_attr", "attr_score")},
}
"""Parts of our network and what they are called in the files; `backbone` is `backbone`."""
MILVLG = {"cls_embed": "cls_embedding", "attr_linear1": "fc_attr", "attr_linear2": "attr_score"}
"""MILVLG's names in the heads -> detectron2's."""
IDLE = re.compile(r"(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.0)$")
"""Keys that are no weights."""
PARTS = ("backbone.", "proposal_generator.", "roi_heads.")
"""Beginnings of the keys of weights."""


def file_name(name: str) -> str:
    """Return what a tensor of our network is called in a file."""
    part, dot, rest = name.partition(".")
    return NAMES.get(part, part) + dot + rest


def plain_name(key: str) -> str:
    """Return detectron2's name of a tensor that MILVLG's files may call otherwise."""
    prefix, _, last = key.rpartition(f"{HEADS}.")
    name, dot, rest = last.partition(".")
    return f"{HEADS}.{MILVLG[name]}{dot}{rest}" if not prefix and name in MILVLG else key
