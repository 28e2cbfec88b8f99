"""What more threads bring to a probe's matrix products, on idle cores and where other processes have them.

Repeat with `python benchmarks/threads.py > benchmarks/threads.md`, on a machine that does nothing else (about three
minutes on two cores).

A linear probe and its control, shuffled labels, of rows that are drawn: as vlprobe fits them, on one thread, and on as
many as NumPy would take by itself, in turn.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from threadpoolctl import ThreadpoolController

from vlprobe.probes.linear import Logistic, probe_sets

SIZES = ((1_200, 80, 4), (5_000, 80, 12), (5_000, 384, 12), (1_200, 768, 4), (20_000, 768, 12))
"""Rows, width, classes."""
BUSY = 2
"""How many of them are fitted where other processes have the cores, too."""
READS = 3
"""Fits of each kind: the median counts."""


def drawn(rows: int, width: int, classes: int) -> tuple[tuple[np.ndarray, ...], list[tuple[np.ndarray, np.ndarray]]]:
    """Return (row, width) train, validation and test, and true and shuffled labels of the first two."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, classes, rows)
    X = (0.1 * draw.standard_normal((classes, width))[y] + draw.standard_normal((rows, width))).astype(np.float32)
    a, b = int(0.7 * rows), int(0.8 * rows)
    return (X[:a], X[a:b], X[b:]), [(labels[:a], labels[a:b]) for labels in (y, draw.permutation(y))]


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Keep some cores busy."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def fitted(rows: int, width: int, classes: int, reads: int) -> dict[int, float]:
    """Return threads -> seconds of the wall's clock."""
    X, labels = drawn(rows, width, classes)
    pools, cores = ThreadpoolController(), os.cpu_count() or 1
    probe = probe_sets.__wrapped__  # type: ignore[attr-defined]  # as many threads as are asked for here
    taken: dict[int, list[float]] = {1: [], cores: []}
    for number in range(reads + 1):
        for threads, seconds in taken.items():
            with pools.limit(limits=threads, user_api="blas"):
                start = time.perf_counter()
                probe(Logistic, X, labels)
                if number:  # the first is slower than those to come
                    seconds.append(time.perf_counter() - start)
    return {threads: statistics.median(seconds) for threads, seconds in taken.items()}


def main() -> None:
    """Print a page of Markdown."""
    cores = os.cpu_count() or 1
    print("# Threads of a probe\n\nRepeat with `python benchmarks/threads.py > benchmarks/threads.md`.\n")
    print(
        f"A linear probe and its control on drawn rows; {cores} cores ({platform.machine()}), NumPy {np.__version__}. "
        f"Time on {cores} threads over time on one, by the clock, in turn: on idle cores the median of {READS}; where "
        f"{cores} other processes count as fast as they can, one fit. vlprobe takes one thread.\n\n"
        f"| rows | width | classes | one thread, s | {cores} threads / one | the same, busy cores |\n"
        "|---:|---:|---:|---:|---:|---:|"
    )
    for place, size in enumerate(SIZES):
        idle, busy = fitted(*size, READS), ""
        if place < BUSY:
            with others(cores):
                found = fitted(*size, 1)
            busy = f"**{found[cores] / found[1]:.2f}**"
        rows, width, classes = size
        print(
            f"| {rows:,} | {width} | {classes} | {idle[1]:.2f} | **{idle[cores] / idle[1]:.2f}** | {busy} |", flush=True
        )


if __name__ == "__main__":
    main()
