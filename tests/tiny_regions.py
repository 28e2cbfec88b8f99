"""Small regions, written in any format and read back, for the tests of feature files."""

from pathlib import Path

import numpy as np
import pytest

from vlprobe.regions import open_regions
from vlprobe.regions.formats import FORMATS
from vlprobe.types import Example, Regions

OUTPUTS = {
    "lxmert-tsv": "a.tsv",
    "butd-tsv": "a.tsv",
    "uniter-npz": "a",
    "uniter-lmdb": "feat_th0.2_max100_min10",
    "uniter-lmdb-compressed": "feat_th0.2_max100_min10_compressed",
    "volta-h5": "a.h5",
}


def made(seed=0, count=5, width=6):
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2)) * 0.5
    boxes = np.concatenate([corner, corner + 0.1 + rng.random((count, 2)) * 0.4], 1).astype(np.float32)
    features = rng.random((count, width)).astype(np.float32)
    confidence = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    ids = np.arange(count) + seed
    probabilities = rng.random((count, 4)).astype(np.float32)
    return Regions(boxes, features, (200, 100), confidence, ids, ids + 1, confidence / 2, probabilities)


def example(image):
    return Example("e", "g", "text", image, ("x",), place="t.csv, row 2")


def write(form, path, *named):
    if "lmdb" in form:
        pytest.importorskip("lmdb")
        pytest.importorskip("msgpack")
    if form == "volta-h5":
        pytest.importorskip("h5py")
    with FORMATS[form].writer(path) as writer:
        for name, regions in named:
            writer.write(name, regions)
    return path


def write_tsv(path, *named):
    path.unlink(missing_ok=True)
    return write("lxmert-tsv", path, *named)


def write_npz(folder, name, regions, **changed):
    x1, y1, x2, y2 = regions.boxes.T
    norm = np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], 1)
    arrays = {"norm_bb": norm, "features": regions.features, "conf": regions.confidence} | changed
    np.savez_compressed(folder / name, **arrays)


def read(path, image="1.jpg", **settings):
    return open_regions({"features": str(path), **settings}, folder=Path()).regions([example(Path(image))])[0]
