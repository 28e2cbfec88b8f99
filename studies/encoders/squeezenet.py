"""SqueezeNet 1.1 (Iandola et al. 2016) as an encoder of one's own: one file, one class, no change to vlprobe.

In a study:

    models:
      - name: squeezenet
        file: encoders/squeezenet.py
        class: SqueezeNet
        options: {weights: squeezenet_v1.1.safetensors}

Layers: `vision.0` is conv1 after ReLU and pooling, `vision.1` to `vision.8` are the fire modules fire2 to fire9 as
they leave the module (before any pooling that follows), `vision.pooler` is the average of fire9 over the image: what
the classifier conv10 sees before it mixes channels into classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812 (its usual name)

from vlprobe.encoders.encoder import Encoder
from vlprobe.errors import BadRow
from vlprobe.images import open_image
from vlprobe.types import ROLES, Example, Hidden

SIDE = 227
MEAN_BGR = (104.0, 117.0, 123.0)
POOL_BEFORE = ("fire4", "fire6")
"""Fire modules whose input is max pooled first: pool3 and pool5 of the 1.1 network."""
FIRES = tuple(f"fire{number}" for number in range(2, 10))


class SqueezeNet(Encoder):
    """SqueezeNet 1.1 with the weights of its authors' Caffe model.

    Args:
        weights: safetensors file with the names of the Caffe layers, e.g. `fire2/squeeze1x1.weight`.
        device: where it runs.
    """

    modalities = ("image",)
    needs = ("image",)

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self.weights = load_file(weights, device=device)
        self.device = device
        # A fire module's width is that of its two expansions side by side.
        widths = [2 * len(self.weights[f"{fire}/expand1x1.bias"]) for fire in FIRES]
        self.layers = {"vision.0": len(self.weights["conv1.bias"])}
        self.layers |= {f"vision.{index}": width for index, width in enumerate(widths, start=1)}
        self.layers["vision.pooler"] = widths[-1]

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the grid of every layer, flattened row by row, and the average of the last.

        Raises:
            BadRow: an example without an image, or with one that cannot be decoded.
        """
        with torch.inference_mode():
            grids = self.grids(torch.stack([self._pixels(example) for example in batch]))
        hidden = [self._hidden(f"vision.{index}", grid) for index, grid in enumerate(grids)]
        return [*hidden, self._hidden("vision.pooler", grids[-1].mean(dim=(2, 3), keepdim=True))]

    def grids(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the (batch, channel, row, column) outputs of conv1 with its pooling and of fire2 to fire9.

        Args:
            pixels: (batch, BGR, 227, 227).
        """
        grid = _pool(F.relu(self._conv("conv1", pixels, stride=2)))
        grids = [grid]
        for fire in FIRES:
            grid = _pool(grid) if fire in POOL_BEFORE else grid
            squeezed = F.relu(self._conv(f"{fire}/squeeze1x1", grid))
            expanded = (self._conv(f"{fire}/expand1x1", squeezed), self._conv(f"{fire}/expand3x3", squeezed, padding=1))
            grid = F.relu(torch.cat(expanded, dim=1))
            grids.append(grid)
        return grids

    def classes(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return (batch, 1000) probabilities of the ImageNet classes: the whole network, to see that it is right."""
        with torch.inference_mode():
            last = self.grids(torch.stack([self._pixels(example) for example in batch]))[-1]
            return F.relu(self._conv("conv10", last)).mean(dim=(2, 3)).softmax(dim=1)

    def _conv(self, name: str, grid: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
        return F.conv2d(grid, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride, padding)

    def _pixels(self, example: Example) -> torch.Tensor:
        """Return (BGR, 227, 227) in 0..255 minus the mean; the whole image is warped to a square, nothing cropped."""
        if example.image is None:
            raise BadRow(example.place or example.id, f"example {example.id} has no image; SqueezeNet reads one")
        image = open_image(example.image, example.place).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        bgr = np.asarray(image, dtype=np.float32)[:, :, ::-1] - np.array(MEAN_BGR, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1))).to(self.device)

    def _hidden(self, layer: str, grid: torch.Tensor) -> Hidden:
        """Say what every position is: a cell of the image, its box an even share; the pooler's one is the whole."""
        batch, _, rows, columns = grid.shape
        y, x = np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1)
        box = np.stack([*np.meshgrid(x[:-1], y[:-1]), *np.meshgrid(x[1:], y[1:])], axis=-1).reshape(
            1, rows * columns, 4
        )
        shape = (batch, rows * columns)
        role = "cls" if layer == "vision.pooler" else "patch"
        return Hidden(
            layer=layer,
            states=grid.flatten(2).transpose(1, 2),
            role=np.full(shape, ROLES.index(role), dtype=np.int8),
            word=np.full(shape, -1, dtype=np.int32),
            box=np.repeat(box if role == "patch" else np.full_like(box, np.nan), batch, axis=0).astype(np.float32),
        )


def _pool(grid: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(grid, kernel_size=3, stride=2, ceil_mode=True)  # Caffe rounds the output's size up
