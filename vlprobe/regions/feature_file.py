"""Published feature files as a source of regions: looked up by the name of the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from vlprobe.digest import digest
from vlprobe.errors import BadRow, DataError
from vlprobe.regions.checks import select
from vlprobe.regions.entries import Entries
from vlprobe.regions.formats import open_entries
from vlprobe.regions.image_names import NameIndex
from vlprobe.regions.sidecar import Sidecar
from vlprobe.regions.source import RegionSource
from vlprobe.stored import StoredImage
from vlprobe.types import Example, Regions

METHOD = 2
"""Part of `revision`: counts up when the same file and `boxes` come to give other regions."""


class FeatureFile(RegionSource):
    """Regions that were computed before, in whichever format they are kept.

    Args:
        entries: of the file.
        boxes: (fewest, most) boxes of an image: adaptive, by confidence, as UNITER chooses them; equal: that many,
            the most confident. None: all that the file holds, at least one.
        width: that feature vectors must have. None: that of the first entry.

    Raises:
        DataError: no entries, or the first one is damaged or of another width.
    """

    def __init__(self, entries: Entries, boxes: tuple[int, int] | None = None, width: int | None = None) -> None:
        if not entries.names:
            raise DataError(f"{entries.path} holds no entries; expected one an image")
        self.entries, self.boxes = entries, boxes
        self._index = NameIndex(entries.names)
        found = entries.read(entries.names[0]).features.shape[1]
        if width is not None and found != width:
            raise DataError(f"{entries.path}: feature vectors have {found} numbers; expected {width}")
        self.width = found

    @classmethod
    def open(cls, path: Path, boxes: tuple[int, int] | None = None, width: int | None = None) -> Self:
        """Open a feature file of any known format; arguments as for the class."""
        return cls(open_entries(path), boxes, width)

    @cached_property
    def revision(self) -> str:  # type: ignore[override]
        """sha256 of the file, of a folder over its names and files; with `boxes`, of that and of these.

        Computed when asked for: a file of tens of gigabytes takes minutes once, then it is kept beside it.
        """
        found = Sidecar(self.entries.path, self.entries.files).revision()
        return digest(found, list(self.boxes), METHOD) if self.boxes else found

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image."""
        return [self._of(example) for example in batch]

    def _of(self, example: Example) -> Regions:
        if isinstance(example.image, bytes) or (isinstance(example.image, StoredImage) and not example.image.name):
            raise BadRow(
                example.place,
                f"the image has no file name, and {self.entries.path} is looked up by name; use a detector, or a data "
                "set whose images are files",
            )
        if example.image is None:
            raise BadRow(example.place, f"no image, and so no entry of {self.entries.path} to look for")
        name = self._entry(example.image, example.place)
        place = f"{self.entries.path}, entry '{name}'"
        try:
            found = self.entries.read(name)
            width = found.features.shape[1]
            if width != self.width:
                raise DataError(f"{place}: feature vectors have {width} numbers; expected {self.width}")
            return found if self.boxes is None else select(found, self.boxes, place)
        except DataError as error:
            raise BadRow(example.place, str(error)) from None

    def _entry(self, image: Path | StoredImage, place: str) -> str:
        shown = image if isinstance(image, Path) else image.name
        found = self._index.find(image.name)
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"'{name}'" for name in found[:3])
            raise BadRow(place, f"{self.entries.path}: image {shown} may be any of {len(found)} entries: {listed}")
        names = self.entries.names
        like = ", ".join(f"'{name}'" for name in names[:3])
        raise BadRow(
            place, f"{self.entries.path} has no features for image {shown}; its {len(names):,} entries look like {like}"
        )
