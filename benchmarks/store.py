"""How fast representations are written and one layer is read, beside NumPy's files and memory maps.

Repeat with `python benchmarks/store.py > benchmarks/store.md` (about a minute; 1.6 GB of disk).

A layer is read in four ways, in turn, each of which ends with the same rows in memory of its own:
* as a study reads one layer after another: verified, rows in the order of its examples, which is no order of the store
  (there, rows are by address), cut into train, validation and test, in the memory of the layer before;
* NumPy, the same rows in the same parts: one .npy file that holds nothing but this layer, through a memory map;
* NumPy, the file as it is: a copy of the memory map;
* plain: the bytes of the layer in the files of the store, one file after the other, neither checked nor put in order.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlprobe.examples import Examples
from vlprobe.extraction import Extraction, Reader
from vlprobe.extraction.questions import Questions
from vlprobe.store import Section, Store
from vlprobe.types import Example

LAYERS, ROWS, WIDTH, SHARD = 13, 20_000, 768, 512
READS = 7
"""Of each kind, one after the other in turn: the median of them counts."""
REPEATS = 3
HOME, SECTION, LAYER = "a" * 64, "input:cls:text", "joint.5"
SHARES = 0.7, 0.8
"""Where train ends, and validation."""


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a function takes."""
    start = clock()
    run()
    return clock() - start


def plain(store: Store, layer: str) -> np.ndarray:
    """Return the rows of a layer as the store's files hold them, one after the other, without a check."""
    rows, done = np.empty((ROWS, WIDTH), np.float32), 0
    memory = rows.reshape(-1).view(np.uint8).data
    for path in sorted(store.folder.rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            length = int.from_bytes(file.read(8), "little")
            start, end = json.loads(file.read(length))[f"{SECTION}/{layer}"]["data_offsets"]
            file.seek(8 + length + start)
            while start < end:
                got = file.readinto(memory[done : done + end - start])
                start, done = start + got, done + got
    return rows


def asked(names: np.ndarray) -> Extraction:
    """Return what a study asks: (question, 16) uint8 addresses, in the order of its examples."""
    count = len(names)
    examples = Examples.of(
        [Example(id=str(i), text="", image=None, group=str(i), target=("ab"[i % 2],)) for i in range(count)]
    )
    kind = np.zeros(count, np.uint8)
    questions = Questions(examples, names, np.zeros((2, count, 16), np.uint8), (SECTION,), kind, None, None)
    return Extraction({"": questions}, "input", "cls", HOME, "", "", {"": ""})


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


def once(folder: Path, names: np.ndarray, layers: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return what -> way -> seconds that it takes."""
    files = folder / "plain"
    files.mkdir()
    text = [name.tobytes().hex() for name in names]
    wrote = seconds(lambda: write_store(Store(folder / "store"), text, layers))
    found = {"write": {"study": wrote, "copy": seconds(lambda: write_numpy(files, layers))}}
    draw = np.random.default_rng(1)
    order = draw.permutation(ROWS)
    parts = [np.sort(part) for part in np.split(draw.permutation(ROWS), [int(ROWS * share) for share in SHARES])]
    clocks = {"warm": time.perf_counter, "processor": time.process_time, "cold": time.perf_counter}
    for kind, clock in clocks.items():
        store = Store(folder / "store")
        reader, file = Reader(asked(names[order]), store, parts), files / f"{LAYER}.npy"
        ways = {
            "study": lambda reader=reader: reader.read(LAYER),
            "parts": lambda file=file: [np.load(file, mmap_mode="r")[order[part]] for part in parts],
            "copy": lambda file=file: np.array(np.load(file, mmap_mode="r")),
            "plain": lambda store=store: plain(store, LAYER),
        }
        for ours, theirs in zip(ways["study"](), ways["parts"](), strict=True):
            np.testing.assert_array_equal(ours.X, theirs)
        del ours  # the reader lends no memory twice while somebody looks at it
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(READS):
            for way, read in ways.items():
                read()  # whoever first asks the system for fresh memory pays for it
                if kind == "cold":
                    drop(folder)
                taken[way].append(seconds(read, clock))
        found[kind] = {way: statistics.median(times) for way, times in taken.items()}
    return found


def main() -> None:
    """Print a page of Markdown."""
    draw = np.random.default_rng(0)
    layers = {f"joint.{k}": draw.standard_normal((ROWS, WIDTH), dtype=np.float32) for k in range(LAYERS)}
    names = np.frombuffer(b"".join(number.to_bytes(16, "big") for number in range(ROWS)), np.uint8).reshape(-1, 16)
    size = ROWS * WIDTH * 4 / 1e6
    runs = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=".") as name:
            runs.append(once(Path(name), names, layers))
    print("# The store's speed\n\nRepeat with `python benchmarks/store.py > benchmarks/store.md`.\n")
    print(
        f"{ROWS:,} inputs, {LAYERS} layers of {WIDTH}, float32, {LAYERS * size / 1e3:.2f} GB, shards of {SHARD}; "
        f"{os.cpu_count()} cores ({platform.machine()}), as many threads of vlprobe's and one of the others'. Rates of "
        f"vlprobe over those of the other, median and range of {REPEATS}, each of {READS} readings in turn. vlprobe "
        "verifies every tensor's checksum, puts rows in the order of a study's examples and cuts them into train, "
        "validation and test, in the memory of the layer before. NumPy: one .npy file a layer, through a memory map "
        "into new arrays, the same rows in the same parts, or the file as it is. Plain: the bytes of the layer in the "
        "store's files, one file after the other, neither checked nor put in order. "
        f"Others were at work: {os.getloadavg()[0]:.0f} processes waited for a core, on average.\n\n"
        "| | rate / NumPy's, same parts | rate / NumPy's, file as it is | rate / plain reading's | MB a second |\n"
        "|---|---:|---:|---:|---:|"
    )
    told = {
        "write": "all layers written and flushed",
        "warm": "one layer read, files in memory",
        "processor": "the same, in seconds of the processor",
        "cold": "one layer read, from the disk",
    }
    for kind, text in told.items():
        cells = []
        for other in ("parts", "copy", "plain"):
            ratios = [run[kind][other] / run[kind]["study"] for run in runs if other in run[kind]]
            mark = "**" if other == "parts" else ""
            span = ratios and f"{mark}{statistics.median(ratios):.2f}{mark} ({min(ratios):.2f} to {max(ratios):.2f})"
            cells.append(span or "")
        rate = statistics.median((LAYERS if kind == "write" else 1) * size / run[kind]["study"] for run in runs)
        print(f"| {text} | {' | '.join(cells)} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
