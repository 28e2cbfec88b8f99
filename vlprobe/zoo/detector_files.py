"""The detector's files: what training goes on from, and what `vlprobe.regions` opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vlprobe.regions.keys import ANCHORS, file_name
from vlprobe.regions.network import Network, NormedConv, Sizes

PIXEL = 64.0
"""Training sees pixels divided by this, so that all of its weights are of one magnitude; the weights of the stem are
divided instead in the file. A power of two: nothing is rounded."""
BACKGROUND_LAST = ("cls_score", "cls_embedding", "attr_score")
"""Parts whose rows begin with the background here and end with it in the files."""


@dataclass(frozen=True)
class Reached:
    """How far a training is."""

    recipe: str
    """Digest of all that it depends on: a state of another recipe or seed is no beginning of it."""
    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """That they took."""
    losses: dict[str, float] = field(default_factory=dict)
    """Parts of the loss, means over the steps before the state was saved."""


def training_network(sizes: Sizes, cell: torch.Tensor, seed: int) -> Network:
    """Return a network that learns: batch norms in place of the frozen ones, weights drawn anew.

    Convolutions are drawn as He et al. (2015) do. The last norm of every block begins at 0, so that the network begins
    as a shallow one (Goyal et al. 2017); the layers that make boxes begin small (Girshick 2015).

    Args:
        sizes: of the network.
        cell: (anchor, 4), the anchors of the first position.
        seed: of the weights.
    """
    network = Network(sizes)
    draw = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, NormedConv):
            setattr(module, "norm", nn.BatchNorm2d(module.out_channels))  # noqa: B010 - of another type
            nn.init.constant_(module.norm.weight, 0.0 if name.endswith("conv3") else 1.0)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            small = name in ("objectness", "anchor_deltas", "cls_score", "bbox_pred", "attr_score")
            if small:
                nn.init.normal_(module.weight, std=0.01, generator=draw)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=draw)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=draw)
    network.cell_anchors.copy_(cell)
    return network.train()


def write_weights(network: Network, path: Path) -> None:
    """Write the weights in the keys and the order of detectron2, in half precision."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        part = name.partition(".")[0]
        if name.endswith("num_batches_tracked"):
            continue
        if part in BACKGROUND_LAST:
            tensor = tensor.roll(-1, dims=0)
        if name == "stem.weight":
            tensor = tensor / PIXEL
        key = ANCHORS if name == "cell_anchors" else file_name(name)
        tensors[key] = tensor.half().contiguous()
    _replace(tensors, path, {"format": "pt"})


def write_config(path: Path, values: Mapping[str, object]) -> None:
    """Write a configuration as huggingface's code reads it."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def save_state(network: Network, optimiser: torch.optim.Optimizer, path: Path, reached: Reached) -> None:
    """Write all that training goes on from: weights, statistics of the norms, the optimiser's moments, the step."""
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor.contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(tensors, path, {"reached": json.dumps(asdict(reached))})


def load_state(network: Network, optimiser: torch.optim.Optimizer, path: Path, recipe: str) -> Reached:
    """Fill a network and its optimiser with what `save_state` wrote; return how far it is, step 0 where there is none.

    Args:
        network: as `training_network` returns it.
        optimiser: of its parameters.
        path: of the state.
        recipe: of this training; a state of another one, or a damaged one, is not used.
    """
    try:
        with safe_open(path, framework="pt") as file:
            reached = Reached(**json.loads((file.metadata() or {})["reached"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):  # the last three: no state of ours
        return Reached(recipe)
    if reached.recipe != recipe:
        return Reached(recipe)
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimiser":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return reached


def _replace(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a file whole or not at all: training may be stopped at any moment."""
    part = path.with_suffix(".part")
    save_file(dict(tensors), part, metadata)
    part.replace(path)
