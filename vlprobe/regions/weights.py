"""Weights of the detector, from any of the files it was published in: all of them or an error.

| file | what it is |
|---|---|
| `.caffemodel` | the original, peteanderson80/bottom-up-attention |
| `.pkl` | airsplay/py-bottom-up-attention, for detectron2 |
| `.bin` | huggingface's `pytorch_model.bin`, the same keys |
| `.safetensors` | the same keys, in any precision |
| `.pth` | MILVLG/bottom-up-attention.pytorch, the same keys but for the heads |

Every file is first brought to the keys of detectron2, then checked against the network that its shapes describe, then
turned into the one form that `network.py` runs.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vlprobe.errors import CheckpointError
from vlprobe.regions.caffe_layers import read_caffe_detector
from vlprobe.regions.keys import ANCHORS, HEADS, IDLE, MILVLG, PARTS, RPN, file_name, plain_name
from vlprobe.regions.network import Network, Sizes
from vlprobe.regions.pickled import read_arrays
from vlprobe.regions.proposals import CAFFE_ANCHORS, centred_anchors

Tensors = dict[str, torch.Tensor]

RESNETS = {(3, 4, 6): 50, (3, 4, 23): 101, (3, 8, 36): 152}
"""Blocks of res2 to res4 -> layers of the ResNet: the last block missing would go unnoticed otherwise."""


@dataclass(frozen=True)
class Loaded:
    """A network with all its weights."""

    network: Network
    """In evaluation mode, float32, on the CPU."""
    regression: tuple[float, float, float, float]
    """By which the regression of final boxes is divided."""
    left_out: tuple[str, ...]
    """What the file has that is not used, and lacks that can be done without."""


@dataclass(frozen=True)
class _File:
    """What a file holds, in the keys of detectron2."""

    tensors: Tensors
    """Key -> weights."""
    left_out: tuple[str, ...] = ()
    """What else it holds."""


def load_network(path: Path) -> Loaded:
    """Read a weights file and build the network that it describes.

    Raises:
        CheckpointError: the file cannot be read, wants to run code, or is not this detector's; weights are missing,
            of another shape, or not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"detector weights {path} do not exist; give the path of one of {', '.join(_READERS)}")
    if path.suffix not in _READERS:
        raise CheckpointError(f"{path}: '{path.suffix}' is no kind of detector weights; known: {', '.join(_READERS)}")
    file = _READERS[path.suffix](path)
    for key, tensor in file.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {key} holds numbers that are not finite; fetch the file again")
    return assemble(file.tensors, path, file.left_out)


def assemble(tensors: Tensors, path: Path, left_out: tuple[str, ...] = ()) -> Loaded:
    """Build the network that weights in the keys of detectron2 describe.

    Args:
        tensors: key -> weights, batch norms beside their convolutions.
        path: where they are from, for messages.
        left_out: what else is there.

    Raises:
        CheckpointError: weights missing, of another shape, or of parts that the network does not have.
    """
    tensors = {plain_name(key): tensor for key, tensor in tensors.items()}
    sizes = _sizes(tensors, path)
    # Where the regression has a class for the background, the background comes first: Caffe and MILVLG.
    first = len(tensors[f"{HEADS}.bbox_pred.weight"]) == 4 * sizes.classes
    with torch.device("meta"):
        network = Network(sizes)
    expected = expected_shapes(network, background_first=first)
    _check(tensors, expected, path)
    known = (*left_out, *sorted(key for key in tensors if key not in expected and not IDLE.search(key)))
    if not sizes.attributes:
        known = (*known, "no attribute head: regions have no attributes")
    network.load_state_dict(_turned(network, tensors, first), strict=True, assign=True)
    for parameter in network.res5.parameters():  # convolutions all: see `Network.describe`
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    network.requires_grad_(False)
    # MILVLG's and the original's deltas are of unit weights, detectron2's of its default (fast_rcnn.py).
    return Loaded(network.eval(), (1.0, 1.0, 1.0, 1.0) if first else (10.0, 10.0, 5.0, 5.0), known)


