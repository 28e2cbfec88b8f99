"""Feature files against what the original readers make of them, one line an array."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlprobe.regions.entries import Entries
from vlprobe.regions.feature_file import FeatureFile
from vlprobe.regions.formats import open_entries
from vlprobe.types import Example, Regions


def difference(ours, theirs) -> float:
    if ours is None:
        return float("inf")
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def entry_names(entries: Entries) -> list[str]:
    return [name for name in entries.names if name != "expected.npz"]  # which is no feature file


def looked_up(entries: Entries, name: str, boxes: tuple[int, int] | None = None) -> Regions:
    """Return an entry as an encoder gets it: by the name of the image, through a `FeatureFile`."""
    image = Path(name).with_suffix(".jpg")
    (found,) = FeatureFile(entries, boxes).regions([Example("e", "g", None, image, (), place=name)])
    return found


def file_lines(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield (array, largest difference, tolerance) for a folder laid out like the reference's feature_files."""
    with np.load(folder / "expected.npz") as archive:
        expected = {name: archive[name] for name in archive.files}
    pixel_files = [*sorted(folder.glob("*.tsv")), *sorted(folder.glob("*.h5"))]
    for path in pixel_files:
        entries = open_entries(path)
        (name,) = entry_names(entries)
        yield from _pixel_lines(path.name, looked_up(entries, name), expected)
    described = [path for path in pixel_files if "butd" not in path.name]
    first, *rest = [looked_up(open_entries(path), open_entries(path).names[0]) for path in described]
    for other in rest:  # the same image, and no other referee for these
        for field in ("objects", "confidence", "attributes", "attribute_confidence"):
            yield f"{field} of two files", difference(getattr(first, field), getattr(other, field)), 0.0
    npz = open_entries(folder)
    databases = [open_entries(path.parent) for path in sorted(folder.glob("uniter_img_db/*/*/data.mdb"))]
    for entries in (npz, *databases):
        (name,) = entry_names(entries)
        yield from _uniter_lines(entries.path.name, looked_up(entries, name), expected)
        cut = looked_up(entries, name, (10, 100))
        yield f"{entries.path.name} adaptive number of boxes", difference(len(cut.boxes), expected["nbb"]), 0.0
        yield f"{entries.path.name} adaptive boxes", difference(cut.boxes, expected["uniter_pos7"][:, :4]), 0.0


def _pixel_lines(name: str, found: Regions, expected: dict[str, np.ndarray]) -> Iterator[tuple[str, float, float]]:
    size = np.array([expected["img_w"], expected["img_h"]] * 2, np.float32)
    yield f"{name} image size", difference(found.size, size[:2]), 0.0
    yield f"{name} boxes", difference(found.boxes, expected["boxes"] / size), 0.0
    yield f"{name} LXMERT's boxes", difference(found.boxes, expected["lxmert_pos4"]), 0.0
    yield f"{name} features", difference(found.features, expected["features"]), 0.0


def _uniter_lines(name: str, found: Regions, expected: dict[str, np.ndarray]) -> Iterator[tuple[str, float, float]]:
    rows = len(found.boxes)  # databases are cut already; the number of rows is a line of its own
    arrays = {"norm_bb": found.boxes, "features": found.features}
    arrays |= {"conf": found.confidence, "soft_labels": found.probabilities}
    for array, ours in arrays.items():
        theirs = expected[f"uniter_{array}"].astype(np.float32)[:rows]
        yield f"{name} {array}", difference(ours, theirs[:, :4] if array == "norm_bb" else theirs), 0.0
