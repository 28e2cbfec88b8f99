"""What extraction costs beside the bare forward pass, and beside the loops that people write.

Repeat with `python benchmarks/extraction.py SHARED > benchmarks/extraction.md`, SHARED holding `data/salin2022` and
`data/coco128` (about twenty minutes on one core).

Four ways, in turn, on one thread and in seconds of the processor:
* floor: texts and images read, and the model's forward pass, on the very batches that vlprobe makes; the time inside
  its blocks is taken beside it;
* vlprobe: `compute`, from examples to the shard on disk;
* plain: one example at a time, every hidden state of every position written to a file, autograd on, as published
  probing scripts do;
* good: batches of 32 in the order of the data, `output_hidden_states=True`, pooled for each layer on the host, one
  NumPy file a layer.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vlprobe.encoders import Encoder, load_model
from vlprobe.extraction import Forward, ImageDigests, compute, request
from vlprobe.extraction.batches import batches
from vlprobe.images import open_image
from vlprobe.store import Store
from vlprobe.types import Example

BATCH = 32
SQUARE = 1024
"""Side of the matrices whose product is timed."""


@dataclass(frozen=True)
class Case:
    """A model and what it is run on."""

    name: str
    """As the table calls it."""
    model: Encoder
    """Of base size, random weights."""
    examples: Sequence[Example]
    """Real captions, and images where it reads them."""
    forward: Callable[[Case, Sequence[Example], bool], Sequence[torch.Tensor]]
    """The library's own forward pass: hidden states of every layer, padded as its processor does."""
    tokenizer: Any
    """Its tokenizer."""
    block: float
    """Multiply-adds of the blocks for a position, without attention's products of positions."""

    @property
    def network(self) -> Any:
        """The class of transformers inside vlprobe's."""
        return self.model.model  # type: ignore[attr-defined]

    @property
    def processor(self) -> Any:
        """Its image processor."""
        return self.model.images.processor  # type: ignore[attr-defined]


