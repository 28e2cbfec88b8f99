"""Where the detector's time goes, at full size, with random weights.

Repeat with `python benchmarks/regions.py > benchmarks/regions.md`.

Ratios first: on a machine that others use, a share of the time and a share of the matrix rate repeat better than
seconds. Every repetition times all stages and a matrix product in turn, so that a busy minute slows them alike; the
median of the repetitions is shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vlprobe.exact import exact
from vlprobe.regions.conventions import CONVENTIONS, STRIDE
from vlprobe.regions.detector import chunk_size
from vlprobe.regions.network import POOLED, RESNET101, Network
from vlprobe.regions.operators import roi_pool
from vlprobe.regions.proposals import CAFFE_ANCHORS, propose
from vlprobe.regions.selection import Place, select

HEIGHT, WIDTH = 600, 1000
STAGES = ("backbone", "RPN and NMS", "RoI pooling", "res5", "heads and selection")


def main() -> None:
    """Time the stages and print a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    network = random_network()
    pixels = torch.randn(1, 3, HEIGHT, WIDTH) * 60
    chunk = chunk_size(RESNET101, torch.device("cpu"))
    square = torch.randn(2048, 2048)
    seconds: dict[str, list[float]] = {}
    with exact():
        for repeat in range(repeats + 1):  # the first warms up
            times = run_once(network, pixels, square, chunk)
            for stage, value in times.items() if repeat else ():
                seconds.setdefault(stage, []).append(value)
    print_page({stage: statistics.median(values) for stage, values in seconds.items()}, network, chunk, repeats)


def random_network() -> Network:
    """Return the published sizes with weights that keep states near 1."""
    network = Network(RESNET101).eval()
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            tensor.fill_(0.2)
        if name.endswith(("running_mean", "norm.bias")):
            tensor.zero_()
    network.anchor_deltas.weight.data.mul_(0.01)
    network.cell_anchors.copy_(torch.tensor(CAFFE_ANCHORS))
    for parameter in network.res5.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def run_once(network: Network, pixels: torch.Tensor, square: torch.Tensor, chunk: int) -> dict[str, float]:
    """Return the seconds of every stage, and of the matrix product, which runs before and after res5."""
    conventions = CONVENTIONS["caffe"]
    times: dict[str, float] = {}

    def timed(stage: str, function: Callable[..., Any], *values: Any) -> Any:
        start = time.perf_counter()
        result = function(*values)
        times[stage] = times.get(stage, 0.0) + time.perf_counter() - start
        return result

    states = timed("backbone", network.map, pixels)
    objectness, deltas = timed("RPN and NMS", network.objectness_and_deltas, states)
    rois, _ = timed(
        "RPN and NMS", propose, objectness[0], deltas[0], network.cell_anchors, (HEIGHT, WIDTH), 1.0, conventions
    )
    features = torch.empty(len(rois), RESNET101.outer[3])
    for start in range(0, len(rois), chunk):
        part = slice(start, start + chunk)
        pooled = timed("RoI pooling", roi_pool, states[0], rois[part], STRIDE, POOLED)
        timed("matrix", torch.matmul, square, square)
        inside = timed("res5", lambda: network.res5(pooled.contiguous(memory_format=torch.channels_last)))  # noqa: B023
        features[part] = timed("res5", inside.mean, (2, 3))
        times["matrices"] = times.get("matrices", 0) + 1
    heads = timed("heads and selection", network.heads, features)
    probabilities = heads.classes.softmax(dim=1)
    place = Place((HEIGHT, WIDTH), (1.0, 1.0))
    timed("heads and selection", select, rois, probabilities, heads, place, conventions)
    return {**times, "regions": len(rois)}


def print_page(seconds: dict[str, float], network: Network, chunk: int, repeats: int) -> None:
    """Print the figures, ratios first."""
    total = sum(seconds[stage] for stage in STAGES)
    count = int(seconds["regions"])
    weights = sum(module.weight.numel() for module in network.res5.modules() if isinstance(module, torch.nn.Conv2d))
    achieved = 2 * weights * POOLED**2 * count / seconds["res5"] / 1e9
    reference = 2 * 2048**3 * seconds["matrices"] / seconds["matrix"] / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("# The detector's speed\n")
    print("Repeat with `python benchmarks/regions.py > benchmarks/regions.md`.\n")
    print(
        f"ResNet-101, 1601 classes, random weights, one image of {HEIGHT} x {WIDTH}, {count} proposals of which all go "
        f"through res5, {chunk} at a time; `caffe` conventions; float32. Median of {repeats} repetitions on "
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}. "
        "The machine was shared and noisy: trust the ratios, not the seconds, and those to a tenth.\n"
    )
    print("| stage | share of the time | seconds |\n|---|---:|---:|")
    for stage in STAGES:
        print(f"| {stage} | {seconds[stage] / total:.1%} | {seconds[stage]:.2f} |")
    print(f"| all | 100% | {total:.2f} |\n")
    print(
        f"* res5 runs at {achieved / reference:.0%} of this machine's float32 matrix rate, measured between its chunks"
    )
    print(f"  ({achieved:.0f} of {reference:.0f} GFLOP/s; matrices of 2048 x 2048).")
    print(f"* {count / total:.1f} proposals a second.")
    print(f"* Peak memory of the process: {peak:.2f} GiB.")


if __name__ == "__main__":
    main()
