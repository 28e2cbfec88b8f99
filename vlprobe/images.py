"""Opening images that others made: whole, of sane size, in their folder, the right way up."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.errors import BadRow
from vlprobe.types import ImageData

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
"""Refused above this: a decompression bomb rather than a photograph."""
_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height (Exif 2.32, tag 274)."""
RANGELESS = {"I": "a whole number of 32 bits", "F": "a float"}
"""Pillow's modes of images that are refused."""


def image_inside(folder: Path, name: str, place: str) -> Path:
    """Return `folder/name`, refusing a name that leaves the folder.

    Raises:
        BadRow: the name is empty, absolute, or climbs out of the folder (also through a link).
    """
    if not name.strip():
        raise BadRow(place, "the image name is empty")
    # By what is on disk, not by text alone: a link inside the folder may point out of it.
    root = folder.resolve()
    if "\x00" in name or not (root / name).resolve().is_relative_to(root) or (root / name).resolve() == root:
        raise BadRow(place, f"the image name {name!r} leaves its folder {folder}; image names must stay inside it")
    return folder / name


def encoded(image: ImageData) -> Path | io.BytesIO:
    """Return what Pillow opens: a file, or the bytes of one, read now where they lie in another file.

    Raises:
        DataError: the file that holds them is gone or has changed (see `StoredImage.read`).
    """
    if isinstance(image, Path):
        return image
    return io.BytesIO(image if isinstance(image, bytes) else image.read())


def image_name(image: ImageData) -> str:
    """Return how messages call an image."""
    return "the embedded image" if isinstance(image, bytes) else str(image)


def problem_of(error: Exception) -> str:
    """Return what Pillow says, without the address that it gives for bytes: the same words in every run."""
    return re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))


def image_size(image: ImageData, place: str = "") -> tuple[int, int]:
    """Return (width, height) in pixels, turned as the EXIF orientation says; its pixels are not decoded.

    Args:
        image: a file, the bytes of one, or where they lie.
        place: the file and row that name it, for messages.

    Raises:
        BadRow: no such file, or not an image.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Nothing is decoded here; `open_image` refuses what is too large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(encoded(image))
        with opened:
            width, height = opened.size
            turned = opened.getexif().get(_ORIENTATION) in _LYING
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        name = image_name(image)
        raise BadRow(
            place or name, f"{name} cannot be opened ({problem_of(error)}); it is missing, damaged, or no image"
        ) from None
    return (height, width) if turned else (width, height)


def open_image(image: ImageData, place: str = "") -> Image.Image:
    """Decode an image fully and return it as RGB, turned as its EXIF orientation says.

    Of an animation it is the first picture; what is transparent has the colour that the file gives it; of 16 bits a
    pixel the upper 8 are kept, of grey ones as Pillow does it of coloured ones.

    Args:
        image: a file, the bytes of one, or where they lie.
        place: the file and row that name it, for messages.

    Raises:
        BadRow: no such file, not an image, truncated, more than `MAX_PIXELS` pixels, or pixels that do not say what
            white is (whole numbers of 32 bits, floats).
    """
    from PIL import Image, ImageOps

    name = image_name(image)
    place = place or name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            opened = Image.open(encoded(image))
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise BadRow(
                    place,
                    f"{name} has {opened.width} x {opened.height} pixels; the limit is {MAX_PIXELS:,}: scale it down",
                )
            opened.load()
            if opened.mode in RANGELESS:
                raise BadRow(
                    place,
                    f"{name} holds {RANGELESS[opened.mode]} a pixel, which does not say what white is; save it with 8 "
                    "or 16 bits a pixel",
                )
            return _as_rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise BadRow(place, f"image file {name} does not exist") from None
    except Image.DecompressionBombError as error:
        raise BadRow(place, f"{name} is too large: {problem_of(error)}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadRow(
            place, f"{name} cannot be decoded ({problem_of(error)}); the file is damaged or not an image"
        ) from None


def _as_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255: nearly all of such an image would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        return image.convert("RGB")
