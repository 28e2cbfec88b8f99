"""How much faster UNITER and LXMERT are run in batches than one example at a time, at base size, with random weights.

Repeat with `python benchmarks/encoders.py > benchmarks/encoders.md`.

Both ways read the same captions and region features, and end with every layer's pooled vectors. Published extraction
scripts take one example at a time. vlprobe takes batches of neighbours in length, pools on the way and writes a shard:
its own path is timed, from examples to the file on disk.

Ratios first. Every repetition times both ways and a matrix product in turn, on one thread and in seconds of the
processor: whatever else a machine is doing then moves them little, and moves them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlprobe.encoders import Encoder, load_model
from vlprobe.encoders.lxmert import BASE as LXMERT
from vlprobe.encoders.uniter import BASE as UNITER
from vlprobe.encoders.uniter import RegionTensors, alike, locations
from vlprobe.extraction import Extraction, ImageDigests, compute, layers_of, request
from vlprobe.regions.npz import NpzWriter
from vlprobe.store import Store
from vlprobe.types import Example, Regions

WORDS = "a the two man woman dog red young sitting standing on of with in front street table holding next to bench"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALIKE = 1e-4
"""Largest difference of a feature between the two ways, beside states of about 1."""
SQUARE = 1024
"""Side of the matrices whose product is timed."""
Rows = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """One of the two models."""

    name: str
    """As vlprobe calls it."""
    sizes: dict[str, int]
    """Of the published base model."""
    boxes: tuple[int, int]
    """Fewest and most boxes of an image."""
    plain: Callable[[Any, Example], Rows]
    """Its loop of one example."""
    padded: Callable[[np.ndarray, np.ndarray], int]
    """Positions, padding included, of a batch with so many word pieces and boxes (example,)."""


def main() -> None:
    """Time both models and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines, rates = [], []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            examples = write_inputs(folder, family, chosen.examples)
            model = open_model(folder, family)
            few, asked = (request(model, part, "input", "auto", ImageDigests()) for part in (examples[:4], examples))
            run_once(model, family, few, folder / "warm", chosen)
            times = [run_once(model, family, asked, folder / str(n), chosen) for n in range(chosen.repeats)]
            lines.append(line(family, model, examples, times, chosen.batch_size))
            rates += [rate for _, _, rate in times]
    print_page(lines, rates, chosen)


def write_inputs(folder: Path, family: Family, count: int) -> list[Example]:
    """Write region features of random images, and return captions for them.

    Captions are as long as those of COCO and Flickr30k: about 11 words, few above 20.
    """
    draw = np.random.default_rng(0)
    examples = []
    writer = NpzWriter(folder / "features")
    for number in range(count):
        length = int(np.clip(np.round(np.exp(draw.normal(np.log(11), 0.3))), 5, 40))
        boxes = int(draw.integers(family.boxes[0], family.boxes[1] + 1))
        corner = draw.random((boxes, 2)).astype(np.float32) / 2
        features = np.maximum(draw.normal(0, 1, (boxes, 2048)), 0).astype(np.float32)
        writer.write(str(number), Regions(np.hstack([corner, corner + 0.3]), features, (640, 480)))
        image = folder / f"{number}.png"
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(image)
        text = " ".join(draw.choice(WORDS.split(), length))
        examples.append(Example(str(number), str(number), text, image, (1.0,)))
    return examples


