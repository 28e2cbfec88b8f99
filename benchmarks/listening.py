"""What the probes beside the linear one make of labels that are not there, and what they cost.

Repeat with `OMP_NUM_THREADS=1 python benchmarks/listening.py > benchmarks/listening.md`. Features are noise of unequal
strengths; the labels of the first table have nothing to do with them. Costs are processor seconds of this one process,
the probes in turn, so that a busy machine slows all alike; ratios are the medians of all rounds.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Sequence

import numpy as np

from vlprobe.digest import generator
from vlprobe.probes.linear import Logistic, Split, probe
from vlprobe.probes.mdl import online_code
from vlprobe.probes.mlp import mlp
from vlprobe.probes.salin2022 import Protocol, salin2022
from vlprobe.statistics import score

WIDTH = 256
"""Columns of the features."""
TRAIN = 800
"""Rows of train; validation has a quarter as many."""


def main() -> None:
    """Measure both and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print("# What other probes make of nothing, and what they cost\n")
    print("Repeat with `OMP_NUM_THREADS=1 python benchmarks/listening.py > benchmarks/listening.md`.\n")
    print(f"{TRAIN} train rows and {TRAIN // 4} for validation, {WIDTH} columns; {platform.machine()}, NumPy ", end="")
    print(f"{np.__version__}. Accuracy above chance in points of 100, and its standard error, over ", end="")
    print(f"{given.repetitions} sets of labels that have nothing to do with the features; for mdl, compression.\n")
    print("| classes | test rows | salin2022 | its last epoch | linear | mlp | mdl |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for classes in (2, 8):
        for rows in (50, 200, 800):
            print(f"| {classes} | {rows} | {' | '.join(nothing(classes, rows, given.repetitions))} |")
    times = [once(number) for number in range(given.rounds)]
    print("\nProcessor time on 8 classes that are there, 200 test rows, as a multiple of the linear probe's:\n")
    print("| probe | multiple | seconds |\n|---|---:|---:|")
    for name in times[0]:
        ratio = statistics.median(each[name] / each["linear"] for each in times)
        print(f"| {name} | {ratio:.1f} | {statistics.median(each[name] for each in times):.2f} |")


def drawn(rows: int, classes: int, signal: float, seed: int, part: str) -> Split:
    """Return noise and labels; no signal: labels of chance."""
    rng = generator(seed, "listening", part)
    X = (rng.normal(size=(rows, WIDTH)) * np.linspace(2, 0.2, WIDTH)).astype(np.float32)
    weights = generator(seed, "listening", "weights").normal(size=(WIDTH, classes)) / math.sqrt(WIDTH)
    labels = (signal * X @ weights + rng.gumbel(size=(rows, classes))).argmax(axis=1)
    return Split(X, np.array([f"class {c}" for c in range(classes)])[labels])


def parts(classes: int, rows: int, signal: float, seed: int) -> tuple[Split, Split, Split, Split]:
    """Return train, validation, test, and the first two together."""
    train = drawn(TRAIN, classes, signal, seed, "train")
    validation = drawn(TRAIN // 4, classes, signal, seed, "validation")
    both = Split(np.concatenate([train.X, validation.X]), np.concatenate([train.y, validation.y]))
    return train, validation, drawn(rows, classes, signal, seed, "test"), both


def nothing(classes: int, rows: int, repetitions: int) -> list[str]:
    """Return what each probe makes of labels of chance, mean and standard error."""
    found: list[list[float]] = []
    for seed in range(repetitions):
        train, validation, test, both = parts(classes, rows, 0.0, seed)
        runs = salin2022(both, test, seed, Protocol())
        answers = [probe(Logistic, train, validation, test), mlp(train, validation, test, seed)]
        accuracies = [float(np.mean(runs.scores)), float(np.mean(runs.last))]
        accuracies += [score(test.y, each.predicted, "accuracy") for each in answers]
        (code,) = online_code(both.X, [both.y], np.arange(len(both.y)), seed)
        found.append([*(100 * (each - 1 / classes) for each in accuracies), code.compression])
    columns = np.array(found)
    errors = columns.std(axis=0, ddof=1) / math.sqrt(repetitions)
    said = [f"{mean:+.1f} ± {error:.1f}" for mean, error in zip(columns.mean(axis=0), errors, strict=True)]
    return [*said[:-1], f"{columns[:, -1].mean():.3f} ± {errors[-1]:.3f}"]


def once(seed: int) -> dict[str, float]:
    """Return processor seconds of each probe on labels that are there."""
    train, validation, test, both = parts(8, 200, 6.0, seed)
    rows: Sequence[int] = range(len(both.y))
    calls = {
        "linear": lambda: probe(Logistic, train, validation, test),
        "mlp": lambda: mlp(train, validation, test, seed),
        "mdl": lambda: online_code(both.X, [both.y], np.array(rows), seed),
        "salin2022": lambda: salin2022(both, test, seed, Protocol()),
    }
    taken = {}
    for name, call in calls.items():
        start = time.process_time()
        call()
        taken[name] = time.process_time() - start
    return taken


if __name__ == "__main__":
    main()
