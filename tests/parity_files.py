"""Feature files against what the original readers make of them, one line an array."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlprobe.regions import open_regions


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def file_lines(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield (array, largest difference, tolerance) for a folder laid out like the reference's feature_files."""
    expected = np.load(folder / "expected.npz")
    size = np.array([expected["img_w"], expected["img_h"]] * 2, np.float32)
    for name in ("lxmert_obj36.tsv", "butd.tsv", "volta_obj36.h5"):
        source = open_regions(name, folder=folder)
        (entry,) = source.known.values()
        found = source.entry(entry)
        yield f"{name} boxes in pixels", difference(found.boxes * size, expected["boxes"]), 1e-4
        yield f"{name} features", difference(found.features, expected["features"]), 0.0
        if "lxmert_pos4" in expected:
            yield f"{name} box4", difference(found.boxes, expected["lxmert_pos4"]), 1e-6
    source = open_regions(".", folder=folder)
    entry = next(name for name in source.known.values() if name != "expected.npz")  # which is no feature file
    found = source.entry(entry)
    yield "npz norm_bb", difference(found.boxes, expected["uniter_norm_bb"].astype(np.float32)[:, :4]), 0.0
    yield "npz features", difference(found.features, expected["uniter_features"].astype(np.float32)), 0.0
    yield "npz conf", difference(found.confidence, expected["uniter_conf"].astype(np.float32)), 0.0
    yield "npz soft_labels", difference(found.probabilities, expected["uniter_soft_labels"].astype(np.float32)), 0.0
    cut = open_regions({"features": ".", "boxes": [10, 100]}, folder=folder).entry(entry)
    yield "npz adaptive number of boxes", difference(len(cut.boxes), expected["nbb"]), 0.0
    yield "npz adaptive boxes", difference(cut.boxes, expected["uniter_pos7"][:, :4]), 1e-6
