"""SigLIP (Zhai et al. 2023), SigLIP 2 (Tschannen et al. 2025) of one image size: two towers without causal mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, normalizers

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import tap
from vlprobe.encoders.text import TextReader
from vlprobe.encoders.towers import Twins, addresses
from vlprobe.errors import CheckpointError

CLASSES = {"siglip": "SiglipModel", "siglip2": "Siglip2Model"}
SMALL: list[Any] = [normalizers.Lowercase()]
BARE: list[Any] = [
    *SMALL,
    normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
    normalizers.Replace(Regex(r"\s+"), " "),
    normalizers.Strip(),
]
TEXTS = {"</s>": BARE, "<eos>": SMALL}
"""End token of a tokenizer -> what was done to texts in training before they were cut. Those of SigLIP lost capitals
and punctuation (big_vision, `canonicalize`); those of SigLIP 2, cut by Gemma's tokenizer, lost capitals (`lower`)."""


class Siglip(Twins):
    """Two pre-norm transformers: `.0` to `.n`, `.norm`, `.pooler` of `language` and `vision`; `language.projection`.

    Text: every text is padded to the model's length (64), and no position is masked, the padding included, as in
    training. What stands for the text, role `cls`, is the last position, which is mostly padding. `language.pooler` is
    the final LayerNorm there. No text is cut, and none keeps its capitals; SigLIP 1 drops punctuation, so that a mark
    of punctuation is a word without a piece.

    Image: patches, row by row; there is no [CLS]. `vision.pooler` is what the attention pooling makes of all patches
    (`vision.norm`). It has no projection behind it: it is what `language.projection` is compared with.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        text, image = self.take(load_network(checkpoint, CLASSES, device), device)
        # Not the class that its configuration names: SigLIP's gives no offsets, Gemma's sets special tokens by itself.
        tokenizer = load_tokenizer(checkpoint, text.vocab_size, kind="PreTrainedTokenizerFast")
        _prepare(checkpoint, tokenizer)
        self.text = TextReader(tokenizer, text.max_position_embeddings, _last, fill=True)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.before = pair(image.patch_size), 0
        self.size = pair(image.image_size) if checkpoint.model_type == "siglip" else None
        self.seen = math.prod(self.size) / math.prod(self.patch) if self.size else image.num_patches
        self.layers = addresses("language", text) | {"language.projection": self.model.text_model.head.out_features}
        self.layers |= addresses("vision", image)
        if not self.model.vision_model.use_head:
            del self.layers["vision.pooler"]
            self.left_out += ("vision.pooler is not offered: the model has no attention pooling",)

    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layers of the text tower; `mask` is not used."""
        with tap(self.blocks["language"]) as states:
            output = self.model.text_model(input_ids=ids)
        layers = {f"language.{index}": state for index, state in enumerate(states)}
        layers["language.norm"], layers["language.pooler"] = output.last_hidden_state, output.last_hidden_state[:, -1]
        layers["language.projection"] = output.pooler_output
        return layers

    def vision(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return the layers of the image tower."""
        pixels = moved(grid.pixels, self.device)
        with tap(self.blocks["vision"]) as states:
            output = self.model.vision_model(pixel_values=pixels, **self._shapes(grid))
        layers = {f"vision.{index}": state for index, state in enumerate(states)}
        layers["vision.norm"] = output.last_hidden_state
        if output.pooler_output is not None:
            layers["vision.pooler"] = output.pooler_output
        return layers

    def _shapes(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return what the image tower is told of its images beside their pixels: nothing, as they are of one size."""
        return {}


def _last(ids: np.ndarray) -> int:
    return len(ids) - 1


def _prepare(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """Have a tokenizer do to texts what was done in training, whether or not its file says so; refuse a foreign one.

    Raises:
        CheckpointError: its texts do not end as SigLIP's do, or it has no token to pad with.
    """
    where = f"{checkpoint.source}: the tokenizer in {checkpoint.tokenizer}"
    steps = TEXTS.get(tokenizer.eos_token)
    if steps is None or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{where} has {tokenizer.eos_token} for end and {tokenizer.pad_token} for padding; SigLIP's has </s> for "
            "both, SigLIP 2's <eos> and <pad>: name a folder with the right one with the model's `tokenizer`"
        )
    tokenizer.mask_token = None  # Gemma's has one that no text of SigLIP 2 held
    backend = tokenizer.backend_tokenizer
    own = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([*steps, *own])
    ids = tokenizer("a")["input_ids"]
    if ids.count(tokenizer.eos_token_id) != 1 or ids[-1] != tokenizer.eos_token_id or tokenizer.bos_token_id in ids:
        raise CheckpointError(
            f"{where} makes {tokenizer.convert_ids_to_tokens(ids)} of the text 'a', and SigLIP's texts have "
            f"{tokenizer.eos_token} at their end and no special token before it; fetch tokenizer.json again"
        )
