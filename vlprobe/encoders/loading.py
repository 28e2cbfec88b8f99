"""Loading checkpoints: every weight that the probed layers use, or an error that names what is wrong."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from vlprobe.encoders.checkpoint import (
    HALF,
    Checkpoint,
    first_line,
    quiet,
    weight_files,
)
from vlprobe.encoders.narrow import narrowed, widen_in_use
from vlprobe.encoders.originals import Original, left_out
from vlprobe.encoders.placing import placement
from vlprobe.errors import CheckpointError

UNUSED = re.compile(r"(position_ids|token_type_ids|mask_token|num_batches_tracked|relative_position_index)$")
"""Names of tensors that no probed layer reads: counters, buffers that are constants, the token of masked images."""
INNER_HEAD = re.compile(r"^.*\.(?=lm_head\.)")
"""What stands before a head that some checkpoints keep inside the encoder: LLaVA's `language_model.lm_head`."""
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    RuntimeError,
    SafetensorError,
    struct.error,
    pickle.UnpicklingError,
    StrictDataclassError,
)
"""What transformers, safetensors and torch raise over files that they cannot make sense of."""


@dataclass(frozen=True)
class Loaded:
    """A network with all the weights that the probed layers use."""

    model: Any
    """In evaluation mode, float32, on its device; or as `placement` says."""
    pooler: bool
    """Whether it has a pooler whose weights the checkpoint brings."""
    left_out: tuple[str, ...]
    """What the checkpoint has that is not used, and lacks that can be done without."""
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Names of the weights that are not used -> shape, empty where that is not known; none for random weights."""


def load_network(
    checkpoint: Checkpoint,
    classes: Mapping[str, str | type],
    device: torch.device,
    original: Original | None = None,
    spare: str = "",
) -> Loaded:
    """Build the network of a checkpoint, with all its weights or not at all.

    Args:
        checkpoint: what to load.
        classes: model_type -> the class, or its name in transformers.
        device: where to put it.
        original: what a released file holds; None: `checkpoint.folder` is in transformers' layout.
        spare: pattern of the names of weights that the class has and no probed layer reads: they may be missing.

    Raises:
        CheckpointError: a file cannot be read; weights of the probed layers are missing or of another shape.
        StudyError: see `placement`.
    """
    named_kind = classes[checkpoint.model_type]
    kind: Any = getattr(transformers, named_kind) if isinstance(named_kind, str) else named_kind
    files = [] if checkpoint.random or original else weight_files(checkpoint.folder, checkpoint.source)
    for file in files:
        _check_readable(checkpoint, file)
    config = original.config if original else _load_config(checkpoint)
    placed = placement(checkpoint, device)
    if checkpoint.bits == HALF:
        kind = narrowed(kind)
    model: Any
    info: Mapping[str, Any]
    try:
        # What transformers draws for weights that are missing must not move the caller's random numbers either.
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(checkpoint.seed)
            if checkpoint.random:
                model, info = kind(config), {"missing_keys": (), "mismatched_keys": (), "unexpected_keys": ()}
            else:
                model, info = kind.from_pretrained(
                    None if original else checkpoint.folder,
                    config=config,
                    state_dict=original.weights if original else None,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they come back in `info`, and are refused below by name
                    local_files_only=True,
                    **placed,
                )
    except UNREADABLE as error:
        files = [checkpoint.file] if checkpoint.file else files
        names = ", ".join(str(file) for file in files) or f"a network from {checkpoint.folder / 'config.json'}"
        raise CheckpointError(f"{checkpoint.source}: {names} cannot be read: {cause(error)}") from error
    pooler = _check_complete(checkpoint, model, _needed(info, spare), strict=original is not None)
    half = checkpoint.bits == HALF
    model = model.eval() if placed else (model if half else model.float()).eval().to(device)
    if half:
        widen_in_use(model)
    if original:
        heads = {} if checkpoint.random else original.heads
        return Loaded(model, pooler, left_out(heads) + original.notes, heads)
    unused: dict[str, tuple[int, ...]] = {
        _outside(model, name): () for name in info["unexpected_keys"] if not UNUSED.search(name)
    }
    return Loaded(model, pooler, left_out(unused), unused)


def _load_config(checkpoint: Checkpoint) -> Any:
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(
                checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code, local_files_only=True
            )
    except UNREADABLE as error:
        path = checkpoint.folder / "config.json"
        raise CheckpointError(f"{checkpoint.source}: {path} cannot be read: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """Return what is wrong with a file, in words."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds Python objects besides tensors, which are never run; convert it to safetensors"
    return f"{first_line(error)}; if the file was cut short or damaged, fetch it again"


def _check_readable(checkpoint: Checkpoint, file: Path) -> None:
    """Read the header of a safetensors file, which says how long the file must be."""
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.source}: {file} cannot be read: {cause(error)}") from error


def _needed(info: Mapping[str, Any], spare: str) -> Mapping[str, Any]:
    """Return transformers' report on loading a network, without missing weights that no probed layer reads."""
    return {**info, "missing_keys": [name for name in info["missing_keys"] if not (spare and re.match(spare, name))]}


def _check_complete(checkpoint: Checkpoint, model: Any, info: Mapping[str, Any], *, strict: bool) -> bool:
    """Refuse what does not fit, and return whether there is a pooler with weights.

    Args:
        checkpoint: for messages.
        model: the network.
        info: transformers' report on loading it.
        strict: whether the heads have been taken out before, so that whatever is unknown belongs to the encoder.

    Raises:
        CheckpointError: weights missing, of another shape, or in the encoder but unknown to the model.
    """
    missing = sorted(name for name in info["missing_keys"] if not UNUSED.search(name))
    lost = [name for name in missing if name.startswith("pooler.")]
    own = [name for name, _ in model.named_parameters() if name.startswith("pooler.")]
    if lost and len(lost) == len(own):
        missing = [name for name in missing if name not in lost]
    shapes = sorted(
        f"{name} is {tuple(there)}, the configuration wants {tuple(wanted)}"
        for name, there, wanted in info["mismatched_keys"]
    )
    # A weight of the encoder that the class has no place for means that this is not the network that was trained:
    # more blocks than the configuration says, or another kind of position embedding.
    inner = {"encoder", "layer", "layers", "embeddings", *dict(model.named_children())} - {"pooler"}
    foreign = sorted(
        name
        for name in info["unexpected_keys"]
        if (strict or _inside(model, name) in inner) and not UNUSED.search(name)
    )
    for problem, names in (
        ("lacks {} weights that the probed layers use", missing),
        ("has {} weights of another shape", shapes),
        ("has {} weights inside the encoder that its configuration knows nothing of", foreign),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{checkpoint.source} {problem.format(len(names))}: {', '.join(names[:3])}{more}. "
                "Its states would not be those of the trained model; "
                "check that config.json and weights belong together, or fetch them again"
            )
    return getattr(model, "pooler", None) is not None and not lost


def _inside(model: Any, name: str) -> str:
    """Return the module of the bare model that a checkpoint's key belongs to: `bert.encoder.layer.0` -> `encoder`."""
    return _outside(model, name).split(".")[0]


def _outside(model: Any, name: str) -> str:
    return INNER_HEAD.sub("", str(name).removeprefix(f"{model.base_model_prefix}."))
