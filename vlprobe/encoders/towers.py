"""Models of texts and images in patches; dual encoders, whose text tower and image tower never see each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.frames import Picture, Size
from vlprobe.encoders.loading import Loaded
from vlprobe.encoders.pixels import Grid, ImageReader
from vlprobe.encoders.taps import pooled, residual_blocks
from vlprobe.encoders.text import Pieces, Positions, TextReader, of_text
from vlprobe.errors import BadRow
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden, Modality

VECTORS = ("pooler", "projection")
"""Layers of a tower that are one vector: what it pools, before and after its projection into the shared space."""


FEATURE_MAP = 4
"""Axes of the state of a convolutional tower."""


class Pair(Encoder):
    """A model that reads a text, an image, or both, the image as a grid of patches: what it reads them with.

    A family sets that up in its constructor.
    """

    modalities: tuple[Modality, ...] = ("text", "image")

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
    """Positions of an image before its patches."""
    seen: float
    """Positions of an image, at most."""

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch.

        Raises:
            BadRow, CheckpointError: see `ImageReader.grid`.
        """
        return self.images.grid(batch, self.patch, self.size, self.before)

    @property
    def reading(self) -> Ahead[Picture]:
        """Return what reads images ahead."""
        return self.images.reading

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return about how many positions each example takes: its text, with the padding that is read; its patches."""
        texts = [example for example in batch if example.text is not None]
        cut = iter(self.text.lengths(texts) if texts else ())
        return [
            (0.0 if example.image is None else self.seen) + (0.0 if example.text is None else next(cut))
            for example in batch
        ]

    def read(self, batch: Sequence[Example]) -> tuple[Pieces | None, Grid | None]:
        """Return the texts and the images of a batch, None for what its examples do not have.

        Raises:
            BadRow: neither text nor image, or not the same of both throughout; an image that cannot be decoded; a text
                of more tokens than the model has positions, or with a masked word, for which it was given no token.
            CheckpointError: the preprocessor makes images of a size that the model does not take.
        """
        texts = [example.text is not None for example in batch]
        images = [example.image is not None for example in batch]
        for example, text, image in zip(batch, texts, images, strict=True):
            if (text, image) != (any(texts), any(images)) or not (text or image):
                lacks = "neither text nor image" if not (text or image) else "no image" if text else "no text"
                raise BadRow(example.place or example.id, f"example {example.id} has {lacks}")
        return self.text.read(batch) if any(texts) else None, self.grid(batch) if any(images) else None


class Towers(Pair):
    """Two transformers side by side, `language` and `vision`, each run on what it is given and on that alone.

    Given a text alone it has no layers of `vision`, given an image alone none of `language`. A family states how its
    towers are run.
    """

    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType({"language": ("text",), "vision": ("image",)})
    masks = False

    @abstractmethod
    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of a vector, for texts.

        Args:
            ids: (batch, position) token ids.
            mask: (batch, position) int64, 0 is padding.
        """

    @abstractmethod
    def vision(self, grid: Grid) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of a vector, for images.

        Of a convolutional tower: (batch, width, row, column).
        """

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the layers of the text tower where the examples have texts, then those of the image tower.

        Raises:
            BadRow, CheckpointError: see `read`.
        """
        pieces, grid = self.read(batch)
        hidden: list[Hidden] = []
        if pieces is not None:
            with as_asked(self.device):
                states = self.language(moved(pieces.ids, self.device), moved(pieces.mask.long(), self.device))
            hidden += [named(layer, state, of_text(pieces)) for layer, state in states.items()]
        if grid is not None:
            with as_asked(self.device):
                states = self.vision(grid)
            for layer, state in states.items():
                if layer.endswith(VECTORS):
                    hidden.append(pooled(layer, state))
                    continue
                flat = state.flatten(2).transpose(1, 2) if state.ndim == FEATURE_MAP else state
                hidden.append(Hidden(layer, flat, *self.placed(state, grid)))
        return hidden

    def placed(self, states: torch.Tensor, grid: Grid) -> Positions:
        """Return what the positions of a layer of the image tower are; here, those of the grid.

        Args:
            states: as `vision` returns them.
            grid: the images.
        """
        return of_image(grid)


class Twins(Towers):
    """Two transformers that transformers has laid out as CLIP's."""

    def take(self, loaded: Loaded, device: torch.device) -> tuple[Any, Any]:
        """Keep a network, and return the configurations of its text tower and of its image tower.

        Args:
            loaded: the network.
            device: where it is.
        """
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        config = self.model.config
        towers = (("language", "text_model", config.text_config), ("vision", "vision_model", config.vision_config))
        self.blocks = {
            stream: residual_blocks(self.model, (f"{name}.encoder.layers",), tower.num_hidden_layers)
            for stream, name, tower in towers
        }
        return config.text_config, config.vision_config


def addresses(stream: str, config: Any) -> dict[str, int]:
    """Return layer address -> width of a tower, all but what lies behind its pooler.

    Args:
        stream: `language` or `vision`.
        config: of the tower.
    """
    names = [*(str(index) for index in range(config.num_hidden_layers + 1)), "norm", "pooler"]
    return dict.fromkeys((f"{stream}.{name}" for name in names), config.hidden_size)


def of_image(grid: Grid) -> Positions:
    """Return what the positions of an image are."""
    return grid.role, grid.word, grid.box


def named(layer: str, states: torch.Tensor, positions: Positions) -> Hidden:
    """Return a layer of (batch, position, width), or, of what a tower pools, (batch, width)."""
    return pooled(layer, states) if layer.endswith(VECTORS) else Hidden(layer, states, *positions)
