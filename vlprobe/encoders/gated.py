"""The network of volta's models: sub-layers that attend or feed forward, gated by who reads whom.

Bugliarello, Cotterell, Okazaki and Elliott (2021), Multimodal Pretraining Unmasked, TACL 9; e-bug/volta,
volta/encoders.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

import torch
import transformers
from torch import nn

from vlprobe.encoders.distinct import Distinct
from vlprobe.encoders.gated_embeddings import (
    EMBEDDINGS,
    EPSILON,
    IMAGE_EMBEDDINGS,
    Inputs,
    Side,
    States,
    TextEmbeddings,
)
from vlprobe.encoders.taps import padding_bias

PREFIX: Mapping[Side, str] = {"text": "", "vision": "v_"}
"""What stands before the names of a side's own weights."""
LETTER: Mapping[Side, str] = {"text": "t", "vision": "v"}
"""How volta calls a side in the names of its lists."""
PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class SubLayers:
    """What the sub-layers 0, 1, ... do, as numbers of those that do it: volta's lists."""

    tt: frozenset[int]
    """The text attends to the text."""
    tv: frozenset[int]
    """The text attends to the image."""
    vt: frozenset[int]
    """The image attends to the text."""
    vv: frozenset[int]
    """The image attends to the image."""
    t_ff: frozenset[int]
    """The text is fed forward."""
    v_ff: frozenset[int]
    """The image is fed forward."""
    shared: frozenset[int]
    """Both sides have the same weights, where both do something."""

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 + max(max(getattr(self, field.name), default=-1) for field in fields(self))

    @property
    def one_stream(self) -> bool:
        """Whether both sides always attend to both, with the same weights: the text and the image are one stream."""
        everywhere = self.tt == self.tv == self.vt == self.vv and self.t_ff == self.v_ff
        return everywhere and self.shared >= self.tt | self.t_ff

    def reads(self, number: int) -> dict[Side, tuple[Side, ...]]:
        """Return whose positions a side attends to in a sub-layer; without the sides that do not attend in it."""
        found: dict[Side, tuple[Side, ...]] = {}
        for side, letter in LETTER.items():
            seen = tuple(other for other, its in LETTER.items() if number in getattr(self, letter + its))
            if seen:
                found[side] = seen
        return found

    @property
    def alone(self) -> int:
        """How many there are before the first in which a side attends to the other."""
        return min(self.tv | self.vt, default=self.count)

    def fed(self, number: int) -> tuple[Side, ...]:
        """Return the sides that a sub-layer feeds forward."""
        return tuple(side for side, letter in LETTER.items() if number in getattr(self, f"{letter}_ff"))

    def prefixes(self, number: int) -> dict[Side, str]:
        """Return what stands before the names of each side's weights in a sub-layer."""
        sides = tuple(self.reads(number)) or self.fed(number)
        return {side: "" if number in self.shared and len(sides) > 1 else PREFIX[side] for side in sides}

    def blocks(self, side: Side) -> list[int]:
        """Return after which sub-layers a block of a side's stream ends: where it has been fed forward."""
        return sorted(getattr(self, f"{LETTER[side]}_ff"))


class Attention(nn.Module):
    """LN(W attention(x) + x) of every side that attends; another side passes as it is.

    A side that attends to both does so with one softmax over [text, image].

    Args:
        width: of the states.
        heads: of the attention.
        reads: whose positions a side attends to.
        prefixes: what stands before the names of a side's weights; two sides of the same prefix share them.
    """

    def __init__(
        self, width: int, heads: int, reads: Mapping[Side, tuple[Side, ...]], prefixes: Mapping[Side, str]
    ) -> None:
        super().__init__()
        self.heads, self.reads, self.prefixes = heads, dict(reads), dict(prefixes)
        own = dict.fromkeys(prefixes.values())
        self.attention_self = nn.ModuleDict({start + part: nn.Linear(width, width) for start in own for part in PARTS})
        self.attention_output = _added(own, width, width)

    def forward(self, states: States, bias: States) -> States:
        """Return the states of both sides.

        Args:
            states: (batch, position, width) of each side.
            bias: (batch, 1, 1, position) of each side: what is added to scores, very negative in padding.
        """
        made = {
            side: [self._split(self.attention_self[self.prefixes[side] + part](states[side])) for part in PARTS]
            for side in self.reads
            if side in states
        }
        attended = dict(states)
        for side, (query, _, _) in made.items():
            seen = [other for other in self.reads[side] if other in made]
            key, value = (torch.cat([made[other][part] for other in seen], dim=2) for part in (1, 2))
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            weights = (scores + torch.cat([bias[other] for other in seen], dim=-1)).softmax(dim=-1)
            context = (weights @ value).transpose(1, 2).flatten(2)
            attended[side] = _add(self.attention_output, self.prefixes[side], context, states[side])
        return attended

    def _split(self, mixed: torch.Tensor) -> torch.Tensor:
        """Return (batch, head, position, width of a head)."""
        return mixed.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """LN(W gelu(V x) + x) of every side that is fed forward; another side passes as it is.

    Args:
        width: of the states.
        inner: of what lies between.
        prefixes: as of `Attention`.
    """

    def __init__(self, width: int, inner: int, prefixes: Mapping[Side, str]) -> None:
        super().__init__()
        self.prefixes = dict(prefixes)
        own = dict.fromkeys(prefixes.values())
        self.intermediate = nn.ModuleDict({f"{start}dense": nn.Linear(width, inner) for start in own})
        self.output = _added(own, inner, width)

    def forward(self, states: States, bias: States) -> States:
        """Return the states of both sides, each (batch, position, width); `bias` is not looked at."""
        fed = dict(states)
        for side, start in self.prefixes.items():
            if side in states:
                inner = nn.functional.gelu(self.intermediate[f"{start}dense"](states[side]))
                fed[side] = _add(self.output, start, inner, states[side])
        return fed


