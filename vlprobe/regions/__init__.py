"""Image -> boxes and region features: detectors, and published feature files. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlprobe.errors import DataError, StudyError
from vlprobe.regions.source import RegionSource

if TYPE_CHECKING:
    from vlprobe.regions.detector import Detector

WEIGHTS = (".caffemodel", ".pkl", ".bin", ".safetensors", ".pth")
"""Endings of a detector's weights."""


def open_regions(
    spec: str | Mapping[str, Any], *, folder: Path, device: str = "auto", cache: Path | None = None
) -> RegionSource:
    """Return the source of regions that a study names.

    Args:
        spec: a path to a feature file or to a detector's weights, or a mapping as in `section.RegionSettings`.
        folder: of the study file, where relative paths start.
        device: of a detector: auto, cpu, cuda, cuda:N, mps.
        cache: where a detector's regions are kept; see `cache.default_folder`.

    Raises:
        StudyError: an unknown key, or values that do not go together.
        DataError: no such file, or none of the known formats.
        CheckpointError: the detector's weights cannot be read.
    """
    from vlprobe.regions.section import RegionSettings
    from vlprobe.settings import parse, resolve_path

    if isinstance(spec, str):
        spec = {"detector" if _is_detector(resolve_path(spec, folder)) else "features": spec}
    settings = parse(RegionSettings, spec, "regions")
    boxes = (settings.boxes, settings.boxes) if isinstance(settings.boxes, int) else settings.boxes
    if settings.detector is not None:
        from vlprobe.regions.cache import CachedRegions, default_folder

        path = resolve_path(settings.detector, folder)
        opened = open_detector(path, conventions=settings.conventions, boxes=boxes, device=device)
        return CachedRegions(opened, cache or default_folder())
    from vlprobe.regions.feature_file import FeatureFile

    return FeatureFile.open(resolve_path(settings.features or "", folder), boxes)


def open_detector(
    path: Path,
    *,
    conventions: str | None = None,
    boxes: tuple[int, int] | None = None,
    device: str = "auto",
) -> Detector:
    """Open the Visual Genome detector; what is not given is as the detector has it.

    Args:
        path: of the weights, or the folder that they are in.
        conventions: `caffe`, `detectron2` or `hf`.
        boxes: fewest and most boxes of an image.
        device: auto, cpu, cuda, cuda:N, mps.

    Raises:
        DataError: there are no weights.
        StudyError: unknown conventions or device.
        CheckpointError: the weights cannot be read.
    """
    weights = _weights(path)
    from vlprobe.regions.detector import Detector

    given: dict[str, Any] = {} if conventions is None else {"conventions": conventions}
    return Detector.open(weights, boxes=boxes, device=device, **given)


def _is_detector(path: Path) -> bool:
    if path.is_dir():
        holds_features = (path / "data.mdb").exists() or any(path.glob("*.npz"))
        return not holds_features and bool(_weights_in(path))
    return path.suffix.lower() in WEIGHTS


def _weights(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"detector weights {path} do not exist")
    if not path.is_dir():
        return path
    found = _weights_in(path)
    if not found:
        raise DataError(f"folder {path} holds no detector weights; they end with {', '.join(WEIGHTS)}")
    both = {file.name: file for file in found}
    if set(both) == {"model.safetensors", "pytorch_model.bin"}:  # the same weights twice, as the hub keeps them
        return both["model.safetensors"]
    if len(found) > 1:
        raise StudyError(f"folder {path} holds several weights; name one: {', '.join(file.name for file in found)}")
    return found[0]


def _weights_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHTS and file.is_file())
