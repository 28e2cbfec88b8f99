"""The table of generative models, decoders that read image tokens among words: a row a model type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlprobe.encoders import templates
from vlprobe.encoders.merged import Merged, Windowed
from vlprobe.encoders.prompt import Template
from vlprobe.encoders.sight import Averaged, Eye, Sight, Whole
from vlprobe.encoders.tiles import AnyRes, Fitted, Split


@dataclass(frozen=True)
class Row:
    """Where a network has its parts, how it sees an image, and how it is asked."""

    network: str
    """Its class in transformers, the one without a head that chooses the next word."""
    sight: Callable[[Eye], Sight]
    """Makes of an image what the network takes."""
    template: Template | Callable[[Any, Any], Template]
    """How the model was trained to be asked; or what says it of the decoder's configuration and the tokenizer."""
    tower: str = "vision_tower.encoder.layers"
    """Dotted name of the blocks of its vision tower."""
    connector: str = "multi_modal_projector"
    """Of what makes the decoder's inputs of the tower's outputs."""
    decoder: str = "language_model"
    """Of the decoder, which has `layers` and `norm`."""
    types: tuple[str, int] | None = None
    """Argument that tells the network which tokens are an image, and its value there; it is 0 elsewhere."""

    def asked(self, text: Any, tokenizer: Any) -> Template:
        """Return how a model is asked.

        Args:
            text: configuration of its decoder.
            tokenizer: its tokenizer.
        """
        return self.template if isinstance(self.template, Template) else self.template(text, tokenizer)


QWEN: dict[str, Any] = {
    "tower": "visual.blocks",
    "connector": "visual.merger",
    "types": ("mm_token_type_ids", 1),
}
IDEFICS: dict[str, Any] = {
    "tower": "vision_model.encoder.layers",
    "connector": "connector",
    "decoder": "text_model",
}
ROWS: dict[str, Row] = {
    "llava": Row("LlavaModel", Whole, templates.VICUNA),
    "llava_next": Row("LlavaNextModel", AnyRes, templates.llava_next),
    "llava_onevision": Row("LlavaOnevisionModel", AnyRes, templates.ONEVISION),
    "qwen2_vl": Row("Qwen2VLModel", Merged, templates.QWEN2_VL, **QWEN),
    "qwen2_5_vl": Row("Qwen2_5_VLModel", Windowed, templates.QWEN2_VL, **QWEN),
    "qwen3_vl": Row("Qwen3VLModel", Merged, templates.QWEN3_VL, **QWEN),
    "qwen3_vl_moe": Row("Qwen3VLMoeModel", Merged, templates.QWEN3_VL, **QWEN),
    "internvl": Row("InternVLModel", Fitted, templates.INTERNVL, tower="vision_tower.encoder.layer"),
    "paligemma": Row("PaliGemmaModel", Whole, templates.PALIGEMMA, types=("token_type_ids", 0)),
    "gemma3": Row("Gemma3Model", Averaged, templates.GEMMA3, types=("token_type_ids", 1)),
    "idefics3": Row("Idefics3Model", Split, templates.IDEFICS3, **IDEFICS),
    "smolvlm": Row("SmolVLMModel", Split, templates.SMOLVLM, **IDEFICS),
}
