"""Generative checkpoints of a few thousand weights for tests: configurations, tokenizers, preprocessors."""

from functools import partial
from pathlib import Path

import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["dog", "cat", "sit", "the", "mat", "red", "chair", "USER", "ASSIST"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
QWEN = [*QWEN, "<|image_pad|>"]
QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>"]
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
FENCES = ["<global-img>", *TILES, "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIALS = {
    "llava": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    "llava_next": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
    "llava_onevision": [*CHAT, "<video>", "<image>"],
    **dict.fromkeys(QWENS, QWEN),
    "internvl": [*CHAT, "<img>", "</img>", "<video>", "<IMG_CONTEXT>"],
    "paligemma": [*GEMMA, "<loc0000>", "<image>"],
    "gemma3": [*GEMMA, "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"],
    "idefics3": ["<|begin_of_text|>", "<|eot_id|>", "<pad>", *FENCES],
    "smolvlm": [*CHAT, *FENCES],
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


NAMED = {
    **dict.fromkeys(
        ("llava", "llava_next"), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ),
    **dict.fromkeys(
        ("llava_onevision", "internvl", *QWENS),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    **dict.fromkeys(
        ("paligemma", "gemma3"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    ),
    "idefics3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<pad>"},
    "smolvlm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
}
"""Model type -> special tokens that its tokenizer knows by name."""


def save_tokenizer(model_type: str, folder: Path) -> None:
    """Write a byte-level tokenizer that begins texts as the model's does."""
    vocabulary = {token: place for place, token in enumerate(pieces(model_type))}
    merges = dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word)))
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS[model_type]])
    named = NAMED[model_type]
    begin = named.get("bos_token")
    if begin and model_type != "smolvlm":
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)


SHAPES = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
"""Heights and widths that an image may be tiled in."""
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
    "llava_next": lambda: hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**IMAGE),
        text_config=hf.MistralConfig(**sizes("llava_next")),
        image_token_index=number("llava_next", "<image>"),
        image_grid_pinpoints=SHAPES,
    ),
    "llava_onevision": lambda: hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**IMAGE, vision_use_head=False),
        text_config=hf.Qwen2Config(**sizes("llava_onevision")),
        image_token_index=number("llava_onevision", "<image>"),
        video_token_index=number("llava_onevision", "<video>"),
        image_grid_pinpoints=SHAPES,
        vision_aspect_ratio="anyres_max_2",
    ),
    "paligemma": lambda: hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**IMAGE, projection_dim=16, vision_use_head=False),
        text_config=hf.GemmaConfig(**sizes("paligemma"), head_dim=8),
        image_token_index=number("paligemma", "<image>"),
        projection_dim=16,
    ),
    "gemma3": lambda: hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**IMAGE, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(
            **sizes("gemma3"),
            head_dim=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=8,
        ),
        image_token_index=number("gemma3", "<image_soft_token>"),
        boi_token_index=number("gemma3", "<start_of_image>"),
        eoi_token_index=number("gemma3", "<end_of_image>"),
        mm_tokens_per_image=4,
    ),
    "idefics3": lambda: hf.Idefics3Config(
        vision_config=IMAGE,
        text_config=hf.LlamaConfig(**sizes("idefics3")),
        image_token_id=number("idefics3", "<image>"),
        scale_factor=2,
    ),
    "smolvlm": lambda: hf.SmolVLMConfig(
        vision_config=IMAGE,
        text_config=hf.LlamaConfig(**sizes("smolvlm")),
        image_token_id=number("smolvlm", "<image>"),
        scale_factor=2,
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
CONFIGS["qwen3_vl_moe"] = lambda: hf.Qwen3VLMoeConfig(
    text_config={
        **sizes("qwen3_vl_moe"),
        **{**MROPE, "head_dim": 8, "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2},
    },
    vision_config={**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], **PATCH},
    **qwen_numbers("qwen3_vl_moe"),
)
CONFIGS["internvl"] = lambda: hf.InternVLConfig(
    vision_config=IMAGE,
    text_config=hf.Qwen2Config(**sizes("internvl")),
    image_token_id=number("internvl", "<IMG_CONTEXT>"),
)
CLASSES = {
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "llava_next": lambda: hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=SHAPES, resample=2
    ),
    "llava_onevision": lambda: hf.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=SHAPES, resample=2),
    "internvl": lambda: hf.GotOcr2ImageProcessorPil(size=SQUARE, max_patches=6, resample=2),
    "paligemma": lambda: hf.SiglipImageProcessorPil(size=SQUARE, resample=2),
    "gemma3": lambda: hf.Gemma3ImageProcessorPil(size=SQUARE, resample=2),
    "idefics3": lambda: hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, resample=2
    ),
    "smolvlm": lambda: hf.SmolVLMImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, resample=2
    ),
    "llava": lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    **dict.fromkeys(
        QWENS,
        lambda: hf.Qwen2VLImageProcessorPil(
            size={"shortest_edge": 32 * 32, "longest_edge": 100 * 100}, patch_size=8, merge_size=2
        ),
    ),
}
TOKENIZERS = {kind: partial(save_tokenizer, kind) for kind in SPECIALS}
