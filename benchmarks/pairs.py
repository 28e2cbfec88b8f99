"""What models of several encoders cost on matched and mismatched pairs, each image encoded once, and for every pair.

And what is kept of a fusion encoder: rows of its text and image encoder once for each text and image, beside rows of
all layers for every pair.

Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`, SHARED holding `data/coco128` and
`data/tokenizers` (about ten minutes on one core).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import transformers
from extraction import pairs, timed, vocabulary
from tokenizers import AddedToken

from vlprobe.encoders import Encoder, load_model
from vlprobe.encoders.fusion import Fusion
from vlprobe.encoders.generative import Generative
from vlprobe.encoders.sight import Seen
from vlprobe.encoders.towers import Pair
from vlprobe.extraction import Extraction, ImageDigests, compute, features, layers_of, request
from vlprobe.pairing import pair
from vlprobe.store import Store
from vlprobe.types import Example

MODELS = {
    "flava": (transformers.FlavaConfig, transformers.FlavaImageProcessorPil),
    "blip": (
        # Its own range, 1e-10, makes blocks that do nothing.
        lambda: transformers.BlipConfig(
            architectures=["BlipForImageTextRetrieval"], vision_config={"initializer_range": 0.02}
        ),
        transformers.BlipImageProcessorPil,
    ),
    "idefics3": (
        # SmolVLM-256M; that of BERT is its vocabulary.
        lambda: transformers.SmolVLMConfig(
            vision_config={"hidden_size": 768, "intermediate_size": 3072, "image_size": 512, "patch_size": 16},
            text_config=transformers.LlamaConfig(
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                vocab_size=VOCABULARY + len(TOKENS),
                max_position_embeddings=8192,
            ),
            image_token_id=VOCABULARY + TOKENS.index("<image>"),
            scale_factor=4,
        ),
        # One tile an image, where the model may have 17.
        lambda: transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 512}, max_image_size={"longest_edge": 512}, do_image_splitting=False
        ),
    ),
}
"""Family -> its configuration, of base size if nothing is said, and its preprocessor."""
VOCABULARY = 30522
"""Pieces of BERT's."""
TOKENS = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>")
"""What SmolVLM's prompts hold beside words."""


def model_of(family: str, folder: Path, shared: Path) -> Encoder:
    """Return a model of base size with random weights."""
    folder.mkdir()
    config, processor = MODELS[family]
    config().save_pretrained(folder)
    processor().save_pretrained(folder)
    vocabulary(folder, shared)
    if family == "idefics3":
        tokenizer = transformers.BertTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token) for token in TOKENS]})
        tokenizer.save_pretrained(folder)
    return load_model({"model": f"{family}:{folder}", "weights": "random"}, device="cpu")


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Let models run their encoder of images for every pair, as if no other one had the same image."""

    def seen(self: Generative, batch: Sequence[Example]) -> tuple[list[Seen], list[int]]:
        return [self.images.take(example) for example in batch], list(range(len(batch)))

    with (
        patch.object(Fusion, "grid", Pair.grid),
        patch.object(Fusion, "neighbours", False),
        patch.object(Generative, "_seen", seen),
        patch.object(Generative, "neighbours", False),
    ):
        yield


@contextmanager
def rows_for_every_pair() -> Iterator[None]:
    """Let all layers of fusion encoders have rows of their own for every pair, whatever a layer reads."""
    with patch.object(Fusion, "reads", {}):
        yield


def size(store: Store) -> int:
    """Return the bytes of a store's shards."""
    return sum(path.stat().st_size for path in store.folder.rglob("*.safetensors"))


def difference(asked: Sequence[Extraction], one: Store, other: Store) -> float:
    """Return the largest difference between two stores, of any layer, as a share of its largest number."""
    found = 0.0
    for each in asked:
        for layer in layers_of(each, one):
            a, b = (features(each, store, layer).X for store in (one, other))
            largest = float(np.abs(a).max()) or 1.0  # a [CLS] that was drawn as zeros
            found = max(found, float(np.abs(a - b).max()) / largest)
    return found


