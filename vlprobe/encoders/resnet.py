"""ResNet: image only, one stream `vision` whose positions are the cells of each block's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network, load_processor
from vlprobe.encoders.pixels import Frame, ImageReader, patch_roles
from vlprobe.encoders.taps import pooled, residual_blocks, tap
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden

CLASSES = {"resnet": "ResNetModel"}


class ResNet(Encoder):
    """A residual network: `vision.0` (the stem, after its max pooling), one layer per block, `vision.pooler`.

    Every residual block of every stage is a layer, taken after its last activation. `vision.pooler` is the global
    average of the last one; it has no weights, so every checkpoint brings it.

    Raises:
        CheckpointError: the checkpoint is incomplete, or its preprocessor is not known.
    """

    modalities = ("image",)
    needs = ("image",)

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        config = self.model.config
        stages = zip(config.depths, config.hidden_sizes, strict=True)
        widths = [width for depth, width in stages for _ in range(depth)]
        self.blocks = [
            block
            for stage, depth in enumerate(config.depths)
            for block in residual_blocks(self.model, (f"encoder.stages.{stage}.layers",), depth)
        ]
        self.reader = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.layers = {f"vision.{index}": width for index, width in enumerate([config.embedding_size, *widths])}
        self.layers["vision.pooler"] = widths[-1]

    def ahead(self, batch: Sequence[Example]) -> None:
        """Begin to read the images of a batch."""
        self.reader.ahead(batch)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the grid of every block, flattened row by row, and the global average of the last.

        Raises:
            BadRow: no image, or one that cannot be decoded.
        """
        pixels, frames = self.reader.stack(batch)
        with as_asked(self.device), tap(self.blocks) as states:
            output = self.model(pixel_values=pixels.to(self.device))
        hidden = [grid(f"vision.{index}", state, frames) for index, state in enumerate(states)]
        return [*hidden, pooled("vision.pooler", output.pooler_output.flatten(1))]


def grid(layer: str, states: torch.Tensor, frames: Sequence[Frame]) -> Hidden:
    """Return the `Hidden` of a convolutional layer: every cell a patch, its share of the image its box.

    A cell sees more than its box (its receptive field); the box is what the cell stands for when the grid is laid
    evenly over the image, as in reading class activation maps.

    Args:
        layer: its address.
        states: (batch, channel, row, column).
        frames: where the pixels of each image lie in its original.
    """
    rows, columns = states.shape[2:]
    box = np.stack([frame.boxes(rows, columns) for frame in frames])
    role = patch_roles(box)
    word = np.full(role.shape, -1, dtype=np.int32)
    return Hidden(layer, states.flatten(2).transpose(1, 2), role, word, box)
