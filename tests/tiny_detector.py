"""A detector small enough for tests, in the files that the real one is published in.

Keys are spelt out here as they are documented, not taken from the code that reads them.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TINY = {"stem": 4, "inner": (4, 4, 8, 8), "outer": (8, 12, 16, 20), "rpn": 6, "classes": 7, "attributes": 5}
BLOCKS = (3, 4, 6, 3)


def documented(blocks=BLOCKS, *, milvlg=False, embedding=4, hidden=8, stem, inner, outer, rpn, classes, attributes):
    """Return key -> shape of a detectron2 / huggingface file, or of MILVLG's."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, *shape):
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (shape[0],)
        if not milvlg:
            shapes[f"{name}.norm.num_batches_tracked"] = ()

    def plain(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    conv("backbone.stem.conv1", stem, 3, 7, 7)
    channels = stem
    for stage, (count, middle, out) in enumerate(zip(blocks, inner, outer, strict=True)):
        where = "roi_heads.res5" if stage == 3 else f"backbone.res{stage + 2}"
        for block in range(count):
            if block == 0:
                conv(f"{where}.0.shortcut", out, channels, 1, 1)
            conv(f"{where}.{block}.conv1", middle, channels, 1, 1)
            conv(f"{where}.{block}.conv2", middle, middle, 3, 3)
            conv(f"{where}.{block}.conv3", out, middle, 1, 1)
            channels = out
    shapes["proposal_generator.anchor_generator.cell_anchors.0"] = (12, 4)
    plain("proposal_generator.rpn_head.conv", rpn, outer[2], 3, 3)
    plain("proposal_generator.rpn_head.objectness_logits", 24 if milvlg else 12, rpn, 1, 1)
    plain("proposal_generator.rpn_head.anchor_deltas", 48, rpn, 1, 1)
    heads = "roi_heads.box_predictor"
    plain(f"{heads}.cls_score", classes, outer[3])
    plain(f"{heads}.bbox_pred", 4 * (classes if milvlg else classes - 1), outer[3])
    plain(f"{heads}.{'cls_embed' if milvlg else 'cls_embedding'}", classes, embedding, bias=False)
    plain(f"{heads}.{'attr_linear1' if milvlg else 'fc_attr'}", hidden, outer[3] + embedding)
    plain(f"{heads}.{'attr_linear2' if milvlg else 'attr_score'}", attributes, hidden)
    return shapes


def tensors(seed=0, milvlg=False):
    """Return key -> random weights of the tiny detector."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for key, shape in documented(milvlg=milvlg, **TINY).items():
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(0)
        elif key.endswith("cell_anchors.0"):
            middle, side = torch.full((12, 2), 7.5), torch.linspace(16, 90, 12)[:, None]
            made[key] = torch.cat([middle - side / 2, middle + side / 2], dim=1)
        elif key.endswith("running_var") or key.endswith("norm.weight"):
            made[key] = torch.rand(shape, generator=draw) + 0.5
        elif key.endswith(("anchor_deltas.weight", "bbox_pred.weight")):
            made[key] = torch.randn(shape, generator=draw) * 0.05
        else:
            fan = int(np.prod(shape[1:])) or 1
            # Pixels are about 70 and the blocks of a stage add up: states of about 1 at the end.
            size = 1 / 70 if "stem.conv1.weight" in key else 0.4 if "conv3.weight" in key else 1
            made[key] = torch.randn(shape, generator=draw) * (2 / fan) ** 0.5 * size
    return made


def write_bin(path: Path, weights=None) -> Path:
    torch.save(tensors() if weights is None else weights, path)
    return path


def write_pkl(path: Path, weights=None, protocol=2) -> Path:
    arrays = {key: tensor.numpy() for key, tensor in (tensors() if weights is None else weights).items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}, protocol=protocol))
    return path


def picture(path: Path, width=150, height=96, seed=0) -> Path:
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


# --- a writer of .caffemodel files: just enough of protobuf's wire format


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, *, old_shape=False) -> bytes:
    array = np.asarray(array, dtype="<f4")
    if old_shape:
        sizes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(varint(number << 3) + varint(size) for number, size in enumerate(sizes, start=1))
    else:
        shape = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    return shape + field(5, array.tobytes())


def layer(name: str, kind: str, *arrays: np.ndarray, old_shape=False) -> bytes:
    blobs = b"".join(field(7, blob(array, old_shape=old_shape)) for array in arrays)
    return field(100, field(1, name.encode()) + field(2, kind.encode()) + field(3, b"below") + blobs)


def caffe_layers(weights: dict[str, torch.Tensor], factor=3.0, old_shape=False) -> list[bytes]:
    """Return the layers of a .caffemodel with the weights of a MILVLG file, which are in Caffe's order."""
    arrays = {key: tensor.numpy() for key, tensor in weights.items()}
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    out = [field(1, b"VG_ResNet")]
    for key in [key for key in arrays if f"{key.removesuffix('.weight')}.norm.weight" in arrays]:
        name = key.removesuffix(".weight")
        mean, var = (arrays[f"{name}.norm.running_{part}"] * np.float32(factor) for part in ("mean", "var"))
        suffix = "conv1"
        if "stem" not in name:
            stage, block, part = name.split(".")[1:]
            number, many = int(block), stage in ("res3", "res4")
            letter = ("b" + block if many else "abc"[number]) if number else "a"
            suffix = f"{stage[3:]}{letter}_{branch[part]}"
        scale = "scale_conv1" if suffix == "conv1" else f"scale{suffix}"
        out.append(layer(suffix if suffix == "conv1" else f"res{suffix}", "Convolution", arrays[key]))
        norm = "bn_conv1" if suffix == "conv1" else f"bn{suffix}"
        out.append(layer(norm, "BatchNorm", mean, var, np.array([factor])))
        out.append(layer(scale, "Scale", arrays[f"{name}.norm.weight"], arrays[f"{name}.norm.bias"]))
    rpn, heads = "proposal_generator.rpn_head", "roi_heads.box_predictor"
    for name, source in (
        ("rpn_conv/3x3", f"{rpn}.conv"),
        ("rpn_cls_score", f"{rpn}.objectness_logits"),
        ("rpn_bbox_pred", f"{rpn}.anchor_deltas"),
        ("cls_score", f"{heads}.cls_score"),
        ("bbox_pred", f"{heads}.bbox_pred"),
        ("cls_embedding", f"{heads}.cls_embed"),
        ("fc_attr", f"{heads}.attr_linear1"),
        ("attr_score", f"{heads}.attr_linear2"),
    ):
        both = [arrays[f"{source}.{part}"] for part in ("weight", "bias") if f"{source}.{part}" in arrays]
        out.append(layer(name, "InnerProduct", *both, old_shape=old_shape))
    return out


def write_caffe(path: Path, layers=None, **options) -> Path:
    path.write_bytes(b"".join(caffe_layers(tensors(milvlg=True), **options) if layers is None else layers))
    return path
