"""What models of several encoders cost on matched and mismatched pairs, each image encoded once, and for every pair.

Of LXMERT, the layers that see one side alone: run once for each text and image of a batch, and for every pair. And what
is kept: rows of layers that read one side alone once for each text and image, beside rows of all layers for every pair.

Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`, SHARED holding `data/coco128` and
`data/tokenizers` (about twenty minutes on one core).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import transformers
from extraction import pairs, timed, vocabulary
from tokenizers import AddedToken

from vlprobe.encoders import Encoder, fusion, generative, load_model, lxmert
from vlprobe.encoders.distinct import Distinct, distinct
from vlprobe.extraction import Extraction, ImageDigests, compute, features, layers_of, request
from vlprobe.pairing import pair
from vlprobe.regions.npz import NpzWriter
from vlprobe.store import Store
from vlprobe.types import Example, Regions

MODELS = {
    "flava": (6, transformers.FlavaConfig, transformers.FlavaImageProcessorPil),
    "blip": (
        6,
        # Its own range, 1e-10, makes blocks that do nothing.
        lambda: transformers.BlipConfig(
            architectures=["BlipForImageTextRetrieval"], vision_config={"initializer_range": 0.02}
        ),
        transformers.BlipImageProcessorPil,
    ),
    "idefics3": (
        6,
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
    "lxmert": (32, transformers.LxmertConfig, None),
}
"""Family -> photographs that it is shown, its configuration, of base size if nothing is said, and its preprocessor, if
it reads pixels. Of LXMERT, a batch holds the pairs of some thirty photographs."""
TOGETHER = {
    True: "*Together*: the encoder of images runs once for each image of a batch.",
    False: "*Together*: the layers that see one side alone run once for each text, and each image, of a batch.",
}
"""Whether a model reads pixels -> what it runs once."""
BOXES, WIDTH = 36, 2048
"""Regions of an image, drawn, and the width of their features."""
VOCABULARY = 30522
"""Pieces of BERT's."""
TOKENS = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>")
"""What SmolVLM's prompts hold beside words."""


def model_of(family: str, folder: Path, shared: Path, examples: Sequence[Example]) -> Encoder:
    """Return a model of base size with random weights; one of regions is given drawn ones for the examples' images."""
    folder.mkdir()
    _, config, processor = MODELS[family]
    config().save_pretrained(folder)
    regions = {} if processor else {"regions": str(drawn(folder / "features", examples))}
    if processor:
        processor().save_pretrained(folder)
    vocabulary(folder, shared)
    if family == "idefics3":
        tokenizer = transformers.BertTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token) for token in TOKENS]})
        tokenizer.save_pretrained(folder)
    return load_model({"model": f"{family}:{folder}", "weights": "random", **regions}, device="cpu")


def drawn(folder: Path, examples: Sequence[Example]) -> Path:
    """Write regions that are drawn for the images of some examples."""
    writer, draw = NpzWriter(folder), np.random.default_rng(0)
    for name in sorted({Path(str(example.image)).stem for example in examples}):
        corner = draw.random((BOXES, 2)).astype(np.float32) / 2
        features = np.maximum(draw.normal(0, 1, (BOXES, WIDTH)), 0).astype(np.float32)
        writer.write(name, Regions(np.hstack([corner, corner + 0.3]), features, (640, 480)))
    return folder


@contextmanager
def each_by_itself(model: Encoder) -> Iterator[None]:
    """Let a model run all that it has for every pair, as if no other one had the same text or image."""

    def own(held: Iterable[object]) -> Distinct:
        return distinct(range(len(list(held))))

    with ExitStack() as stack:
        for module in (fusion, generative, lxmert):
            stack.enter_context(patch.object(module, "distinct", own))
        stack.enter_context(patch.object(model, "neighbours", False))
        yield


