"""Generative checkpoints of a few thousand weights for tests: configurations, tokenizers, preprocessors."""

from functools import partial
from pathlib import Path

import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["dog", "cat", "sit", "the", "mat", "red", "chair", "USER", "ASSIST"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
QWEN = [*QWEN, "<|image_pad|>"]
SPECIALS = {
    "llava": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), QWEN),
}
"""Model type -> special tokens of its tokenizer, with the ids from 0 on."""

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 400,
}
IMAGE = {
    "hidden_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}


def pieces(model_type: str) -> list[str]:
    """Tokens of a small tokenizer: special ones, every byte, what the merges make."""
    made = {word[:end] for word in WORDS for end in range(2, len(word) + 1)}
    return [*SPECIALS[model_type], *sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(made)]


def number(model_type: str, token: str) -> int:
    return pieces(model_type).index(token)


def sizes(model_type: str) -> dict[str, int]:
    """TEXT with a vocabulary that has a row more than the tokenizer, as padded ones do."""
    return {**TEXT, "vocab_size": len(pieces(model_type)) + 1}


def save_tokenizer(model_type: str, folder: Path) -> None:
    """Write a byte-level tokenizer that begins texts as the model's does."""
    vocabulary = {token: place for place, token in enumerate(pieces(model_type))}
    merges = dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word)))
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS[model_type]])
    named = {}
    if model_type == "llava":
        named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if model_type.startswith("qwen"):
        named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if named.get("bos_token") == "<s>":
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)


PATCH = {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN_VISION = {"depth": 3, "hidden_size": 24, "out_hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}


def qwen_numbers(model_type: str) -> dict[str, int]:
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    return {f"{name.replace('_pad', '')}_token_id": number(model_type, f"<|{name}|>") for name in names}


CONFIGS = {
    "llava": lambda: hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**IMAGE),
        text_config=hf.LlamaConfig(**sizes("llava")),
        image_token_index=number("llava", "<image>"),
    ),
    "qwen2_vl": lambda: hf.Qwen2VLConfig(
        text_config={**sizes("qwen2_vl"), **MROPE},
        vision_config={"depth": 3, "embed_dim": 24, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1, **PATCH},
        **qwen_numbers("qwen2_vl"),
    ),
    "qwen2_5_vl": lambda: hf.Qwen2_5_VLConfig(
        text_config={**sizes("qwen2_5_vl"), **MROPE},
        vision_config={**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1], **PATCH},
        **qwen_numbers("qwen2_5_vl"),
    ),
    "qwen3_vl": lambda: hf.Qwen3VLConfig(
        text_config={**sizes("qwen3_vl"), **MROPE, "head_dim": 8},
        vision_config={
            **{**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
            **PATCH,
        },
        **qwen_numbers("qwen3_vl"),
    ),
}
CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
PROCESSORS = {
    "llava": lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
        lambda: hf.Qwen2VLImageProcessorPil(
            size={"shortest_edge": 32 * 32, "longest_edge": 100 * 100}, patch_size=8, merge_size=2
        ),
    ),
}
TOKENIZERS = {kind: partial(save_tokenizer, kind) for kind in SPECIALS}
BLOCKS = {"llava": "<image>", **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|image_pad|>")}
"""Model type -> what its template has in place of the image tokens."""
