"""The table of generative models, decoders that read image tokens among words: a row a model type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlprobe.encoders.prompt import Template
from vlprobe.encoders.sight import Eye, Sight, Whole

VICUNA = Template("USER: {image}\n{text} ASSISTANT:", "USER: {text} ASSISTANT:")


@dataclass(frozen=True)
class Row:
    """Where a network has its parts, how it sees an image, and how it is asked."""

    network: str
    """Its class in transformers, the one without a head that chooses the next word."""
    sight: Callable[[Eye], Sight]
    """Makes of an image what the network takes."""
    template: Callable[[Any], Template]
    """Tokenizer -> how the model was trained to be asked."""
    tower: str = "vision_tower.encoder.layers"
    """Dotted name of the blocks of its vision tower."""
    connector: str = "multi_modal_projector"
    """Of what makes the decoder's inputs of the tower's outputs."""
    decoder: str = "language_model"
    """Of the decoder, which has `layers` and `norm`."""
    types: tuple[str, int] | None = None
    """Argument that tells the network which tokens are an image, and its value there; it is 0 elsewhere."""


ROWS: dict[str, Row] = {
    "llava": Row("LlavaModel", Whole, lambda _: VICUNA),
}
