"""FLAVA (Singh et al. 2022): a text encoder, an image encoder, and a third one over what both put out."""

from __future__ import annotations

import math

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.fusion import STREAMS, Fusion, everywhere, side_by_side
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import altered, residual_blocks, tap
from vlprobe.encoders.text import Pieces, Positions, TextReader, of_text
from vlprobe.encoders.towers import of_image
from vlprobe.errors import CheckpointError

CLASSES = {"flava": "FlavaModel"}
PARTS = dict(zip(STREAMS, ("text_model", "image_model", "multimodal_model"), strict=True))


class Flava(Fusion):
    """Three pre-norm transformers: `.0` to `.n` and `.norm` of `language`, `vision` and `joint`.

    `joint` reads the last states of the other two before their final norm, each through a linear map; its positions are
    a [CLS] of its own, the image ([CLS], patches row by row), the text. The other two's [CLS] have role "" there.
    `joint.pooler` reads its [CLS]; `language.projection` and `vision.projection` are what the contrastive loss compares
    before it is brought to length 1. The poolers of text and image, which no loss of FLAVA trained, are left out.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device, spare=r"(text|image)_model\.pooler\.|logit_scale")
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        config = self.model.config
        sizes = {"language": config.text_config, "vision": config.image_config, "joint": config.multimodal_config}
        if not config.multimodal_config.use_cls_token:
            raise CheckpointError(
                f"{checkpoint.source}: its joint encoder has no [CLS]; probe a checkpoint that has one"
            )
        self.blocks = {
            stream: residual_blocks(self.model, (f"{part}.encoder.layer",), sizes[stream].num_hidden_layers)
            for stream, part in PARTS.items()
        }
        text, image = config.text_config, config.image_config
        self.text = TextReader(load_tokenizer(checkpoint, text.vocab_size), text.max_position_embeddings)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.size, self.before = pair(image.patch_size), pair(image.image_size), 1
        self.seen = self.before + math.prod(self.size) / math.prod(self.patch)
        self.layers = {}
        for stream in STREAMS:
            names = [*(str(index) for index in range(len(self.blocks[stream]) + 1)), "norm"]
            self.layers |= dict.fromkeys((f"{stream}.{name}" for name in names), sizes[stream].hidden_size)
            if stream == "joint":
                self.layers["joint.pooler"] = sizes[stream].hidden_size
            else:
                self.layers[f"{stream}.projection"] = config.projection_dim

    def states(self, pieces: Pieces | None, grid: Grid | None) -> dict[str, torch.Tensor]:
        """Return the layers of the encoders that are reached."""
        inputs = {}
        if pieces is not None:
            inputs = {
                "input_ids": moved(pieces.ids, self.device),
                "attention_mask": moved(pieces.mask.long(), self.device),
            }
        if grid is not None:
            inputs["pixel_values"] = moved(grid.pixels, self.device)
        with (
            tap(self.blocks["language"]) as language,
            tap(self.blocks["vision"]) as vision,
            tap(self.blocks["joint"]) as joint,
            altered(self.model.image_to_mm_projection, grid.each if grid is not None else lambda states: states),
        ):
            output = self.model(**inputs)
        layers: dict[str, torch.Tensor] = {}
        for stream, states in zip(STREAMS, (language, vision, joint), strict=True):
            layers |= {f"{stream}.{index}": state for index, state in enumerate(states)}
        if pieces is not None:
            layers["language.norm"] = output.text_embeddings
            layers["language.projection"] = self.model.text_projection(output.text_embeddings[:, 0])
        if grid is not None:
            layers["vision.norm"] = output.image_embeddings
            layers["vision.projection"] = self.model.image_projection(output.image_embeddings[:, 0])
        if joint:
            layers["joint.norm"] = output.multimodal_embeddings
            layers["joint.pooler"] = output.multimodal_output.pooler_output
        return layers

    def meeting(self, pieces: Pieces | None, grid: Grid | None) -> Positions:
        """Return what the positions of `joint` are: its [CLS], the image, the text."""
        if pieces is None or grid is None:
            raise ValueError("both are needed")
        own = everywhere("cls", np.full((len(grid.role), 4), np.nan), 1)
        return side_by_side([own, of_image(grid), of_text(pieces)])