def _added(own: Mapping[str, Any], made: int, width: int) -> nn.ModuleDict:
    """Return what brings a sub-layer's product back into the stream, for every set of weights."""
    parts: dict[str, nn.Module] = {f"{start}dense": nn.Linear(made, width) for start in own}
    return nn.ModuleDict(parts | {f"{start}LayerNorm": nn.LayerNorm(width, eps=EPSILON) for start in own})


def _add(parts: nn.ModuleDict, start: str, product: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    added: torch.Tensor = parts[f"{start}LayerNorm"](parts[f"{start}dense"](product) + before)
    return added


class Pooler(nn.Module):
    """relu(W x) of the first position: [CLS], or the image's global feature. BERT has a tanh here; volta has not."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, pooled)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (batch, width of the pooler) of states (batch, position, width)."""
        return nn.functional.relu(self.dense(states[:, 0]))


class Stack(nn.Module):
    """The sub-layers, one after the other."""

    def __init__(self, config: Any, sublayers: SubLayers) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer, self.alone, self.one_stream = nn.ModuleList(), sublayers.alone, sublayers.one_stream
        for number in range(sublayers.count):
            reads, prefixes = sublayers.reads(number), sublayers.prefixes(number)
            self.layer.append(
                Attention(width, config.num_attention_heads, reads, prefixes)
                if reads
                else FeedForward(width, config.intermediate_size, prefixes)
            )

    def forward(
        self, states: States, masks: Mapping[Side, torch.Tensor], pairs: Mapping[Side, Distinct]
    ) -> list[States]:
        """Return what goes in, and what every sub-layer puts out; of one of two streams, those before they meet.

        Args:
            states: (thing, position, width) of each side.
            masks: (thing, position) bool of each side, False is padding.
            pairs: of each side, which things meet in the batch; of a side that is not here, those of its rows.
        """
        bias = {side: padding_bias(mask) for side, mask in masks.items()}
        found = [states]
        for sublayer in self.layer[: self.alone]:
            found.append(sublayer(found[-1], bias))
        found, bias = [_met(each, pairs) for each in found], _met(bias, pairs)
        for sublayer in self.layer[self.alone :] if self.one_stream or len(states) > 1 else ():
            found.append(sublayer(found[-1], bias))
        return found


def _met(states: States, pairs: Mapping[Side, Distinct]) -> States:
    """Return (batch, ...) of each side, of (thing, ...)."""
    return {side: pairs[side].each(one) if side in pairs else one for side, one in states.items()}


class GatedNetwork(transformers.BertPreTrainedModel):
    """The network, its weights named as in the released files; a shared sub-layer has the text's names alone.

    Its configuration is BERT's, with `image_embeddings` (which of the five kinds), `sublayers` (a `SubLayers` as a
    dict of lists), `pooler_size` and `v_feature_size`. So are weights that are drawn, all of them: volta begins two
    norms of VL-BERT at 0, with which nothing of an image would be seen.
    """

    config_class = transformers.BertConfig
    base_model_prefix = "volta"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.sublayers = SubLayers(**{name: frozenset(numbers) for name, numbers in config.sublayers.items()})
        self.embeddings = EMBEDDINGS.get(config.image_embeddings, TextEmbeddings)(config)
        if config.image_embeddings in IMAGE_EMBEDDINGS:
            self.v_embeddings = IMAGE_EMBEDDINGS[config.image_embeddings](config)
        self.encoder = Stack(config, self.sublayers)
        self.t_pooler = Pooler(config.hidden_size, config.pooler_size)
        self.v_pooler = Pooler(config.hidden_size, config.pooler_size)
        self.post_init()

    def forward(self, inputs: Inputs, pairs: Mapping[Side, Distinct] = MappingProxyType({})) -> list[States]:
        """Return the embeddings, and what every sub-layer puts out, each (batch, position, width) by side.

        Args:
            inputs: a batch; of a side that is in `pairs`, each thing once.
            pairs: as in `Stack.forward`, of an architecture in which the sides are embedded apart.
        """
        states: States = self.embeddings(inputs)
        if self.config.image_embeddings in IMAGE_EMBEDDINGS:
            states = states | self.v_embeddings(inputs)
        found: list[States] = self.encoder(states, inputs.masks, pairs)
        return found

    def pooled(self, last: States) -> dict[Literal["language.pooler", "vision.pooler", "joint.pooler"], torch.Tensor]:
        """Return (batch, width) by address: each side's pooler, and their product, which volta's heads read.

        Args:
            last: what the last sub-layer puts out.
        """
        found: dict[Any, torch.Tensor] = {}
        if "text" in last:
            found["language.pooler"] = self.t_pooler(last["text"])
        if "vision" in last:
            found["vision.pooler"] = self.v_pooler(last["vision"])
        if len(found) > 1:
            found["joint.pooler"] = found["language.pooler"] * found["vision.pooler"]
        return found