def expected_shapes(network: Network, *, background_first: bool) -> dict[str, tuple[int, ...]]:
    """Return every key that a file of this network must have, with its shape.

    Args:
        network: ours, on any device.
        background_first: whether the file is Caffe's or MILVLG's, with two logits per anchor and the background's
            regression.
    """
    shapes = {}
    for name, tensor in network.state_dict().items():
        if name == "cell_anchors":  # which a file need not have
            continue
        rows = len(tensor)
        if background_first:
            rows = {"objectness": 2 * rows, "bbox_pred": rows + 4}.get(name.partition(".")[0], rows)
        shapes[file_name(name)] = (rows, *tensor.shape[1:])
    return shapes


def _sizes(tensors: Tensors, path: Path) -> Sizes:
    """Return the sizes that shapes say, blocks counted."""

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if key not in tensors:
            raise CheckpointError(_lacking([key], path))
        if tensors[key].ndim != dimensions:
            raise CheckpointError(f"{path}: {key} has shape {tuple(tensors[key].shape)}, not {dimensions} dimensions")
        return tuple(tensors[key].shape)

    stages = ["backbone.res2", "backbone.res3", "backbone.res4", "roi_heads.res5"]
    counts = [_blocks(tensors, stage) for stage in stages]
    inner = [shape(f"{stage}.0.conv1.weight", 4)[0] for stage in stages]
    outer = [shape(f"{stage}.0.conv3.weight", 4)[0] for stage in stages]
    if tuple(counts[:3]) not in RESNETS or counts[3] != 3:
        raise CheckpointError(
            f"{path}: res2 to res5 have {counts} blocks; ResNets have {[[*blocks, 3] for blocks in RESNETS]}. "
            "Blocks are missing: fetch the file again"
        )
    classes = shape(f"{HEADS}.cls_score.weight", 2)[0]
    shape(f"{HEADS}.bbox_pred.weight", 2)
    embedding = hidden = attributes = 0
    if any(f"{HEADS}.{name}.weight" in tensors for name in MILVLG.values()):
        embedding = shape(f"{HEADS}.cls_embedding.weight", 2)[1]
        hidden = shape(f"{HEADS}.fc_attr.weight", 2)[0]
        attributes = shape(f"{HEADS}.attr_score.weight", 2)[0]
    return Sizes(
        stem=shape("backbone.stem.conv1.weight", 4)[0],
        blocks=(counts[0], counts[1], counts[2], counts[3]),
        inner=(inner[0], inner[1], inner[2], inner[3]),
        outer=(outer[0], outer[1], outer[2], outer[3]),
        rpn=shape(f"{RPN}.conv.weight", 4)[0],
        anchors=shape(f"{RPN}.anchor_deltas.weight", 4)[0] // 4,
        classes=classes,
        embedding=embedding,
        attribute_hidden=hidden,
        attributes=attributes,
    )


def _blocks(tensors: Tensors, stage: str) -> int:
    """Return one more than the highest number of a block: a gap shows as missing keys."""
    pattern = re.compile(rf"{re.escape(stage)}\.(\d{{1,3}})\.")
    return max((int(match[1]) + 1 for key in tensors if (match := pattern.match(key))), default=0)


def _lacking(keys: list[str], path: Path) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return (
        f"{path} lacks {len(keys)} weights of the Visual Genome Faster R-CNN (ResNet C4): {', '.join(keys[:3])}{more}. "
        "It is another network, or not whole: fetch the file again"
    )


