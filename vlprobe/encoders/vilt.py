"""ViLT (Kim et al. 2021): text and image in one stream `joint`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import nn

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.checkpoint import PREPROCESSOR_FILES, Checkpoint, named
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.frames import Frame, Picture
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.originals import Original, read_released, settle
from vlprobe.encoders.pixels import ImageReader, patch_roles
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import padding_bias, pooled, residual_blocks, tap
from vlprobe.encoders.text import TextReader, need_text_or_image
from vlprobe.exact import as_asked
from vlprobe.images import image_size
from vlprobe.types import Example, Hidden

CLASSES = {"vilt": "ViltModel"}
TEXT, IMAGE = 0, 1
"""Rows of the table of modality types. Row 2, in checkpoints tuned on NLVR2, is the second image of a pair."""
LONGER = 1333 / 800
"""The longer side of an image over the shorter one, at most: beyond, the shorter one is scaled down, too."""
BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "modality_type_vocab_size": 2,
    "num_channels": 3,
    "patch_size": 32,
    "image_size": 384,
}
"""Sizes of ViLT-B/32."""
NAMES = {
    r"text_embeddings\.": "embeddings.text_embeddings.",
    r"token_type_embeddings\.": "embeddings.token_type_embeddings.",
    r"transformer\.cls_token": "embeddings.cls_token",
    r"transformer\.pos_embed": "embeddings.position_embeddings",
    r"transformer\.patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"transformer\.norm\.": "layernorm.",
    r"transformer\.blocks\.(\d+)\.norm1\.": r"encoder.layer.\1.layernorm_before.",
    r"transformer\.blocks\.(\d+)\.norm2\.": r"encoder.layer.\1.layernorm_after.",
    r"transformer\.blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"transformer\.blocks\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"transformer\.blocks\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
}
"""Start of an original name (dandelin/ViLT, vilt/modules) -> that of transformers' name; others are the same."""
STAGES = {"nlvr2_classifier": "nlvr2", "vqa_classifier": "vqa", "rank_output": "retrieval"}
"""Head of an original checkpoint -> what it was tuned for."""


