"""The zoo's detector: Faster R-CNN on ResNet C4 with attributes, as the full one, trained on scenes.

Its classes are the shapes, its attributes the colours. It learns as Ren et al. (2015) train theirs, all parts at once,
with batch norms that learn in the beginning and are frozen in the end, when it learns to do with the statistics that
it will have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from vlprobe.digest import digest, generator
from vlprobe.regions.configuration import configured
from vlprobe.regions.conventions import CONVENTIONS, Conventions
from vlprobe.regions.detector import Detector
from vlprobe.regions.network import Network, Sizes
from vlprobe.regions.preprocessing import prepare
from vlprobe.scenes.drawing import SIDE, draw
from vlprobe.scenes.scene import COLOURS, RADIUS, SHAPES, sample
from vlprobe.zoo.detector_files import (
    PIXEL,
    Reached,
    load_state,
    save_state,
    training_network,
    write_config,
    write_weights,
)
from vlprobe.zoo.detector_losses import Batch, losses
from vlprobe.zoo.detector_scores import scores
from vlprobe.zoo.detector_targets import Weights, things_of

INPUT = 256
"""Pixels that a picture's sides are brought to: the smallest thing then covers two cells."""
CENTRE = 2.0
"""Middle of what the first cell of the map sees, in pixels: the stem's maximum, unpadded, moves it."""
REGRESSION: Weights = (10.0, 10.0, 5.0, 5.0)
"""Weights of the heads' deltas."""
CONFIG = {
    "input": {"min_size_test": INPUT, "max_size_test": INPUT},
    "model": {"pixel_mean": [180.0, 180.0, 180.0]},
    "rpn": {"pre_nms_topk_test": 200, "post_nms_topk_test": 12, "nms_thresh": 0.5},
    "roi_heads": {"nms_thresh_test": [0.3, 0.5, 0.7, 0.9]},
    "roi_box_head": {"bbox_reg_weights": list(REGRESSION)},
    "min_detections": 6,
    "max_detections": 12,
}
"""As huggingface's config.yaml. Two things never overlap by 0.3; the boxes after those of the things are of paper and
of parts of things, as the full detector's are."""


@dataclass(frozen=True)
class Recipe:
    """How the detector is trained."""

    sizes: Sizes = Sizes(
        stem=8,
        blocks=(3, 4, 6, 3),
        inner=(8, 16, 32, 24),
        outer=(32, 64, 80, 64),
        rpn=48,
        anchors=len(RADIUS),
        classes=len(SHAPES) + 1,
        embedding=16,
        attribute_hidden=32,
        attributes=len(COLOURS) + 1,
    )
    """Of the network."""
    steps: int = 1500
    """Batches that are learnt from."""
    batch: int = 8
    """Scenes of a step; no scene is shown twice."""
    frozen: float = 0.25
    """Share of the steps, at the end, in which the norms' statistics stand still."""
    rate: float = 3e-3
    """Highest step of AdamW (Loshchilov and Hutter 2019)."""
    decay: float = 0.01
    """Its weight decay."""
    warm: float = 0.05
    """Share of the steps over which the rate rises; then it falls as a cosine."""
    clip: float = 5.0
    """Limit on the norm of the gradient."""
    save: int = 100
    """Steps between two saved states."""
    test: int = 400
    """Held-out scenes that it is scored on."""


RECIPE = Recipe()


def train_detector(
    folder: Path, seed: int, progress: Callable[[str], None], recipe: Recipe = RECIPE
) -> dict[str, float]:
    """Train the detector, write `model.safetensors` and `config.yaml`, and return how it does on held-out scenes.

    Its state is kept in `folder/training`. Called again it goes on from there, and ends with the same weights as if it
    had never stopped. The same seed gives the same weights on the same machine with as many threads.

    Args:
        folder: where the files go.
        seed: of weights, scenes and draws.
        progress: is told how far it is.
        recipe: sizes and lengths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "config.yaml", CONFIG)
    conventions, _ = configured(CONVENTIONS["hf"], folder)
    network = training_network(recipe.sizes, anchors(), seed)
    optimiser = _optimiser(network, recipe)
    state = folder / "training" / "detector.safetensors"
    known = digest("zoo-detector", seed, asdict(recipe), CONFIG)
    reached = begun = load_state(network, optimiser, state, known)
    if begun.step:
        progress(f"detector: goes on from step {begun.step}")
    began, since = time.monotonic(), list[dict[str, float]]()
    for step in range(begun.step, recipe.steps):
        since.append(_step(network, optimiser, step, seed, conventions, recipe))
        if (step + 1) % recipe.save == 0 or step + 1 == recipe.steps:
            seconds = begun.seconds + time.monotonic() - began
            means = {name: sum(parts[name] for parts in since) / len(since) for name in since[0]}
            since.clear()
            reached = Reached(known, step + 1, seconds, means)
            save_state(network, optimiser, state, reached)
            parts = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            progress(f"detector: step {step + 1} of {recipe.steps}, {seconds:.0f} s: {parts}")
    write_weights(network, folder / "model.safetensors")
    detector = Detector.open(folder, conventions="hf", device="cpu")
    held_out = [sample(seed, "zoo-test", number) for number in range(recipe.test)]
    return {
        "seconds": reached.seconds,
        **{f"loss: {name}": value for name, value in reached.losses.items()},
        **scores(detector, held_out),
    }


def anchors() -> torch.Tensor:
    """Return (anchor, 4): a square for each size of things, in pixels of the input."""
    halves = torch.tensor([[math.sqrt(low * high) * INPUT] for low, high in RADIUS.values()]).round()
    return torch.cat([CENTRE - halves, CENTRE - halves, CENTRE + halves, CENTRE + halves], dim=1)


def batch_of(step: int, seed: int, conventions: Conventions, recipe: Recipe) -> Batch:
    """Return the scenes of a step, prepared as the detector prepares pictures."""
    numbers = range(step * recipe.batch, (step + 1) * recipe.batch)
    scenes = [sample(seed, "zoo-train", number) for number in numbers]
    pixels = [prepare(Image.fromarray(draw(scene, SIDE)), conventions).pixels for scene in scenes]
    return Batch(torch.stack(pixels) / PIXEL, [things_of(scene, INPUT) for scene in scenes])


def _step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    step: int,
    seed: int,
    conventions: Conventions,
    recipe: Recipe,
) -> dict[str, float]:
    """Learn from one batch and return the parts of its loss. Nothing but the arguments decides what happens."""
    frozen = step >= recipe.steps * (1 - recipe.frozen)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)
    for group in optimiser.param_groups:
        group["lr"] = rate(step, recipe)
    rng = generator(seed, "zoo-detector", str(step))
    parts = losses(network, batch_of(step, seed, conventions, recipe), conventions, REGRESSION, rng)
    optimiser.zero_grad()
    torch.stack(list(parts.values())).sum().backward()
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimiser.step()
    return {name: float(value.detach()) for name, value in parts.items()}


def rate(step: int, recipe: Recipe) -> float:
    """Return the step size: up along a line, down along a cosine to 0."""
    warm = recipe.warm * recipe.steps
    if step < warm:
        return recipe.rate * (step + 1) / (warm + 1)
    return recipe.rate * (1 + math.cos(math.pi * (step - warm) / (recipe.steps - warm))) / 2


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW, which decays weights and leaves norms and biases alone."""
    parameters = list(network.parameters())
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    free = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate)
