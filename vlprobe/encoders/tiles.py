"""Images cut into tiles that are each seen by themselves, beside the whole image made small."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from vlprobe.encoders.frames import Frame, Size, processed
from vlprobe.encoders.pixels import pair
from vlprobe.encoders.sight import Eye, Seen, Sight, nowhere, tower_start
from vlprobe.errors import CheckpointError
from vlprobe.types import Example


class AnyRes(Sight):
    """The whole image warped to a square, then tiles of it in the shape nearest to its own: LLaVA-NeXT, OneVision.

    For the tiles, an image is resized to fit into the best of some given shapes, and padded around its middle. In the
    prompt, the tiles' patches stand row by row over all tiles, those of the padding taken out, a newline token behind
    every row; OneVision shrinks these patches, once they are computed, to as many as 9 tiles have.

    Raises:
        CheckpointError: an unknown processor or vision tower, or a processor that cuts other tiles than the model does.
    """

    processors = ("LlavaNextImageProcessorPil", "LlavaOnevisionImageProcessorPil")

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        vision = eye.config.vision_config
        self.before = tower_start(vision, eye.place)
        self.side, self.patch = pair(vision.image_size)[0], pair(vision.patch_size)[0]
        self.grid = self.side // self.patch
        self.shapes = [list(shape) for shape in eye.config.image_grid_pinpoints]
        if self.shapes != [list(shape) for shape in eye.processor.image_grid_pinpoints]:
            raise CheckpointError(
                f"{eye.place}: image_grid_pinpoints in its preprocessor_config.json are not those of its config.json; "
                "correct them there"
            )
        self.dropped = int(eye.config.vision_feature_select_strategy == "default")
        limit = eye.config.to_dict().get("vision_aspect_ratio")
        self.most = int(limit.removeprefix("anyres_max_")) if limit else math.inf

    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
            CheckpointError: the processor makes tiles of a size that the model does not take.
        """
        size, made = processed(self.processor, example)
        pixels = made["pixel_values"][0].float()
        frame = self._frame(size)
        count = frame.canvas[0] * frame.canvas[1] // self.side**2 + 1
        if tuple(pixels.shape[2:]) != (self.side, self.side) or len(pixels) != count:
            raise CheckpointError(
                f"{self.place}: its preprocessor_config.json makes {len(pixels)} tiles of {pixels.shape[3]} x "
                f"{pixels.shape[2]} pixels, its model takes {count} of {self.side} x {self.side}; correct the size or "
                "crop_size there"
            )
        square = (self.side, self.side)
        boxes = [self._patches(tile) for tile in (Frame(square, (0, 0), square), *cut(frame, square))]
        tower = [np.concatenate([nowhere(self.before), box]) for box in boxes]
        connector = [box[self.dropped :] for box in tower]
        tokens = np.concatenate([connector[0], self._rows(frame, size)])
        inputs = {"pixel_values": pixels, "image_sizes": made["image_sizes"]}
        return Seen(inputs, np.concatenate(tower), np.concatenate(connector), tokens, self.token * len(tokens))

    def _patches(self, tile: Frame) -> np.ndarray:
        """(patch, 4) boxes of a tile's patches; what is left of its sides behind the last one is seen by none."""
        return tile.boxes(self.grid, self.grid, (self.patch, self.patch))

    def _frame(self, size: Size) -> Frame:
        """Return where the tiles, put together, lie in an image of (height, width)."""
        height, width = select_best_resolution(size, self.shapes)
        by_width = width / size[1] < height / size[0]
        scale = width / size[1] if by_width else height / size[0]
        fitted = min(math.ceil(size[0] * scale), height), min(math.ceil(size[1] * scale), width)
        inside = (fitted[0], width) if by_width else (height, fitted[1])
        return Frame(inside, (-((height - inside[0]) // 2), -((width - inside[1]) // 2)), (height, width))

    def _kept(self, frame: Frame, size: Size) -> tuple[slice, slice, Size]:
        """Return the rows and the columns of patches that the model keeps of the tiles, and what it shrinks them to.

        The model cuts the padding off in whole patches, and by the shape of the image, not by what was padded
        (`unpad_image`): patches of padding alone may stay.
        """
        rows, columns = (int(edge) // self.side * self.grid for edge in frame.canvas)
        above = left = 0
        if size[1] / size[0] > columns / rows:
            above = (rows - int(round(size[0] * (columns / size[1]), 7))) // 2
        else:
            left = (columns - int(round(size[1] * (rows / size[0]), 7))) // 2
        kept = (rows - 2 * above, columns - 2 * left)
        ratio = math.sqrt(kept[0] * kept[1] / (self.most * self.grid**2))
        shrunk = (int(kept[0] // ratio), int(kept[1] // ratio)) if ratio > 1.1 else kept
        return slice(above, rows - above), slice(left, columns - left), shrunk

    def _rows(self, frame: Frame, size: Size) -> np.ndarray:
        """(token, 4) boxes of the tiles' tokens in the prompt, NaN for the newline behind every row."""
        rows, columns, shrunk = self._kept(frame, size)
        down, across = (int(edge) // self.side for edge in frame.canvas)
        tiles = np.stack([self._patches(tile) for tile in cut(frame, (self.side, self.side))])
        tiles = tiles.reshape(down, across, self.grid, self.grid, 4).transpose(0, 2, 1, 3, 4)
        kept = tiles.reshape(down * self.grid, across * self.grid, 4)[rows, columns]
        boxes = np.full((shrunk[0], shrunk[1] + 1, 4), np.nan, dtype=np.float32)
        boxes[:, :-1] = kept if kept.shape[:2] == shrunk else _regular(kept, shrunk)
        return boxes.reshape(-1, 4)

    def length(self, size: Size) -> float:
        """Return how many tokens an image becomes."""
        _, _, (rows, columns) = self._kept(self._frame(size), size)
        return float(self.grid**2 - self.dropped + self.before + rows * (columns + 1))


class Split(Sight):
    """Tiles of an image, row by row, each behind a token that says its row and column, then the whole: Idefics3.

    An image is resized to whole tiles, and not padded; one that fits into a tile is not cut. The connector makes one
    token of `scale_factor` by `scale_factor` patches.

    Raises:
        CheckpointError: an unknown processor, or tiles that are no whole tokens.
    """

    processors = ("Idefics3ImageProcessorPil", "SmolVLMImageProcessorPil")

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        self.patch, self.merge = pair(eye.config.vision_config.patch_size)[0], eye.config.scale_factor
        self.processor.return_row_col_info = True
        self.side = self.processor.max_image_size["longest_edge"]
        patches = self.side // self.patch
        if patches % self.merge:
            raise CheckpointError(
                f"{eye.place}: its preprocessor_config.json makes tiles of {self.side} pixels, {patches} patches, of "
                f"which its model joins {self.merge} by {self.merge}; correct max_image_size there"
            )

    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
        """
        _, made = processed(self.processor, example)
        pixels = made["pixel_values"][0].float()
        rows, columns = int(made["rows"][0][0]), int(made["cols"][0][0])
        square = (self.side, self.side)
        whole = (rows * self.side, columns * self.side)
        tiles = [*cut(Frame(whole, (0, 0), whole), square), Frame(square, (0, 0), square)]
        patches, tokens = self.side // self.patch, self.side // self.patch // self.merge
        cell = self.patch * self.merge  # not an even part of a tile: what is left behind the last patch is seen by none
        tower = np.concatenate([tile.boxes(patches, patches, (self.patch, self.patch)) for tile in tiles])
        boxes = np.concatenate([tile.boxes(tokens, tokens, (cell, cell)) for tile in tiles])
        return Seen({"pixel_values": pixels}, tower, boxes, boxes, self._block(rows, columns, tokens**2))

    def _block(self, rows: int, columns: int, count: int) -> str:
        """Return what stands in a prompt for an image of so many tiles, of so many tokens each."""
        fence, tile = "<fake_token_around_image>", self.token * count
        lines = "".join(
            "".join(f"{fence}<row_{row + 1}_col_{column + 1}>{tile}" for column in range(columns)) + "\n"
            for row in range(rows)
        )
        return lines + ("\n" if rows else "") + f"{fence}<global-img>{tile}{fence}"

    def join(self, seen: Sequence[Seen]) -> dict[str, torch.Tensor]:
        """Return the tiles of a batch as those of one example: then none are added to make numbers even."""
        return {name: tiles[None] for name, tiles in super().join(seen).items()}

    def length(self, size: Size) -> float:
        """Return about how many tokens an image becomes."""
        tiles = max(self.processor.get_number_of_image_patches(*size)[0], 1)
        return float(tiles * ((self.side // self.patch // self.merge) ** 2 + 2))


class Fitted(Sight):
    """Tiles of an image, resized to as many as have its shape best, row by row, then the whole: InternVL.

    An image of one tile has no second one of the whole. The connector makes one token of a small square of patches.

    Raises:
        CheckpointError: an unknown processor or vision tower, or tiles that the model does not take.
    """

    processors = ("GotOcr2ImageProcessorPil",)

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        vision = eye.config.vision_config
        self.before = tower_start(vision, eye.place)
        self.side, self.patch = pair(vision.image_size), pair(vision.patch_size)
        self.merge = round(1 / eye.config.downsample_ratio)
        self.dropped = int(eye.config.vision_feature_select_strategy == "default")
        # Its file says of the processor what videos want; images were always cut in training.
        self.processor.crop_to_patches = True
        size = (self.processor.size.height, self.processor.size.width)
        if size != self.side:
            raise CheckpointError(
                f"{eye.place}: its preprocessor_config.json makes tiles of {size[1]} x {size[0]} pixels, its model "
                f"takes {self.side[1]} x {self.side[0]}; correct the size there"
            )

    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
        """
        size, made = processed(self.processor, example)
        rows, columns = self._shape(size)
        whole = (rows * self.side[0], columns * self.side[1])
        tiles = cut(Frame(whole, (0, 0), whole), self.side)
        if len(tiles) > 1:
            tiles.append(Frame(self.side, (0, 0), self.side))
        down, across = self.side[0] // self.patch[0], self.side[1] // self.patch[1]
        patches = [np.concatenate([nowhere(self.before), tile.boxes(down, across)]) for tile in tiles]
        tokens = np.concatenate([tile.boxes(down // self.merge, across // self.merge) for tile in tiles])
        inputs = {"pixel_values": made["pixel_values"].float()}
        return Seen(inputs, np.concatenate(patches), tokens, tokens, self.token * len(tokens))

    def _shape(self, size: Size) -> Size:
        """Return the rows and columns of tiles that an image of (height, width) becomes."""
        least, most = self.processor.min_patches, self.processor.max_patches
        columns, rows = get_optimal_tiled_canvas(size, self.side, least, most)
        return rows, columns

    def length(self, size: Size) -> float:
        """Return how many tokens an image becomes."""
        tiles = math.prod(self._shape(size))
        return float((tiles + (tiles > 1)) * math.prod(self.side) // math.prod(self.patch) // self.merge**2)


def cut(frame: Frame, side: Size) -> list[Frame]:
    """Return the tiles of (height, width) `side` that a frame's canvas is cut into, row by row."""
    return [
        Frame(frame.resized, (frame.origin[0] + y, frame.origin[1] + x), side)
        for y in range(0, int(frame.canvas[0]), side[0])
        for x in range(0, int(frame.canvas[1]), side[1])
    ]


def _regular(boxes: np.ndarray, shape: Size) -> np.ndarray:
    """(row, column, 4) boxes of even cells over the part of the image that a grid of boxes (row, column, 4) covers."""
    edges = [np.nanmin(boxes[..., axis]) for axis in (0, 1)] + [np.nanmax(boxes[..., axis]) for axis in (2, 3)]
    y = np.linspace(edges[1], edges[3], shape[0] + 1)
    x = np.linspace(edges[0], edges[2], shape[1] + 1)
    cells = np.empty((*shape, 4), dtype=np.float32)
    cells[..., 0], cells[..., 1] = x[None, :-1], y[:-1, None]
    cells[..., 2], cells[..., 3] = x[None, 1:], y[1:, None]
    return cells
