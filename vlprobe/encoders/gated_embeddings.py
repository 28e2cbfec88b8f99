"""What volta's five architectures make of words and boxes before their first sub-layer.

e-bug/volta, volta/embeddings.py. The image's first position is its global feature: the mean of its boxes' features,
at the place of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Side = Literal["text", "vision"]
States = dict[Side, torch.Tensor]
"""(batch, position, width) of each side that there is."""
EPSILON = 1e-12
"""Of all LayerNorms."""
PLACE = 5
"""Numbers that say where a box is: x1, y1, x2, y2, area."""
TEXT, REGION, OBJECT = 0, 1, 2
"""Rows of the tables of token types; VL-BERT's boxes have a third."""
PER_CENT = 100
"""VL-BERT counts places in hundredths of the image."""
WAVE = 1000
"""The longest wave of VL-BERT's places is this much longer than the shortest."""
WAVES = 8
"""Numbers that a frequency makes of a box in VL-BERT: sine and cosine of centre x, centre y, width and height."""


@dataclass(frozen=True)
class Inputs:
    """A batch as the network takes it; None: there is no text, or no image."""

    ids: torch.Tensor | None = None
    """(batch, text position) token ids, [CLS] first."""
    text_mask: torch.Tensor | None = None
    """(batch, text position) bool: False is padding."""
    features: torch.Tensor | None = None
    """(batch, image position, v_feature_size), the global feature first."""
    places: torch.Tensor | None = None
    """(batch, image position, 5): x1, y1, x2, y2 as fractions of the image, area as a fraction of it."""
    image_mask: torch.Tensor | None = None
    """(batch, image position) bool: False is padding, which comes last."""

    @property
    def masks(self) -> States:
        """The masks of the sides that there are."""
        found: States = {}
        if self.text_mask is not None:
            found["text"] = self.text_mask
        if self.image_mask is not None:
            found["vision"] = self.image_mask
        return found


class TextEmbeddings(nn.Module):
    """LN(word + position + token type): BERT's."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, inputs: Inputs) -> States:
        """Return the text's embeddings, if there is one."""
        return {} if inputs.ids is None else {"text": self.LayerNorm(self._words(inputs.ids))}

    def _words(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (batch, position, width): the sum of the three, not normed."""
        found: torch.Tensor = self.word_embeddings(ids)
        return found + self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[TEXT]


class ViLBertImages(nn.Module):
    """LN(W feature + V place)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.image_embeddings = nn.Linear(config.v_feature_size, config.hidden_size)
        self.image_location_embeddings = nn.Linear(PLACE, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, inputs: Inputs) -> States:
        """Return the image's embeddings, if there is one."""
        if inputs.features is None:
            return {}
        summed = self.image_embeddings(inputs.features) + self.image_location_embeddings(inputs.places)
        return {"vision": self.LayerNorm(summed)}


class LxmertImages(nn.Module):
    """(LN(W feature) + LN(V place)) / 2."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.image_embeddings = nn.Linear(config.v_feature_size, config.hidden_size)
        self.image_location_embeddings = nn.Linear(PLACE, config.hidden_size)
        self.ImgLayerNorm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.LocLayerNorm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, inputs: Inputs) -> States:
        """Return the image's embeddings, if there is one."""
        if inputs.features is None:
            return {}
        seen = self.ImgLayerNorm(self.image_embeddings(inputs.features))
        return {"vision": (seen + self.LocLayerNorm(self.image_location_embeddings(inputs.places))) / 2}


class UniterEmbeddings(TextEmbeddings):
    """Of a box, LN(LN(W feature) + LN(V place) + token type 1), the outer LayerNorm not the text's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.image_embeddings = nn.Linear(config.v_feature_size, config.hidden_size)
        self.image_location_embeddings = nn.Linear(PLACE, config.hidden_size)
        self.image_layer_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.image_location_layer_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.v_LayerNorm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, inputs: Inputs) -> States:
        """Return the embeddings of the sides that there are."""
        found = super().forward(inputs)
        if inputs.features is not None:
            seen = self.image_layer_norm(self.image_embeddings(inputs.features))
            placed = self.image_location_layer_norm(self.image_location_embeddings(inputs.places))
            found["vision"] = self.v_LayerNorm(seen + placed + self.token_type_embeddings.weight[REGION])
        return found


class VisualBertEmbeddings(TextEmbeddings):
    """Of a box, LN(W feature + position 0 + token type 1), from tables of the image's own; not where it is."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.v_feature_size, config.hidden_size)
        self.token_type_embeddings_visual = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.position_embeddings_visual = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, inputs: Inputs) -> States:
        """Return the embeddings of the sides that there are."""
        found = super().forward(inputs)
        if inputs.features is not None:
            constant = self.position_embeddings_visual.weight[0] + self.token_type_embeddings_visual.weight[REGION]
            found["vision"] = self.LayerNorm(self.projection(inputs.features) + constant)
        return found