def captions(shared: Path, count: int) -> list[Example]:
    """Return captions of Flickr30k, spread over the file."""
    with (shared / "data/salin2022/datasets/flickr_3000.csv").open(encoding="utf-8", newline="") as file:
        texts = [row[2].strip() for row in csv.reader(file, delimiter="|", quotechar="|")][1:]
    chosen = texts[:: max(len(texts) // count, 1)][:count]
    return [Example(str(n), str(n), text, None, (1.0,)) for n, text in enumerate(chosen)]


def pairs(shared: Path, count: int) -> list[Example]:
    """Return COCO photographs with a caption each."""
    folder = shared / "data/coco128"
    rows = [json.loads(line) for line in (folder / "annotations.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Example(str(n), str(n), row["captions"][0], folder / row["file"], (1.0,)) for n, row in enumerate(rows[:count])
    ]


def vocabulary(folder: Path, shared: Path) -> None:
    """Write the tokenizer of BERT."""
    (folder / "vocab.txt").write_bytes((shared / "data/tokenizers/bert_base_uncased_vocab.txt").read_bytes())
    told = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def bert(folder: Path, shared: Path) -> Encoder:
    """Return BERT-base of random weights."""
    folder.mkdir()
    transformers.BertConfig().save_pretrained(folder)
    vocabulary(folder, shared)
    return load_model({"model": f"bert:{folder}", "weights": "random"}, device="cpu")


def vilt(folder: Path, shared: Path) -> Encoder:
    """Return ViLT-base of random weights."""
    folder.mkdir()
    transformers.ViltConfig().save_pretrained(folder)
    transformers.ViltImageProcessorPil().save_pretrained(folder)
    vocabulary(folder, shared)
    return load_model({"model": f"vilt:{folder}", "weights": "random"}, device="cpu")


def bert_forward(case: Case, batch: Sequence[Example], states: bool) -> Sequence[torch.Tensor]:
    """Return BERT's hidden states by transformers alone."""
    inputs = case.tokenizer([example.text for example in batch], padding=True, return_tensors="pt")
    found = case.network(**inputs, output_hidden_states=states)
    return found.hidden_states if states else ()


def vilt_forward(case: Case, batch: Sequence[Example], states: bool) -> Sequence[torch.Tensor]:
    """Return ViLT's hidden states by transformers alone."""
    inputs = case.tokenizer([example.text for example in batch], padding=True, return_tensors="pt")
    images = case.processor([open_image(example.image) for example in batch], return_tensors="pt")
    found = case.network(**inputs, **images, output_hidden_states=states)
    return found.hidden_states if states else ()


class Recorded:
    """Batches that vlprobe made, with the time that the network itself took."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds, self.positions = model, 0.0, 0
        self.blocks = model.model.encoder.layer

    def __enter__(self) -> Recorded:
        self.hooks = [
            self.blocks[0].register_forward_pre_hook(self._before, with_kwargs=True),
            self.blocks[-1].register_forward_hook(self._after),
        ]
        return self

    def __exit__(self, *stopped: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _before(self, module: Any, positional: Any, named: Any) -> None:
        states = positional[0] if positional else named["hidden_states"]
        self.positions += states.shape[0] * states.shape[1]
        self.start = time.process_time()

    def _after(self, *anything: Any) -> None:
        self.seconds += time.process_time() - self.start


def floor(case: Case, batches: Sequence[Sequence[Example]]) -> None:
    """Run the encoder's own forward pass on batches and keep nothing."""
    for batch in batches:
        case.model.encode(batch)


def good(case: Case, folder: Path) -> None:
    """A careful hand-written loop."""
    rows: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for start in range(0, len(case.examples), BATCH):
            states = case.forward(case, case.examples[start : start + BATCH], True)
            rows.append([state[:, 0].numpy() for state in states])
    for layer in range(len(rows[0])):
        np.save(folder / f"good-{layer}.npy", np.concatenate([part[layer] for part in rows]))


def plain(case: Case, folder: Path) -> None:
    """As published scripts do: one at a time, all states of all positions, autograd on."""
    for number, example in enumerate(case.examples):
        states = case.forward(case, [example], True)
        torch.save([state.detach() for state in states], folder / f"plain-{number}.pt")


def timed(run: Callable[[], Any]) -> float:
    """Return seconds of the processor."""
    start = time.process_time()
    run()
    return time.process_time() - start


def matrix_rate() -> float:
    """Return GFLOP/s of a float32 matrix product on one thread."""
    square = torch.ones(SQUARE, SQUARE)
    return 8 * 2 * SQUARE**3 / timed(lambda: [torch.matmul(square, square) for _ in range(8)]) / 1e9


def batches_of(case: Case) -> list[list[Example]]:
    """Return the batches that vlprobe makes."""
    forwards = [Forward(example, example.id, ()) for example in case.examples]
    return [[each.example for each in batch] for batch in batches(case.model, forwards, None)]


def measure(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds of every way, and what the network itself did."""
    asked = request(case.model, case.examples, "input", "auto", ImageDigests())
    cut = batches_of(case)
    ways: dict[str, list[float]] = defaultdict(list)
    case.model.encode(cut[0][:2])
    for number in range(repeats):
        place = folder / f"{case.name}-{number}"
        place.mkdir()
        store = Store(place / "store")
        ways["rate"].append(matrix_rate())
        with Recorded(case.model) as network:
            ways["floor"].append(timed(lambda: floor(case, cut)))
        ways["blocks"].append(network.seconds)
        ways["block rate"].append(2 * case.block * network.positions / network.seconds / 1e9)
        ways["vlprobe"].append(timed(lambda store=store: compute(case.model, [asked], store)))
        ways["good"].append(timed(lambda place=place: good(case, place)))
        ways["plain"].append(timed(lambda place=place: plain(case, place)))
        ways["rate"].append(matrix_rate())
    real = positions(case, [[example] for example in case.examples])
    return {"ways": ways, "padding": 1 - real / network.positions, "unsorted": 1 - real / unsorted(case)}


def positions(case: Case, batches: Sequence[Sequence[Example]]) -> int:
    """Return positions of batches, padding included, by the lengths of their members."""
    total = 0
    for batch in batches:
        inputs = case.tokenizer([example.text for example in batch])["input_ids"]
        total += len(batch) * max(map(len, inputs))
        if batch[0].image is not None:
            pictures = case.model.images.read(batch)  # type: ignore[attr-defined]
            patch = case.model.patch  # type: ignore[attr-defined]
            total += len(batch) * max(1 + (p.pixels.shape[1] // patch) * (p.pixels.shape[2] // patch) for p in pictures)
    return total


def unsorted(case: Case) -> int:
    """Return positions of batches in the order of the data."""
    parts = [case.examples[start : start + BATCH] for start in range(0, len(case.examples), BATCH)]
    return positions(case, parts)


def main() -> None:
    """Time both models and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--captions", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    block = 12 * 12 * 768**2  # 12 blocks: four matrices of 768 x 768 and two of 768 x 3072
    with tempfile.TemporaryDirectory() as name:
        folder, shared = Path(name), chosen.shared
        vocabulary(folder, shared)
        words = transformers.BertTokenizer.from_pretrained(folder)
        cases = [
            Case("BERT", bert(folder / "bert", shared), captions(shared, chosen.captions), bert_forward, words, block),
            Case("ViLT", vilt(folder / "vilt", shared), pairs(shared, chosen.pairs), vilt_forward, words, block),
        ]
        found = {case.name: measure(case, folder, chosen.repeats) for case in cases}
    print_page(cases, found, chosen)


def print_page(cases: Sequence[Case], found: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Print the figures, ratios first."""
    print(
        "# What extraction costs\n\nRepeat with `python benchmarks/extraction.py SHARED > benchmarks/extraction.md`.\n"
    )
    print(
        f"BERT and ViLT of base size (768 wide, 12 blocks), random weights, float32: "
        f"{len(cases[0].examples)} captions of Flickr30k; {len(cases[1].examples)} photographs of COCO with a caption. "
        f"Median and range of {chosen.repeats} repetitions, the ways in turn, in seconds of the processor, one of "
        f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}. The machine was shared: trust the "
        "ratios.\n"
    )
    print("| | " + " | ".join(case.name for case in cases) + " |\n|---|" + "---:|" * len(cases))
    for label, over, under in (
        ("vlprobe / reading its batches and running the model", "vlprobe", "floor"),
        ("vlprobe / the blocks of the model alone", "vlprobe", "blocks"),
        ("one at a time, all states written / vlprobe", "plain", "vlprobe"),
        ("a good loop / vlprobe", "good", "vlprobe"),
        ("arithmetic of the blocks / matrix product", "block rate", "rate"),
    ):
        cells = []
        for case in cases:
            ways = found[case.name]["ways"]
            ratios = [a / b for a, b in zip(ways[over], ways[under], strict=False)]
            cells.append(f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {label} | {' | '.join(cells)} |")
    print("| padding in vlprobe's batches | " + " | ".join(f"{found[c.name]['padding']:.0%}" for c in cases) + " |")
    print(
        "| padding in the order of the data | " + " | ".join(f"{found[c.name]['unsorted']:.0%}" for c in cases) + " |"
    )
    rates = [len(case.examples) / statistics.median(found[case.name]["ways"]["vlprobe"]) for case in cases]
    print("| examples a second | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")
    print(
        "\n* Beside reading and running, vlprobe pools, checks, computes checksums and writes a file. Of what ViLT "
        "reads, most is decoding and resizing photographs."
    )


if __name__ == "__main__":
    main()
