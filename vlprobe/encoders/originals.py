"""Checkpoints as their authors released them: which names are the encoder's, which a head's, and of what sizes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vlprobe.encoders.checkpoint import Checkpoint, first_line
from vlprobe.encoders.torch_files import read_tensors
from vlprobe.errors import CheckpointError

NAMESPACES = ("uniter", "bert", "lxmert", "vilt")
"""How a task's model calls the encoder inside it: all under such a name is the encoder's."""
CONSTANT = re.compile(r"(position_ids|token_type_ids)$")
"""Buffers that are no weights."""
HEAD_WIDTH = 64
"""Of an attention head, in BERT (Devlin et al. 2019) and in all models that took over its sizes."""


@dataclass(frozen=True)
class Layout:
    """How to tell one model's checkpoint from another's."""

    title: str
    """Name of the model."""
    marks: tuple[re.Pattern[str], ...]
    """Names that no other model has; group 1 is what stands before the encoder's own names."""
    parts: tuple[str, ...]
    """First parts of the encoder's own names."""


LAYOUTS: dict[str, Layout] = {
    # ChenRocks/UNITER, model/model.py
    "uniter": Layout(
        "UNITER",
        (re.compile(r"(.*?)img_embeddings\."), re.compile(r"(.*?\buniter\.)embeddings\.")),
        ("embeddings", "img_embeddings", "encoder", "pooler"),
    ),
    # airsplay/lxmert, src/lxrt/modeling.py
    "lxmert": Layout(
        "LXMERT",
        (re.compile(r"(.*?)encoder\.visn_fc\."), re.compile(r"(.*?)encoder\.x_layers\.")),
        ("embeddings", "encoder", "pooler"),
    ),
    # dandelin/ViLT, vilt/modules/vilt_module.py
    "vilt": Layout(
        "ViLT",
        (re.compile(r"(.*?)transformer\.(?:patch_embed|blocks|cls_token|pos_embed)\b"),),
        ("text_embeddings", "token_type_embeddings", "transformer", "pooler"),
    ),
    # e-bug/volta, volta/encoders.py
    "volta": Layout(
        "volta",
        (re.compile(r"(.*?)encoder\.layer\.\d+\.attention_self\."),),
        ("embeddings", "v_embeddings", "encoder", "t_pooler", "v_pooler"),
    ),
}


@dataclass(frozen=True)
class Released:
    """The tensors of a released file, sorted into the encoder's and the heads'."""

    encoder: dict[str, torch.Tensor]
    """The encoder's own names -> float32."""
    heads: dict[str, tuple[int, ...]]
    """Names of all other tensors -> shape."""

    def size(self, name: str, axis: int) -> int | None:
        """Return a tensor's length along an axis; None where it is missing, which loading reports by name."""
        tensor = self.encoder.get(name)
        return None if tensor is None or tensor.ndim <= axis else tensor.shape[axis]

    def count(self, stem: str) -> int:
        """Return how many blocks are numbered behind `stem`, e.g. `encoder.layer.`."""
        numbers = [re.match(re.escape(stem) + r"(\d+)\.", name) for name in self.encoder]
        return 1 + max((int(found.group(1)) for found in numbers if found), default=-1)


@dataclass(frozen=True)
class Original:
    """A released checkpoint, ready for a network of transformers."""

    config: Any
    """Of the network."""
    weights: dict[str, torch.Tensor]
    """The network's names -> float32."""
    heads: Mapping[str, tuple[int, ...]]
    """Names of tensors that no probed layer uses -> shape."""
    notes: tuple[str, ...] = ()
    """What was inferred, and what a reader of the results should know."""


