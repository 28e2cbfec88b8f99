"""The networks that are trained: those that vlprobe's encoders run, with heads on top.

The encoders run without autograd and return every layer; here the same modules are called with it, and only the last
states are wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from vlprobe.encoders.uniter import EPSILON, REGION, UniterNetwork, locations
from vlprobe.encoders.vilt import IMAGE, TEXT, set_norms
from vlprobe.zoo.words import PIECES

WIDTH = 80
"""Of the hidden states."""
HEADS = 4
INNER = 160
"""Of the feed-forward layers."""
LONGEST = 40
"""Tokens of a text."""
SIDE, PATCH = 96, 12
"""Pixels of a picture's and of a patch's side."""
TRANSFORMER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "vocab_size": len(PIECES),
    "max_position_embeddings": LONGEST,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.05,
}
"""What all of them share. No dropout: the scenes never come to an end, so that nothing is learnt by heart."""


@dataclass(frozen=True)
class Images:
    """A batch of images as a network takes them; a network reads either pixels or regions."""

    pixels: torch.Tensor | None = None
    """(image, 3, side, side) float32 in [-1, 1]."""
    features: torch.Tensor | None = None
    """(image, region, width of the detector's features)."""
    boxes: torch.Tensor | None = None
    """(image, region, 4), as fractions of the image."""
    mask: torch.Tensor | None = None
    """(image, region) bool: False is padding."""
    hidden: torch.Tensor | None = None
    """(image, region) bool: True where a region's features are to be guessed."""


@dataclass(frozen=True)
class States:
    """What a network makes of a batch."""

    text: torch.Tensor
    """(batch, text position, width)."""
    image: torch.Tensor
    """(batch, region or patch, width)."""
    pooled: torch.Tensor
    """(batch, width)."""


class Joint(nn.Module, ABC):
    """A network that reads a text and an image together."""

    body: Any
    """The encoder's network, under whose names its weights are saved."""

    @abstractmethod
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, images: Images, second: bool = False) -> States:
        """Return the last states.

        Args:
            ids: (batch, text position) token ids.
            mask: (batch, text position) bool: False is padding.
            images: one for each text.
            second: whether they are the second images of pairs (NLVR2), which have a type of their own.
        """


def bias_of(mask: torch.Tensor) -> torch.Tensor:
    """Return (batch, 1, 1, position): what is added to attention scores so that padding is not seen."""
    hidden = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return hidden[:, None, None, :]


class Uniter(Joint):
    """UNITER: BERT's blocks over words and regions."""

    def __init__(self, features: int, layers: int) -> None:
        super().__init__()
        settings = TRANSFORMER | {"num_hidden_layers": layers, "type_vocab_size": 3, "img_dim": features}
        config = transformers.BertConfig(**settings, layer_norm_eps=EPSILON)
        self.body = UniterNetwork(config)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, images: Images, second: bool = False) -> States:
        """See `Joint`."""
        assert images.features is not None and images.boxes is not None and images.mask is not None  # noqa: S101
        body, order = self.body, torch.arange(ids.shape[1])[None]
        table = body.embeddings.token_type_embeddings.weight
        text = body.embeddings(ids, token_type_ids=torch.zeros_like(ids), position_ids=order)
        types = table[torch.full(images.mask.shape, REGION + second)]
        regions = body.img_embeddings(images.features, locations(images.boxes), types, images.hidden)
        stream = torch.cat([text, regions], dim=1)
        last = body.encoder(stream, attention_mask=bias_of(torch.cat([mask, images.mask], dim=1)))[0]
        return States(last[:, : ids.shape[1]], last[:, ids.shape[1] :], body.pooler(last))


class Lxmert(Joint):
    """LXMERT: a stream for words and one for regions, which meet in cross layers."""

    def __init__(self, features: int, layers: tuple[int, int, int]) -> None:
        super().__init__()
        language, regions, cross = layers
        config = transformers.LxmertConfig(
            **TRANSFORMER, l_layers=language, r_layers=regions, x_layers=cross, visual_feat_dim=features
        )
        self.body = transformers.LxmertModel(config)
        self.guess = nn.Parameter(torch.zeros(features))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, images: Images, second: bool = False) -> States:
        """See `Joint`; LXMERT has no type for second images. Hidden regions are zeros, as in its pretraining."""
        assert images.features is not None and images.mask is not None  # noqa: S101
        features = images.features
        if images.hidden is not None:
            features = features.masked_fill(images.hidden[..., None], 0)
        output = self.body(
            input_ids=ids,
            attention_mask=mask.float(),
            visual_feats=features,
            visual_pos=images.boxes,
            visual_attention_mask=images.mask.float(),
        )
        return States(output.language_output, output.vision_output, output.pooled_output)


class Vilt(Joint):
    """ViLT: ViT's blocks over words and patches."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        config = transformers.ViltConfig(
            **TRANSFORMER,
            num_hidden_layers=layers,
            image_size=SIDE,
            patch_size=PATCH,
            type_vocab_size=2,
            modality_type_vocab_size=3,
        )
        self.body = transformers.ViltModel(config)
        set_norms(self.body)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, images: Images, second: bool = False) -> States:
        """See `Joint`. All patches in row-major order, as vlprobe's encoder reads them."""
        assert images.pixels is not None  # noqa: S101
        body = self.body.embeddings
        types = body.token_type_embeddings.weight
        text = body.text_embeddings(input_ids=ids) + types[TEXT]
        patches = body.patch_embeddings(images.pixels).flatten(2).transpose(1, 2)
        picture = torch.cat([body.cls_token.expand(len(ids), -1, -1), patches], dim=1)
        picture = picture + body.position_embeddings + types[IMAGE + second]
        stream = torch.cat([text, picture], dim=1)
        seen = torch.ones(picture.shape[:2], dtype=torch.bool)
        last = self.body.encoder(stream, attention_mask=bias_of(torch.cat([mask, seen], dim=1)))[0]
        last = self.body.layernorm(last)
        return States(last[:, : ids.shape[1]], last[:, ids.shape[1] + 1 :], self.body.pooler(last))
