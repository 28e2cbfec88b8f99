"""ViT and its kin (DeiT, DINOv2 with and without registers): image only, one stream `vision`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network, load_processor
from vlprobe.encoders.pixels import ImageReader, patch_roles
from vlprobe.encoders.taps import pooled, residual_blocks, tap
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.types import ROLES, Example, Hidden

CLASSES = {
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}
FLEXIBLE = ("dinov2", "dinov2_with_registers")
"""Model types that interpolate their position embeddings to the image; the others take one size only."""


class ViT(Encoder):
    """A pre-norm vision transformer: `vision.0` to `vision.n`, `vision.norm`, and `vision.pooler` where it has one.

    Positions: [CLS], then tokens that are no patches (DeiT's distillation token, DINOv2's registers: role ""),
    then the patches, row by row.

    Raises:
        CheckpointError: the checkpoint is incomplete, or its preprocessor is not known.
    """

    modalities = ("image",)
    needs = ("image",)

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = residual_blocks(self.model, ("layers", "encoder.layer"), config.num_hidden_layers)
        self.reader = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch = _pair(config.patch_size)
        self.input = None if checkpoint.model_type in FLEXIBLE else _pair(config.image_size)
        self.extra = {"deit": 1, "dinov2_with_registers": getattr(config, "num_register_tokens", 0)}.get(
            checkpoint.model_type, 0
        )
        self.layers = {f"vision.{index}": config.hidden_size for index in range(len(self.blocks) + 1)}
        self.layers["vision.norm"] = config.hidden_size
        self.left_out = loaded.left_out
        if self.pooler:
            self.layers["vision.pooler"] = self.model.pooler.dense.out_features
        elif checkpoint.model_type not in FLEXIBLE:  # which have none: their "pooler output" is the normed [CLS]
            self.left_out += ("vision.pooler is not offered: the checkpoint has no weights for it",)

    def ahead(self, batch: Sequence[Example]) -> None:
        """Begin to read the images of a batch."""
        self.reader.ahead(batch)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over [CLS] and patches, the normed last state, the pooler's output.

        Raises:
            BadRow: no image, or one that cannot be decoded.
            CheckpointError: the preprocessor makes images of a size that the model does not take.
        """
        pixels, frames = self.reader.stack(batch)
        canvas = (pixels.shape[2], pixels.shape[3])
        if self.input is not None and canvas != self.input:
            raise CheckpointError(
                f"{self.reader.place}: its preprocessor_config.json makes images of {canvas[1]} x {canvas[0]} pixels, "
                f"its model takes {self.input[1]} x {self.input[0]}; correct the size or crop_size there"
            )
        rows, columns = canvas[0] // self.patch[0], canvas[1] // self.patch[1]
        patches = np.stack([frame.boxes(rows, columns, self.patch) for frame in frames])
        before = np.full((len(batch), 1 + self.extra, 4), np.nan, dtype=np.float32)
        box = np.concatenate([before, patches], axis=1)
        role = patch_roles(box)
        role[:, 0] = ROLES.index("cls")
        word = np.full(role.shape, -1, dtype=np.int32)
        with as_asked(self.device), tap(self.blocks) as states:
            output = self.model(pixel_values=pixels.to(self.device))
        hidden = [Hidden(f"vision.{index}", state, role, word, box) for index, state in enumerate(states)]
        hidden.append(Hidden("vision.norm", output.last_hidden_state, role, word, box))
        return hidden + ([pooled("vision.pooler", output.pooler_output)] if self.pooler else [])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a size that a configuration may give as one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
