"""Images as Qwen's models see them: as many patches as the image has room for, merged four by four, some in windows."""

from __future__ import annotations

import numpy as np

from vlprobe.encoders.frames import Frame, Size, processed
from vlprobe.encoders.sight import Eye, Seen, Sight
from vlprobe.errors import CheckpointError
from vlprobe.types import Example


class Merged(Sight):
    """Patches of an image of about its own size, `merge` by `merge` of them a token: Qwen2-VL, Qwen3-VL.

    Both sides are resized to multiples of a token's side, nothing is cropped or padded (`smart_resize`). The tower
    keeps the patches of one token together: token by token, row by row inside.

    Raises:
        CheckpointError: an unknown processor, or one that cuts patches that the model does not take.
    """

    processors = ("Qwen2VLImageProcessorPil",)

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        vision = eye.config.vision_config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size
        cut = (eye.processor.patch_size, eye.processor.merge_size)
        if cut != (self.patch, self.merge):
            raise CheckpointError(
                f"{eye.place}: its preprocessor_config.json cuts patches of {cut[0]} pixels, merged {cut[1]} by "
                f"{cut[1]}, and its model takes {self.patch} pixels, merged {self.merge} by {self.merge}; correct "
                "patch_size and merge_size there"
            )

    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or 200 times as long as it is wide.
        """
        _, made = processed(self.processor, example)
        rows, columns = made["image_grid_thw"][0, 1:].tolist()
        canvas, side = (rows * self.patch, columns * self.patch), self.merge
        frame = Frame(canvas, (0, 0), canvas)
        tokens = frame.boxes(rows // side, columns // side)
        patches = frame.boxes(rows, columns).reshape(rows // side, side, columns // side, side, 4)
        by_token = patches.transpose(0, 2, 1, 3, 4).reshape(len(tokens), side * side, 4)
        order = self.order(rows // side, columns // side)
        inputs = {"pixel_values": made["pixel_values"].float(), "image_grid_thw": made["image_grid_thw"]}
        return Seen(inputs, by_token[order].reshape(-1, 4), tokens[order], tokens, self.token * len(tokens))

    def order(self, rows: int, columns: int) -> np.ndarray:
        """(token,) the order in which the tower keeps the tokens of a grid, as places in it row by row."""
        return np.arange(rows * columns)

    def length(self, size: Size) -> float:
        """Return about how many tokens an image becomes."""
        least, most = self.processor.size.shortest_edge, self.processor.size.longest_edge
        return float(np.clip(size[0] * size[1], least, most)) / (self.patch * self.merge) ** 2


class Windowed(Merged):
    """The same, with the tokens of one attention window of the tower together, window by window: Qwen2.5-VL.

    The connector keeps that order; the prompt has the tokens row by row again.
    """

    def order(self, rows: int, columns: int) -> np.ndarray:
        """(token,) the order in which the tower keeps the tokens of a grid, as places in it row by row."""
        side = self.config.vision_config.window_size // self.merge // self.patch
        row, column = np.divmod(np.arange(rows * columns), columns)
        return np.lexsort((column, row, column // side, row // side))
