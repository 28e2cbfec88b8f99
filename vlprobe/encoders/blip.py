"""BLIP (Li et al. 2022): an image encoder, and a text encoder that is run without the image and with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import BlipPreTrainedModel, BlipTextModel, BlipVisionModel

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.fusion import Fusion
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import residual_blocks, tap
from vlprobe.encoders.text import Pieces, Positions, TextReader, of_text
from vlprobe.errors import CheckpointError

RETRIEVAL, ANSWERS, CAPTIONS = (
    "BlipForImageTextRetrieval",
    "BlipForQuestionAnswering",
    "BlipForConditionalGeneration",
)
"""Classes that a configuration names: with projections; with a text encoder; with a text decoder only."""
STAGES = {RETRIEVAL: "retrieval", ANSWERS: "vqa", CAPTIONS: "captions"}
"""Class -> what its checkpoints were tuned for."""


class Blip(Fusion):
    """`language.0` to `.n`, `vision.0` to `.m` and `vision.norm`, and `joint.0` to `.n`, over the text alone.

    `language` and `joint` are the same text encoder: `language` without cross-attention, `joint` with it, every block
    looking at `vision.norm`. The positions of both are the text's; the image has none in `joint`. As the authors
    trained it (models/blip_vqa.py), `joint` reads [ENC] where `language` reads [CLS], at the position of role `cls`;
    transformers leaves [CLS] there. `.projection`, of checkpoints for retrieval, is what the contrastive loss compares,
    before it is brought to length 1.

    Checkpoints for captions have a decoder and no text encoder: of those, images alone are probed here.

    Raises:
        CheckpointError: the checkpoint is incomplete, names none of BLIP's classes, or has no fitting tokenizer or
            preprocessor.
    """

    masks = False

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, {"blip": BlipNetwork}, device)
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        text, image = self.model.config.text_config, self.model.config.vision_config
        if self.model.kind not in STAGES:
            raise CheckpointError(
                f"{checkpoint.source}: its config.json names {self.model.kind or 'no class'} in `architectures`; known "
                f"are {', '.join(STAGES)}"
            )
        self.stage = STAGES[self.model.kind]
        self.vision = residual_blocks(self.model, ("vision_model.encoder.layers",), image.num_hidden_layers)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.size, self.before = pair(image.patch_size), pair(image.image_size), 1
        self.seen = self.before + math.prod(self.size) / math.prod(self.patch)
        shared = {"projection": self.model.config.image_text_hidden_size} if self.model.kind == RETRIEVAL else {}
        sight = [f"vision.{index}" for index in range(len(self.vision) + 1)] + ["vision.norm"]
        self.layers = dict.fromkeys(sight, image.hidden_size) | {f"vision.{name}": shared[name] for name in shared}
        if self.model.kind == CAPTIONS:
            self.modalities = ("image",)
            self.needs = ("image",)
            self.left_out += ("texts are not read: this checkpoint has a text decoder and no text encoder",)
            return
        self.words = residual_blocks(self.model, ("text_encoder.encoder.layer",), text.num_hidden_layers)
        self.start = text.bos_token_id + 1  # [ENC], which the authors added behind [DEC]
        self.text = TextReader(load_tokenizer(checkpoint, text.vocab_size), text.max_position_embeddings)
        self.text.tokenizer.mask_token = None  # BERT's, which no text of BLIP held
        count = range(len(self.words) + 1)
        language = dict.fromkeys((f"language.{index}" for index in count), text.hidden_size)
        language |= {f"language.{name}": shared[name] for name in shared}
        self.layers = language | self.layers | dict.fromkeys((f"joint.{index}" for index in count), text.hidden_size)

    def states(self, pieces: Pieces | None, grid: Grid | None) -> dict[str, torch.Tensor]:
        """Return the layers that are reached."""
        layers: dict[str, torch.Tensor] = {}
        seen: torch.Tensor | None = None
        if grid is not None:
            with tap(self.vision) as states:
                seen = self.model.vision_model(pixel_values=moved(grid.pixels, self.device)).last_hidden_state
            layers |= {f"vision.{index}": state for index, state in enumerate(states)} | {"vision.norm": seen}
            if self.model.vision_proj is not None:
                layers["vision.projection"] = self.model.vision_proj(seen[:, 0])
        if pieces is not None:
            ids = moved(pieces.ids, self.device)
            states = self._read_text(ids, pieces)
            layers |= {f"language.{index}": state for index, state in enumerate(states)}
            if self.model.text_proj is not None:
                layers["language.projection"] = self.model.text_proj(states[-1][:, 0])
            if grid is not None and seen is not None:
                ids[:, 0] = self.start
                seen = grid.each(seen)
                image = {"encoder_hidden_states": seen, "encoder_attention_mask": torch.ones_like(seen[..., 0]).long()}
                states = self._read_text(ids, pieces, **image)
                layers |= {f"joint.{index}": state for index, state in enumerate(states)}
        return layers

    def meeting(self, pieces: Pieces | None, grid: Grid | None) -> Positions:
        """Return what the positions of `joint` are: the text's."""
        if pieces is None:
            raise ValueError("a text is needed")
        return of_text(pieces)

    def _read_text(self, ids: torch.Tensor, pieces: Pieces, **image: torch.Tensor) -> list[torch.Tensor]:
        """Return the residual stream of the text encoder, (batch, position, width) each."""
        # Positions given, as they would else come from a buffer that no checkpoint holds.
        order = torch.arange(ids.shape[1], device=self.device)[None]
        with tap(self.words) as states:
            self.model.text_encoder(
                input_ids=ids, attention_mask=moved(pieces.mask.long(), self.device), position_ids=order, **image
            )
        return states


class BlipNetwork(BlipPreTrainedModel):
    """What of a checkpoint's class reads images and texts; named as in the checkpoints."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.kind = next(iter(config.architectures or ()), "")
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = self.vision_proj = self.text_proj = None
        if self.kind in (RETRIEVAL, ANSWERS):
            self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        if self.kind == RETRIEVAL:
            self.vision_proj = nn.Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
            self.text_proj = nn.Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.post_init()
