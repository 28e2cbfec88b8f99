"""Language models that read from left to right (GPT-2, Pythia, Llama, Mistral, Qwen): one stream `language`."""

from __future__ import annotations

from typing import Any

import torch

from vlprobe.encoders.bert import Bert


class Decoder(Bert):
    """A pre-norm decoder: `language.0` to `language.n`, and `language.norm`, what its head reads.

    The mask is causal: the state of a word knows the words before it, and none after it. No position is made to stand
    for the text, and none has role `cls`: pool `words`, or `last`, the one that has seen them all. Texts are cut by the
    model's own tokenizer: a start token that it sets in front has role "". Where it sets none (GPT-2, Qwen), the
    first piece of the text attends to itself alone; its states are often many times as long as all others.

    Padding is on the right, whatever side a tokenizer names: no word sees it, and positions count from the first token.

    Raises:
        CheckpointError: the checkpoint is incomplete or has no fitting tokenizer.
    """

    masks = False
    classes = {
        "gpt2": "GPT2Model",
        "gpt_neox": "GPTNeoXModel",
        "llama": "LlamaModel",
        "mistral": "MistralModel",
        "qwen2": "Qwen2Model",
        "qwen3": "Qwen3Model",
        "qwen2_moe": "Qwen2MoeModel",
        "qwen3_moe": "Qwen3MoeModel",
        "mixtral": "MixtralModel",
        "olmo": "OlmoModel",
        "olmo2": "Olmo2Model",
        "olmoe": "OlmoeModel",
        "gemma": "GemmaModel",
        "gemma2": "Gemma2Model",
        "gemma3_text": "Gemma3TextModel",
        "phi": "PhiModel",
        "phi3": "Phi3Model",
        "opt": "OPTModel",
        "bloom": "BloomModel",
        "falcon": "FalconModel",
        "gpt_neo": "GPTNeoModel",
        "gptj": "GPTJModel",
        "stablelm": "StableLmModel",
        "starcoder2": "Starcoder2Model",
        "smollm3": "SmolLM3Model",
        "granite": "GraniteModel",
    }
    places = ("h", "layers", "decoder.layers")
    norms = ("ln_f", "final_layer_norm", "final_layernorm", "norm", "decoder.final_layer_norm")

    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """Run the model, keeping nothing for words to come."""
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False)
