"""Image -> boxes and region features: published feature files. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import field_validator

from vlprobe.errors import DataError
from vlprobe.regions.source import RegionSource
from vlprobe.settings import Settings, parse, resolve_path


class RegionSettings(Settings):
    """The `regions` of a model in a study."""

    features: str
    """Feature file: LXMERT's or bottom-up attention's TSV, a folder of UNITER's npz files, volta's h5."""
    boxes: int | tuple[int, int] | None = None
    """Boxes of an image: 36, or [10, 100] for UNITER's adaptive number; all that the file holds if absent."""

    @field_validator("boxes")
    @classmethod
    def _ordered(cls, boxes: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        least, most = (boxes, boxes) if isinstance(boxes, int) else boxes or (1, 1)
        if not 1 <= least <= most:
            raise ValueError("boxes must be a number from 1 up, or [least, most]")
        return boxes


def open_regions(spec: str | Mapping[str, Any], *, folder: Path) -> RegionSource:
    """Return the source of regions that a study names.

    Args:
        spec: a path, or a mapping as in `RegionSettings`.
        folder: of the study file, where relative paths start.

    Raises:
        StudyError: an unknown key.
        DataError: no such file, or none of the known formats.
    """
    settings = parse(RegionSettings, {"features": spec} if isinstance(spec, str) else spec, "regions")
    path = resolve_path(settings.features, folder)
    boxes = (settings.boxes, settings.boxes) if isinstance(settings.boxes, int) else settings.boxes
    if not path.exists():
        raise DataError(f"regions: {path} does not exist")
    if path.suffix == ".tsv":
        from vlprobe.regions.tables import Tsv

        return Tsv(path, boxes)
    if path.suffix in (".h5", ".hdf5"):
        from vlprobe.regions.archives import Volta

        return Volta(path, boxes)
    if path.is_dir() and any(path.glob("*.npz")):
        from vlprobe.regions.archives import Npz

        return Npz(path, boxes)
    raise DataError(
        f"regions: {path} is no feature file that vlprobe knows; it reads .tsv (LXMERT, bottom-up attention), .h5 "
        "(volta) and folders of .npz files (UNITER)"
    )
