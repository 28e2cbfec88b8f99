"""How generative models were trained to be asked: the templates of their publishers."""

from __future__ import annotations

import re
from typing import Any

from vlprobe.encoders.prompt import Template


def told(pattern: str) -> Template:
    """Return a template from one pattern: what stands between « and » is there only with an image."""
    return Template(re.sub("[«»]", "", pattern), re.sub("«.*?»", "", pattern, flags=re.DOTALL))


VICUNA = told("USER: «{image}\n»{text} ASSISTANT:")
CURIOUS = told(
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. USER: «{image}\n»{text} ASSISTANT:"
)
MISTRAL = told("[INST] «{image}\n»{text} [/INST]")
LLAMA3 = told(
    "<|start_header_id|>user<|end_header_id|>\n\n«{image}\n»{text}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
YI = told(
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n«{image}\n»{text}<|im_end|>"
    "<|im_start|>assistant\n"
)
QWEN2 = told(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n«{image}\n»{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
ONEVISION = told("<|im_start|>user «{image}»\n{text}<|im_end|><|im_start|>assistant\n")
QWEN2_VL = told(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "«<|vision_start|>{image}<|vision_end|>»{text}<|im_end|>\n<|im_start|>assistant\n"
)
QWEN3_VL = told("<|im_start|>user\n«<|vision_start|>{image}<|vision_end|>»{text}<|im_end|>\n<|im_start|>assistant\n")
PALIGEMMA = told("«{image}»{bos}{text}\n")
GEMMA3 = told(
    "{bos}<start_of_turn>user\n«\n\n<start_of_image>{image}<end_of_image>\n\n»{text}<end_of_turn>\n"
    "<start_of_turn>model\n"
)
INTERNVL = told("<|im_start|>user\n«<img>{image}</img>\n»{text}<|im_end|>\n<|im_start|>assistant\n")
IDEFICS3 = Template(
    "{bos}User:{image}{text}<end_of_utterance>\nAssistant:", "{bos}User: {text}<end_of_utterance>\nAssistant:"
)
SMOLVLM = Template(
    "<|im_start|>User:{image}{text}<end_of_utterance>\nAssistant:",
    "<|im_start|>User: {text}<end_of_utterance>\nAssistant:",
)


def llava_next(text: Any, tokenizer: Any) -> Template:
    """Return how a LLaVA-NeXT is asked, which is as its language model was (transformers' page on LLaVA-NeXT).

    Args:
        text: configuration of the language model.
        tokenizer: its control tokens tell Llama 3 and Yi from Vicuna, all of which are Llamas.
    """
    if text.model_type in ("mistral", "qwen2"):
        return MISTRAL if text.model_type == "mistral" else QWEN2
    marks = {"<|start_header_id|>": LLAMA3, "<|im_start|>": YI}
    return next((template for mark, template in marks.items() if mark in tokenizer.get_vocab()), CURIOUS)
