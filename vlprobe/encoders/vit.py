"""ViT and its kin (DeiT, BEiT, MAE, DINOv2, DINOv3, ...): image only, one stream `vision`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.frames import Picture
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import ImageReader, pair
from vlprobe.encoders.processors import load_processor
from vlprobe.encoders.taps import pooled, residual_blocks, tap
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden

CLASSES = {
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "beit": "BeitModel",
    "data2vec-vision": "Data2VecVisionModel",
    "vit_mae": "ViTMAEModel",
    "vit_msn": "ViTMSNModel",
    "ijepa": "IJepaModel",
}
FLEXIBLE = ("dinov2", "dinov2_with_registers", "dinov3_vit")
"""Model types that bring their positions to the image's size; the others take one size only."""


class ViT(Encoder):
    """A pre-norm vision transformer: `vision.0` to `vision.n`; `vision.norm` and `vision.pooler` where it has them.

    Positions: [CLS], but in I-JEPA; then tokens that are no patches (DeiT's distillation token, registers of DINOv2 and
    3: role ""); then the patches, row by row. A BEiT that pools the mean of its patches norms that alone
    (`vision.pooler`). MAE (He et al. 2022), trained on a quarter of the patches, is given all, in their order.

    Raises:
        CheckpointError: the checkpoint is incomplete, or its preprocessor is not known.
    """

    modalities = ("image",)
    needs = ("image",)

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = residual_blocks(self.model, ("layers", "encoder.layer", "model.layer"), config.num_hidden_layers)
        self.reader = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch = pair(config.patch_size)
        self.input = None if checkpoint.model_type in FLEXIBLE else pair(config.image_size)
        self.extra = 1 if checkpoint.model_type == "deit" else int(getattr(config, "num_register_tokens", 0))
        self.before = 0 if checkpoint.model_type == "ijepa" else 1 + self.extra
        self.masking = checkpoint.model_type == "vit_mae"
        if self.masking:
            config.mask_ratio = 0.0
        self.layers = {f"vision.{index}": config.hidden_size for index in range(len(self.blocks) + 1)}
        self.normed = not isinstance(getattr(self.model, "layernorm", None), nn.Identity)
        if self.normed:
            self.layers["vision.norm"] = config.hidden_size
        self.left_out = loaded.left_out
        pooler = getattr(self.model, "pooler", None)
        if pooler is None or not list(pooler.parameters()):  # it is the normed [CLS]
            self.pooler = False
        elif self.pooler:
            self.layers["vision.pooler"] = pooler.dense.out_features if hasattr(pooler, "dense") else config.hidden_size
        else:
            self.left_out += ("vision.pooler is not offered: the checkpoint has no weights for it",)

    @property
    def reading(self) -> Ahead[Picture]:
        """Return what reads images ahead."""
        return self.reader.reading

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return the positions of each image, where the model takes one size only."""
        return [self.before + math.prod(self.input) / math.prod(self.patch) if self.input else 0.0] * len(batch)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over [CLS] and patches, the normed last state, the pooler's output.

        Raises:
            BadRow: no image, or one that cannot be decoded.
            CheckpointError: the preprocessor makes images of a size that the model does not take.
        """
        grid = self.reader.grid(batch, self.patch, self.input, self.before)
        with as_asked(self.device), tap(self.blocks) as states:
            output = self._run(moved(grid.pixels, self.device))
        named = {f"vision.{index}": state for index, state in enumerate(states)}
        if self.normed:
            named["vision.norm"] = output.last_hidden_state
        hidden = [Hidden(layer, state, grid.role, grid.word, grid.box) for layer, state in named.items()]
        return hidden + ([pooled("vision.pooler", output.pooler_output)] if self.pooler else [])

    def _run(self, pixels: torch.Tensor) -> Any:
        """Run the model on (batch, channel, height, width) pixels."""
        if not self.masking:
            return self.model(pixel_values=pixels)
        count = (pixels.shape[2] // self.patch[0]) * (pixels.shape[3] // self.patch[1])
        # What it would shuffle patches by.
        return self.model(pixel_values=pixels, noise=torch.arange(count, device=self.device).expand(len(pixels), -1))
