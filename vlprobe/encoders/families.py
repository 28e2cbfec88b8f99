"""The table of families: whom we can ask. Importing this loads neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass

from vlprobe.types import Modality


@dataclass(frozen=True)
class Family:
    """A row of the table of families."""

    module: str
    """Where its class is; imported when it is first loaded."""
    kind: str
    """Name of the class, built from a `Checkpoint` and a device."""
    types: tuple[str, ...]
    """What `model_type` in config.json it reads; empty: whatever no other family does."""
    modalities: tuple[Modality, ...]
    """What it reads."""
    layers: str
    """Its layer addresses, in words."""
    about: str
    """One line."""
    originals: tuple[str, ...] = ()
    """Suffixes of the files that its authors released, where they are read too."""
    hub: bool = True
    """Whether transformers has a layout for it, in which it stands on the hub."""
    regions: bool = False
    """Whether it reads region features; its class then takes their source as a third argument."""
    library: str = ""
    """Package that has its models by name, and makes them; empty: they are checkpoints."""
    large: bool = False
    """Whether its weights may be kept in fewer bits, or spread over several GPUs."""


FAMILIES: dict[str, Family] = {
    "bert": Family(
        module="vlprobe.encoders.bert",
        kind="Bert",
        types=(
            *("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "mpnet"),
            *("electra", "deberta", "deberta-v2", "modernbert"),
        ),
        modalities=("text",),
        layers="language.0-n, language.norm, language.pooler",
        about="BERT, RoBERTa, XLM-R, DistilBERT, ALBERT, MPNet, ELECTRA, DeBERTa (v1 to v3), ModernBERT: text encoders",
    ),
    "decoder": Family(
        module="vlprobe.encoders.decoder",
        kind="Decoder",
        types=(
            *("gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "falcon", "llama", "mistral", "mixtral"),
            *("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmoe"),
            *("phi", "phi3", "stablelm", "starcoder2", "smollm3", "granite"),
        ),
        modalities=("text",),
        layers="language.0-n, language.norm",
        about="GPT-2, Pythia, OPT, BLOOM, Llama, Mistral, Mixtral, Qwen, Gemma, OLMo, Phi, ...: language models that "
        "read from left to right, mixtures of experts, too",
        large=True,
    ),
    "vit": Family(
        module="vlprobe.encoders.vit",
        kind="ViT",
        types=(
            *("vit", "deit", "beit", "data2vec-vision", "vit_mae", "vit_msn", "ijepa"),
            *("dinov2", "dinov2_with_registers", "dinov3_vit"),
        ),
        modalities=("image",),
        layers="vision.0-n, vision.norm, vision.pooler",
        about="ViT, DeiT, BEiT, MAE, MSN, I-JEPA, DINOv2, DINOv3: vision transformers over patches",
    ),
    "resnet": Family(
        module="vlprobe.encoders.stages",
        kind="ResNet",
        types=("resnet",),
        modalities=("image",),
        layers="vision.0-n, vision.pooler",
        about="ResNet: a convolutional network, every residual block a layer",
    ),
    "convnext": Family(
        module="vlprobe.encoders.stages",
        kind="ConvNext",
        types=("convnext", "convnextv2", "dinov3_convnext"),
        modalities=("image",),
        layers="vision.0-n, vision.norm, vision.pooler",
        about="ConvNeXt, v2, DINOv3's: convolutions over patches that merge by stages, every block a layer",
    ),
    "swin": Family(
        module="vlprobe.encoders.stages",
        kind="Swin",
        types=("swin", "swinv2"),
        modalities=("image",),
        layers="vision.0-n, vision.norm, vision.pooler",
        about="Swin, v2: attention within shifted windows over patches that merge by stages, every block a layer",
    ),
    "vilt": Family(
        module="vlprobe.encoders.vilt",
        kind="Vilt",
        types=("vilt",),
        modalities=("text", "image"),
        layers="joint.0-n, joint.norm, joint.pooler",
        about="ViLT: text and image patches in one stream",
        originals=(".ckpt",),
    ),
    "uniter": Family(
        module="vlprobe.encoders.uniter",
        kind="Uniter",
        types=("uniter",),
        modalities=("text", "image"),
        layers="regions.0, joint.0-n, joint.pooler",
        about="UNITER: text and image regions in one stream",
        originals=(".pt", ".safetensors"),
        hub=False,
        regions=True,
    ),
    "visual_bert": Family(
        module="vlprobe.encoders.visual_bert",
        kind="VisualBert",
        types=("visual_bert",),
        modalities=("text", "image"),
        layers="regions.0, joint.0-n, joint.pooler",
        about="VisualBERT: text and image regions in one stream, which is not told where they are",
        regions=True,
    ),
    "lxmert": Family(
        module="vlprobe.encoders.lxmert",
        kind="Lxmert",
        types=("lxmert",),
        modalities=("text", "image"),
        layers="regions.0, language.0-n, vision.0-m, language.pooler",
        about="LXMERT: text and image regions in two streams that meet",
        originals=(".pth",),
        regions=True,
    ),
    "volta": Family(
        module="vlprobe.encoders.volta",
        kind="Volta",
        types=("volta",),
        modalities=("text", "image"),
        layers="regions.0, joint.0-n, language.0-n, vision.0-m, language.pooler, vision.pooler, joint.pooler",
        about="volta's controlled ViLBERT, LXMERT, VL-BERT, VisualBERT, UNITER: five architectures trained alike",
        originals=(".bin",),
        hub=False,
        regions=True,
    ),
    "flava": Family(
        module="vlprobe.encoders.flava",
        kind="Flava",
        types=("flava",),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, language.projection, vision.0-m, vision.norm, vision.projection, "
        "joint.0-k, joint.norm, joint.pooler",
        about="FLAVA: a text and an image encoder, and one over what both put out",
    ),
    "bridgetower": Family(
        module="vlprobe.encoders.bridgetower",
        kind="BridgeTower",
        types=("bridgetower",),
        modalities=("text", "image"),
        layers="language.0-n, vision.0-m, vision.norm, joint.0-k, joint.pooler",
        about="BridgeTower: a text and an image encoder, whose upper layers feed two streams that meet",
    ),
    "qformer": Family(
        module="vlprobe.encoders.qformer",
        kind="QFormer",
        types=("blip-2",),
        modalities=("text", "image"),
        layers="vision.0-m, vision.norm, joint.0-n",
        about="BLIP-2's Q-Former: queries that ask an image encoder, beside a text",
    ),
    "blip": Family(
        module="vlprobe.encoders.blip",
        kind="Blip",
        types=("blip",),
        modalities=("text", "image"),
        layers="language.0-n, language.projection, vision.0-m, vision.norm, vision.projection, joint.0-n",
        about="BLIP: an image encoder; a text encoder without the image (language) and looking at it (joint)",
    ),
    "align": Family(
        module="vlprobe.encoders.align",
        kind="Align",
        types=("align",),
        modalities=("text", "image"),
        layers="language.0-n, language.projection, vision.0-m, vision.pooler",
        about="ALIGN: BERT and EfficientNet, two towers that never meet",
    ),
    "clip": Family(
        module="vlprobe.encoders.clip",
        kind="Clip",
        types=("clip",),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, language.pooler, language.projection, "
        "vision.0-m, vision.norm, vision.pooler, vision.projection",
        about="CLIP: a text and an image tower that never meet",
    ),
    "siglip": Family(
        module="vlprobe.encoders.siglip",
        kind="Siglip",
        types=("siglip",),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, language.pooler, language.projection, "
        "vision.0-m, vision.norm, vision.pooler",
        about="SigLIP, SigLIP 2 of one image size: a text and an image tower that never meet",
    ),
    "siglip2": Family(
        module="vlprobe.encoders.siglip2",
        kind="Siglip2",
        types=("siglip2",),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, language.pooler, language.projection, "
        "vision.0-m, vision.norm, vision.pooler",
        about="SigLIP 2 of any image size (NaFlex)",
    ),
    "llava": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("llava", "llava_next", "llava_onevision"),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision: language models that read an image as tokens among their words",
        large=True,
    ),
    "qwen-vl": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="Qwen2-VL, Qwen2.5-VL, Qwen3-VL, also of experts: image tokens of images of any size",
        large=True,
    ),
    "internvl": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("internvl",),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="InternVL in transformers' layout (-hf): image tokens of tiles in the image's shape, then of the whole",
        large=True,
    ),
    "paligemma": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("paligemma",),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="PaliGemma, PaliGemma 2: image and prompt are read in both directions",
        large=True,
    ),
    "gemma3": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("gemma3",),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="Gemma 3 with images: image tokens see each other in both directions",
        large=True,
    ),
    "idefics3": Family(
        module="vlprobe.encoders.generative",
        kind="Generative",
        types=("idefics3", "smolvlm"),
        modalities=("text", "image"),
        layers="vision.0-m, vision.connector, joint.0-n, joint.norm",
        about="Idefics3, SmolVLM: image tokens of tiles of an image, then of the whole",
        large=True,
    ),
    "timm": Family(
        module="vlprobe.encoders.timm_models",
        kind="Timm",
        types=(),
        modalities=("image",),
        layers="vision.0-n, vision.norm, vision.pooler",
        about="timm's models of blocks by their names there: ViT, DeiT, BEiT, EVA, DINO, ConvNeXt, Swin, ResNet",
        library="timm",
    ),
    "open_clip": Family(
        module="vlprobe.encoders.open_clip_models",
        kind="OpenClip",
        types=(),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, language.pooler, language.projection, "
        "vision.0-m, vision.norm, vision.pooler, vision.projection",
        about="open_clip's CLIPs (ViT, ResNet) and CoCa by their names there, NAME/WEIGHTS: two towers that never meet",
        library="open_clip",
    ),
    "auto": Family(
        module="vlprobe.encoders.auto",
        kind="Auto",
        types=(),
        modalities=("text", "image"),
        layers="language.0-n, language.norm, vision.0-n, vision.norm",
        about="any other text encoder, decoder or vision transformer of transformers, on assumptions that it states",
    ),
}
