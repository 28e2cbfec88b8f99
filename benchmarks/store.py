"""How fast representations are written and one layer is read, beside NumPy's files and memory maps.

Repeat with `python benchmarks/store.py > benchmarks/store.md` (about a minute; 1.6 GB of disk).
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlprobe.store import Section, Store

LAYERS, ROWS, WIDTH, SHARD = 13, 20_000, 768, 512
READS = 7
"""Of each kind, one after the other in turn: the median of them counts."""
HOME, SECTION = "a" * 64, "input:cls:text"


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a function takes."""
    start = clock()
    run()
    return clock() - start


def drop(folder: Path) -> None:
    """Let the system forget the files' pages."""
    for path in folder.rglob("*.*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_store(store: Store, names: list[str], layers: dict[str, np.ndarray]) -> None:
    """Write all layers as vlprobe does: a file for each chunk, checksums, flushed."""
    for number, start in enumerate(range(0, ROWS, SHARD)):
        part = slice(start, start + SHARD)
        inside = {layer: rows[part] for layer, rows in layers.items()}
        count = len(inside["joint.0"])
        section = Section(
            tuple(names[part]),
            np.arange(count + 1),
            np.zeros(count, np.int32),
            inside,
            dict.fromkeys(layers, "cls"),
        )
        store.write(HOME, f"{number:032x}", {SECTION: section})


def write_numpy(folder: Path, layers: dict[str, np.ndarray]) -> None:
    """Write one .npy a layer, flushed."""
    for layer, rows in layers.items():
        with (folder / f"{layer}.npy").open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())


def once(folder: Path, names: list[str], layers: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return what -> seconds that vlprobe and NumPy take."""
    plain = folder / "plain"
    plain.mkdir()
    wrote = seconds(lambda: write_store(Store(folder / "store"), names, layers))
    found = {"write": (wrote, seconds(lambda: write_numpy(plain, layers)))}
    for kind in ("warm", "cold"):
        store = Store(folder / "store")
        store.held(HOME, SECTION)
        ways = (
            lambda store=store: store.read(HOME, SECTION, "joint.5", names),
            lambda: np.array(np.load(plain / "joint.5.npy", mmap_mode="r")),
        )
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(READS):
            for way, times in zip(ways, taken, strict=True):
                way()  # whoever first asks the system for fresh memory pays for it
                if kind == "cold":
                    drop(folder)
                times.append(seconds(way, time.perf_counter if kind == "cold" else time.process_time))
        found[kind] = statistics.median(taken[0]), statistics.median(taken[1])
    return found


def main() -> None:
    """Print a page of Markdown."""
    draw = np.random.default_rng(0)
    layers = {f"joint.{k}": draw.standard_normal((ROWS, WIDTH), dtype=np.float32) for k in range(LAYERS)}
    names = [f"{number:032x}" for number in range(ROWS)]
    size = ROWS * WIDTH * 4 / 1e6
    ratios: dict[str, list[float]] = {"write": [], "warm": [], "cold": []}
    rates: dict[str, list[float]] = {"write": [], "warm": [], "cold": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=".") as name:
            for kind, (ours, theirs) in once(Path(name), names, layers).items():
                ratios[kind].append(theirs / ours)
                rates[kind].append((LAYERS if kind == "write" else 1) * size / ours)
    print("# The store's speed\n\nRepeat with `python benchmarks/store.py > benchmarks/store.md`.\n")
    print(
        f"{ROWS:,} inputs, {LAYERS} layers of {WIDTH}, float32, {LAYERS * size / 1e3:.2f} GB, shards of {SHARD}, "
        f"one thread ({platform.machine()}), median and range of 3, each of {READS} readings in turn. Beside "
        "it one .npy file a layer, read through a memory map into memory: files in memory in seconds of the processor, "
        "others by the clock. vlprobe verifies every tensor's checksum as it reads.\n\n"
        "| | vlprobe's rate / NumPy's | MB a second |\n|---|---:|---:|"
    )
    told = {
        "write": "all layers written and flushed",
        "warm": "one layer read, files in memory",
        "cold": "one layer read, from the disk",
    }
    for kind, text in told.items():
        found = ratios[kind]
        print(
            f"| {text} | **{statistics.median(found):.2f}** ({min(found):.2f} to {max(found):.2f}) | "
            f"{statistics.median(rates[kind]):,.0f} |"
        )


if __name__ == "__main__":
    main()
