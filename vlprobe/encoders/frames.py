"""What an image processor makes of an image, and where its pixels lie in the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlprobe.errors import BadRow, CheckpointError
from vlprobe.images import open_image
from vlprobe.types import Example

PLAIN = (
    "ViTImageProcessorPil",
    "DeiTImageProcessorPil",
    "BitImageProcessorPil",
    "CLIPImageProcessorPil",
    "SiglipImageProcessorPil",
    "Gemma3ImageProcessorPil",
    "LlavaImageProcessorPil",
    "FlavaImageProcessorPil",
    "BlipImageProcessorPil",
    "EfficientNetImageProcessorPil",
    "BeitImageProcessorPil",
)
"""Image processors that resize by the rules of `size`, then crop the middle by `crop_size`."""
SQUARE = "LlavaImageProcessorPil"
"""Pads an image to a square, if it is told to, before it does what the plain ones do."""
CROP_PCT = "ConvNextImageProcessorPil"
"""Resizes below 384 pixels to shortest_edge / crop_pct and crops the middle square, else warps to a square."""
VILT = "ViltImageProcessorPil"
"""Resizes both sides to multiples of 32 within limits; never crops."""
BRIDGETOWER = "BridgeTowerImageProcessorPil"
"""Resizes as ViLT's does, then crops the middle square by the shortest edge of `crop_size`."""
LONGEST = 1333 / 800
"""Of BridgeTower's resizing: the longer side, at most, as a multiple of the shorter one that is asked for."""
NAFLEX = "Siglip2ImageProcessorPil"
"""Resizes both sides to multiples of a patch, as many patches as there may be, and cuts them out; never crops."""
KNOWN = (*PLAIN, CROP_PCT, VILT, BRIDGETOWER, NAFLEX)
"""Processors whose arithmetic `Reading` follows."""
ELONGATED = 8
"""So many times as long as wide: where an image processor fails at such an image, that is why."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Frame:
    """Where the processed pixels lie in the resized image, all in pixels (height first)."""

    resized: tuple[float, float]
    """Height and width of the whole image after resizing; no whole numbers where it was resized with padding."""
    origin: tuple[float, float]
    """Top and left of the crop in the resized image; negative where the crop was padded."""
    canvas: tuple[int, int]
    """Height and width of what reaches the model."""

    def boxes(self, rows: int, columns: int, cell: tuple[float, float] | None = None) -> np.ndarray:
        """Return the boxes of a grid of cells over the canvas, row by row.

        Args:
            rows: of the grid.
            columns: of the grid.
            cell: height and width of a cell in pixels; default: the grid divides the canvas evenly.

        Returns:
            (rows * columns, 4) float32: x1, y1, x2, y2 as fractions of the original image; NaN for a cell that
            lies wholly in padding.
        """
        height, width = cell or (self.canvas[0] / rows, self.canvas[1] / columns)
        # A model that fills its last cells up with zeros sees nothing beyond the canvas.
        y = (np.minimum(np.arange(rows + 1) * height, self.canvas[0]) + self.origin[0]) / self.resized[0]
        x = (np.minimum(np.arange(columns + 1) * width, self.canvas[1]) + self.origin[1]) / self.resized[1]
        y, x = np.clip(y, 0, 1), np.clip(x, 0, 1)
        box = np.empty((rows, columns, 4), dtype=np.float32)
        box[..., 0], box[..., 1] = x[None, :-1], y[:-1, None]
        box[..., 2], box[..., 3] = x[None, 1:], y[1:, None]
        empty = (box[..., 2] <= box[..., 0]) | (box[..., 3] <= box[..., 1])
        box[empty] = np.nan
        return box.reshape(-1, 4)


@dataclass(frozen=True)
class Picture:
    """One image, ready for the model."""

    pixels: torch.Tensor
    """(channel, height, width) float32; of NaFlex: (patch, number), row by row."""
    frame: Frame
    """Where these pixels lie in the original image."""


def processed(processor: Any, example: Example) -> tuple[Size, Any]:
    """Return the size of an example's image as it was, and what an image processor makes of it.

    Args:
        processor: of transformers, of the PIL kind.
        example: has the image.

    Raises:
        BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
    """
    place = example.place or example.id
    if example.image is None:
        raise BadRow(place, f"example {example.id} has no image, and this model reads one")
    image = open_image(example.image, place)
    try:
        # One at a time: batches of unequal images would be padded by the processor in its own way.
        made = processor(images=[image], return_tensors="pt")
    except (ValueError, ZeroDivisionError) as error:
        if max(image.size) < ELONGATED * min(image.size):
            raise BadRow(place, f"its image of {image.width} x {image.height} pixels is refused: {error}") from None
        made = {"pixel_values": np.empty(0)}
    if 0 in made["pixel_values"].shape:
        raise BadRow(
            place,
            f"its image of {image.width} x {image.height} pixels is too elongated: made as small as this model takes "
            "it, nothing remains of its shorter side; crop it, or leave the row out",
        )
    return (image.height, image.width), made


@dataclass(frozen=True)
class Reading:
    """Makes a picture of an example's image; another process can do it as well."""

    processor: Any
    """Of transformers."""
    place: str
    """The checkpoint, for messages."""

    def __call__(self, example: Example) -> Picture:
        """Return the picture.

        Raises:
            BadRow, CheckpointError: as `ImageReader.read`.
        """
        size, made = processed(self.processor, example)
        pixels = made["pixel_values"][0].float()
        if type(self.processor).__name__ == NAFLEX:
            rows, columns = made["spatial_shapes"][0].tolist()
            canvas = (rows * self.processor.patch_size, columns * self.processor.patch_size)
            return Picture(pixels[: rows * columns], Frame(canvas, (0, 0), canvas))
        return Picture(pixels, self._frame(size, (pixels.shape[1], pixels.shape[2])))

    def _frame(self, size: tuple[int, int], canvas: tuple[int, int]) -> Frame:
        """Follow resizing and cropping of an image of `size` (height, width) to `canvas`."""
        if type(self.processor).__name__ == VILT:
            return Frame(canvas, (0, 0), canvas)
        side = max(size)
        padded = type(self.processor).__name__ == SQUARE and self.processor.do_pad
        resized, crops = self._plan((side, side) if padded else size)
        here, origin = resized, (0, 0)
        for crop in crops:
            # Rounds down also below zero: where transformers' center_crop pads instead, it pads one more in front.
            origin = (origin[0] + (here[0] - crop[0]) // 2, origin[1] + (here[1] - crop[1]) // 2)
            here = crop
        if here != canvas:
            raise CheckpointError(
                f"{self.place}: an image of {size[1]} x {size[0]} pixels became {canvas[1]} x {canvas[0]}, where its "
                f"preprocessor_config.json promises {here[1]} x {here[0]}; its patches would have wrong boxes"
            )
        if padded:
            scale = (resized[0] / side, resized[1] / side)
            before = ((side - size[0]) // 2 * scale[0], (side - size[1]) // 2 * scale[1])
            inside = (size[0] * scale[0], size[1] * scale[1])
            return Frame(inside, (origin[0] - before[0], origin[1] - before[1]), canvas)
        return Frame(resized, origin, canvas)

    def _plan(self, size: tuple[int, int]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Return the (height, width) after resizing, and the sizes of the central crops that follow."""
        processor = self.processor
        target, crops, resized = processor.size, [], size
        if type(processor).__name__ == BRIDGETOWER:
            edge = processor.crop_size.shortest_edge
            resized = _divided(size, target.shortest_edge, processor.size_divisor) if processor.do_resize else size
            return resized, [(edge, edge)] if processor.do_center_crop else []
        if processor.do_resize and type(processor).__name__ == CROP_PCT:
            edge = target.shortest_edge
            warped = edge >= 384
            resized = (edge, edge) if warped else _shortest(size, int(edge / processor.crop_pct))
            crops = [] if warped else [(edge, edge)]
        elif processor.do_resize and target.height and target.width:
            resized = (target.height, target.width)
        elif processor.do_resize and target.shortest_edge and not target.longest_edge:
            resized = _shortest(size, target.shortest_edge)
        elif processor.do_resize:
            raise CheckpointError(
                f"{self.place}: size {target} in its preprocessor_config.json is not understood; "
                "known are height and width, or shortest_edge"
            )
        if processor.do_center_crop:
            crops.append((processor.crop_size.height, processor.crop_size.width))
        return resized, crops


def _shortest(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Scale (height, width) so that the shorter side is `edge`; the longer one is rounded down."""
    height, width = size
    return (int(edge * height / width), edge) if width <= height else (edge, int(edge * width / height))


def _divided(size: tuple[int, int], edge: int, divisor: int) -> tuple[int, int]:
    """Scale (height, width) so that the shorter side is `edge`, unless the longer grows too long; in whole divisors."""
    scale = edge / min(size)
    height, width = (float(edge), scale * size[1]) if size[0] < size[1] else (scale * size[0], float(edge))
    longest = int(LONGEST * edge)
    if max(height, width) > longest:
        scale = longest / max(height, width)
        height, width = scale * height, scale * width
    return int(height + 0.5) // divisor * divisor, int(width + 0.5) // divisor * divisor
