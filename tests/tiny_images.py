"""Small image models: DINOv3, ConvNeXt, Swin. Tables that `tiny_checkpoints` adds to its own."""

import json
from pathlib import Path

import transformers as hf

IMAGE = {
    **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24},
    **{"image_size": 32, "patch_size": 8},
}
SQUARE = {"height": 32, "width": 32}
STAGES = {"hidden_sizes": [8, 12], "depths": [2, 1]}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4}

CONFIGS = {
    "dinov3_vit": lambda: hf.DINOv3ViTConfig(**IMAGE, num_register_tokens=3, layerscale_value=0.7),
    "beit": lambda: hf.BeitConfig(**IMAGE, use_relative_position_bias=True, use_mean_pooling=False),
    "data2vec-vision": lambda: hf.Data2VecVisionConfig(**IMAGE, use_shared_relative_position_bias=True),
    "vit_mae": lambda: hf.ViTMAEConfig(**IMAGE),
    "vit_msn": lambda: hf.ViTMSNConfig(**IMAGE),
    "ijepa": lambda: hf.IJepaConfig(**IMAGE),
    "convnext": lambda: hf.ConvNextConfig(**STAGES, num_stages=2, layer_scale_init_value=0.5),
    "convnextv2": lambda: hf.ConvNextV2Config(**STAGES, num_stages=2),
    "dinov3_convnext": lambda: hf.DINOv3ConvNextConfig(**STAGES, layer_scale_init_value=0.5),
    "swin": lambda: hf.SwinConfig(**WINDOWS),
    "swinv2": lambda: hf.Swinv2Config(**WINDOWS),
}
CLASSES = {
    "dinov3_vit": "DINOv3ViTModel",
    "beit": "BeitModel",
    "data2vec-vision": "Data2VecVisionModel",
    "vit_mae": "ViTMAEModel",
    "vit_msn": "ViTMSNModel",
    "ijepa": "IJepaModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "swin": "SwinModel",
    "swinv2": "Swinv2Model",
}


class Dinov3Settings:
    """The settings of DINOv3's preprocessor, which only torchvision runs."""

    def save_pretrained(self, folder: Path) -> None:
        settings = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 32}}
        settings |= {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": None, "resample": 2}
        settings |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))


PROCESSORS = {
    **dict.fromkeys(("dinov3_vit", "dinov3_convnext"), Dinov3Settings),
    **dict.fromkeys(("beit", "data2vec-vision"), lambda: hf.BeitImageProcessorPil(size=SQUARE, crop_size=SQUARE)),
    **dict.fromkeys(("vit_mae", "vit_msn", "ijepa", "swin", "swinv2"), lambda: hf.ViTImageProcessorPil(size=SQUARE)),
    **dict.fromkeys(
        ("convnext", "convnextv2"), lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8)
    ),
}
TOKENIZERS: dict = {}
