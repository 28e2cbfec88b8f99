"""volta's HDF5 feature files (e-bug/volta): a group an image, boxes in pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.regions.checks import checked, in_pixels
from vlprobe.regions.entries import Entries, EntryWriter
from vlprobe.regions.extras import extra
from vlprobe.regions.npz import LARGEST
from vlprobe.types import Regions

ARRAYS = {
    "obj_id": "objects",
    "obj_conf": "confidence",
    "attr_id": "attributes",
    "attr_conf": "attribute_confidence",
}
"""Data set of a group -> field of `Regions`, besides boxes and features; each may be absent."""
UNFINISHED = "~"
"""First letter of the name of a group that is being written."""
HARD = 0
"""h5py.h5l.TYPE_HARD: what is in the file itself, as volta writes it."""
LINKS = {1: "a soft link", 64: "an external link"}
"""h5py.h5l's other types."""
LAYOUT = "v110"
"""HDF5 1.10's files are marked while they are written: one that a killed run left is told from a whole one."""


class VoltaEntries(Entries):
    """The groups of an HDF5 file.

    Args:
        path: the file.

    Raises:
        DataError: damaged, or a run that wrote it was killed in the middle of an entry.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        with _opened(path, "r") as file:
            self.names = [name for name in file if not name.startswith(UNFINISHED)]

    def read(self, name: str) -> Regions:
        """Return one entry."""
        place = f"{self.path}, entry '{name}'"
        try:
            with _opened(self.path, "r") as file:
                group = _inside(file, name, place)
                if not hasattr(group, "keys"):
                    raise DataError(f"{place} is a single array; expected a group of boxes, features, img_w, img_h")
                held = {key: _values(group, key, place) for key in ("boxes", "features", "img_w", "img_h")}
                others = {field: _values(group, key, place) for key, field in ARRAYS.items() if key in list(group)}
        except (OSError, KeyError, RuntimeError) as error:
            raise DataError(f"{place} cannot be read ({error}); the file is damaged, get it again") from None
        size = (_whole(held["img_w"], place, "img_w"), _whole(held["img_h"], place, "img_h"))
        return checked(place, held["boxes"], held["features"], size, pixels=True, **others)


def _inside(group: Any, key: str, place: str) -> Any:
    """Return what a group holds under a name, opened only if it lies in this file.

    Raises:
        DataError: a link of HDF5, which may name any other file, or a path that leads through one.
        RuntimeError: there is nothing of this name.
    """
    kind = group.id.links.get_info(key.encode()).type  # which, unlike the rest of h5py, follows nothing
    if kind != HARD:
        raise DataError(
            f"{place}: '{key}' is {LINKS.get(kind, 'a link')}, which can lead to any file of this machine and is not "
            "followed; get a file that holds the arrays themselves"
        )
    return group[key]


def _values(group: Any, key: str, place: str) -> np.ndarray:
    if key not in list(group):  # `key in group` would follow a link
        raise DataError(f"{place}: no '{key}'; it holds {', '.join(sorted(group)) or 'nothing'}")
    found = _inside(group, key, place)
    # By its declared type, before a byte of it is read: HDF5 references and strings become Python objects.
    if not hasattr(found, "dtype") or found.dtype.kind not in "fiu":
        raise DataError(f"{place}: '{key}' is not an array of numbers")
    if found.external or found.is_virtual:
        raise DataError(
            f"{place}: the numbers of '{key}' lie outside of it ({'a virtual' if found.is_virtual else 'an external'} "
            "data set), in files that it names and that are not opened; get a file that holds the arrays themselves"
        )
    if found.size * found.dtype.itemsize > LARGEST:
        raise DataError(f"{place}: '{key}' takes more than {LARGEST:,} bytes; not a feature file")
    return np.asarray(found[()])


def _whole(value: np.ndarray, place: str, key: str) -> int:
    if value.size != 1 or value.dtype.kind not in "iu":
        raise DataError(f"{place}: {key} is {value!r}; expected one whole number")
    return int(value.reshape(-1)[0])


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[Any]:
    h5py = extra("h5py", f"{path} is an HDF5 file")
    try:
        file = h5py.File(path, mode, libver=LAYOUT if mode == "a" else None)
    except (OSError, ValueError) as error:
        # h5py says in words only which it is.
        if "already open" in str(error):
            raise DataError(
                f"{path} is being written, or the run that wrote it was killed in the middle of an entry. If none is "
                "running, delete it and start again (TSV, npz and LMDB outputs go on where they stopped)"
            ) from None
        raise DataError(f"{path} cannot be opened as HDF5: {error}; it is damaged or cut off, get it again") from None
    with file:
        yield file


class VoltaWriter(EntryWriter):
    """Adds groups to an HDF5 file, which is opened and closed for each.

    Args:
        path: the file; created when absent.

    Raises:
        DataError: it was left torn by a killed run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path, "a") as file:
            for name in [name for name in file if name.startswith(UNFINISHED)]:
                del file[name]
            self._names = set(file)

    def holds(self, image: str) -> bool:
        """Say whether there is a group of an image."""
        return image in self._names

    def write(self, image: str, regions: Regions) -> None:
        """Add the group of an image."""
        place = f"{self.path}, entry '{image}'"
        if image.startswith(UNFINISHED) or "/" in image or image in (".", ".."):
            raise DataError(f"{place}: HDF5 groups cannot have this name; rename the image")
        arrays = {"boxes": in_pixels(regions, place), "features": regions.features}
        arrays |= {"img_w": np.array(regions.size[0]), "img_h": np.array(regions.size[1])}
        arrays |= {key: held for key, field in ARRAYS.items() if (held := getattr(regions, field)) is not None}
        with _opened(self.path, "a") as file:
            group = file.create_group(UNFINISHED + image)
            for key, array in arrays.items():
                group[key] = array
            with contextlib.suppress(KeyError):
                del file[image]
            file.move(UNFINISHED + image, image)
        self._names.add(image)
