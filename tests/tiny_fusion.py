"""Small fusion models: VisualBERT. Tables that `tiny_checkpoints` adds to its own."""

import transformers as hf

TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
REGION_WIDTH = 10

CONFIGS = {
    "visual_bert": lambda: hf.VisualBertConfig(
        **TEXT, vocab_size=90, max_position_embeddings=24, visual_embedding_dim=REGION_WIDTH
    ),
}
CLASSES = {"visual_bert": "VisualBertModel"}
PROCESSORS: dict = {}
WORDPIECES = ("visual_bert",)
"""Whose vocabulary is BERT's."""
TOKENIZERS: dict = {}
