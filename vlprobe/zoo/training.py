"""The loop: steps, a schedule, a state that is saved so that a killed run goes on where it was."""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vlprobe.digest import generator

WARM = 200
"""Steps in which the learning rate rises to its height; then it falls in a straight line."""
LEAST = 0.02
"""Share of its height that the learning rate ends with."""
CLIP = 1.0
"""Largest norm of a step's gradient."""
DECAY = 0.01
"""Weight decay."""
BLOCK = re.compile(r"layers?\.\d+\.")
"""Names of the weights inside a transformer's blocks."""
SAVED_EVERY = 250
"""Steps between two saved states."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained."""

    steps: int
    """Batches."""
    batch: int
    """Examples of a batch."""
    rate: float = 2e-3
    """Height of AdamW's learning rate; Muon's is twice as high."""

    def factor(self, step: int) -> float:
        """Return the share of the learning rate at a step, counted from 0."""
        return min(1.0, (step + 1) / WARM) * max(LEAST, 1 - step / self.steps)


class Learner(nn.Module, ABC):
    """A network with heads, and what it is to learn."""

    @abstractmethod
    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """Return the losses of a batch of `size` examples that `rng` draws; their sum is minimised."""

    @abstractmethod
    def held_out(self) -> dict[str, float]:
        """Return scores on scenes that are not trained on."""


def train(learner: Learner, schedule: Schedule, seed: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Train a network, or go on where a state in `folder` says that training was.

    A step's batch depends on the seed and the step alone, so that an interrupted run ends with the weights of one that
    was not, bit for bit on the same machine.

    Args:
        learner: changed in place.
        schedule: how long.
        seed: of the batches; the network's first weights are the caller's.
        folder: where states go while training runs; emptied of them at the end.
        progress: told how it goes.

    Returns:
        The last losses by name, averaged over 100 steps, and `seconds` of processor time.
    """
    learner.train()
    optimisers = _optimisers(learner)
    state = _State(folder / "training", learner, [optimiser for optimiser, _ in optimisers])
    first, spent, recent = state.load(schedule, seed)
    for step in range(first, schedule.steps):
        started = time.process_time()
        losses = learner.losses(generator(seed, "zoo", "step", str(step)), schedule.batch)
        learner.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), CLIP)
        for optimiser, height in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = height * schedule.rate * schedule.factor(step)
            optimiser.step()
        for name, loss in losses.items():
            recent[name] = recent.get(name, loss.item()) * 0.99 + loss.item() * 0.01
        spent += time.process_time() - started
        if (step + 1) % SAVED_EVERY == 0:
            state.save(step + 1, spent, recent, schedule, seed)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in recent.items())
            progress(f"step {step + 1} of {schedule.steps}, {spent:.0f} s: {shown}")
    learner.eval()
    state.remove()
    return {**{f"loss: {name}": value for name, value in recent.items()}, "seconds": spent}


def _optimisers(learner: Learner) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return Muon for the matrices of the blocks and AdamW for all else, each with its share of the learning rate.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes a step's singular values equal; small
    transformers learn in fewer steps with it. Its step is scaled to the size of AdamW's.
    """
    blocks: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in learner.named_parameters():
        (blocks if parameter.ndim == 2 and BLOCK.search(name) else others).append(parameter)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=DECAY)
    if not blocks:
        return [(adam, 1.0)]
    return [(torch.optim.Muon(blocks, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"), 2.0), (adam, 1.0)]


class _State:
    """Weights, the optimisers' moments and the step, in one file."""

    def __init__(self, folder: Path, learner: Learner, optimisers: list[torch.optim.Optimizer]) -> None:
        self.folder, self.learner, self.optimisers = folder, learner, optimisers

    def _moments(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """Yield a name and the moments of every parameter, in an order that the network fixes."""
        for name, parameter in self.learner.named_parameters():
            for optimiser in self.optimisers:
                if any(parameter is known for group in optimiser.param_groups for known in group["params"]):
                    yield name, optimiser.state[parameter]

    def save(self, step: int, spent: float, recent: Mapping[str, float], schedule: Schedule, seed: int) -> None:
        tensors = {f"weight.{name}": value.contiguous() for name, value in self.learner.state_dict().items()}
        for name, moments in self._moments():
            tensors |= {f"moment.{name}.{moment}": value for moment, value in moments.items()}
        said = {"step": step, "spent": spent, "recent": dict(recent), "made_for": _made_for(schedule, seed)}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "state.tmp"
        # One file, renamed when it is whole: a run that is killed here finds the state before.
        save_file(tensors, temporary, metadata={"said": json.dumps(said)})
        temporary.replace(self.folder / "state.safetensors")

    def load(self, schedule: Schedule, seed: int) -> tuple[int, float, dict[str, float]]:
        """Return (step to go on with, seconds spent, recent losses); zeros where there is no fitting state."""
        file = self.folder / "state.safetensors"
        if not file.exists():
            return 0, 0.0, {}
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            said = json.loads((opened.metadata() or {})["said"])
        if said["made_for"] != _made_for(schedule, seed):
            return 0, 0.0, {}
        tensors = load_file(file)
        self.learner.load_state_dict(
            {name.removeprefix("weight."): value for name, value in tensors.items() if name.startswith("weight.")}
        )
        for name, moments in self._moments():
            start = f"moment.{name}."
            moments |= {
                key.removeprefix(start): value
                for key, value in tensors.items()
                if key.rpartition(".")[0] + "." == start
            }
        return said["step"], said["spent"], said["recent"]

    def remove(self) -> None:
        for file in self.folder.glob("state.*"):
            file.unlink()
        if self.folder.exists():
            self.folder.rmdir()


def _made_for(schedule: Schedule, seed: int) -> list[float]:
    return [schedule.steps, schedule.batch, schedule.rate, seed]