@contextmanager
def rows_for_every_pair(model: Encoder) -> Iterator[None]:
    """Let all layers of a model have rows of their own for every pair, whatever a layer reads."""
    with patch.object(model, "reads", {}):
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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "# What it costs to show an image with several texts\n\n"
        "Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`.\n\n"
        "Photographs of COCO with a caption each: matched, and with the mismatches of one seed, or of three. "
        "Models of base size (idefics3: SmolVLM-256M, one tile an image; lxmert: 36 drawn regions an image), "
        "random weights, float32, one thread of a machine that others used as well; from examples to the "
        f"shard on disk, in seconds of the processor; both ways in turn, median and range of {chosen.repeats} "
        f"repetitions ({platform.machine()}, torch {torch.__version__}). *Apart*: every pair is run by itself. "
        "The last column is the largest difference of any number of any layer, as a share of the layer's largest."
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pixels, told in TOGETHER.items():
            families = [family for family in chosen.models if bool(MODELS[family][2]) == pixels]
            if not families:
                continue
            print(
                f"\n{told}\n\n"
                "| model | mismatches | photographs | pairs | together, s | apart / together | difference |\n"
                "|---|---:|---:|---:|---:|---:|---:|"
            )
            for family in families:
                examples = pairs(chosen.shared, MODELS[family][0])
                model = model_of(family, folder / family, chosen.shared, examples)
                for seeds in (1, 3):
                    place = folder / f"{family}-{seeds}"
                    print(_line(family, model, examples, seeds, chosen.repeats, place), flush=True)
        print(
            "\n## What is kept\n\n"
            "Photographs, paired as above. *Once*: rows of layers that read the text alone are kept once for "
            "each text, of those that read the image alone once for each image, and asked on the way of the "
            "first pair. *For every pair*: all layers have rows of every pair. *Time*: seconds of the "
            "processor for every pair over those once, one run of each.\n\n"
            "| model | mismatches | texts, images, pairs | for every pair, MB | once, MB | time | difference |\n"
            "|---|---:|---:|---:|---:|---:|---:|"
        )
        for family in chosen.models:
            examples = pairs(chosen.shared, MODELS[family][0])
            model = model_of(family, folder / f"{family}-again", chosen.shared, examples)
            for seeds in (1, 3):
                print(_kept(family, model, examples, seeds, folder / f"k-{family}-{seeds}"), flush=True)


def _asked(model: Encoder, examples: Sequence, seeds: int) -> list[Extraction]:  # type: ignore[type-arg]
    shown = [pair(examples, "matched", "multimodal", 0, "test")]
    shown += [pair(examples, "mismatched", "multimodal", seed, "test") for seed in range(seeds)]
    digests = ImageDigests()
    return [request(model, each, "input", "auto", digests) for each in shown]


def _kept(family: str, model: Encoder, examples: Sequence, seeds: int, folder: Path) -> str:  # type: ignore[type-arg]
    asked, far = _asked(model, examples, seeds), 0.0
    model.encode([examples[0]])
    one, other = Store(folder / "once"), Store(folder / "every")
    once = timed(lambda: compute(model, asked, one))
    with rows_for_every_pair(model):
        whole = _asked(model, examples, seeds)
        ratio = timed(lambda: compute(model, whole, other)) / once
    for each, same in zip(asked, whole, strict=True):
        for layer in layers_of(same, other):
            a, b = features(each, one, layer).X, features(same, other, layer).X
            far = max(far, float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0))
    inputs = [example for each in whole for example in each.examples]
    counts = [
        len({str(each) for each in found})
        for found in zip(*((one.text, one.image, (one.text, one.image)) for one in inputs), strict=True)
    ]
    sizes = f"{size(other) / 1e6:.2f} | {size(one) / 1e6:.2f}"
    return f"| {family} | {seeds} | {', '.join(map(str, counts))} | {sizes} | {ratio:.2f} | {far:.0e} |"


def _line(family: str, model: Encoder, examples: Sequence, seeds: int, repeats: int, folder: Path) -> str:  # type: ignore[type-arg]
    asked = _asked(model, examples, seeds)
    model.encode([examples[0]])
    together, ratios = [], []
    for number in range(repeats):
        one, other = (Store(folder / f"{way}-{number}") for way in ("together", "apart"))
        together.append(timed(lambda one=one: compute(model, asked, one)))
        with each_by_itself(model):
            apart = timed(lambda other=other: compute(model, asked, other))
        ratios.append(apart / together[-1])
    told = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    count = len({(example.text, str(example.image)) for each in asked for example in each.examples})
    seconds = statistics.median(together)
    far = difference(asked, one, other)
    return f"| {family} | {seeds} | {len(examples)} | {count} | {seconds:.1f} | {told} | {far:.0e} |"


if __name__ == "__main__":
    main()
