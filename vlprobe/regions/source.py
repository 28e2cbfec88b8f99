"""The one interface of whatever gives an image's regions: a detector, or a file of published features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vlprobe.types import Example, Regions


class RegionSource(ABC):
    """Something that knows the regions of images."""

    width: int
    """Length of a feature vector."""
    revision: str
    """Hash of what the regions depend on: detector weights and conventions, or the feature file."""

    @abstractmethod
    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image.

        Raises:
            BadRow: an image cannot be opened, or the file has no features for it.
        """
