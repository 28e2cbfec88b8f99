"""What `precision: bfloat16` does to probe scores, and what it saves.

Repeat with `python benchmarks/precision.py > benchmarks/precision.md` (about ten minutes on one core).

The demo's models and world, matched, the layers of the demo: every probe is trained and tested on representations in
float32 and in bfloat16. The time is of BERT-base, random weights, 32 texts of 32 words, in turn, one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from vlprobe.exact import as_asked, precision
from vlprobe.settings import read_yaml
from vlprobe.study import Study

DEMO = Path(__file__).resolve().parents[1] / "studies" / "demo.yaml"


def scores(folder: Path, name: str) -> dict[tuple[str, ...], float]:
    """Return (task, model, layer) -> score of the linear probe."""
    tasks = [task for task in read_yaml(DEMO)["tasks"] if task["name"] != "object-count"]
    places = {"output": str(folder / name), "store": str(folder / "store")}
    study = Study.from_file(DEMO, precision=name, conditions=["matched"], tasks=tasks, **places)
    return {(each.task, each.model, each.layer): each.score for each in study.run() if not each.control}


def speed(repeats: int = 5) -> list[float]:
    """Return, of each repetition, the seconds in float32 over those in bfloat16."""
    model = transformers.BertModel(transformers.BertConfig()).eval()
    ids = torch.randint(1000, 20000, (32, 32))
    ratios = []
    for _ in range(repeats + 1):
        seconds = []
        for name in ("float32", "bfloat16"):
            start = time.process_time()
            with precision(name), as_asked(torch.device("cpu")):
                model(input_ids=ids)
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / seconds[1])
    return ratios[1:]


def main() -> None:
    """Print a page of Markdown."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        full, lowered = (scores(Path(name), each) for each in ("float32", "bfloat16"))
    ratios = speed()
    print("# What bfloat16 does to scores\n\nRepeat with `python benchmarks/precision.py > benchmarks/precision.md`.\n")
    print(
        f"{len(full)} probes of the demo's models, matched, each on 240 test scenes (pos-tagging: their words), "
        "trained and tested on representations computed in float32 and in bfloat16 (PyTorch's automatic mixed "
        "precision on a processor). Accuracy in bfloat16 minus accuracy in float32:\n\n"
        "| task | mean | mean size | largest |\n|---|---:|---:|---:|"
    )
    for task in [*dict.fromkeys(key[0] for key in full), "all"]:
        moved = [lowered[key] - full[key] for key in full if task in (key[0], "all")]
        largest = max(moved, key=abs)
        print(f"| {task} | {statistics.fmean(moved):+.4f} | {statistics.fmean(map(abs, moved)):.4f} | {largest:+.4f} |")
    print(
        f"\n* One of 240 test scenes is {1 / 240:.4f}.\n"
        f"* BERT-base is {statistics.median(ratios):.2f} times as fast in bfloat16 ({min(ratios):.2f} to "
        f"{max(ratios):.2f}) on this processor. No GPU was at hand."
    )


if __name__ == "__main__":
    main()
