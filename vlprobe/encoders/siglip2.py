"""SigLIP 2 (Tschannen et al. 2025) of any image size, which its authors call NaFlex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.encoders.pixels import Grid, patch_roles
from vlprobe.encoders.siglip import Siglip
from vlprobe.types import Example


class Siglip2(Siglip):
    """SigLIP whose images keep their shape: as many whole patches as fit into the model's number (256).

    Layers and texts are those of `Siglip`. Both sides of an image are resized to whole patches, nothing is cropped;
    in a batch, shorter images are padded by positions of role "", which no other position sees.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch, each with its own rows and columns of patches.

        Raises:
            BadRow: an image that is missing or damaged.
        """
        pictures = self.images.read(batch)
        frames = [picture.frame for picture in pictures]
        shapes = tuple((frame.canvas[0] // self.patch[0], frame.canvas[1] // self.patch[1]) for frame in frames)
        pixels = torch.nn.utils.rnn.pad_sequence([picture.pixels for picture in pictures], batch_first=True)
        box = np.full((*pixels.shape[:2], 4), np.nan, dtype=np.float32)
        for row, (frame, (rows, columns)) in enumerate(zip(frames, shapes, strict=True)):
            box[row, : rows * columns] = frame.boxes(rows, columns)
        role = patch_roles(box)
        return Grid(pixels, role, np.full(role.shape, -1, dtype=np.int32), box, shapes)

    def _shapes(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return rows and columns of patches, and which positions are patches."""
        shapes = moved(torch.tensor(grid.shapes), self.device)
        places = torch.arange(grid.pixels.shape[1], device=self.device)
        return {"spatial_shapes": shapes, "pixel_attention_mask": (places < shapes.prod(1, keepdim=True)).long()}
