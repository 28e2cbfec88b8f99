"""Small fusion models, BLIP and ALIGN. Tables that `tiny_checkpoints` adds to its own."""

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
    "blip": lambda: hf.BlipConfig(
        text_config={**BERT, "bos_token_id": 88, "pad_token_id": 0},
        vision_config={**IMAGE, "hidden_size": 20},
        image_text_hidden_size=14,
        architectures=["BlipForImageTextRetrieval"],
    ),
    "align": lambda: hf.AlignConfig(
        text_config=BERT,
        vision_config={
            **{"in_channels": [32, 6], "out_channels": [6, 12], "strides": [1, 2], "kernel_sizes": [3, 5]},
            **{"num_block_repeats": [1, 2], "expand_ratios": [1, 2], "depth_coefficient": 1.0},
            **{"width_coefficient": 1.0, "depth_divisor": 2, "hidden_dim": 12},
        },
        projection_dim=12,
    ),
}
CLASSES = {
    "visual_bert": "VisualBertModel",
    "flava": "FlavaModel",
    "bridgetower": "BridgeTowerModel",
    "blip-2": "Blip2ForImageTextRetrieval",
    "blip": "BlipForImageTextRetrieval",
    "align": "AlignModel",
}
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "flava": lambda: hf.FlavaImageProcessorPil(size=SQUARE, crop_size=SQUARE),
    "bridgetower": lambda: hf.BridgeTowerImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"shortest_edge": 32}, size_divisor=8
    ),
    **dict.fromkeys(("blip", "blip-2"), lambda: hf.BlipImageProcessorPil(size=SQUARE)),
    "align": lambda: hf.EfficientNetImageProcessorPil(
        size={"height": 40, "width": 40}, crop_size=SQUARE, do_center_crop=True, include_top=False
    ),
}
WORDPIECES = ("visual_bert", "flava", "blip-2", "blip", "align")
"""Whose vocabulary is BERT's."""
TOKENIZERS = {
    "bridgetower": lambda folder: save_byte_pairs(folder, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}