def open_model(folder: Path, family: Family) -> Encoder:
    """Return a model of random weights."""
    (folder / "config.json").write_text(json.dumps({"model_type": family.name, **family.sizes}))
    pieces = [*SPECIAL, *WORDS.split(), *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)))
    told = {"tokenizer_class": "BertTokenizer", "do_lower_case": family.name == "lxmert"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    spec = {"model": f"{family.name}:{folder}", "weights": "random", "regions": str(folder / "features")}
    return load_model(spec, device="cpu")


def run_once(
    model: Encoder, family: Family, asked: Extraction, folder: Path, chosen: argparse.Namespace
) -> tuple[float, float, float]:
    """Return the seconds of the plain loop and of vlprobe, and the matrix rate in GFLOP/s around them."""
    store = Store(folder)
    before = matrix_rate()
    (alone, plain), middle = timed(lambda: loop(model, family, asked)), matrix_rate()
    (_, batched), after = timed(lambda: compute(model, [asked], store, chosen.batch_size)), matrix_rate()
    check_alike(alone, store, asked)
    return plain, batched, statistics.fmean([before, middle, after])


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its seconds of the processor."""
    start = time.process_time()
    return run(), time.process_time() - start


def matrix_rate() -> float:
    """Return GFLOP/s of a float32 matrix product on one thread."""
    square = torch.ones(SQUARE, SQUARE)
    _, seconds = timed(lambda: [torch.matmul(square, square) for _ in range(8)])
    return 8 * 2 * SQUARE**3 / seconds / 1e9


def loop(model: Encoder, family: Family, asked: Extraction) -> list[Rows]:
    """Return layer -> vector of every distinct input, one example at a time."""
    rows = []
    for question in sorted({each.name: each for each in asked.of("")}.items()):
        found = family.plain(model, question[1].example)
        rows.append({layer: vector.numpy() for layer, vector in found.items()})
    return rows


def one(model: Any, example: Example) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (1, piece) ids and their mask, (1, region, width) features and (1, region, 4) boxes of an example."""
    ids = torch.tensor([model.text.tokenizer(example.text)["input_ids"]])
    (regions,) = model.images.source.regions([example])
    return ids, torch.ones_like(ids), torch.from_numpy(regions.features)[None], torch.from_numpy(regions.boxes)[None]


def plain_uniter(model: Any, example: Example) -> Rows:
    """Return UNITER's [CLS] of every layer."""
    ids, mask, features, boxes = one(model, example)
    regions = RegionTensors(features, locations(boxes), torch.ones(features.shape[:2]))
    states = model.states((ids, mask), regions).layers
    rows = {layer: state[0, 0] if state.ndim == 3 else state[0] for layer, state in states.items()}
    return {"regions.0": features[0].mean(0), **rows}


def plain_lxmert(model: Any, example: Example) -> Rows:
    """Return LXMERT's [CLS] of every language layer, and the mean over regions of every vision layer."""
    ids, mask, features, boxes = one(model, example)
    states = model.states(ids, mask, features, boxes)
    rows = {f"language.{k}": state[0, 0] for k, state in enumerate(states.language)}
    rows |= {f"vision.{k}": state[0].mean(0) for k, state in enumerate(states.vision)}
    return {"regions.0": features[0].mean(0), **rows, "language.pooler": states.pooler[0]}


def padded_uniter(pieces: np.ndarray, boxes: np.ndarray) -> int:
    """One stream, in groups of neighbours in length."""
    both = pieces + boxes
    return sum(len(rows) * int(both[rows].max()) for rows in alike(both))


def padded_lxmert(pieces: np.ndarray, boxes: np.ndarray) -> int:
    """Two streams, each as long as its longest."""
    return len(pieces) * int(pieces.max() + boxes.max())


FAMILIES = (
    Family("uniter", {**UNITER, "num_attention_heads": 12}, (10, 100), plain_uniter, padded_uniter),
    Family("lxmert", {**LXMERT, "num_attention_heads": 12}, (36, 36), plain_lxmert, padded_lxmert),
)


def check_alike(alone: list[Rows], store: Store, asked: Extraction) -> None:
    """Stop where the two ways do not give the same features of the same layers."""
    layers = layers_of(asked, store)
    if sorted(layers) != sorted(alone[0]):
        raise SystemExit(f"the loop has layers {sorted(alone[0])}, vlprobe {sorted(layers)}")
    for layer in layers:
        (section, names), *_ = asked.sections.items()
        found, owner, _ = store.read(asked.home, section, layer, names)
        far = np.abs(found[np.argsort(owner, kind="stable")] - np.stack([rows[layer] for rows in alone])).max()
        if not far < ALIKE:
            raise SystemExit(f"{layer}: the two ways differ by {far:.1e}, allowed is {ALIKE:g}")


def line(family: Family, model: Any, examples: list[Example], times: list[tuple[float, ...]], batch_size: int) -> str:
    """Return a model's line of the table."""
    ratios = [plain / batched for plain, batched, _ in times]
    plain, batched = (statistics.median(column) for column in list(zip(*times, strict=True))[:2])
    examples = sorted(examples, key=lambda example: len(example.text or ""))  # as they come into batches
    pieces = np.array([len(model.text.tokenizer(example.text)["input_ids"]) for example in examples])
    boxes = np.array([len(found.boxes) for found in model.images.source.regions(examples)])
    batches = [slice(start, start + batch_size) for start in range(0, len(examples), batch_size)]
    padded = sum(family.padded(pieces[inside], boxes[inside]) for inside in batches)
    return (
        f"| {family.name} | {pieces.min()} to {pieces.max()}, mean {pieces.mean():.0f} | "
        f"{boxes.min()} to {boxes.max()}, mean {boxes.mean():.0f} | {1 - (pieces + boxes).sum() / padded:.0%} | "
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | "
        f"{len(examples) / batched:.1f} | {len(examples) / plain:.1f} |"
    )


def print_page(lines: list[str], rates: list[float], chosen: argparse.Namespace) -> None:
    """Print the figures, ratios first."""
    print("# The encoders' speed\n")
    print("Repeat with `python benchmarks/encoders.py > benchmarks/encoders.md`.\n")
    print(
        f"UNITER and LXMERT at base size (768 wide; 12 layers, and 9, 5 and 5), random weights, {chosen.examples} "
        f"examples, every layer's pooled vectors; float32. vlprobe in batches of {chosen.batch_size}, from examples "
        "to the file on disk, beside a loop of one example at a time. Median and range of "
        f"{chosen.repeats} repetitions, in seconds of the processor, on one of {os.cpu_count()} cores "
        f"({platform.machine()}), torch {torch.__version__}. "
        "The machine was shared: trust the ratios, not the rates, and those to a tenth.\n"
    )
    print("| model | word pieces | boxes | padding | vlprobe / one at a time | examples a second | one at a time |")
    print("|---|---|---|---:|---:|---:|---:|")
    print("\n".join(lines))
    print(f"\n* Both ways give the same features: no number differs by {ALIKE:g} or more.")
    print(
        f"* A float32 matrix product ({SQUARE} x {SQUARE}) ran at {statistics.median(rates):.0f} GFLOP/s "
        f"({min(rates):.0f} to {max(rates):.0f}) in the same runs."
    )


if __name__ == "__main__":
    main()
