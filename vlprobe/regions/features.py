"""Published feature files as a source of regions: what all formats share, and the checks on every entry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vlprobe.digest import digest, file_digest
from vlprobe.errors import DataError
from vlprobe.regions.names import by_plain_name, entry_of
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example, Regions

CONFIDENT = 0.2
"""UNITER keeps the boxes above this confidence (its `conf_th`), within the limits that `boxes` sets."""


class FeatureFile(RegionSource):
    """A file or folder of region features, looked up by image name and read entry by entry.

    Args:
        path: the file or folder.
        boxes: (least, most) boxes of an image; with None, all that the file holds.

    Raises:
        DataError: nothing in it, or not of this format.
    """

    def __init__(self, path: Path, boxes: tuple[int, int] | None = None) -> None:
        self.path, self.boxes = path, boxes
        self.known = by_plain_name(self.names(), str(path))
        self.width = self.read(next(iter(self.known.values()))).features.shape[1]
        self.revision = digest([[file.name, file_digest(file)] for file in self.files()], boxes)

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of the entries."""

    @abstractmethod
    def read(self, name: str) -> Regions:
        """Return one entry as the file holds it.

        Raises:
            DataError: the entry is damaged.
        """

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Return the files that the regions depend on, in a fixed order."""

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image.

        Raises:
            BadRow: the file has no features for it.
            DataError: an entry is damaged, or does not fit the limits on boxes.
        """
        return [self.entry(entry_of(example, self.known, str(self.path))) for example in batch]

    def entry(self, name: str) -> Regions:
        """Return one entry, checked and cut to the limits on boxes."""
        place = f"{self.path}, entry {name}"
        found = checked(self.read(name), place)
        if found.features.shape[1] != self.width:
            raise DataError(f"{place}: its features have width {found.features.shape[1]}, the others {self.width}")
        return found if self.boxes is None else cut_to(found, self.boxes, place)


def checked(regions: Regions, place: str) -> Regions:
    """Return regions whose arrays fit one another and whose boxes lie in the image.

    Raises:
        DataError: they do not.
    """
    count = len(regions.boxes)
    if regions.boxes.shape != (count, 4) or regions.features.ndim != 2 or len(regions.features) != count or not count:
        raise DataError(f"{place}: boxes {regions.boxes.shape} and features {regions.features.shape} do not fit")
    if not np.isfinite(regions.features).all() or not np.isfinite(regions.boxes).all():
        raise DataError(f"{place}: its boxes or features hold NaN or infinite values")
    # A pixel of slack: Caffe's boxes end on the last pixel or one beyond, and float16 rounds.
    slack = max([0.002, *(1.5 / side for side in regions.size if side)])
    outside = (regions.boxes < -slack) | (regions.boxes > 1 + slack)
    if outside.any() or (regions.boxes[:, 2:] < regions.boxes[:, :2]).any():
        worst = regions.boxes[
            int(np.argmax(outside.any(axis=1) | (regions.boxes[:, 2:] < regions.boxes[:, :2]).any(1)))
        ]
        raise DataError(
            f"{place}: box {worst.tolist()} (fractions of the image) lies outside it, or ends before it starts"
        )
    return regions


def cut_to(regions: Regions, boxes: tuple[int, int], place: str) -> Regions:
    """Return the first n rows, n = min(most, max(least, rows above `CONFIDENT`)): UNITER's adaptive number of boxes.

    Raises:
        DataError: the entry holds fewer than `least` boxes, or no confidences where they decide.
    """
    least, most = boxes
    if len(regions.boxes) < least:
        raise DataError(f"{place}: {len(regions.boxes)} boxes, and at least {least} were asked for; lower `boxes`")
    count = most
    if least != most and regions.confidence is not None:
        count = min(most, max(least, int((regions.confidence > CONFIDENT).sum())))

    def head(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[:count]

    return Regions(
        regions.boxes[:count],
        regions.features[:count],
        regions.size,
        *map(head, (regions.confidence, regions.objects, regions.attributes)),
        *map(head, (regions.attribute_confidence, regions.probabilities)),
    )
