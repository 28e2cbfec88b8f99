"""An image -> the network's input, as each of the conventions makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from vlprobe.regions.conventions import Conventions


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the network."""

    pixels: torch.Tensor
    """(3, height, width) float32, mean subtracted."""
    scale: tuple[float, float]
    """Pixels of the input per pixel of the image, along x and y."""
    size: tuple[int, int]
    """(width, height) of the image."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])


def prepare(image: Image.Image, conventions: Conventions) -> Prepared:
    """Scale an RGB image and subtract the mean.

    Args:
        image: RGB, upright.
        conventions: which order, means, size and interpolation.
    """
    pixels = np.asarray(image.convert("RGB"))
    if conventions.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    return _RESIZE[conventions.resize](np.ascontiguousarray(pixels), conventions)


def resize_bilinear(pixels: np.ndarray, height: int, width: int, scale: float) -> np.ndarray:
    """Bilinear interpolation at the centres of pixels, without antialiasing: (i + 1/2) / scale - 1/2.

    This is cv2.resize with INTER_LINEAR on float32: columns first, then rows, weights in float32, beyond the edge the
    edge. The step is 1 / scale also where the rounded size would make it another (`fx`, `fy` given, no size).

    Args:
        pixels: (height, width, channel) float32.
        height: of the result.
        width: of the result.
        scale: pixels of the result per pixel.

    Returns:
        (height, width, channel) float32.
    """
    near, far, weight = _taps(width, pixels.shape[1], scale)
    pixels = pixels[:, near] * (1 - weight)[None, :, None] + pixels[:, far] * weight[None, :, None]
    near, far, weight = _taps(height, pixels.shape[0], scale)
    return np.asarray(pixels[near] * (1 - weight)[:, None, None] + pixels[far] * weight[:, None, None])


def _taps(count: int, length: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every place of a resized axis, its two neighbours on the old one and the weight of the second."""
    place = ((np.arange(count, dtype=np.float64) + 0.5) / scale - 0.5).astype(np.float32)
    near = np.floor(place).astype(np.int64)
    weight = place - near.astype(np.float32)
    weight[(near < 0) | (near >= length - 1)] = 0
    near = near.clip(0, length - 1)
    return near, (near + 1).clip(max=length - 1), weight.astype(np.float32)


def _prepare_cv2(pixels: np.ndarray, conventions: Conventions) -> Prepared:
    """Mean first, then scale, one scale for both axes (lib/fast_rcnn/test.py, `_get_image_blob`)."""
    height, width = pixels.shape[:2]
    scale = conventions.short / min(height, width)
    if np.round(scale * max(height, width)) > conventions.long:
        scale = conventions.long / max(height, width)
    # The means are doubles in the original, subtracted in place from float32: computed in double, rounded once.
    centred = (pixels.astype(np.float32) - np.array(conventions.mean)).astype(np.float32)
    # cvRound is to even. A picture a thousand times as long as high would have no rows left.
    rows, columns = max(int(np.round(height * scale)), 1), max(int(np.round(width * scale)), 1)
    resized = resize_bilinear(centred, rows, columns, scale)
    return Prepared(torch.from_numpy(resized).permute(2, 0, 1).contiguous(), (scale, scale), (width, height))


def _prepare_pil(pixels: np.ndarray, conventions: Conventions) -> Prepared:
    """Scale the bytes, then subtract the mean (detectron2 `ResizeShortestEdge`)."""
    rows, columns = _shortest_edge(pixels, conventions)
    resized = np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))
    return _centred(torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1), pixels, conventions)


def _prepare_torch(pixels: np.ndarray, conventions: Conventions) -> Prepared:
    """Scale as float32, then subtract the mean (processing_image.py)."""
    size = _shortest_edge(pixels, conventions)
    batch = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    return _centred(F.interpolate(batch, size, mode="bilinear", align_corners=False)[0], pixels, conventions)


_RESIZE: dict[str, Callable[[np.ndarray, Conventions], Prepared]] = {
    "cv2": _prepare_cv2,
    "pil": _prepare_pil,
    "torch": _prepare_torch,
}


def _shortest_edge(pixels: np.ndarray, conventions: Conventions) -> tuple[int, int]:
    """Return (height, width) with the shorter side brought to length, in detectron2's order of rounding."""
    height, width = pixels.shape[:2]
    scale = conventions.short / min(height, width)
    rows, columns = (conventions.short, scale * width) if height < width else (scale * height, conventions.short)
    if max(rows, columns) > conventions.long:
        shrink = conventions.long / max(rows, columns)
        rows, columns = rows * shrink, columns * shrink
    return max(int(rows + 0.5), 1), max(int(columns + 0.5), 1)


def _centred(resized: torch.Tensor, pixels: np.ndarray, conventions: Conventions) -> Prepared:
    height, width = pixels.shape[:2]
    centred = resized - torch.tensor(conventions.mean, dtype=torch.float32)[:, None, None]
    scale = (resized.shape[2] / width, resized.shape[1] / height)
    return Prepared(centred.contiguous(), scale, (width, height))
