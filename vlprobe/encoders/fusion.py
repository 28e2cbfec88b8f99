"""Models with an encoder of texts, one of images, and layers in which both meet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch

from vlprobe.encoders.boxes import nothing
from vlprobe.encoders.distinct import distinct
from vlprobe.encoders.pixels import Grid
from vlprobe.encoders.text import Pieces, Positions, of_text
from vlprobe.encoders.towers import Pair, named, of_image
from vlprobe.exact import as_asked
from vlprobe.types import ROLES, Example, Hidden, Modality

STREAMS = ("language", "vision", "joint")


class Fusion(Pair):
    """An encoder of texts, `language`, one of images, `vision`, and layers in which both meet, `joint`.

    Given a text alone, or an image alone, the layers that it does not reach have no positions, and pooling leaves them
    out. An image that several examples of a batch show is read and encoded once. A family states how it is run, and
    what the positions of `joint` are.
    """

    neighbours = True
    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType(
        {
            "language": ("text",),
            "vision": ("image",),
            "joint": ("text", "image"),
        }
    )

    @abstractmethod
    def states(self, pieces: Pieces | None, grid: Grid | None) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of a vector, of the layers reached.

        Those of `vision` are of images instead of examples: (image, ...).

        Args:
            pieces: None: image alone.
            grid: each image once, see `Grid.images`; None: text alone.
        """

    @abstractmethod
    def meeting(self, pieces: Pieces | None, grid: Grid | None) -> Positions:
        """Return what the positions of `joint` are, where it is reached."""

    def read(self, batch: Sequence[Example]) -> tuple[Pieces | None, Grid | None]:
        """Return the texts and the images of a batch; of a checkpoint that reads no text, the images.

        Raises:
            BadRow, CheckpointError: see `Pair.read`.
        """
        return super().read(batch if "text" in self.modalities else [replace(one, text=None) for one in batch])

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch, each once; the positions are those of the examples.

        Raises:
            BadRow, CheckpointError: see `ImageReader.grid`.
        """
        images = distinct(example.image for example in batch)
        grid = super().grid([batch[place] for place in images.first])
        role, word, box = (images.each(rows) for rows in (grid.role, grid.word, grid.box))
        return replace(grid, role=role, word=word, box=box, images=images)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the layers of both encoders and those in which they meet.

        Raises:
            BadRow, CheckpointError: see `read`.
        """
        pieces, grid = self.read(batch)
        with as_asked(self.device):
            states = self.states(pieces, grid)
        if grid is not None:
            states = {name: grid.each(one) if name.startswith("vision.") else one for name, one in states.items()}
        what: dict[str, Positions] = {}
        if pieces is not None:
            what["language"] = of_text(pieces)
        if grid is not None:
            what["vision"] = of_image(grid)
        if any(layer.startswith("joint.") for layer in states):
            what["joint"] = self.meeting(pieces, grid)
        return [
            named(layer, states[layer], what[layer.partition(".")[0]])
            if layer in states
            else nothing(layer, len(batch), width, self.device)
            for layer, width in self.layers.items()
        ]


def side_by_side(parts: Sequence[Positions]) -> Positions:
    """Return what the positions of parts set side by side are; only the first part keeps its [CLS] as such."""
    roles = [parts[0][0], *(np.where(role == ROLES.index("cls"), ROLES.index(""), role) for role, _, _ in parts[1:])]
    role = np.concatenate(roles, axis=1).astype(np.int8)
    return (
        role,
        np.concatenate([part[1] for part in parts], axis=1),
        np.concatenate([part[2] for part in parts], axis=1),
    )


def everywhere(role: str, boxes: np.ndarray, count: int) -> Positions:
    """Return what positions are that all stand for the whole of an image, or, of box NaN, for none of it.

    Args:
        role: of all.
        boxes: (batch, 4) of every image.
        count: positions of each.
    """
    shape = (len(boxes), count)
    box = np.repeat(boxes[:, None].astype(np.float32), count, axis=1)
    return np.full(shape, ROLES.index(role), dtype=np.int8), np.full(shape, -1, dtype=np.int32), box
