"""BLIP-2's Q-Former (Li et al. 2023): queries that ask an image encoder, beside a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Blip2PreTrainedModel, Blip2QFormerModel, Blip2VisionModel
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.fusion import Fusion, everywhere, side_by_side
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import residual_blocks, tap
from vlprobe.encoders.text import Pieces, Positions, TextReader, of_text
from vlprobe.types import Modality


class QFormer(Fusion):
    """`vision.0` to `.m`, `vision.norm` (ViT-g), and `joint.0` to `.n`, the Q-Former over a text and its queries.

    `joint` is the text, then the queries. Every second layer lets the queries, not the text, look at `vision.norm`; the
    text learns of the image from the queries, as in the image-text matching that the Q-Former was trained for. A query
    asks the whole image: it has role `patch`, and its box is all that the model sees of the image, so that the mean
    over patches is the mean over queries. A text alone is run without queries, an image alone with queries alone.

    Checkpoints with a language model behind the Q-Former (`Blip2ForConditionalGeneration`) read no text before it: of
    those, images alone are probed here.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    masks = False
    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType({"vision": ("image",)})

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, {"blip-2": QFormerNetwork}, device)
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        config = self.model.config
        image, asked = config.vision_config, config.qformer_config
        self.vision = residual_blocks(self.model, ("vision_model.encoder.layers",), image.num_hidden_layers)
        self.joint = residual_blocks(self.model, ("qformer.encoder.layer",), asked.num_hidden_layers)
        if asked.use_qformer_text_input:
            tokenizer = load_tokenizer(checkpoint, asked.vocab_size)
            tokenizer.mask_token = None  # BERT's, which no text of BLIP-2 held
            self.text = TextReader(tokenizer, asked.max_position_embeddings)
        else:
            self.modalities = ("image",)
            self.needs = ("image",)
            self.left_out += ("texts are not read: this checkpoint's Q-Former has no words; its language model has",)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.size, self.before = pair(image.patch_size), pair(image.image_size), 1
        self.queries = config.num_query_tokens
        self.seen = self.before + self.queries + math.prod(self.size) / math.prod(self.patch)
        self.layers = {f"vision.{index}": image.hidden_size for index in range(len(self.vision) + 1)}
        self.layers["vision.norm"] = image.hidden_size
        self.layers |= {f"joint.{index}": asked.hidden_size for index in range(len(self.joint) + 1)}

    def states(self, pieces: Pieces | None, grid: Grid | None) -> dict[str, torch.Tensor]:
        """Return the layers that are reached; the queries stand behind the text."""
        layers: dict[str, torch.Tensor] = {}
        parts, masks, asked = [], [], {}
        count = 0
        if grid is not None:
            with tap(self.vision) as states:
                seen = self.model.vision_model(pixel_values=moved(grid.pixels, self.device)).last_hidden_state
            layers |= {f"vision.{index}": state for index, state in enumerate(states)} | {"vision.norm": seen}
            count, seen = self.queries, grid.each(seen)
            parts.append(self.model.query_tokens.expand(len(seen), -1, -1))
            masks.append(torch.ones(len(seen), count, dtype=torch.long, device=self.device))
            asked = {"encoder_hidden_states": seen, "encoder_attention_mask": torch.ones_like(seen[..., 0]).long()}
        if pieces is not None:
            ids = moved(pieces.ids, self.device)
            # Positions given, as they would else come from a buffer that no checkpoint holds.
            order = torch.arange(ids.shape[1], device=self.device)[None]
            parts.append(self.model.embeddings(input_ids=ids, position_ids=order))
            masks.append(moved(pieces.mask.long(), self.device))
        with tap(self.joint) as states:
            embedded, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
            self.model.qformer(query_embeds=embedded, query_length=count, attention_mask=mask, **asked)
        for index, state in enumerate(states):
            layers[f"joint.{index}"] = torch.cat([state[:, count:], state[:, :count]], dim=1)
        return layers

    def meeting(self, pieces: Pieces | None, grid: Grid | None) -> Positions:
        """Return what the positions of `joint` are: the text, then the queries."""
        parts = [of_text(pieces)] if pieces is not None else []
        if grid is not None:
            low, high = np.nanmin(grid.box, axis=1), np.nanmax(grid.box, axis=1)
            parts.append(everywhere("patch", np.concatenate([low[:, :2], high[:, 2:]], axis=1), self.queries))
        return side_by_side(parts)


class QFormerNetwork(Blip2PreTrainedModel):
    """An image encoder, the queries and the Q-Former, with words where it reads any; named as in the checkpoints."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_model = Blip2VisionModel._from_config(config.vision_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        if config.qformer_config.use_qformer_text_input:
            self.embeddings = Blip2TextEmbeddings(config.qformer_config)
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.post_init()
