"""The detector against what the original implementations computed, stage by stage, at whatever sizes a folder has.

`detector_lines` takes a folder named `frcnn` (huggingface and detectron2 files), `caffe_butd` (Caffe and MILVLG files)
or `frcnn_preprocessing`, whose npz holds the original's arrays, and compares every one of them, for every weights file
there is. A difference of states, features or scores is relative to the largest value; boxes are compared in pixels;
"kept" counts the places at which the lists of chosen proposals differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlprobe.regions.configuration import configured
from vlprobe.regions.conventions import CONVENTIONS
from vlprobe.regions.detector import Detector, exact
from vlprobe.regions.network import POOLED, STAGES
from vlprobe.regions.operators import roi_pool
from vlprobe.regions.preprocessing import Prepared, prepare
from vlprobe.regions.proposals import CAFFE_ANCHORS, propose, regress
from vlprobe.regions.selection import attribute_probabilities

Line = tuple[str, float, float]
STATES, PIXELS, EQUAL = 1e-4, 1e-3, 0.0
"""Tolerances: states, features and scores relative to the maximum; coordinates in pixels; lists."""


def detector_lines(folder: Path) -> Iterator[Line]:
    """Yield (array, largest difference, tolerance) for one folder of the original implementations' numbers."""
    with exact():
        yield from LINES[folder.name](folder)


def difference(ours, theirs, *, relative: bool = True) -> float:
    ours, theirs = (np.asarray(value, np.float64) for value in (ours, theirs))
    if ours.shape != theirs.shape:
        return float("inf")
    largest = float(np.abs(theirs).max(initial=0)) if relative else 1.0
    return float(np.abs(ours - theirs).max(initial=0)) / (largest or 1.0)


def differing(ours, theirs) -> float:
    ours, theirs = np.asarray(ours).ravel(), np.asarray(theirs).ravel()
    return float((ours != theirs).sum()) if ours.shape == theirs.shape else float("inf")


def weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (".caffemodel", ".pkl", ".bin", ".pth"))


def caffe_lines(folder: Path) -> Iterator[Line]:
    theirs = np.load(folder / "caffe_butd.npz")
    settings = json.loads((folder / "config.json").read_text())["cfg"]
    conventions = replace(
        CONVENTIONS["caffe"],
        short=settings["SCALES"][0],
        long=settings["MAX_SIZE"],
        before=settings["RPN_PRE_NMS_TOP_N"],
        after=settings["RPN_POST_NMS_TOP_N"],
        overlap=settings["RPN_NMS_THRESH"],
        smallest=settings["RPN_MIN_SIZE"],
        class_overlaps=(settings["NMS"],),
    )
    image = prepare(Image.fromarray(np.ascontiguousarray(theirs["image_bgr_uint8"][:, :, ::-1])), conventions)
    yield "caffe blob", difference(image.pixels, theirs["blob"][0], relative=False), STATES
    yield "caffe im_scale", difference(image.scale[0], theirs["im_scale"], relative=False), EQUAL
    yield "caffe anchors", difference(CAFFE_ANCHORS, theirs["anchors"], relative=False), EQUAL
    for file in weight_files(folder):
        detector = Detector.open(file, conventions, boxes=(1, conventions.after), device="cpu")
        for name, found, tolerance in _caffe_stages(detector, image, theirs):
            yield f"{file.suffix} {name}", found, tolerance


