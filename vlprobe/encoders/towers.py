"""Dual encoders: a text tower and an image tower that never see each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.pixels import Grid, ImageReader, Size
from vlprobe.encoders.taps import pooled, residual_blocks
from vlprobe.encoders.text import TextReader
from vlprobe.errors import BadRow
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden, Modality

VECTORS = ("pooler", "projection")
"""Layers of a tower that are one vector: what it pools, before and after its projection into the shared space."""


class Towers(Encoder):
    """Two transformers side by side, `language` and `vision`, each run on what it is given and on that alone.

    Given a text alone it has no layers of `vision`, given an image alone none of `language`. A family states how its
    towers are run; what it reads them with, it sets up in its constructor.
    """

    modalities = ("text", "image")
    towers: ClassVar[Mapping[str, Modality]] = {"language": "text", "vision": "image"}
    masks = False

    device: torch.device
    """Where it runs."""
    text: TextReader
    """Cuts texts into pieces."""
    images: ImageReader
    """Makes pixels of images."""
    patch: Size
    """Height and width of a patch in pixels."""
    size: Size | None
    """Height and width of the images that it takes; None: any."""
    before: int
    """Positions of the vision tower before its patches."""
    seen: float
    """Positions of an image, at most."""

    @abstractmethod
    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of a vector, for texts.

        Args:
            ids: (batch, position) token ids.
            mask: (batch, position) int64, 0 is padding.
        """

    @abstractmethod
    def vision(self, grid: Grid) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of a vector, for images."""

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch.

        Raises:
            BadRow, CheckpointError: see `ImageReader.grid`.
        """
        return self.images.grid(batch, self.patch, self.size, self.before)

    def ahead(self, batch: Sequence[Example]) -> None:
        """Begin to read the images of a batch."""
        self.images.ahead(batch)

    def length(self, example: Example) -> float:
        """Return about how many positions an example takes: its text, padded where the model wants it; its patches."""
        image = 0.0 if example.image is None else self.seen
        if example.text is None:
            return image
        return image + (self.text.limit if self.text.fill else super().length(example))

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the layers of the text tower where the examples have texts, then those of the image tower.

        Raises:
            BadRow: neither text nor image; an image that cannot be decoded; a text of more tokens than the model has
                positions, or with a masked word, for which neither tower was given a token.
            CheckpointError: the preprocessor makes images of a size that the model does not take.
        """
        texts = [example.text is not None for example in batch]
        images = [example.image is not None for example in batch]
        for example, text, image in zip(batch, texts, images, strict=True):
            if (text, image) != (any(texts), any(images)) or not (text or image):
                lacks = "neither text nor image" if not (text or image) else "no image" if text else "no text"
                raise BadRow(example.place or example.id, f"example {example.id} has {lacks}")
        hidden: list[Hidden] = []
        if any(texts):
            pieces = self.text.read(batch)
            nowhere = np.full((*pieces.role.shape, 4), np.nan, dtype=np.float32)
            with as_asked(self.device):
                states = self.language(pieces.ids.to(self.device), pieces.mask.long().to(self.device))
            hidden += [_hidden(layer, state, pieces.role, pieces.word, nowhere) for layer, state in states.items()]
        if any(images):
            grid = self.grid(batch)
            with as_asked(self.device):
                states = self.vision(grid)
            hidden += [_hidden(layer, state, grid.role, grid.word, grid.box) for layer, state in states.items()]
        return hidden


def blocks_of(model: Any) -> dict[str, list[torch.nn.Module]]:
    """Return stream -> the blocks of its tower, as CLIP's kin name them."""
    config = model.config
    towers = (("language", "text_model", config.text_config), ("vision", "vision_model", config.vision_config))
    return {
        stream: residual_blocks(model, (f"{name}.encoder.layers",), tower.num_hidden_layers)
        for stream, name, tower in towers
    }


def addresses(stream: str, config: Any) -> dict[str, int]:
    """Return layer address -> width of a tower, all but what lies behind its pooler.

    Args:
        stream: `language` or `vision`.
        config: of the tower.
    """
    names = [*(str(index) for index in range(config.num_hidden_layers + 1)), "norm", "pooler"]
    return dict.fromkeys((f"{stream}.{name}" for name in names), config.hidden_size)


def _hidden(layer: str, states: torch.Tensor, role: np.ndarray, word: np.ndarray, box: np.ndarray) -> Hidden:
    if layer.endswith(VECTORS):
        return pooled(layer, states)
    return Hidden(layer, states, role, word, box)
