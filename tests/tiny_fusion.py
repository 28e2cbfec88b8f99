"""Small fusion models: VisualBERT, FLAVA, BridgeTower, Q-Former. Tables that `tiny_checkpoints` adds to its own."""

import transformers as hf

from tiny_texts import save_byte_pairs

TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {**TEXT, "image_size": 32, "patch_size": 8}
BERT = {**TEXT, "vocab_size": 90, "max_position_embeddings": 24}
REGION_WIDTH = 10

CONFIGS = {
    "visual_bert": lambda: hf.VisualBertConfig(**BERT, visual_embedding_dim=REGION_WIDTH),
    "flava": lambda: hf.FlavaConfig(
        text_config=BERT,
        image_config={**IMAGE, "hidden_size": 20},
        multimodal_config={**TEXT, "hidden_size": 12},
        projection_dim=14,
    ),
    "bridgetower": lambda: hf.BridgeTowerConfig(
        text_config={**TEXT, "vocab_size": 320, "max_position_embeddings": 26, "type_vocab_size": 1},
        vision_config={"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 8, "image_size": 32},
        **TEXT,
    ),
    "blip-2": lambda: hf.Blip2Config(
        vision_config={**IMAGE, "hidden_size": 20},
        qformer_config={**BERT, "use_qformer_text_input": True},
        text_config={"model_type": "opt", **TEXT, "ffn_dim": 24, "vocab_size": 90, "word_embed_proj_dim": 16},
        **{"num_query_tokens": 5, "image_text_hidden_size": 14},
    ),
}
CLASSES = {
    "visual_bert": "VisualBertModel",
    "flava": "FlavaModel",
    "bridgetower": "BridgeTowerModel",
    "blip-2": "Blip2ForImageTextRetrieval",
}
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "flava": lambda: hf.FlavaImageProcessorPil(size=SQUARE, crop_size=SQUARE),
    "bridgetower": lambda: hf.BridgeTowerImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"shortest_edge": 32}, size_divisor=8
    ),
    "blip-2": lambda: hf.BlipImageProcessorPil(size=SQUARE),
}
WORDPIECES = ("visual_bert", "flava", "blip-2")
"""Whose vocabulary is BERT's."""
TOKENIZERS = {
    "bridgetower": lambda folder: save_byte_pairs(folder, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}
