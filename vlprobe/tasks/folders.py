"""A folder of images, one folder inside it for every class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlprobe.errors import BadRow, DataError
from vlprobe.images import image_inside
from vlprobe.tasks.cells import number_of
from vlprobe.tasks.rows import SPLIT_NAMES, Draft
from vlprobe.types import Example

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""A file with another ending is a bad row."""
IGNORED = ("thumbs.db", "desktop.ini")
"""File managers leave these; like names with a leading dot they are no part of the data."""


@dataclass(frozen=True, slots=True)
class FolderImage:
    """An image of the folder."""

    part: str
    """`train`, `validation`, `test` or `all`."""
    label: str
    """Name of its folder."""
    name: str
    """Path in the folder."""
    path: Path
    """Its file."""
    place: str
    """The same, for messages."""


def folder_images(root: Path, shown: str, on_bad_row: Callable[[BadRow], None]) -> Iterator[FolderImage]:
    """Yield the images of DIR/class/image, or of DIR/part/class/image, sorted by name.

    Args:
        root: DIR.
        shown: how messages call it.
        on_bad_row: called with every entry that is no image.

    Raises:
        DataError: no folders in it, or some that are parts beside some that are not.
    """
    folders = _entries(root)
    parts = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    classes = [name for name in folders if (root / name).is_dir() and name not in parts]
    if not classes and not parts:
        raise DataError(f"{shown} holds no folders; an image folder has one folder for every class")
    if classes and parts:
        raise DataError(
            f"{shown} holds the part '{next(iter(parts))}' beside the folder '{classes[0]}'; put every class into "
            "train, validation or test, or rename the class that is called like a part"
        )
    if len(set(parts.values())) < len(parts):
        raise DataError(f"{shown} holds one part twice, as {' and '.join(parts)}; keep one of them")
    for name in folders:
        if not (root / name).is_dir():
            on_bad_row(BadRow(f"{shown}/{name}", "lies beside the folders of the classes; move it into one of them"))
    for prefix, part in parts.items() or [("", "all")]:
        yield from _images_of_part(root, prefix, part, shown, on_bad_row)


def _images_of_part(
    root: Path, prefix: str, part: str, shown: str, on_bad_row: Callable[[BadRow], None]
) -> Iterator[FolderImage]:
    for label in _entries(root / prefix):
        inside = f"{prefix}/{label}" if prefix else label
        if not (root / inside).is_dir():
            if prefix:
                on_bad_row(BadRow(f"{shown}/{inside}", "lies beside the folders of the classes; move it into one"))
            continue
        for file in _entries(root / inside):
            name = f"{inside}/{file}"
            place = f"{shown}/{name}"
            try:
                yield FolderImage(part, label, name, _image(root, name, place), place)
            except BadRow as problem:
                on_bad_row(problem)


def _image(root: Path, name: str, place: str) -> Path:
    path = image_inside(root, name, place)
    if path.is_dir():
        raise BadRow(place, "is a folder inside the folder of a class; images must lie in the latter itself")
    if path.suffix.lower() not in ENDINGS:
        raise BadRow(place, f"is no image: its name must end in one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise BadRow(place, "the link leads to no file")
    return path


def folder_draft(image: FolderImage, numbers: bool) -> Draft:
    """Return the draft of an image's example.

    Raises:
        BadRow: the label should be a number and is not.
    """
    target = number_of(image.label, "folder name", image.place) if numbers else image.label
    example = Example(image.name, "", None, image.path, (target,), place=image.place)
    return Draft(image.part, example, image.name, (("image", os.path.realpath(image.path)),))


def _entries(folder: Path) -> list[str]:
    names = (entry.name for entry in folder.iterdir())
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in IGNORED)