def _check(tensors: Tensors, expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Refuse weights that are missing, of another shape, or of a network with more in it.

    Raises:
        CheckpointError: see above.
    """
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise CheckpointError(_lacking(missing, path))
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if tuple(tensors[key].shape) != shape
    ]
    foreign = [key for key in tensors if key not in expected and key.startswith(PARTS) and not IDLE.search(key)]
    anchors = tensors.get(ANCHORS)
    count = expected[f"{RPN}.anchor_deltas.weight"][0] // 4
    if anchors is not None and tuple(anchors.shape) != (count, 4):
        wrong.append(f"{ANCHORS} is {tuple(anchors.shape)}, expected {(count, 4)}")
    wrong += [f"{key} is of {tensors[key].dtype}" for key in expected if not tensors[key].is_floating_point()]
    for problem, names in (("of another shape or kind", wrong), ("that the detector has no place for", foreign)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{path} has {len(names)} weights {problem}: {', '.join(names[:3])}{more}. "
                "It is another network: give the weights of the Visual Genome Faster R-CNN (ResNet C4)"
            )


def _turned(network: Network, tensors: Tensors, first: bool) -> Tensors:
    """Return the network's own weights: float32, the background first."""
    own = {
        name: _background_first(name.partition(".")[0], tensors[file_name(name)], first).float().contiguous()
        for name in network.state_dict()
        if name != "cell_anchors"
    }
    return own | {"cell_anchors": _anchors(tensors, network.sizes.anchors, first)}


def _background_first(name: str, rows: torch.Tensor, first: bool) -> torch.Tensor:
    """Return a head's rows in our order."""
    if first and name == "objectness":  # softmax over (background, object) is the sigmoid of the difference
        background, foreground = rows.double().chunk(2)
        return foreground - background
    if first and name == "bbox_pred":
        return rows[4:]
    if not first and name in ("cls_score", "cls_embedding", "attr_score"):
        return rows.roll(1, dims=0)
    return rows


def _anchors(tensors: Tensors, count: int, first: bool) -> torch.Tensor:
    """Return the file's anchors, or those of the code that it was trained with.

    MILVLG's own generator would take the scales 4 to 32 for pixels: only its checkpoints know the right anchors, and
    those are Caffe's.
    """
    if ANCHORS in tensors:
        return tensors[ANCHORS].float()
    anchors = torch.tensor(CAFFE_ANCHORS if first else centred_anchors(), dtype=torch.float32)
    if len(anchors) != count:
        raise CheckpointError(f"the weights propose {count} boxes per position, and {ANCHORS} does not say which")
    return anchors


def _read_caffe(path: Path) -> _File:
    """Read the original, whose layers are none of detectron2's keys."""
    return _File(*read_caffe_detector(path))


def _read_pickle(path: Path) -> _File:
    """Read airsplay's {"model": {key: array}}."""
    return _as_file(read_arrays(path), path)


def _read_torch(path: Path) -> _File:
    """Read a file of torch.save, tensors only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of a strange file; it is an error or it is read
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds Python objects besides tensors, which are never run"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes torch.load raise anything at all
        lines = str(error).strip().splitlines() or [""]
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}: {lines[0]}. If it was cut short or damaged, fetch it again"
        ) from None
    return _as_file(loaded, path)


def _read_safetensors(path: Path) -> _File:
    """Read a .safetensors file, whose header says how long it must be."""
    try:
        return _File(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type that torch does not have
        raise CheckpointError(
            f"{path} cannot be read as a .safetensors file: {error}. If it was cut short or damaged, fetch it again"
        ) from None


def _as_file(loaded: Any, path: Path) -> _File:
    """Take the weights out of what a file holds: a dict of them, or one under `model`."""
    model = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} holds a {type(model).__name__}, not a dict of weights; is it the detector's?")
    tensors: Tensors = {}
    for key, value in model.items():
        if isinstance(value, np.ndarray):  # a copy, because what was read is read-only; and in this machine's order
            tensors[str(key)] = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C", copy=True))
        elif isinstance(value, torch.Tensor):
            tensors[str(key)] = value
    return _File(tensors)


_READERS: dict[str, Callable[[Path], _File]] = {
    ".caffemodel": _read_caffe,
    ".pkl": _read_pickle,
    ".bin": _read_torch,
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