class VLBertEmbeddings(TextEmbeddings):
    """F = relu(W [waves of the place, feature]); of a box, LN(LN(F) + object + position + type 2).

    A word is given LN(F of one box) beside its own embedding, so that it knows of the image from the start. In VL-BERT
    that is the box of the whole image, which stands last, as [END]. volta's controlled model was trained with the whole
    image first, and its code takes the last position all the same (e-bug/volta, issue 10): the last of the detector's
    boxes is what every word knows, and has the embedding of [END]. So it is done here, as the weights were trained so.

    The original reads 36 boxes of every image. Here, of an image with fewer, the last one that there is stands for it,
    not a position of padding.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # Numbered as in the original, where a dropout stands before.
        self.obj_downsample = nn.ModuleDict({"1": nn.Linear(2 * config.v_feature_size, config.hidden_size)})
        self.object_linguistic_embeddings = nn.Embedding(1, config.hidden_size)
        self.object_mask_visual_embedding = nn.Embedding(1, config.v_feature_size)
        self.end_embedding = nn.Embedding(1, config.hidden_size)
        self.visual_ln_text = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.visual_ln_object = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, inputs: Inputs) -> States:
        """Return the embeddings of both sides, which both have to be there."""
        ids, features, places = inputs.ids, inputs.features, inputs.places
        text_mask, image_mask = inputs.text_mask, inputs.image_mask
        if ids is None or features is None or places is None or text_mask is None or image_mask is None:
            raise ValueError("VL-BERT's words know of the image from the start: give it both")
        hidden = (features == 0).all(dim=-1, keepdim=True)  # as pretraining hides a box
        features = torch.where(hidden, self.object_mask_visual_embedding.weight[0], features)
        made = nn.functional.relu(
            self.obj_downsample["1"](torch.cat([waves(places, features.shape[-1]), features], -1))
        )
        count = torch.arange(features.shape[1], device=features.device)
        last = count == image_mask.sum(dim=1, keepdim=True) - 1  # (batch, image position) bool
        shown = made[last][:, None]  # (batch, 1, width)
        meaning = torch.where(
            last[..., None], self.end_embedding.weight[0], self.object_linguistic_embeddings.weight[0]
        )
        positions = self.position_embeddings(text_mask.sum(dim=1, keepdim=True) + last)
        boxes = self.visual_ln_object(made) + meaning + positions + self.token_type_embeddings.weight[OBJECT]
        words = self._words(ids) + self.visual_ln_text(shown)
        return {"text": self.LayerNorm(words), "vision": self.LayerNorm(boxes)}


def waves(places: torch.Tensor, width: int) -> torch.Tensor:
    """Return (..., width): sin and cos of p / 1000^(i / n), p the centre x, centre y, width and height of a box.

    All n sines of a number come before its cosines, and all of one number before those of the next.

    Args:
        places: (..., 5): x1, y1, x2, y2 as fractions of the image; the area is not used.
        width: 8 n.
    """
    start, end = places[..., :2], places[..., 2:4]
    numbers = torch.cat([(start + end) / 2, end - start], dim=-1) * PER_CENT
    count = width // WAVES
    lengths = WAVE ** (torch.arange(count, dtype=places.dtype, device=places.device) / count)
    angles = numbers[..., None] / lengths
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


EMBEDDINGS: dict[str, type[TextEmbeddings]] = {
    "uniter": UniterEmbeddings,
    "visualbert": VisualBertEmbeddings,
    "vl-bert": VLBertEmbeddings,
}
"""Kind -> what embeds both sides."""
IMAGE_EMBEDDINGS: dict[str, type[nn.Module]] = {"vilbert": ViLBertImages, "lxmert": LxmertImages}
"""Kind -> what embeds the image, beside `TextEmbeddings`."""
