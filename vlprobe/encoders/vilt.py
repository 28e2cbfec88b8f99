"""ViLT (Kim et al. 2021): text and image in one stream `joint`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network, load_processor, load_tokenizer
from vlprobe.encoders.pixels import Frame, ImageReader, patch_roles
from vlprobe.encoders.taps import exact, pooled, residual_blocks, tap
from vlprobe.encoders.text import TextReader
from vlprobe.errors import BadRow
from vlprobe.types import Example, Hidden

CLASSES = {"vilt": "ViltModel"}
TEXT, IMAGE = 0, 1
"""Rows of the table of modality types. Row 2, in checkpoints tuned on NLVR2, is a second image: not used here."""


@dataclass(frozen=True)
class JointStates:
    """What the model makes of a batch: positions are text, image [CLS], patches row by row, padding."""

    layers: dict[str, torch.Tensor]
    """Address -> (batch, position, width); of `joint.pooler`: (batch, width)."""
    mask: torch.Tensor
    """(batch, position) bool: False is padding."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of patches of every image; empty for text alone."""


class Vilt(Encoder):
    """A one-stream transformer: `joint.0` to `joint.n`, `joint.norm`, `joint.pooler`.

    Given a text alone it gets no image positions at all; given an image alone, the empty text [CLS] [SEP].
    Role `cls` is the text's [CLS], which the pooler reads; the image has a [CLS] of its own, of role "".

    transformers' class serves as a box of weights; its `visual_embed` is not used, because it draws the patches in
    random order (a trait of the original's training code), and cuts them to 200, where the original evaluates
    with all (`max_image_len` -1).

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    modalities = ("text", "image")

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = residual_blocks(self.model, ("encoder.layer", "layers"), config.num_hidden_layers)
        set_norms(self.model)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size)
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source)
        self.patch = int(config.patch_size)
        self.side = int(config.image_size) // self.patch
        names = [*(f"joint.{index}" for index in range(len(self.blocks) + 1)), "joint.norm"]
        self.left_out = loaded.left_out
        if self.pooler:
            names.append("joint.pooler")
        else:
            self.left_out += ("joint.pooler is not offered: the checkpoint has no weights for it",)
        self.layers = dict.fromkeys(names, config.hidden_size)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over text, image and padding, the normed last state, the pooler's output.

        Raises:
            BadRow: an image that cannot be decoded; a text of more tokens than the model has positions (40);
                neither text nor image.
        """
        for example in batch:
            if example.text is None and example.image is None:
                raise BadRow(example.place or example.id, f"example {example.id} has neither text nor image")
        pieces = self.text.read(batch)
        pixels = pixel_mask = None
        frames: list[Frame] = []
        if any(example.image is not None for example in batch):
            pictures = self.images.read(batch)
            frames = [picture.frame for picture in pictures]
            pixels, pixel_mask = pad([picture.pixels for picture in pictures])
        joint = self.states(pieces.ids, pieces.mask, pixels, pixel_mask)
        texts = pieces.role.shape[1]
        box = np.full((*joint.mask.shape, 4), np.nan, dtype=np.float32)
        for row, (frame, (rows, columns)) in enumerate(zip(frames, joint.grids, strict=True)):
            start = texts + 1
            box[row, start : start + rows * columns] = frame.boxes(rows, columns, (self.patch, self.patch))
        role = patch_roles(box)
        role[:, :texts] = pieces.role
        word = np.full(role.shape, -1, dtype=np.int32)
        word[:, :texts] = pieces.word
        return [
            pooled(layer, states) if layer == "joint.pooler" else Hidden(layer, states, role, word, box)
            for layer, states in joint.layers.items()
        ]

    def states(
        self,
        ids: torch.Tensor,
        text_mask: torch.Tensor,
        pixels: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
    ) -> JointStates:
        """Run the model on tensors: LN-blocks over [text embeddings | image embeddings].

        Args:
            ids: (batch, text position) token ids, [CLS] first.
            text_mask: (batch, text position), 0 is padding.
            pixels: (batch, channel, height, width) normalised, padded right and below; None: text alone.
            pixel_mask: (batch, height, width), 0 is padding.
        """
        embeddings = self.model.embeddings
        with exact():
            ids, mask = ids.to(self.device), text_mask.bool().to(self.device)
            stream = embeddings.text_embeddings(input_ids=ids) + embeddings.token_type_embeddings.weight[TEXT]
            grids: tuple[tuple[int, int], ...] = ()
            if pixels is not None and pixel_mask is not None:
                images = [self._embed(image, seen) for image, seen in zip(pixels, pixel_mask, strict=True)]
                grids = tuple(grid for _, grid in images)
                padded = nn.utils.rnn.pad_sequence([image for image, _ in images], batch_first=True)
                count = torch.tensor([len(image) for image, _ in images], device=self.device)
                stream = torch.cat([stream, padded], dim=1)
                mask = torch.cat([mask, torch.arange(padded.shape[1], device=self.device) < count[:, None]], dim=1)
            # Additive over the scores, as in transformers: the least float32 is -inf to a softmax.
            bias = torch.zeros(mask.shape, device=self.device).masked_fill(~mask, torch.finfo(torch.float32).min)
            with tap(self.blocks) as states:
                last = self.model.encoder(stream, attention_mask=bias[:, None, None, :])[0]
            layers = {f"joint.{index}": state for index, state in enumerate(states)}
            layers["joint.norm"] = self.model.layernorm(last)
            if self.pooler:
                layers["joint.pooler"] = self.model.pooler(layers["joint.norm"])
        return JointStates(layers, mask.cpu(), grids)

    def _embed(self, pixels: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return (1 + rows * columns, width) embeddings of one image without its padding, and (rows, columns).

        Patches come row by row, each with the position embedding that bilinear interpolation of the trained square
        gives at its place (ViLT `visual_embed`: align_corners=True).

        Args:
            pixels: (channel, height, width).
            seen: (height, width), 0 is padding.
        """
        embeddings = self.model.embeddings
        rows, columns = int(seen[:, 0].sum()) // self.patch, int(seen[0].sum()) // self.patch
        whole = pixels[None, :, : rows * self.patch, : columns * self.patch].to(self.device, torch.float32)
        patches = embeddings.patch_embeddings(whole).flatten(2).transpose(1, 2)[0]
        table = embeddings.position_embeddings[0]  # (1 + side * side, width), the image's [CLS] first
        square = table[1:].T.reshape(1, -1, self.side, self.side)
        places = nn.functional.interpolate(square, size=(rows, columns), mode="bilinear", align_corners=True)
        image = torch.cat([embeddings.cls_token[0], patches]) + torch.cat([table[:1], places[0].flatten(1).T])
        return image + embeddings.token_type_embeddings.weight[IMAGE], (rows, columns)


def set_norms(model: nn.Module) -> None:
    """Give every LayerNorm the epsilon of the original: 1e-12 in the text embeddings (BERT), 1e-6 elsewhere (ViT).

    transformers has one epsilon for all, which moves hidden states by up to 1.6e-5.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12 if name.endswith("text_embeddings.LayerNorm") else 1e-6


def pad(images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad (channel, height, width) images right and below.

    Returns:
        (batch, channel, height, width) pixels and (batch, height, width) mask, 0 is padding.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixels = torch.zeros(len(images), images[0].shape[0], height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = True
    return pixels, mask
