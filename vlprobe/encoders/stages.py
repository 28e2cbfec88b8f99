"""Image models in stages of coarser and coarser grids (ResNet, ConvNeXt, Swin): one stream `vision`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.frames import Frame, Picture, Size
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import ImageReader, pair, patch_roles
from vlprobe.encoders.processors import load_processor
from vlprobe.encoders.taps import pooled, residual_blocks, tap
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden


class Stages(Encoder):
    """An image model of stages: `vision.0`, what block 1 reads, one layer per block, and `vision.pooler`.

    Every block of every stage is a layer; where a stage begins, the grid becomes coarser on the way to its first block.
    A family states where its blocks are, how wide its stages are, and how large their cells.

    Raises:
        CheckpointError: the checkpoint is incomplete, or its preprocessor is not known.
    """

    modalities = ("image",)
    needs = ("image",)
    classes: ClassVar[Mapping[str, str]]
    """Model type -> class of transformers."""
    places: ClassVar[tuple[str, ...]]
    """Where the blocks of a stage are, `{}` for its number."""
    normed: ClassVar[tuple[str, ...]] = ()
    """Model types that norm every position of the last state: they have a `vision.norm`."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, self.classes, device)
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        self.config, self.place = self.model.config, checkpoint.source
        self.blocks, self.stage_of = [], [0]
        for stage, depth in enumerate(self.config.depths):
            self.blocks += residual_blocks(self.model, tuple(place.format(stage) for place in self.places), depth)
            self.stage_of += [stage] * depth
        self.reader = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        first, widths = self.widths()
        self.layers = {"vision.0": first}
        self.layers |= {f"vision.{k}": widths[self.stage_of[k]] for k in range(1, len(self.stage_of))}
        if checkpoint.model_type in self.normed:
            self.layers["vision.norm"] = widths[-1]
        self.layers["vision.pooler"] = widths[-1]

    def widths(self) -> tuple[int, list[int]]:
        """Return the width of what block 1 reads, and of every stage."""
        return self.config.hidden_sizes[0], list(self.config.hidden_sizes)

    @abstractmethod
    def cell(self, stage: int) -> Size | None:
        """Return height and width in pixels of a cell of a stage's grid; None: the grid is laid evenly."""

    def check(self, canvas: Size) -> None:  # noqa: B027
        """Refuse images of a size that the model does not take; here, none.

        Raises:
            CheckpointError: they are of such a size.
        """

    def last(self, output: Any) -> torch.Tensor:
        """Return what is normed of the model's output, (batch, position, width), for types of `normed`."""
        state: torch.Tensor = output.last_hidden_state
        return state

    @property
    def reading(self) -> Ahead[Picture]:
        """Return what reads images ahead."""
        return self.reader.reading

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the grid of every block, flattened row by row, and the vector that the last one is pooled to.

        Raises:
            BadRow: no image, or one that cannot be decoded.
            CheckpointError: the preprocessor makes images of a size that the model does not take.
        """
        pixels, frames = self.reader.stack(batch)
        canvas = (pixels.shape[2], pixels.shape[3])
        self.check(canvas)
        with as_asked(self.device), tap(self.blocks, chained=False) as states:
            output = self.model(pixel_values=moved(pixels, self.device))
        grids: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        hidden = []
        for index, (state, stage) in enumerate(zip(states, self.stage_of, strict=True)):
            cell = self.cell(stage)
            if stage not in grids:
                rows, columns = state.shape[2:] if state.ndim == 4 else whole_cells(canvas, cell or canvas)
                grids[stage] = cells((rows, columns), frames, cell)
            flat = state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
            hidden.append(Hidden(f"vision.{index}", flat, *grids[stage]))
        if "vision.norm" in self.layers:
            hidden.append(Hidden("vision.norm", self.last(output), *grids[self.stage_of[-1]]))
        return [*hidden, pooled("vision.pooler", output.pooler_output.flatten(1))]


class ResNet(Stages):
    """A residual network (He et al. 2016): `vision.0` is the stem after its max pooling; blocks after their last ReLU.

    `vision.pooler` is the global average of the last one; it has no weights, so every checkpoint brings it.
    A cell sees more than its box (its receptive field); the box is what the cell stands for when the grid is laid
    evenly over the image, as in reading class activation maps.
    """

    classes: ClassVar[Mapping[str, str]] = {"resnet": "ResNetModel"}
    places = ("encoder.stages.{}.layers",)

    def widths(self) -> tuple[int, list[int]]:
        """Return the width of the stem and of every stage."""
        return self.config.embedding_size, list(self.config.hidden_sizes)

    def cell(self, stage: int) -> None:
        """Return nothing: its strided convolutions overlap."""


class ConvNext(Stages):
    """A network of patches and depthwise convolutions (Liu et al. 2022), as trained on labels or, DINOv3, without.

    In `vision.0` a cell is one patch of 4 x 4 pixels and knows nothing else; every block then looks 3 cells further to
    each side. Stages merge 2 x 2 cells without overlap. `vision.pooler` is the normed mean of the last grid, and
    `vision.norm`, of DINOv3, every position of it normed.
    """

    classes: ClassVar[Mapping[str, str]] = {
        "convnext": "ConvNextModel",
        "convnextv2": "ConvNextV2Model",
        "dinov3_convnext": "DINOv3ConvNextModel",
    }
    places = ("encoder.stages.{}.layers", "model.stages.{}.layers")
    normed = ("dinov3_convnext",)

    def cell(self, stage: int) -> Size:
        """Return a patch, doubled with every stage; of pixels that fill no cell, a stage sees nothing."""
        side = int(getattr(self.config, "patch_size", 4)) * 2**stage
        return side, side

    def last(self, output: Any) -> torch.Tensor:
        """Return the grid of the last hidden state, which has the pooled vector in front."""
        return super().last(output)[:, 1:]


class Swin(Stages):
    """A transformer that attends within windows (Liu et al. 2021), Swin and Swin v2; blocks merged 2 x 2 by stages.

    In `vision.0` a cell is one patch and knows nothing else; block 1 knows its window, and every second block looks
    through windows that are shifted by half. `vision.norm` is the normed last grid, `vision.pooler` its mean.
    """

    classes: ClassVar[Mapping[str, str]] = {"swin": "SwinModel", "swinv2": "Swinv2Model"}
    places = ("encoder.layers.{}.blocks",)
    normed = ("swin", "swinv2")

    def widths(self) -> tuple[int, list[int]]:
        """Return the width of the patches and of every stage: it doubles where cells merge."""
        first = int(self.config.embed_dim)
        return first, [first * 2**stage for stage in range(len(self.config.depths))]

    def cell(self, stage: int) -> Size:
        """Return a patch, doubled with every stage; the last ones may reach over the edge."""
        height, width = pair(self.config.patch_size)
        return height * 2**stage, width * 2**stage

    def check(self, canvas: Size) -> None:
        """Refuse images of another size than the model's: its windows shrink to the smallest that it was ever given.

        Raises:
            CheckpointError: they are.
        """
        size = pair(self.config.image_size)
        if canvas != size:
            raise CheckpointError(
                f"{self.place}: its preprocessor_config.json makes images of {canvas[1]} x {canvas[0]} pixels, "
                f"its model takes {size[1]} x {size[0]}; correct the size or crop_size there"
            )


def whole_cells(canvas: Size, cell: Size) -> Size:
    """Return the rows and columns of cells that cover a canvas, the last ones over its edge where need be."""
    return -(-canvas[0] // cell[0]), -(-canvas[1] // cell[1])


def cells(shape: Size, frames: Sequence[Frame], cell: Size | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return role, word and box, as in `Hidden`, of a grid whose every cell is a patch with its share of the image.

    Args:
        shape: rows and columns.
        frames: where the pixels of each image lie in its original.
        cell: height and width of a cell in pixels; None: the grid is laid evenly.
    """
    box = np.stack([frame.boxes(*shape, cell) for frame in frames])
    role = patch_roles(box)
    return role, np.full(role.shape, -1, dtype=np.int32), box