def read_released(checkpoint: Checkpoint, family: str) -> Released:
    """Read a released file, and sort its tensors.

    Prefixes that training code left (`module.` of DataParallel, `lxrt_encoder.model.`, ...) are taken off, whatever
    they are; LayerNorms of TensorFlow's names (gamma, beta) get PyTorch's; half precision becomes float32.

    Raises:
        CheckpointError: it cannot be read, or is of another model.
    """
    if checkpoint.file is None:
        raise CheckpointError(f"{checkpoint.source}: {checkpoint.folder} holds no checkpoint file")
    place = f"{checkpoint.source}: {checkpoint.file}"
    tensors = {_renamed(name): value for name, value in read_tensors(checkpoint.file, checkpoint.source).items()}
    tensors = {name: value for name, value in tensors.items() if not CONSTANT.search(name)}
    layout = LAYOUTS[family]
    prefix = _prefix(layout, tensors)
    if prefix is None:
        raise CheckpointError(f"{place} {_what_it_is(checkpoint, layout, tensors)}")
    namespace = prefix.rstrip(".").rpartition(".")[2] in NAMESPACES
    outer = prefix.removesuffix(".").rpartition(".")[0] + "." if namespace and prefix.count(".") > 1 else prefix
    encoder: dict[str, torch.Tensor] = {}
    heads: dict[str, tuple[int, ...]] = {}
    foreign: list[str] = []
    for name, value in tensors.items():
        own = name.removeprefix(prefix)
        known = name.startswith(prefix) and own.split(".")[0] in layout.parts
        if known:
            encoder[own] = value.float()
        elif namespace and name.startswith(prefix):
            foreign.append(name)
        else:
            heads[name.removeprefix(outer).removeprefix("module.")] = tuple(value.shape)
    if foreign:
        raise CheckpointError(
            f"{place} has {len(foreign)} weights inside the encoder that {layout.title} does not have: "
            f"{', '.join(foreign[:3])}. Its states would not be those of the trained model; it is of another model, or "
            "of changed code"
        )
    return Released(encoder, heads)


def settle(
    checkpoint: Checkpoint, found: Mapping[str, int | None], standard: Mapping[str, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a network's configuration, sizes as the tensors have them, and a note on what was inferred.

    The number of attention heads shows in no tensor: it comes from the configuration beside the file, else from the
    width of a head.

    Args:
        checkpoint: its configuration, where there is one, stands in for tensors that are missing.
        found: the sizes that the tensors have; None: the tensor is missing.
        standard: the published model's sizes, where neither says anything.

    Raises:
        CheckpointError: the configuration contradicts the tensors, or the number of heads cannot be known.
    """
    stated = read_config(checkpoint)
    sizes: dict[str, int] = {}
    for name, default in standard.items():
        size = found.get(name)
        sizes[name] = size if size is not None else stated.get(name, default)
        # Fine-tuning on pairs of images adds a row to the table of types, and leaves the configuration as it was.
        if size is not None and stated.get(name, size) != size and not name.endswith("type_vocab_size"):
            raise CheckpointError(
                f"{checkpoint.source}: {checkpoint.config} says {name} {stated[name]}, the weights have {size}; "
                "the file does not belong to these weights, or the weights are not complete"
            )
    values = {"hidden_act": stated.get("hidden_act", "gelu"), **sizes}
    width, heads = sizes["hidden_size"], stated.get("num_attention_heads")
    notes: tuple[str, ...] = ()
    if heads is None and width % HEAD_WIDTH == 0:
        heads = width // HEAD_WIDTH
        notes = (f"number of attention heads: {heads}, from the width {width}, as no config.json states it",)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(
            f"{checkpoint.source}: the number of attention heads cannot be known (width {width}, stated: {heads}); "
            'put a config.json with "num_attention_heads" beside the weights'
        )
    return {**values, "num_attention_heads": heads}, notes


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the configuration beside a released file says; nothing where there is none.

    Raises:
        CheckpointError: it is no JSON object.
    """
    if checkpoint.config is None:
        return {}
    try:
        stated = json.loads(checkpoint.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.config} cannot be read: {first_line(error)}; fetch it again"
        ) from error
    if not isinstance(stated, dict):
        raise CheckpointError(f"{checkpoint.source}: {checkpoint.config} holds a {type(stated).__name__}, no object")
    return stated


def left_out(heads: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line for every head: what the checkpoint has that no probed layer uses."""
    counts = Counter(name.split(".")[0] for name in heads)
    return tuple(f"head {head}: its {count} weights are not used" for head, count in sorted(counts.items()))


def _renamed(name: str) -> str:
    if name.endswith(".gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith(".beta") else name


def _prefix(layout: Layout, names: Mapping[str, Any]) -> str | None:
    """Return what stands before the encoder's own names, or None: it is not this model."""
    for mark in layout.marks:
        found = next((match for match in map(mark.match, names) if match), None)
        if found:
            return found.group(1)
    return None


def _what_it_is(checkpoint: Checkpoint, layout: Layout, names: Mapping[str, Any]) -> str:
    for family, other in LAYOUTS.items():
        if _prefix(other, names) is not None:
            return (
                f"is a checkpoint of {other.title}, and {layout.title} was asked for; "
                f"load it as {family}:{checkpoint.source}"
            )
    return (
        f"is no checkpoint of {layout.title}: none of its {len(names)} tensors has a name that only {layout.title} "
        f"has; they are named {', '.join(list(names)[:3])}, ..."
    )
