"""What a study saves by running each input once: the demo's eight tasks and two conditions against one by one.

Repeat with `python benchmarks/sharing.py > benchmarks/sharing.md` (about three minutes on one core).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from vlprobe import Encoder
from vlprobe.extraction import Extraction, compute, missing
from vlprobe.plan import Cell
from vlprobe.store import Store
from vlprobe.study import Study

DEMO = Path(__file__).resolve().parents[1] / "studies" / "demo.yaml"


def distinct(cells: list[Cell]) -> list[Extraction]:
    """Return the extractions of some cells, each once."""
    return list({each.key: each for cell in cells for each in (cell.trained, cell.tested)}.values())


def seconds(model: Encoder, cells: list[Cell], folder: Path, together: bool) -> float:
    """Return the seconds of the processor that a model's representations take, all at once or task by task."""
    start = time.process_time()
    groups = [distinct(cells)] if together else [[each] for cell in cells for each in distinct([cell])]
    for number, extractions in enumerate(groups):
        compute(model, extractions, Store(folder / str(number)))
    return time.process_time() - start


def main() -> None:
    """Count and time every model of the demo, and print a page of Markdown."""
    torch.set_num_threads(1)
    print(
        "# What running each input once saves\n\nRepeat with `python benchmarks/sharing.py > benchmarks/sharing.md`.\n"
    )
    print(
        "The demo: eight tasks on drawn scenes, 600 scenes each, matched and mismatched. *One by one* is an extraction "
        "for each task and condition, as scripts do; seconds of the processor, one thread. The eight tasks show the "
        "same pictures, with texts that differ (masked, shifted, altered): a joint model shares only what is equal.\n\n"
        "| model | inputs one by one | inputs run | saved | time one by one / together |\n|---|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = Study.from_file(DEMO, output=str(folder / "output"), store=str(folder / "store"))
        by_model: dict[str, list[Cell]] = {}
        for cell in study.plan().cells:
            by_model.setdefault(cell.model.name, []).append(cell)
        for model, cells in by_model.items():
            empty = Store(folder / "empty")
            alone = sum(missing([each], empty) for cell in cells for each in distinct([cell]))
            together = missing(distinct(cells), empty)
            loaded = study.load(cells[0].called)
            seconds(loaded, cells[:1], folder / f"{model}-warm", True)
            one, all_ = (seconds(loaded, cells, folder / f"{model}-{each}", each) for each in (False, True))
            print(
                f"| {model} | {alone:,} | {together:,} | {1 - together / alone:.0%} | **{one / all_:.2f}** |",
                flush=True,
            )


if __name__ == "__main__":
    main()