def _caffe_stages(detector: Detector, image: Prepared, theirs) -> Iterator[Line]:
    network = detector.network
    start = network.start(image.pixels[None])
    yield "pool1", difference(start, theirs["pool1"]), STATES
    states = network.backbone(start)
    yield "res4b22", difference(states, theirs["res4b22"]), STATES
    objectness, deltas = network.objectness_and_deltas(states)
    scores = theirs["rpn_cls_score"]
    half = scores.shape[1] // 2
    yield "rpn_cls_score, object - background", difference(objectness, scores[:, half:] - scores[:, :half]), STATES
    yield "rpn_bbox_pred", difference(deltas, theirs["rpn_bbox_pred"]), STATES
    anchors = network.cell_anchors
    rois, _ = propose(objectness[0], deltas[0], anchors, image.shape, image.scale[0], detector.conventions)
    yield "rois", difference(rois, theirs["rois"][:, 1:], relative=False), PIXELS
    original = torch.from_numpy(theirs["rois"][:, 1:])
    first = theirs["roipool5_first4"]
    pooled = roi_pool(states[0], original[: len(first)], 16, POOLED)
    yield "roipool5", difference(pooled, first), STATES
    features = network.describe(states[0], original, 32)
    yield "pool5_flat", difference(features, theirs["pool5_flat"]), STATES
    heads = network.heads(features)
    yield "cls_prob", difference(heads.classes.softmax(1), theirs["cls_prob"]), STATES
    yield "attr_prob", difference(heads.attributes.softmax(1), theirs["attr_prob"]), STATES
    yield "bbox_pred", difference(heads.deltas, theirs["bbox_pred"].reshape(len(original), -1, 4)[:, 1:]), STATES
    moved = theirs["pred_boxes_first4"].reshape(len(theirs["pred_boxes_first4"]), -1, 4)[:, 1:]
    whole = replace(detector.conventions, clamp=float("inf"))
    in_image = original[: len(moved), None] / torch.tensor(image.scale[0], dtype=torch.float32)
    ours = regress(in_image, heads.deltas[: len(moved)], whole, (1.0, 1.0, 1.0, 1.0))
    limit = torch.tensor([*image.size, *image.size]) - 1
    clipped = torch.minimum(ours, limit).clamp(min=0)
    nearest = min(difference(boxes, moved, relative=False) for boxes in (ours, clipped))
    yield "pred_boxes", nearest, PIXELS
    for name, boxes, threshold in (
        ("adaptive_10_100_th0.2", (10, 100), 0.2),
        ("adaptive_10_100_th0.9", (10, 100), 0.9),
        ("fixed36_th0.2", (36, 36), 0.2),
    ):
        detector.conventions, detector.threshold = replace(detector.conventions, boxes=boxes), threshold
        looked = detector._look(states[0], rois, image)
        yield f"{name} kept", differing(looked.selection.keep, theirs[f"{name}_keep"]), EQUAL
        yield f"{name} boxes", difference(looked.selection.boxes, theirs[f"{name}_boxes"], relative=False), PIXELS
        yield f"{name} features", difference(looked.regions().features, theirs[f"{name}_features"]), STATES


def frcnn_lines(folder: Path) -> Iterator[Line]:
    theirs = np.load(folder / "frcnn.npz")
    conventions, regression = configured(CONVENTIONS["hf"], folder)
    for file in weight_files(folder):
        detector = Detector.open(file, conventions, device="cpu")
        detector.regression = regression or detector.regression
        for name, found, tolerance in _frcnn_stages(detector, theirs):
            yield f"{file.suffix} {name}", found, tolerance


def _frcnn_stages(detector: Detector, theirs) -> Iterator[Line]:
    network = detector.network
    states = network.start(torch.from_numpy(theirs["images"]))
    yield "stem", difference(states, theirs["stem"]), STATES
    for stage, module in zip(STAGES, network.backbone, strict=True):
        states = module(states)
        yield stage, difference(states, theirs[stage]), STATES
    objectness, deltas = network.objectness_and_deltas(states)
    yield "rpn_logits", difference(objectness, theirs["rpn_logits"]), STATES
    yield "rpn_deltas", difference(deltas, theirs["rpn_deltas"]), STATES
    ends = np.cumsum(theirs["n_proposals"])
    for row, (start, end) in enumerate(zip(ends - theirs["n_proposals"], ends, strict=True)):
        height, width = (int(side) for side in theirs["image_shapes"][row])
        down, across = (float(1 / scale) for scale in theirs["scales_yx"][row])
        raw = tuple(int(side) for side in theirs["raw_sizes"][row][::-1])
        image = Prepared(torch.from_numpy(theirs["images"][row, :, :height, :width]), (across, down), raw)
        rois, logits = propose(
            objectness[row], deltas[row], network.cell_anchors, image.shape, across, detector.conventions
        )
        part = slice(int(start), int(end))
        yield f"image {row} proposals", difference(rois, theirs["proposals"][part], relative=False), PIXELS
        yield f"image {row} proposal_logits", difference(logits, theirs["proposal_logits"][part]), STATES
        looked = detector._look(states[row], rois, image)
        yield from _frcnn_outputs(looked, theirs, row, part)
    first = theirs["pool_first4"]
    pooled = roi_pool(states[0], torch.from_numpy(theirs["proposals"][: len(first)]), 16, POOLED)
    yield "pool_first4", difference(pooled, first), STATES


