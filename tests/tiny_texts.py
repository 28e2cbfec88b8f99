"""Small text models: DeBERTa, ModernBERT, decoders. Tables that `tiny_checkpoints` adds to its own."""

from pathlib import Path

import transformers as hf
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "dog", "sits", "on", "the", "mat", "two", "cats", "sit", "by", "red", "chairs"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 320}
SHORT = {**TEXT, "max_position_embeddings": 24}
LLAMA = {**TEXT, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
ROBERTA = {**TEXT, "max_position_embeddings": 26, "type_vocab_size": 1}
EXPERTS = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, **SHORT}

CONFIGS = {
    "deberta": lambda: hf.DebertaConfig(**DEBERTA, type_vocab_size=0, max_relative_positions=-1),
    "deberta-v2": lambda: hf.DebertaV2Config(
        **DEBERTA, type_vocab_size=0, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True
    ),
    "modernbert": lambda: hf.ModernBertConfig(
        **{**TEXT, "num_attention_heads": 2},
        **{"max_position_embeddings": 64, "local_attention": 4, "global_attn_every_n_layers": 2},
        **{"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2},
    ),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**ROBERTA),
    "camembert": lambda: hf.CamembertConfig(**ROBERTA),
    "distilbert": lambda: hf.DistilBertConfig(
        **{"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "vocab_size": 90, "max_position_embeddings": 24}
    ),
    "albert": lambda: hf.AlbertConfig(**{**SHORT, "vocab_size": 90}, embedding_size=8, num_hidden_groups=2),
    "mpnet": lambda: hf.MPNetConfig(**{**SHORT, "vocab_size": 90, "max_position_embeddings": 26}, pad_token_id=1),
    "gpt2": lambda: hf.GPT2Config(
        n_embd=16, n_layer=3, n_head=2, vocab_size=320, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**{**TEXT, "max_position_embeddings": 64}, bos_token_id=0, eos_token_id=0),
    "llama": lambda: hf.LlamaConfig(**LLAMA),
    "mistral": lambda: hf.MistralConfig(**LLAMA, sliding_window=4),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA),
    "qwen3": lambda: hf.Qwen3Config(**LLAMA),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(**LLAMA, **EXPERTS, shared_expert_intermediate_size=12),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**LLAMA, **EXPERTS),
    "mixtral": lambda: hf.MixtralConfig(**LLAMA, num_local_experts=4),
    "olmo": lambda: hf.OlmoConfig(**LLAMA, **ENDS),
    "olmo2": lambda: hf.Olmo2Config(**LLAMA, **ENDS),
    "olmoe": lambda: hf.OlmoeConfig(**LLAMA, **ENDS, num_experts=4, num_experts_per_tok=2),
    "gemma": lambda: hf.GemmaConfig(**LLAMA),
    "gemma2": lambda: hf.Gemma2Config(**LLAMA, sliding_window=4, query_pre_attn_scalar=8),
    "gemma3_text": lambda: hf.Gemma3TextConfig(
        **{**LLAMA, "sliding_window": 4, "query_pre_attn_scalar": 8},
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi": lambda: hf.PhiConfig(**TEXT, max_position_embeddings=64),
    "phi3": lambda: hf.Phi3Config(**{**LLAMA, "sliding_window": 4}, **ENDS),
    "opt": lambda: hf.OPTConfig(
        **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 24, "vocab_size": 320},
        **{"max_position_embeddings": 64, "word_embed_proj_dim": 16},
    ),
    "bloom": lambda: hf.BloomConfig(hidden_size=16, n_layer=3, n_head=2, vocab_size=320),
    "falcon": lambda: hf.FalconConfig(**TEXT, max_position_embeddings=64),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        **{"hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 24, "vocab_size": 320},
        **{"max_position_embeddings": 64, "attention_types": [[["global", "local", "global"], 1]], "window_size": 4},
    ),
    "gptj": lambda: hf.GPTJConfig(
        **{"n_embd": 16, "n_layer": 3, "n_head": 2, "n_inner": 24, "vocab_size": 320, "n_positions": 64},
        rotary_dim=4,
    ),
    "stablelm": lambda: hf.StableLmConfig(**TEXT, num_key_value_heads=1, max_position_embeddings=64),
    "starcoder2": lambda: hf.Starcoder2Config(**LLAMA, sliding_window=4),
    "smollm3": lambda: hf.SmolLM3Config(**LLAMA, **ENDS),
    "granite": lambda: hf.GraniteConfig(**LLAMA, embedding_multiplier=3.0, residual_multiplier=0.5),
}
CLASSES = {
    "deberta": "DebertaModel",
    "deberta-v2": "DebertaV2Model",
    "modernbert": "ModernBertModel",
    "gpt2": "GPT2Model",
    "gpt_neox": "GPTNeoXModel",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
    "distilbert": "DistilBertModel",
    "albert": "AlbertModel",
    "mpnet": "MPNetModel",
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
STARTS = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "opt")
"""Decoders whose tokenizer sets a token in front."""
FREE = (
    *("gpt2", "gpt_neox", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmo", "olmo2", "olmoe", "phi", "phi3", "bloom"),
    *("falcon", "gpt_neo", "gptj", "stablelm", "starcoder2", "smollm3", "granite"),
)
"""Those whose tokenizer sets none."""


def save_byte_pairs(folder: Path, *specials: str) -> None:
    """Write a vocabulary of pieces of words in bytes, as GPT-2's, and its special tokens."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=310, special_tokens=list(specials), show_progress=False)
    bpe.save_model(str(folder))


def byte_pairs(folder: Path, *specials: str) -> Tokenizer:
    """The same vocabulary, of which nothing is left in the folder."""
    save_byte_pairs(folder, *specials)
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def save_bare(folder: Path) -> None:
    """Write a tokenizer.json of byte pairs that sets nothing around a text."""
    end = "<|endoftext|>"
    hf.PreTrainedTokenizerFast(tokenizer_object=byte_pairs(folder, end), eos_token=end).save_pretrained(folder)


def save_between(folder: Path, first: str, last: str) -> None:
    """Write a tokenizer.json of byte pairs that sets a token in front of a text and one behind it, as ModernBERT's."""
    backend = byte_pairs(folder, "[PAD]", first, last, "[MASK]")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, 1), (last, 2)]
    )
    named = {"cls_token": first, "sep_token": last, "pad_token": "[PAD]", "mask_token": "[MASK]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)


def save_pieces(folder: Path) -> None:
    """Write a tokenizer.json as Llama's: pieces with their space, a start token, padding on the left."""
    tokens = ["<unk>", "<s>", "</s>", "▁", *LETTERS, *LETTERS.upper(), *".,!'-[]", "do", "dog", "▁dog", "ca", "▁a"]
    merges = [("d", "o"), ("do", "g"), ("▁", "dog"), ("c", "a"), ("▁", "a")]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "padding_side": "left"}
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)


TOKENIZERS = {
    "deberta": lambda folder: save_between(folder, "[CLS]", "[SEP]"),
    "deberta-v2": lambda folder: save_between(folder, "[CLS]", "[SEP]"),
    "modernbert": lambda folder: save_between(folder, "[CLS]", "[SEP]"),
    **dict.fromkeys(FREE, save_bare),
    **dict.fromkeys(("gpt2", "gpt_neox", "qwen2", "qwen3"), lambda folder: save_byte_pairs(folder, "<|endoftext|>")),
    **dict.fromkeys(STARTS, save_pieces),
    **dict.fromkeys(("xlm-roberta", "camembert"), lambda folder: save_between(folder, "<s>", "</s>")),
}
PROCESSORS: dict = {}
