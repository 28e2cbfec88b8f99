"""timm's image models, by their names there: one stream `vision`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.elsewhere import RESAMPLES, make, revision_of
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.frames import Picture
from vlprobe.encoders.pixels import ImageReader, patch_roles
from vlprobe.encoders.stages import cells
from vlprobe.encoders.taps import pooled, tap
from vlprobe.encoders.text import Positions
from vlprobe.encoders.towers import FEATURE_MAP
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.types import ROLES, Example, Hidden

COLOURS = 3


class Timm(Encoder):
    """An image model of blocks: `vision.0`, what block 1 reads, one layer per block, `vision.norm`, `vision.pooler`.

    Blocks over tokens (ViT and its kin): [CLS] if there is one, tokens that are no patches (registers, DeiT's
    distillation token: role ""), patches row by row. Blocks over grids (ConvNeXt, Swin, ResNet and its kin): every cell
    a patch, with its even share of the image. `vision.norm` is the last state behind the model's norm, where it has one
    over all positions; `vision.pooler` what its classifier reads. Images are read as timm's evaluation reads them.

    Raises:
        CheckpointError: timm has no such model, or one whose blocks, images or positions are not known here.
    """

    modalities = ("image",)
    needs = ("image",)

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.place, self.device = f"timm's {checkpoint.source}", device
        model = make(checkpoint, lambda timm: timm.create_model(checkpoint.source, pretrained=not checkpoint.random))
        self.blocks, self.chained = blocks_of(model, self.place)
        settings = images_of(checkpoint, model, self.place)
        self.model = model.to(device)
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.cls = getattr(model, "cls_token", None) is not None
        self.reader = ImageReader(processor_of(settings, self.place), self.place, readers(device))
        self.revision = revision_of(checkpoint, model, sorted((k, str(v)) for k, v in settings.items()))
        height, width = settings["input_size"][1:]
        # One blank image says how wide the layers are, and whether all is as it was taken to be.
        layers = self._run(torch.zeros(1, COLOURS, height, width))
        if "vision.norm" in layers and torch.equal(layers["vision.norm"], layers[f"vision.{len(self.blocks)}"]):
            del layers["vision.norm"]  # nothing is normed
        self.layers = {
            layer: state.shape[1] if self._channels_first(state) else state.shape[-1] for layer, state in layers.items()
        }
        for layer, state in layers.items():
            if state.ndim != 2:  # noqa: PLR2004
                self._sides(layer, state)

    @property
    def reading(self) -> Ahead[Picture]:
        """Return what reads images ahead."""
        return self.reader.reading

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the states of every block, the normed last one, and the vector that it is pooled to.

        Raises:
            BadRow: no image, or one that cannot be decoded.
        """
        pixels, frames = self.reader.stack(batch)
        states = self._run(pixels)
        known: dict[tuple[int, int, bool], Positions] = {}
        hidden = []
        for layer in self.layers:
            state = states[layer]
            if layer == "vision.pooler":
                hidden.append(pooled(layer, state))
                continue
            rows, columns = self._sides(layer, state)
            tokens = state.ndim != FEATURE_MAP
            if (rows, columns, tokens) not in known:
                grid = cells((rows, columns), frames, None)
                known[rows, columns, tokens] = self._behind_prefix(grid) if tokens else grid
            hidden.append(Hidden(layer, self._flat(state), *known[rows, columns, tokens]))
        return hidden

    def _run(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return layer address -> states as the model has them: (batch, token, width), or a grid with its channels."""
        with as_asked(self.device), tap(self.blocks, self.chained) as states:
            last = self.model.forward_features(moved(pixels, self.device))
            head = self.model.forward_head(last, pre_logits=True)
        layers = {f"vision.{index}": state for index, state in enumerate(states)}
        if last.shape == states[-1].shape:
            layers["vision.norm"] = last
        return layers | {"vision.pooler": head}

    def _channels_first(self, state: torch.Tensor) -> bool:
        return state.ndim == FEATURE_MAP and str(getattr(self.model, "output_fmt", "NCHW")).endswith("NCHW")

    def _flat(self, state: torch.Tensor) -> torch.Tensor:
        """Return (batch, position, width)."""
        if state.ndim != FEATURE_MAP:
            return state
        return state.flatten(2).transpose(1, 2) if self._channels_first(state) else state.flatten(1, 2)

    def _sides(self, layer: str, state: torch.Tensor) -> tuple[int, int]:
        """Return the rows and columns of a layer's patches.

        Raises:
            CheckpointError: it has other positions than the model says.
        """
        if state.ndim == FEATURE_MAP:
            rows, columns = state.shape[2:] if self._channels_first(state) else state.shape[1:3]
            return rows, columns
        embed = getattr(self.model, "patch_embed", None) or getattr(self.model, "stem", None)
        rows, columns = getattr(embed, "grid_size", None) or (0, 0)
        if state.ndim != FEATURE_MAP - 1 or state.shape[1] != self.prefix + rows * columns:
            raise CheckpointError(
                f"{self.place}: {layer} has states of shape {tuple(state.shape)}, and its model {self.prefix} tokens "
                f"before {rows} x {columns} patches; its positions are not known here"
            )
        return rows, columns

    def _behind_prefix(self, grid: Positions) -> Positions:
        """Return what positions are: tokens that are no patches, then a grid."""
        box = np.pad(grid[2], ((0, 0), (self.prefix, 0), (0, 0)), constant_values=np.nan)
        role = patch_roles(box)
        if self.cls:
            role[:, 0] = ROLES.index("cls")
        return role, np.full(role.shape, -1, dtype=np.int32), box


def blocks_of(model: Any, place: str) -> tuple[list[nn.Module], bool]:
    """Return the blocks of one of timm's models, in the order in which they run, and whether each reads the last one's.

    Between stages, a grid becomes coarser.

    Raises:
        CheckpointError: it keeps them where they are not looked for.
    """
    if isinstance(getattr(model, "blocks", None), (nn.ModuleList, nn.Sequential)):
        found = list(model.blocks)
        # EfficientNet calls its stages blocks: each is a sequence.
        return [one for block in found for one in (block if isinstance(block, nn.Sequential) else [block])], True
    grouped: list[Any] = [getattr(model, f"layer{stage}", None) for stage in range(1, 5)]  # ResNet
    if all(isinstance(stage, nn.Sequential) for stage in grouped):
        return [block for stage in grouped for block in stage], True
    for name in ("stages", "layers"):
        stages = getattr(model, name, None)
        if stages is not None and all(hasattr(stage, "blocks") for stage in stages):
            return [block for stage in stages for block in stage.blocks], False
    raise CheckpointError(
        f"{place} is a {type(model).__name__}, which keeps its blocks neither in `blocks`, nor in those of `stages` "
        "or `layers`, nor in `layer1` to `layer4`; write a class of your own for it (docs/study-file.md)"
    )


def images_of(checkpoint: Checkpoint, model: Any, place: str) -> dict[str, Any]:
    """Return how timm's evaluation reads images for a model.

    Raises:
        CheckpointError: it reads them in a way that is not known here.
    """
    settings: dict[str, Any] = {}
    make(checkpoint, lambda timm: _settle(settings, model))
    channels, height, width = settings["input_size"]
    if (
        channels != COLOURS
        or settings["crop_mode"] not in ("center", "squash")
        or settings["interpolation"] not in RESAMPLES
    ):
        raise CheckpointError(
            f"{place} reads images of {channels} channels, crop mode {settings['crop_mode']}, interpolation "
            f"{settings['interpolation']}; known are {COLOURS}, center or squash, {', '.join(RESAMPLES)}"
        )
    if settings["crop_mode"] == "center" and height != width:
        raise CheckpointError(f"{place} reads images of {width} x {height} pixels; of those cropped, squares are known")
    return settings


def _settle(settings: dict[str, Any], model: nn.Module) -> nn.Module:
    from timm.data import resolve_model_data_config

    settings.update(resolve_model_data_config(model))
    return model


def processor_of(settings: Mapping[str, Any], place: str) -> Any:
    """Return an image processor of the PIL kind that does what timm's evaluation does.

    timm enlarges the size by 1 / crop_pct, rounded down, resizes to it (the shorter side, or, squashed, both), and
    crops the middle (timm.data.transforms_factory, transforms_imagenet_eval).
    """
    height, width = settings["input_size"][1:]
    tall, wide = (math.floor(side / settings["crop_pct"]) for side in (height, width))
    size = {"height": tall, "width": wide} if settings["crop_mode"] == "squash" else {"shortest_edge": tall}
    return transformers.BitImageProcessorPil(
        size=size,
        crop_size={"height": height, "width": width},
        do_center_crop=True,
        resample=RESAMPLES[settings["interpolation"]],
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
    )
