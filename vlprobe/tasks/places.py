"""Where published data lie on this machine, and finding an image of theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlprobe.errors import BadRow, DataError, StudyError, did_you_mean
from vlprobe.images import image_inside
from vlprobe.settings import resolve_path


@dataclass(frozen=True)
class Place:
    """A folder of data that the user has."""

    variable: str
    """The environment variable that may point to it."""
    what: str
    """What the folder holds."""
    inside: tuple[str, ...] = ("",)
    """Where in the folder the files may lie: in itself, or where the publisher's archive unpacks to."""


PLACES: dict[str, Place] = {
    "salin2022": Place("SALIN2022", "a clone of https://github.com/ejsalin/vlm-probing"),
    "flickr30k": Place("FLICKR30K", "the images of Flickr30k", ("", "flickr30k-images", "flickr30k_images")),
    "coco": Place("COCO", "the images of COCO 2014", ("", "val2014", "train2014")),
    "flowers102": Place("FLOWERS102", "the images of Oxford Flowers-102", ("", "jpg")),
}
"""The keys of a study's `data:` section."""


def check_places(data: Mapping[str, str]) -> None:
    """Check the keys of a `data:` section.

    Raises:
        StudyError: an unknown one, or a value that is no text.
    """
    for key, value in data.items():
        if key not in PLACES:
            raise StudyError(f"data: unknown key '{key}'{did_you_mean(key, PLACES)}")
        if not isinstance(value, str) or not value.strip():
            raise StudyError(f"data: {key} must be the path of a folder, found {value!r}")


def find_place(key: str, data: Mapping[str, str], folder: Path) -> Path | None:
    """Return the folder of a place, or None where neither the study nor the environment names one.

    Raises:
        DataError: it is named, but not there.
    """
    variable = PLACES[key].variable
    if key in data:
        path, said = resolve_path(data[key], folder), f"data: {key}: {data[key]}"
    elif os.environ.get(variable, "").strip():
        path, said = Path(os.environ[variable]).expanduser(), f"environment variable {variable}={os.environ[variable]}"
    else:
        return None
    if not path.is_dir():
        raise DataError(f"{said}: {path} is not a folder; it must hold {PLACES[key].what}")
    return path


def no_images(key: str) -> str:
    """Say why the images of a place are missing, and the cure."""
    place = PLACES[key]
    return f"no image is read: set `data: {key}` in the study, or {place.variable}, to the folder of {place.what}"


def find_image(root: Path, inside: Sequence[str], names: Sequence[str], place: str) -> Path:
    """Return the image of a row.

    Args:
        root: the folder of images.
        inside: folders in it to look into.
        names: file names to look for.
        place: file and row, for messages.

    Raises:
        BadRow: there is none, or a name that leaves the folder.
    """
    for name in names:
        for part in inside:
            path = image_inside(root, f"{part}/{name}" if part else name, place)
            if path.is_file():
                return path
    where = " or ".join(str(root / part) for part in inside)
    raise BadRow(place, f"image file {' or '.join(names)} is not in {where}")
