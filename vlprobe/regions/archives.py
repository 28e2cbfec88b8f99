"""UNITER's folders of npz files, and volta's h5 files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.regions.features import FeatureFile
from vlprobe.types import Regions


class Npz(FeatureFile):
    """A folder with an npz file an image: norm_bb (x1, y1, x2, y2, w, h), features, conf, soft_labels."""

    def names(self) -> Iterable[str]:
        """Return the files' names."""
        return sorted(file.name for file in self.path.glob("*.npz"))

    def read(self, name: str) -> Regions:
        """Return one file's regions, as float32."""
        return npz_regions(self.path / name, f"{self.path / name}")

    def files(self) -> Sequence[Path]:
        """Return all npz files, sorted."""
        return sorted(self.path.glob("*.npz"))


def npz_regions(file: Any, place: str) -> Regions:
    """Return the regions in an npz archive of UNITER's layout; nothing in it is unpickled.

    Args:
        file: path, or a binary file.
        place: for messages.

    Raises:
        DataError: not such an archive, or arrays of objects in it.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            # Old numpy left its own argument in compressed archives as an array `allow_pickle`: not asked for here.
            arrays = {key: archive[key] for key in ("norm_bb", "features", "conf", "soft_labels") if key in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{place}: cannot be read as an npz archive of plain arrays ({error})") from None
    return uniter_regions(arrays, place)


def uniter_regions(arrays: dict[str, np.ndarray], place: str) -> Regions:
    """Return regions from arrays named as UNITER names them.

    Raises:
        DataError: an array is missing or of another shape.
    """
    missing = [key for key in ("norm_bb", "features") if key not in arrays]
    if missing or arrays["norm_bb"].ndim != 2 or arrays["norm_bb"].shape[1] < 4:
        raise DataError(f"{place}: expected arrays norm_bb (n, 6) and features (n, width), found {sorted(arrays)}")
    single = {key: np.asarray(array, np.float32) for key, array in arrays.items()}
    return Regions(
        single["norm_bb"][:, :4],
        single["features"],
        (0, 0),
        single.get("conf"),
        probabilities=single.get("soft_labels"),
    )


class Volta(FeatureFile):
    """volta's h5: a group an image, with features, boxes in pixels, the image's size, objects and attributes."""

    def names(self) -> Iterable[str]:
        """Return the groups' names."""
        try:
            import h5py
        except ImportError:
            raise DataError(f"{self.path} needs h5py: pip install 'vlprobe[regions]'") from None
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read as HDF5 ({error})") from None
        return list(self.file)

    def read(self, name: str) -> Regions:
        """Return one group's regions."""
        group = self.file[name]
        missing = [key for key in ("features", "boxes", "img_w", "img_h") if key not in group]
        if missing:
            raise DataError(f"{self.path}, entry {name}: it lacks {', '.join(missing)}")
        size = int(group["img_w"][()]), int(group["img_h"][()])
        boxes = np.asarray(group["boxes"], np.float32) / np.array([*size, *size], np.float32)
        found = {key: np.asarray(group[key]) for key in ("obj_conf", "obj_id", "attr_id", "attr_conf") if key in group}
        return Regions(
            boxes,
            np.asarray(group["features"], np.float32),
            size,
            found.get("obj_conf"),
            found.get("obj_id"),
            found.get("attr_id"),
            found.get("attr_conf"),
        )

    def files(self) -> Sequence[Path]:
        """Return the one file."""
        return [self.path]
