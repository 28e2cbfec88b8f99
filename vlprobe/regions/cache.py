"""A detector's regions on disk: an image is looked at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from vlprobe.digest import digest, image_digest
from vlprobe.errors import DataError
from vlprobe.records import cache
from vlprobe.regions.checks import checked
from vlprobe.regions.npz import read_arrays, write_arrays
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example, Regions

HELD = 256 * 2**20
"""Bytes of regions that are kept in memory beside the files."""


def default_folder() -> Path:
    """Return `$VLPROBE_CACHE/regions`, or `~/.cache/vlprobe/regions` where that is not set."""
    return cache() / "regions"


class CachedRegions(RegionSource):
    """The regions of another source, kept by (revision of the source, sha256 of the image), an npz file each.

    Args:
        source: whose regions depend on its revision and on the image's bytes alone.
        folder: created when first written to.
    """

    def __init__(self, source: RegionSource, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.width, self.revision = source.width, source.revision
        self._place = folder / digest(source.revision)[:32]
        self._held: OrderedDict[str, Regions] = OrderedDict()
        self._held_bytes = 0

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image; those that are not there, or damaged, are computed and kept."""
        shas = [_sha256(example) for example in batch]
        found = {sha: kept for sha in set(shas) if sha and (kept := self._read(sha)) is not None}
        # By content, so that an image that is in the batch twice is looked at once.
        missing = {sha or str(row): row for row, sha in reversed(list(enumerate(shas))) if sha not in found}
        rows = sorted(missing.values())
        made = dict(zip(rows, self.source.regions([batch[row] for row in rows]), strict=True)) if rows else {}
        for row, regions in made.items():
            if sha := shas[row]:
                self._write(sha, regions)
        return [found[sha] if sha in found else made[missing[sha or str(row)]] for row, sha in enumerate(shas)]

    def _file(self, sha: str) -> Path:
        return self._place / sha[:2] / f"{sha}.npz"

    def _read(self, sha: str) -> Regions | None:
        """Return what is kept of an image; None: nothing whole."""
        if sha in self._held:
            self._held.move_to_end(sha)
            return self._held[sha]
        file = self._file(sha)
        if not file.exists():
            return None
        try:
            held = read_arrays(file, str(file))
            boxes, features, (width, height) = (held.pop(name) for name in ("boxes", "features", "size"))
            known = {name: array for name, array in held.items() if name in OPTIONAL}
            regions = checked(str(file), boxes, features, (int(width), int(height)), pixels=False, **known)
        except (DataError, KeyError, ValueError, TypeError):
            return None
        if regions.features.shape[1] != self.width:
            return None
        self._hold(sha, regions)
        return regions

    def _hold(self, sha: str, regions: Regions) -> None:
        """Keep regions in memory too: the tasks and conditions of a study ask for the same images again and again."""
        self._held[sha] = regions
        self._held_bytes += _bytes(regions)
        while self._held_bytes > HELD:
            _, longest_unused = self._held.popitem(last=False)
            self._held_bytes -= _bytes(longest_unused)

    def _write(self, sha: str, regions: Regions) -> None:
        arrays = {"boxes": regions.boxes, "features": regions.features, "size": np.array(regions.size)}
        arrays |= {name: array for name in OPTIONAL if (array := getattr(regions, name)) is not None}
        try:
            write_arrays(self._file(sha), arrays)
        except OSError as error:
            raise DataError(
                f"the regions of an image cannot be kept in {self.folder} ({error}); set the environment variable "
                "VLPROBE_CACHE to a folder that can be written to and has room"
            ) from None


def _bytes(regions: Regions) -> int:
    values = [getattr(regions, field.name) for field in fields(Regions)]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


OPTIONAL = tuple(field.name for field in fields(Regions) if field.name not in ("boxes", "features", "size"))
"""Fields of `Regions` that a source may leave out."""


def _sha256(example: Example) -> str:
    """Return the sha256 of the image's bytes; empty: there are none to be read, which the source will say."""
    try:
        return image_digest(example.image) if example.image is not None else ""
    except OSError:
        return ""
