"""What a checkpoint's texts and images are read with: its tokenizer and its image processor."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import transformers

from vlprobe.encoders.checkpoint import PREPROCESSOR_FILES, TOKENIZER_FILES, Checkpoint, named, quiet
from vlprobe.encoders.loading import UNREADABLE, cause
from vlprobe.errors import CheckpointError

STAND_INS = {"DINOv3ViTImageProcessor": "ViTImageProcessorPil"}
"""Image processor that only torchvision runs -> one of the PIL kind with the same settings. DINOv3's resizes numbers in
[0, 1] where PIL resizes bytes: up to half a grey level more or less."""


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
            f"{checkpoint.source}: the tokenizer in {place} cannot be read: {cause(error)}"
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
            f"{checkpoint.source}: preprocessor_config.json in {checkpoint.folder} cannot be read: {cause(error)}"
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
