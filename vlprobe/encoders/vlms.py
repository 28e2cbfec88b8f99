"""The table of generative models, decoders that read image tokens among words: a row a model type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlprobe.encoders.merged import Merged, Windowed
from vlprobe.encoders.prompt import Template
from vlprobe.encoders.sight import Eye, Sight, Whole

VICUNA = Template("USER: {image}\n{text} ASSISTANT:", "USER: {text} ASSISTANT:")
QWEN_USER = "<|im_start|>user\n"
QWEN_IMAGE = "<|vision_start|>{image}<|vision_end|>"
QWEN_END = "{text}<|im_end|>\n<|im_start|>assistant\n"
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN3 = Template(QWEN_USER + QWEN_IMAGE + QWEN_END, QWEN_USER + QWEN_END)
QWEN2 = Template(QWEN_SYSTEM + QWEN3.seeing, QWEN_SYSTEM + QWEN3.blind)


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


QWEN: dict[str, Any] = {
    "tower": "visual.blocks",
    "connector": "visual.merger",
    "types": ("mm_token_type_ids", 1),
}
ROWS: dict[str, Row] = {
    "llava": Row("LlavaModel", Whole, lambda _: VICUNA),
    "qwen2_vl": Row("Qwen2VLModel", Merged, lambda _: QWEN2, **QWEN),
    "qwen2_5_vl": Row("Qwen2_5_VLModel", Windowed, lambda _: QWEN2, **QWEN),
    "qwen3_vl": Row("Qwen3VLModel", Merged, lambda _: QWEN3, **QWEN),
}
