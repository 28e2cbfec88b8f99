"""ALIGN (Jia et al. 2021): BERT and EfficientNet, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.stages import cells
from vlprobe.encoders.taps import residual_blocks, tap
from vlprobe.encoders.text import Positions, TextReader
from vlprobe.encoders.towers import Towers
from vlprobe.types import Example

CLASSES = {"align": "AlignModel"}


class Align(Towers):
    """`language.0` to `.n` and `language.projection`; `vision.0` to `.m` and `vision.pooler`.

    Text: BERT; what stands for the text is [CLS], which sees all of it. There is no norm behind the last block.
    `language.projection` is its last [CLS] in the space of both towers, before it is brought to length 1.

    Image: a convolutional network; `vision.0` is its stem, then a layer for every block. A cell of a grid sees more
    than its box: the box is what the cell stands for when the grid is laid evenly over the image. `vision.pooler`, the
    mean of the last grid, is in the space of both towers without a projection.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device, spare=r"text_model\.pooler\.|temperature")
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        text, image = self.model.config.text_config, self.model.config.vision_config
        self.words = residual_blocks(self.model, ("text_model.encoder.layer",), text.num_hidden_layers)
        self.blocks = residual_blocks(self.model, ("vision_model.encoder.blocks",), image.num_hidden_layers)
        tokenizer = load_tokenizer(checkpoint, text.vocab_size)
        tokenizer.mask_token = None  # BERT's, which no text of ALIGN held
        self.text = TextReader(tokenizer, text.max_position_embeddings)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        # Images come in one size, so that batches are made by the texts; patches, there are none.
        self.patch, self.size, self.before, self.seen = (1, 1), None, 0, 0.0
        self.layers = {f"language.{index}": text.hidden_size for index in range(len(self.words) + 1)}
        self.layers["language.projection"] = self.model.config.projection_dim
        self.layers["vision.0"] = self.model.vision_model.embeddings.convolution.out_channels
        for index, block in enumerate(self.blocks, 1):
            made: Any = block
            self.layers[f"vision.{index}"] = made.projection.project_conv.out_channels
        self.layers["vision.pooler"] = self.layers[f"vision.{len(self.blocks)}"]

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch; what their positions are depends on the layer.

        Raises:
            BadRow, CheckpointError: see `ImageReader.framed`.
        """
        return self.images.framed(batch)

    def placed(self, states: torch.Tensor, grid: Grid) -> Positions:
        """Return what the cells of a layer of (batch, channel, row, column) are."""
        rows, columns = states.shape[2:]
        return cells((rows, columns), grid.frames, None)

    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layers of the text tower."""
        # Positions and types given, as they would else come from buffers that no checkpoint holds.
        order = torch.arange(ids.shape[1], device=self.device)[None]
        with tap(self.words) as states:
            known = {"position_ids": order, "token_type_ids": torch.zeros_like(ids)}
            self.model.text_model(input_ids=ids, attention_mask=mask, **known)
        layers = {f"language.{index}": state for index, state in enumerate(states)}
        layers["language.projection"] = self.model.text_projection(states[-1][:, 0])
        return layers

    def vision(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return the layers of the image tower, (batch, channel, row, column) each, and the pooled vector."""
        with tap(self.blocks) as states:
            output = self.model.vision_model(pixel_values=moved(grid.pixels, self.device))
        return {f"vision.{index}": state for index, state in enumerate(states)} | {
            "vision.pooler": output.pooler_output
        }
