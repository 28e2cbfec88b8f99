"""Small text models: DeBERTa, ModernBERT, decoders. Tables that `tiny_checkpoints` adds to its own."""

from pathlib import Path

import transformers as hf
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "dog", "sits", "on", "the", "mat", "two", "cats", "sit", "by", "red", "chairs"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 320}
SHORT = {**TEXT, "max_position_embeddings": 24}
LLAMA = {**TEXT, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
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
    "gpt2": lambda: hf.GPT2Config(
        n_embd=16, n_layer=3, n_head=2, vocab_size=320, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**{**TEXT, "max_position_embeddings": 64}, bos_token_id=0, eos_token_id=0),
    "llama": lambda: hf.LlamaConfig(**LLAMA),
    "mistral": lambda: hf.MistralConfig(**LLAMA, sliding_window=4),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA),
    "qwen3": lambda: hf.Qwen3Config(**LLAMA),
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
}


def save_byte_pairs(folder: Path, *specials: str) -> None:
    """Write a vocabulary of pieces of words in bytes, as GPT-2's, and its special tokens."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=310, special_tokens=list(specials), show_progress=False)
    bpe.save_model(str(folder))


def save_between(folder: Path, first: str, last: str) -> None:
    """Write a tokenizer.json of byte pairs that sets a token in front of a text and one behind it, as ModernBERT's."""
    save_byte_pairs(folder, "[PAD]", first, last, "[MASK]")
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
    **dict.fromkeys(("gpt2", "gpt_neox", "qwen2", "qwen3"), lambda folder: save_byte_pairs(folder, "<|endoftext|>")),
    "llama": save_pieces,
    "mistral": save_pieces,
}
PROCESSORS: dict = {}
