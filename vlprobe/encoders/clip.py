"""CLIP (Radford et al. 2021): a causal text transformer and a vision transformer, with a projection each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

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

CLASSES = {"clip": "CLIPModel"}
OLD_END = 2
"""eos_token_id of configurations from before mid-2023, of whatever vocabulary: their models pool the largest id."""


class Clip(Twins):
    """Two pre-norm transformers: `.0` to `.n`, `.norm`, `.pooler`, `.projection` of `language` and of `vision`.

    Text: the mask is causal, so that the state of a word knows the words before it, and none after it. What stands for
    the text, role `cls`, is its end token, which has seen them all. `language.norm` is the final LayerNorm of
    every position, `language.pooler` that of the end token.

    Image: [CLS], then the patches, row by row. `vision.0` is what block 1 reads: embeddings after CLIP's LayerNorm in
    front (`pre_layrnorm`). `vision.pooler` is the final LayerNorm of [CLS], `vision.norm` that of every position;
    the model itself was trained with that of [CLS] alone.

    `.projection` is what the towers are compared by, before it is brought to length 1.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        text, image = self.take(load_network(checkpoint, CLASSES, device), device)
        tokenizer = load_tokenizer(checkpoint, text.vocab_size)
        self.end = text.eos_token_id
        _check_end(checkpoint, tokenizer, self.end)
        tokenizer.mask_token = None  # it was trained without one, whatever a tokenizer's file may name
        self.text = TextReader(tokenizer, text.max_position_embeddings, self.pooled)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.size, self.before = pair(image.patch_size), pair(image.image_size), 1
        self.seen = self.before + math.prod(self.size) / math.prod(self.patch)
        shared = self.model.config.projection_dim
        self.layers = addresses("language", text) | {"language.projection": shared}
        self.layers |= addresses("vision", image) | {"vision.projection": shared}

    def pooled(self, ids: np.ndarray) -> int:
        """Return the position that the model pools of (position,) token ids: that of the first end token."""
        return int(np.argmax(ids if self.end == OLD_END else ids == self.end))

    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layers of the text tower."""
        with tap(self.blocks["language"]) as states:
            output = self.model.text_model(input_ids=ids, attention_mask=mask)
        layers = {f"language.{index}": state for index, state in enumerate(states)}
        layers["language.norm"], layers["language.pooler"] = output.last_hidden_state, output.pooler_output
        layers["language.projection"] = self.model.text_projection(output.pooler_output)
        return layers

    def vision(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return the layers of the image tower."""
        tower = self.model.vision_model
        with tap(self.blocks["vision"]) as states:
            output = tower(pixel_values=moved(grid.pixels, self.device))
        layers = {f"vision.{index}": state for index, state in enumerate(states)}
        layers["vision.norm"] = tower.post_layernorm(states[-1])
        layers["vision.pooler"] = output.pooler_output
        layers["vision.projection"] = self.model.visual_projection(output.pooler_output)
        return layers


def _check_end(checkpoint: Checkpoint, tokenizer: Any, end: int) -> None:
    """Refuse a tokenizer that does not end a text as the model expects: it would pool the first token of all.

    Raises:
        CheckpointError: it does not.
    """
    ids = tokenizer("a")["input_ids"]
    if ids[-1] != (max(ids) if end == OLD_END else end):
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {checkpoint.tokenizer} ends a text with token {ids[-1]}, and the "
            f"model looks for {'the largest id' if end == OLD_END else end}; this tokenizer is not the model's"
        )
