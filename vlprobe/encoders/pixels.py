"""Images of a batch -> pixels as the model wants them, and what and where its positions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlprobe.encoders.ahead import Ahead
from vlprobe.encoders.distinct import Distinct
from vlprobe.encoders.frames import KNOWN, Frame, Picture, Reading, Size
from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES, Example


@dataclass(frozen=True)
class Grid:
    """A batch of images for a model, and what its positions are."""

    pixels: torch.Tensor
    """(image, channel, height, width) float32; of NaFlex: (image, patch, number)."""
    role: np.ndarray
    """(batch, position) int8: index into `ROLES`."""
    word: np.ndarray
    """(batch, position) int32: -1."""
    box: np.ndarray
    """(batch, position, 4) float32: as in `Hidden`."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Rows and columns of patches of each image, where they differ."""
    frames: tuple[Frame, ...] = ()
    """Where the pixels of each image lie, where positions differ from layer to layer."""
    images: Distinct | None = None
    """Which image each example shows, where each was read once; None: its own."""

    def each(self, states: torch.Tensor) -> torch.Tensor:
        """Return (batch, ...) states of the examples, of (image, ...) states of the images."""
        return states if self.images is None else self.images.each(states)


class ImageReader:
    """An image processor of transformers (its PIL backend) that remembers what it cropped.

    Args:
        processor: the processor.
        place: the checkpoint, for messages.
        workers: processes that may read images ahead of the model.

    Raises:
        CheckpointError: a processor whose geometry is not known here: its patches would have no true boxes.
    """

    def __init__(self, processor: Any, place: str, workers: int = 0) -> None:
        if type(processor).__name__ not in KNOWN:
            raise CheckpointError(
                f"{place}: its preprocessor_config.json names {type(processor).__name__}, whose cropping is not known "
                f"here, so that its patches would have no boxes; known are {', '.join(KNOWN)}"
            )
        self.processor = processor
        self.place = place
        self.reading = Ahead(Reading(processor, place), workers)
        """May read images before they are asked for."""

    def read(self, batch: Sequence[Example]) -> list[Picture]:
        """Open and process the image of every example.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
            CheckpointError: the processor makes something else of an image than its settings say.
        """
        return [self.reading.take(example) for example in batch]

    def stack(self, batch: Sequence[Example]) -> tuple[torch.Tensor, list[Frame]]:
        """Return (batch, channel, height, width) pixels and the frame of each, for a model with one input size.

        Raises:
            BadRow: as `read`.
            CheckpointError: the processor does not bring all images to one size.
        """
        pictures = self.read(batch)
        sizes = {picture.frame.canvas for picture in pictures}
        if len(sizes) > 1:
            raise CheckpointError(
                f"{self.place}: its preprocessor_config.json gives images of different sizes {sorted(sizes)}; "
                "set a crop_size with do_center_crop, or a size with height and width"
            )
        return torch.stack([picture.pixels for picture in pictures]), [picture.frame for picture in pictures]

    def grid(self, batch: Sequence[Example], patch: Size, size: Size | None, before: int) -> Grid:
        """Return the images of a batch, cut into patches row by row.

        Args:
            batch: examples with an image each.
            patch: height and width in pixels.
            size: height and width that the model takes; None: any.
            before: positions before the patches; the first one is the [CLS].

        Raises:
            BadRow: as `read`.
            CheckpointError: the processor makes images of a size that the model does not take.
        """
        pixels, frames = self.stack(batch)
        canvas = (pixels.shape[2], pixels.shape[3])
        if size is not None and canvas != size:
            raise CheckpointError(
                f"{self.place}: its preprocessor_config.json makes images of {canvas[1]} x {canvas[0]} pixels, "
                f"its model takes {size[1]} x {size[0]}; correct the size or crop_size there"
            )
        rows, columns = canvas[0] // patch[0], canvas[1] // patch[1]
        patches = np.stack([frame.boxes(rows, columns, patch) for frame in frames])
        nowhere = np.full((len(batch), before, 4), np.nan, dtype=np.float32)
        box = np.concatenate([nowhere, patches], axis=1)
        role = patch_roles(box)
        if before:
            role[:, 0] = ROLES.index("cls")
        return Grid(pixels, role, np.full(role.shape, -1, dtype=np.int32), box)

    def framed(self, batch: Sequence[Example]) -> Grid:
        """Return the images of a batch for a model whose positions differ from layer to layer: with frames alone.

        Raises:
            BadRow, CheckpointError: as `stack`.
        """
        pixels, frames = self.stack(batch)
        none = np.zeros((len(batch), 0))
        box = np.zeros((len(batch), 0, 4), dtype=np.float32)
        return Grid(pixels, none.astype(np.int8), none.astype(np.int32), box, frames=tuple(frames))


def pair(size: int | Sequence[int]) -> Size:
    """Return (height, width) of a size that a configuration may give as one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def patch_roles(boxes: np.ndarray) -> np.ndarray:
    """(..., position) int8: `patch` where a position has a box (..., position, 4), else ""."""
    return np.where(np.isnan(boxes[..., 0]), ROLES.index(""), ROLES.index("patch")).astype(np.int8)
