"""Loading checkpoints: every weight that the probed layers use, or an error that names what is wrong."""

from __future__ import annotations

import importlib.util
import json
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
    PREPROCESSOR_FILES,
    TOKENIZER_FILES,
    Checkpoint,
    first_line,
    named,
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
STAND_INS = {"DINOv3ViTImageProcessor": "ViTImageProcessorPil"}
"""Image processor that only torchvision runs -> one of the PIL kind with the same settings. DINOv3's resizes numbers in
[0, 1] where PIL resizes bytes: up to half a grey level more or less."""
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
        raise CheckpointError(f"{checkpoint.source}: {names} cannot be read: {_cause(error)}") from error
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


def load_tokenizer(checkpoint: Checkpoint, vocabulary: int, bert: str = "", kind: str = "AutoTokenizer") -> Any:
    """Return the checkpoint's fast tokenizer.

    Args:
        checkpoint: whose tokenizer.
        vocabulary: rows of the model's embedding table.
        bert: `bert-base-cased` or `bert-base-uncased` where the model is known to have taken over that one's.
        kind: class of transformers that reads it.

    Raises:
        CheckpointError: there is none, it cannot be read, it makes ids that the model has no row for, or keeps
            capitals where the model's does not.
    """
    place = checkpoint.tokenizer
    there = {file.name for file in named(place, TOKENIZER_FILES)}
    # Without a vocabulary, transformers 5 makes a BERT tokenizer of its five special tokens, and says nothing.
    sentences = there & {"spm.model", "tokenizer.model"}
    if not there & {"tokenizer.json", "vocab.txt"} and not {"vocab.json", "merges.txt"} <= there and not sentences:
        raise CheckpointError(
            f"{checkpoint.source}: {place} holds no tokenizer (tokenizer.json, vocab.txt, or vocab.json with "
            "merges.txt); name a folder that does with the model's `tokenizer`"
            + (f": that of {bert} is the model's" if bert else "")
        )
    if sentences and "tokenizer.json" not in there and importlib.util.find_spec("sentencepiece") is None:
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {place} is {min(sentences)}, which takes sentencepiece to read: "
            "pip install 'vlprobe[sentencepiece]'"
        )
    try:
        with quiet():
            if bert and not there & {"tokenizer.json", "tokenizer_config.json"}:  # as Google published it
                lower = not bert.endswith("-cased")
                old: Any = transformers.BertTokenizer
                tokenizer = old.from_pretrained(place, local_files_only=True, do_lower_case=lower)
            else:
                tokenizer = getattr(transformers, kind).from_pretrained(
                    place, use_fast=True, trust_remote_code=checkpoint.trust_remote_code, local_files_only=True
                )
    except UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {place} cannot be read: {_cause(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {place} gives no character offsets; save it as fast"
        )
    # The largest id, not the count: an id list with gaps would pass a count.
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocabulary or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {place} has {len(tokenizer)} entries with ids up to {largest}, the "
            f"model {vocabulary} rows; this tokenizer is not the model's{f': name that of {bert}' if bert else ''}"
        )
    # Lower case in a cased vocabulary, or capitals in a lower one, would pass the count and garble every name.
    if bert and _lowers(tokenizer) == bert.endswith("-cased"):
        does = "makes capitals small" if _lowers(tokenizer) else "keeps capitals"
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {place} {does}, and the model's is that of {bert}; name that one's "
            "folder with the model's `tokenizer`, or correct do_lower_case in its tokenizer_config.json"
        )
    return tokenizer


def _lowers(tokenizer: Any) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("Dog") == "dog"


def load_processor(checkpoint: Checkpoint) -> Any:
    """Return the checkpoint's image processor, of the PIL kind: the same pixels wherever it runs.

    Raises:
        CheckpointError: no preprocessor_config.json, or one that cannot be read.
    """
    if not named(checkpoint.folder, PREPROCESSOR_FILES):
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.folder} holds no preprocessor_config.json, which says how images are "
            "resized and normalised; copy it from where the model was published"
        )
    kind = stand_in(checkpoint.folder)
    try:
        with quiet():
            if kind:
                return getattr(transformers, kind).from_pretrained(checkpoint.folder, local_files_only=True)
            return transformers.AutoImageProcessor.from_pretrained(
                checkpoint.folder,
                backend="pil",
                trust_remote_code=checkpoint.trust_remote_code,
                local_files_only=True,
            )
    except UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint.source}: preprocessor_config.json in {checkpoint.folder} cannot be read: {_cause(error)}"
        ) from error


def stand_in(folder: Path) -> str:
    """Return the processor of the PIL kind that does what a folder's preprocessor_config.json says, or "".

    Only where the one that it names has none of that kind.
    """
    named_there = ""
    for file in named(folder, PREPROCESSOR_FILES):
        try:
            named_there = json.loads(file.read_text(encoding="utf-8")).get("image_processor_type") or named_there
        except (ValueError, AttributeError):  # said better where it is read as a whole
            return ""
    return STAND_INS.get(named_there.removesuffix("Fast"), "")


def _load_config(checkpoint: Checkpoint) -> Any:
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(
                checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code, local_files_only=True
            )
    except UNREADABLE as error:
        path = checkpoint.folder / "config.json"
        raise CheckpointError(f"{checkpoint.source}: {path} cannot be read: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
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
        raise CheckpointError(f"{checkpoint.source}: {file} cannot be read: {_cause(error)}") from error


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