def _frcnn_outputs(looked, theirs, row: int, part: slice) -> Iterator[Line]:
    """Compare heads and final regions of one image; the original has background and "no attribute" last."""
    heads, name = looked.heads, f"image {row}"
    yield f"{name} roi_features_all", difference(looked.features, theirs["roi_features_all"][part]), STATES
    yield f"{name} obj_logits", difference(heads.classes.roll(-1, 1), theirs["obj_logits"][part]), STATES
    yield f"{name} attr_logits", difference(heads.attributes.roll(-1, 1), theirs["attr_logits"][part]), STATES
    yield f"{name} box_deltas", difference(heads.deltas.flatten(1), theirs["box_deltas"][part]), STATES
    found, kept = looked.regions(), slice(0, int(theirs["out_preds_per_image"][row]))
    yield f"{name} number kept", abs(float(len(found.boxes)) - kept.stop), EQUAL
    yield f"{name} obj_ids", differing(found.objects, theirs["out_obj_ids"][row, kept]), EQUAL
    yield f"{name} attr_ids", differing(found.attributes, theirs["out_attr_ids"][row, kept]), EQUAL
    yield f"{name} obj_probs", difference(found.confidence, theirs["out_obj_probs"][row, kept]), STATES
    yield f"{name} attr_probs", difference(found.attribute_confidence, theirs["out_attr_probs"][row, kept]), STATES
    yield f"{name} roi_features", difference(found.features, theirs["out_roi_features"][row, kept]), STATES
    pixels = looked.selection.boxes
    yield f"{name} boxes", difference(pixels, theirs["out_boxes"][row, kept], relative=False), PIXELS
    # `norm_box` divides x1, y1 by the first image's size and x2, y2 by the last one's: turned back to this image's.
    raw = theirs["raw_sizes"][:, ::-1].astype(np.float64)
    share = theirs["out_normalized_boxes"][row, kept] * np.hstack([raw[0], raw[-1]]) / np.tile(raw[row], 2)
    yield f"{name} normalized_boxes", difference(found.boxes, share, relative=False), 1e-5
    scores = attribute_probabilities(heads.attributes[looked.selection.keep], looked.conventions)
    yield f"{name} attribute scores sum to 1", difference(scores.sum(1), np.ones(kept.stop)), STATES


def preprocessing_lines(folder: Path) -> Iterator[Line]:
    """Compare the images of the `hf` conventions; sizes are those of the folder's config, or of `frcnn` beside it."""
    theirs = np.load(folder / "preproc.npz")
    place = folder if (folder / "config.json").is_file() else folder.parent / "frcnn"
    conventions, _ = configured(CONVENTIONS["hf"], place)
    for index, (height, width) in enumerate(theirs["sizes"].tolist()):
        pixels = Image.open(folder / f"im{index}.png").convert("RGB")
        bgr = np.asarray(pixels)[:, :, ::-1]
        yield f"im{index} bytes", difference(bgr, theirs[f"bgr{index}"], relative=False), EQUAL
        image = prepare(pixels, conventions)
        expected = theirs["images_BGR"][index, :, :height, :width]
        yield f"im{index} hf pixels", difference(image.pixels, expected, relative=False), STATES
        scale = theirs["scales_yx"][index][::-1]
        yield f"im{index} hf scale", difference(1 / np.array(image.scale), scale, relative=False), 1e-6


LINES = {"caffe_butd": caffe_lines, "frcnn": frcnn_lines, "frcnn_preprocessing": preprocessing_lines}