@dataclass(frozen=True)
class JointStates:
    """What the model makes of a batch: positions are text, image [CLS], patches row by row, padding."""

    layers: dict[str, torch.Tensor]
    """Address -> (batch, position, width); of `joint.pooler`: (batch, width)."""
    mask: torch.Tensor
    """(batch, position) bool, of the host: False is padding."""
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
        released = read_original(checkpoint) if checkpoint.file else None
        loaded = load_network(checkpoint, CLASSES, device, released)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = residual_blocks(self.model, ("encoder.layer", "layers"), config.num_hidden_layers)
        set_norms(self.model)
        self.stage = stage(loaded.heads, config.modality_type_vocab_size)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-uncased" if released else "")
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        if released and not named(checkpoint.folder, PREPROCESSOR_FILES):
            # vilt/transforms/pixelbert.py: the shorter side as long as the trained square, sides in whole patches.
            sizes = {"size": {"shortest_edge": config.image_size}, "size_divisor": config.patch_size}
            processor = transformers.ViltImageProcessorPil(**sizes)
        else:
            processor = load_processor(checkpoint)
        self.images = ImageReader(processor, checkpoint.source, readers(device))
        self.patch = int(config.patch_size)
        self.side = int(config.image_size) // self.patch
        names = [*(f"joint.{index}" for index in range(len(self.blocks) + 1)), "joint.norm"]
        self.left_out = loaded.left_out
        if self.pooler:
            names.append("joint.pooler")
        else:
            self.left_out += ("joint.pooler is not offered: the checkpoint has no weights for it",)
        self.layers = dict.fromkeys(names, config.hidden_size)

    @property
    def reading(self) -> Ahead[Picture]:
        """Return what reads images ahead."""
        return self.images.reading

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over text, image and padding, the normed last state, the pooler's output.

        Raises:
            BadRow: an image that cannot be decoded; a text of more tokens than the model has positions (40);
                neither text nor image.
        """
        need_text_or_image(batch)
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

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return how many positions each example takes: its text, the patches of its image, and what stands for it."""
        return [
            text + (0 if example.image is None else 1 + self._patches(image_size(example.image, example.place)))
            for text, example in zip(self.text.lengths(batch), batch, strict=True)
        ]

    def _patches(self, size: tuple[int, int]) -> int:
        """Return the patches of an image: the shorter side as long as the trained square, the longer one in bounds."""
        shorter = self.side * self.patch
        scale = min(shorter / min(size), int(LONGER * shorter) / max(size))
        return math.prod(int(side * scale + 0.5) // self.patch for side in size)

    def states(
        self,
        ids: torch.Tensor,
        text_mask: torch.Tensor,
        pixels: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_type: int = IMAGE,
    ) -> JointStates:
        """Run the model on tensors: LN-blocks over [text embeddings | image embeddings].

        Args:
            ids: (batch, text position) token ids, [CLS] first.
            text_mask: (batch, text position), 0 is padding.
            pixels: (batch, channel, height, width) normalised, padded right and below; None: text alone.
            pixel_mask: (batch, height, width), 0 is padding.
            image_type: row of the table of modality types; `encode` takes every image for a first one.
        """
        embeddings = self.model.embeddings
        with as_asked(self.device):
            ids, mask = moved(ids, self.device), text_mask.bool()
            stream = embeddings.text_embeddings(input_ids=ids) + embeddings.token_type_embeddings.weight[TEXT]
            grids: tuple[tuple[int, int], ...] = ()
            if pixels is not None and pixel_mask is not None:
                there = moved(pixels, self.device).float()
                images = [self._embed(image, seen) for image, seen in zip(there, pixel_mask, strict=True)]
                grids = tuple(grid for _, grid in images)
                padded = nn.utils.rnn.pad_sequence([image for image, _ in images], batch_first=True)
                padded = padded + embeddings.token_type_embeddings.weight[image_type]
                count = torch.tensor([len(image) for image, _ in images])
                stream = torch.cat([stream, padded], dim=1)
                mask = torch.cat([mask, torch.arange(padded.shape[1]) < count[:, None]], dim=1)
            with tap(self.blocks) as states:
                last = self.model.encoder(stream, attention_mask=moved(padding_bias(mask), self.device))[0]
            layers = {f"joint.{index}": state for index, state in enumerate(states)}
            layers["joint.norm"] = self.model.layernorm(last)
            if self.pooler:
                layers["joint.pooler"] = self.model.pooler(layers["joint.norm"])
        return JointStates(layers, mask, grids)

    def _embed(self, pixels: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return (1 + rows * columns, width) embeddings of one image without its padding, and (rows, columns).

        Patches come row by row, each with the position embedding that bilinear interpolation of the trained square
        gives at its place (ViLT `visual_embed`: align_corners=True).

        Args:
            pixels: (channel, height, width), on the device.
            seen: (height, width), 0 is padding; of the host, which would else have to wait for it.
        """
        embeddings = self.model.embeddings
        rows, columns = int(seen[:, 0].sum()) // self.patch, int(seen[0].sum()) // self.patch
        whole = pixels[None, :, : rows * self.patch, : columns * self.patch]
        patches = embeddings.patch_embeddings(whole).flatten(2).transpose(1, 2)[0]
        table = embeddings.position_embeddings[0]  # (1 + side * side, width), the image's [CLS] first
        square = table[1:].T.reshape(1, -1, self.side, self.side)
        places = nn.functional.interpolate(square, size=(rows, columns), mode="bilinear", align_corners=True)
        image = torch.cat([embeddings.cls_token[0], patches]) + torch.cat([table[:1], places[0].flatten(1).T])
        return image, (rows, columns)


def read_original(checkpoint: Checkpoint) -> Original:
    """Read a Lightning checkpoint of the original code, under transformers' names.

    Raises:
        CheckpointError: it cannot be read, is of another model, or of sizes that cannot be known.
    """
    released = read_released(checkpoint, "vilt")
    patch = released.size("transformer.patch_embed.proj.weight", 2)
    places = released.size("transformer.pos_embed", 1)  # [CLS] and a square of patches
    sizes = {
        "vocab_size": released.size("text_embeddings.word_embeddings.weight", 0),
        "hidden_size": released.size("transformer.cls_token", 2),
        "num_hidden_layers": released.count("transformer.blocks."),
        "intermediate_size": released.size("transformer.blocks.0.mlp.fc1.weight", 0),
        "max_position_embeddings": released.size("text_embeddings.position_embeddings.weight", 0),
        "type_vocab_size": released.size("text_embeddings.token_type_embeddings.weight", 0),
        "modality_type_vocab_size": released.size("token_type_embeddings.weight", 0),
        "num_channels": released.size("transformer.patch_embed.proj.weight", 1),
        "patch_size": patch,
        "image_size": round((places - 1) ** 0.5) * patch if places and patch else None,
    }
    values, notes = settle(checkpoint, sizes, BASE)
    return Original(transformers.ViltConfig(**values), renamed(released.encoder), released.heads, notes)


def renamed(original: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors under transformers' names; queries, keys and values are one matrix originally."""
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in original.items():
        block = re.fullmatch(r"transformer\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name)
        if block:
            for role, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                ours[f"encoder.layer.{block[1]}.attention.attention.{role}.{block[2]}"] = part.contiguous()
            continue
        for old, new in NAMES.items():
            if re.match(old, name):
                name = re.sub(f"^{old}", new, name)
                break
        ours[name] = tensor
    return ours


def stage(heads: Collection[str], types: int) -> str:
    """Return what a checkpoint was trained for, as its heads show it.

    Args:
        heads: names of its weights that are not the encoder's.
        types: rows of its table of modality types; the third is for NLVR2's second image. transformers calls the
            head of every task `classifier`.
    """
    first = {name.split(".")[0] for name in heads}
    if "classifier" in first:
        return "nlvr2" if types > 2 else "vqa"
    return next((task for head, task in STAGES.items() if head in first), "pretrained")


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
