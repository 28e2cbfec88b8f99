"""Image -> region features and boxes, padded to a batch, for the models that read regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.digest import generator, image_digest
from vlprobe.encoders.distinct import Distinct
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.text import TextReader
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.regions.source import RegionSource
from vlprobe.types import ROLES, Example, Hidden, Modality, Regions

LAYER = "regions.0"
"""Address of the raw region features: what the detector knows, before the model has done anything."""
REGIONS: Mapping[str, tuple[Modality, ...]] = {"regions": ("image",)}
"""What they read, as in `Encoder.reads`."""


@dataclass(frozen=True)
class RegionBatch:
    """The regions of a batch of images, padded to the largest number."""

    features: torch.Tensor
    """(batch, region, width) float32; 0 in padding."""
    boxes: torch.Tensor
    """(batch, region, 4) float32: x1, y1, x2, y2 as fractions of the image; 0 in padding."""
    mask: torch.Tensor
    """(batch, region) bool: False is padding."""
    role: np.ndarray
    """(batch, region) int8: index into `ROLES`."""
    box: np.ndarray
    """(batch, region, 4) float32: as `boxes`, NaN in padding."""

    def on(self, device: torch.device) -> RegionBatch:
        """Return the same with its features on a device: they are the most of it, and are moved once."""
        return replace(self, features=moved(self.features, device))

    def each(self, images: Distinct) -> RegionBatch:
        """Return the regions of the examples, of those of their images."""
        return RegionBatch(*(images.each(rows) for rows in vars(self).values()))

    def hidden(self) -> Hidden:
        """Return the features as a layer of their own."""
        word = np.full(self.role.shape, -1, dtype=np.int32)
        return Hidden(LAYER, self.features, self.role, word, self.box)


class Drawn(RegionSource):
    """Regions that are drawn: three to five, others for another image."""

    revision = ""

    def __init__(self, width: int) -> None:
        self.width = width

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions that are drawn for each image."""
        found = []
        for example in batch:
            numbers = generator(0, "drawn regions", image_digest(example.image or b""))
            corners = np.sort(numbers.random((int(numbers.integers(3, 6)), 2, 2)), axis=1)
            features = np.abs(numbers.standard_normal((len(corners), self.width)))
            found.append(Regions(corners.reshape(-1, 4).astype(np.float32), features.astype(np.float32), (0, 0)))
        return found


class RegionReader:
    """A source of regions that fits its model.

    Args:
        source: the detector or the feature file.
        width: of the features that the model reads.
        place: the checkpoint, for messages.

    Raises:
        CheckpointError: the source's features have another width.
    """

    def __init__(self, source: RegionSource, width: int, place: str) -> None:
        if source.width != width:
            raise CheckpointError(
                f"{place} reads region features of width {width}, and its `regions` give features of width "
                f"{source.width}; name features of the detector that the model was trained with"
            )
        self.source = source
        self.width = width

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Give every image regions that are drawn for it, whatever the source knows."""
        known, self.source = self.source, Drawn(self.width)
        try:
            yield
        finally:
            self.source = known

    def read(self, batch: Sequence[Example]) -> RegionBatch:
        """Return the regions of every example's image.

        Raises:
            BadRow: no image, an image without a region, or features that are not numbers.
        """
        for example in batch:
            if example.image is None:
                raise BadRow(
                    example.place or example.id, f"example {example.id} has no image, and this model reads its regions"
                )
        found = self.source.regions(batch)
        shape = (len(batch), max((len(regions.boxes) for regions in found), default=0))
        features = np.zeros((*shape, self.width), dtype=np.float32)
        boxes = np.zeros((*shape, 4), dtype=np.float32)
        mask = np.zeros(shape, dtype=bool)
        for row, (example, regions) in enumerate(zip(batch, found, strict=True)):
            count = len(regions.boxes)
            if not count or regions.features.shape != (count, self.width) or regions.boxes.shape != (count, 4):
                raise BadRow(
                    example.place or example.id,
                    f"example {example.id} has {count} regions with features of shape {regions.features.shape}; "
                    f"wanted are one or more, of width {self.width}",
                )
            features[row, :count], boxes[row, :count], mask[row, :count] = regions.features, regions.boxes, True
            if not (np.isfinite(features[row]).all() and np.isfinite(boxes[row]).all()):
                raise BadRow(
                    example.place or example.id,
                    f"the region features or boxes of example {example.id} hold NaN or infinite values",
                )
        role = np.where(mask, ROLES.index("region"), ROLES.index("")).astype(np.int8)
        box = np.where(mask[..., None], boxes, np.float32(np.nan)).astype(np.float32)
        return RegionBatch(torch.from_numpy(features), torch.from_numpy(boxes), torch.from_numpy(mask), role, box)


class RegionEncoder(Encoder):
    """An encoder of texts and of regions of images; what it reads them with, a family sets up in its constructor."""

    modalities = ("text", "image")
    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType(REGIONS)

    text: TextReader
    """Cuts texts into pieces."""
    images: RegionReader
    """Finds the regions of images."""

    def rehearsal(self) -> AbstractContextManager[None]:
        """Return a context in which every image has drawn regions."""
        return self.images.drawn()

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return the tokens of each text."""
        return list(self.text.lengths(batch))


def nothing(layer: str, batch: int, width: int, device: torch.device) -> Hidden:
    """Return a layer without positions: what a batch gives of a layer that its inputs do not reach.

    Pooling leaves such a layer out.
    """
    empty = np.zeros((batch, 0))
    box = np.zeros((batch, 0, 4), dtype=np.float32)
    states = torch.zeros(batch, 0, width, device=device)
    return Hidden(layer, states, empty.astype(np.int8), empty.astype(np.int32), box)
