"""What a fusion encoder costs on matched and mismatched pairs, each image encoded once, beside each pair by itself.

Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`, SHARED holding `data/coco128` and
`data/tokenizers` (about five minutes on one core).
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

from vlprobe.encoders import Encoder, load_model
from vlprobe.encoders.fusion import Fusion
from vlprobe.encoders.towers import Pair
from vlprobe.extraction import Extraction, ImageDigests, compute, features, layers_of, request
from vlprobe.pairing import pair
from vlprobe.store import Store

MODELS = {
    "flava": (transformers.FlavaConfig, transformers.FlavaImageProcessorPil),
    "blip": (
        # Its own range, 1e-10, makes blocks that do nothing.
        lambda: transformers.BlipConfig(
            architectures=["BlipForImageTextRetrieval"], vision_config={"initializer_range": 0.02}
        ),
        transformers.BlipImageProcessorPil,
    ),
}
"""Family -> its configuration, of base size if nothing is said, and its preprocessor."""


def model_of(family: str, folder: Path, shared: Path) -> Encoder:
    """Return a model of base size with random weights."""
    folder.mkdir()
    config, processor = MODELS[family]
    config().save_pretrained(folder)
    processor().save_pretrained(folder)
    vocabulary(folder, shared)
    return load_model({"model": f"{family}:{folder}", "weights": "random"}, device="cpu")


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Let fusion encoders run their encoder of images for every pair, as if no other one had the same image."""
    with patch.object(Fusion, "grid", Pair.grid), patch.object(Fusion, "neighbours", False):
        yield


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
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    examples = pairs(chosen.shared, chosen.pairs)
    print(
        "# What it costs to show an image with several texts\n\n"
        "Repeat with `python benchmarks/pairs.py SHARED > benchmarks/pairs.md`.\n\n"
        f"{len(examples)} photographs of COCO with a caption each: matched, and with the mismatches of one seed, or of "
        "three. Models of base size, random weights, float32, one thread; from examples to the shard on disk, in "
        f"seconds of the processor; both ways in turn, median and range of {chosen.repeats} repetitions "
        f"({platform.machine()}, torch {torch.__version__}). *Apart*: the encoder of images runs for every pair. The "
        "last column is the largest difference of any number of any layer, as a share of the layer's largest.\n\n"
        "| model | mismatches | pairs | together, s | apart / together | difference |\n|---|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in MODELS:
            model = model_of(family, folder / family, chosen.shared)
            for seeds in (1, 3):
                print(_line(family, model, examples, seeds, chosen.repeats, folder / f"{family}-{seeds}"), flush=True)


def _line(family: str, model: Encoder, examples: Sequence, seeds: int, repeats: int, folder: Path) -> str:  # type: ignore[type-arg]
    shown = [pair(examples, "matched", "multimodal", 0, "test")]
    shown += [pair(examples, "mismatched", "multimodal", seed, "test") for seed in range(seeds)]
    digests = ImageDigests()
    asked = [request(model, each, "input", "auto", digests) for each in shown]
    model.encode([examples[0]])
    together, ratios = [], []
    for number in range(repeats):
        one, other = (Store(folder / f"{way}-{number}") for way in ("together", "apart"))
        together.append(timed(lambda one=one: compute(model, asked, one)))
        with each_by_itself():
            apart = timed(lambda other=other: compute(model, asked, other))
        ratios.append(apart / together[-1])
    told = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    count = len({(example.text, str(example.image)) for each in shown for example in each})
    seconds = statistics.median(together)
    return f"| {family} | {seeds} | {count} | {seconds:.1f} | {told} | {difference(asked, one, other):.0e} |"


if __name__ == "__main__":
    main()