def main() -> None:
    """Time both models and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    examples = pairs(chosen.shared, chosen.pairs)
    print(
        "# What it costs to show an image with several texts\n\n"
        "Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`.\n\n"
        f"{len(examples)} photographs of COCO with a caption each: matched, and with the mismatches of one seed, or of "
        "three. Models of base size (idefics3: SmolVLM-256M, one tile an image), random weights, float32, one "
        "thread; from examples to the shard on disk, in "
        f"seconds of the processor; both ways in turn, median and range of {chosen.repeats} repetitions "
        f"({platform.machine()}, torch {torch.__version__}). *Apart*: the encoder of images runs for every pair. The "
        "last column is the largest difference of any number of any layer, as a share of the layer's largest.\n\n"
        "| model | mismatches | pairs | together, s | apart / together | difference |\n|---|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in chosen.models:
            model = model_of(family, folder / family, chosen.shared)
            for seeds in (1, 3):
                print(_line(family, model, examples, seeds, chosen.repeats, folder / f"{family}-{seeds}"), flush=True)
        print(
            "\n## What is kept\n\n"
            f"{len(examples)} photographs, paired as above. *Once*: rows of the text encoder are kept once for each "
            "text, those of the image encoder once for each image, and asked on the way of the first pair. *For every "
            "pair*: all layers have rows of every pair. *Time*: seconds of the processor for every pair over those "
            "once, both ways in turn.\n\n"
            "| model | mismatches | texts, images, pairs | for every pair, MB | once, MB | time | "
            "difference |\n|---|---:|---:|---:|---:|---:|---:|"
        )
        for family in MODELS:
            model = model_of(family, folder / f"{family}-again", chosen.shared)
            for seeds in (1, 3):
                print(_kept(family, model, examples, seeds, chosen.repeats, folder / f"k-{family}-{seeds}"), flush=True)


def _asked(model: Encoder, examples: Sequence, seeds: int) -> list[Extraction]:  # type: ignore[type-arg]
    shown = [pair(examples, "matched", "multimodal", 0, "test")]
    shown += [pair(examples, "mismatched", "multimodal", seed, "test") for seed in range(seeds)]
    digests = ImageDigests()
    return [request(model, each, "input", "auto", digests) for each in shown]


def _kept(family: str, model: Encoder, examples: Sequence, seeds: int, repeats: int, folder: Path) -> str:  # type: ignore[type-arg]
    asked = _asked(model, examples, seeds)
    model.encode([examples[0]])
    ratios, far = [], 0.0
    for number in range(repeats):
        one, other = (Store(folder / f"{way}-{number}") for way in ("once", "every"))
        once = timed(lambda one=one: compute(model, asked, one))
        with rows_for_every_pair():
            whole = _asked(model, examples, seeds)
            ratios.append(timed(lambda other=other, whole=whole: compute(model, whole, other)) / once)
    for each, same in zip(asked, whole, strict=True):
        for layer in layers_of(same, other):
            a, b = features(each, one, layer).X, features(same, other, layer).X
            far = max(far, float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0))
    inputs = [example for each in whole for example in each.examples]
    counts = [
        len({str(each) for each in found})
        for found in zip(*((one.text, one.image, (one.text, one.image)) for one in inputs), strict=True)
    ]
    told = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    sizes = f"{size(other) / 1e6:.2f} | {size(one) / 1e6:.2f}"
    return f"| {family} | {seeds} | {', '.join(map(str, counts))} | {sizes} | {told} | {far:.0e} |"


def _line(family: str, model: Encoder, examples: Sequence, seeds: int, repeats: int, folder: Path) -> str:  # type: ignore[type-arg]
    asked = _asked(model, examples, seeds)
    model.encode([examples[0]])
    together, ratios = [], []
    for number in range(repeats):
        one, other = (Store(folder / f"{way}-{number}") for way in ("together", "apart"))
        together.append(timed(lambda one=one: compute(model, asked, one)))
        with each_by_itself():
            apart = timed(lambda other=other: compute(model, asked, other))
        ratios.append(apart / together[-1])
    told = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    count = len({(example.text, str(example.image)) for each in asked for example in each.examples})
    seconds = statistics.median(together)
    return f"| {family} | {seeds} | {count} | {seconds:.1f} | {told} | {difference(asked, one, other):.0e} |"


if __name__ == "__main__":
    main()
