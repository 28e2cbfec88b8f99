"""What drawing a scene costs, beside reading a photograph from its file.

Repeat with `python benchmarks/scenes.py PHOTOS > benchmarks/scenes.md`, where PHOTOS is a folder of JPEG files; without
one, it reads 640 x 480 files that it makes. Rounds of scenes and of photographs take turns, in processor seconds of
this one process, so that a busy machine slows both alike; ratios are the medians of all rounds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlprobe.digest import generator
from vlprobe.images import open_image
from vlprobe.scenes.captions import describe
from vlprobe.scenes.drawing import SIDE, draw, encoded
from vlprobe.scenes.scene import Scene, sample

BATCH = 32
"""Scenes, and photographs, of one round."""


def main() -> None:
    """Time rounds of both and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        photos = sorted(given.photos.glob("*.jpg")) if given.photos else make_photos(Path(made))
        run_once(photos, 0)  # warms up: imports, and the files' place in memory
        rounds = [run_once(photos, number) for number in range(1, given.rounds + 1)]
        print_page(rounds, photos, "COCO photographs" if given.photos else "made JPEG files")


def make_photos(folder: Path) -> list[Path]:
    """Return as many JPEG files as a round reads: smooth noise, about as large as photographs are."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(BATCH)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, size=(60, 80, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize((640, 480))) + rng.normal(0, 6, size=(480, 640, 3))
        Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def run_once(photos: Sequence[Path], number: int) -> dict[str, float]:
    """Return processor milliseconds an item, by step."""
    numbers = range(number * BATCH, (number + 1) * BATCH)
    scenes: list[Scene] = []
    files: list[bytes] = []
    times: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object]) -> None:
        start = time.process_time()
        work()
        times[step] = (time.process_time() - start) / BATCH * 1e3

    timed("a photograph, read from its file and decoded", lambda: read(photos, numbers))
    timed("drawing the facts of a scene", lambda: scenes.extend(sample(0, "benchmark", n) for n in numbers))
    timed("its caption", lambda: [describe(scene, generator(0, scene.name)) for scene in scenes])
    timed("its pixels and its PNG file", lambda: files.extend(encoded(scene) for scene in scenes))
    timed("of these, the pixels", lambda: [draw(scene) for scene in scenes])
    timed("decoding the PNG file, as a model's input", lambda: [open_image(file) for file in files])
    return times


def read(photos: Sequence[Path], numbers: range) -> None:
    """Read and decode one photograph for every number."""
    for number in numbers:
        open_image(photos[number % len(photos)])


def print_page(rounds: Sequence[dict[str, float]], photos: Sequence[Path], what: str) -> None:
    """Print the medians."""
    (photo, facts, caption, file, pixels, decoding) = rounds[0]
    sizes = [Image.open(path).size for path in photos]
    width, height = (round(statistics.mean(size[axis] for size in sizes)) for axis in (0, 1))
    print("# What a scene costs\n")
    print("Repeat with `python benchmarks/scenes.py PHOTOS > benchmarks/scenes.md`.\n")
    print(
        f"{BATCH} scenes of {SIDE} x {SIDE} and {BATCH} of {len(photos)} {what} ({width} x {height} on average) in "
        f"turn, {len(rounds)} times, processor time of one process ({platform.machine()}, NumPy {np.__version__}). "
        "The machine was shared: trust the ratios, and those to a tenth.\n"
    )
    print("| step | share of a photograph | milliseconds |\n|---|---:|---:|")
    sums = {
        "**made and decoded**: a scene where a photograph is read": (facts, caption, file, decoding),
        "**made**: facts, caption, pixels, file": (facts, caption, file),
        **{step: (step,) for step in (facts, caption, file, pixels, decoding, photo)},
    }
    for step, parts in sums.items():
        ratio = statistics.median(sum(one[part] for part in parts) / one[photo] for one in rounds)
        spent = statistics.median(sum(one[part] for part in parts) for one in rounds)
        print(f"| {step} | {ratio:.2f} | {spent:.2f} |")


if __name__ == "__main__":
    main()
