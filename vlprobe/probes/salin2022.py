"""The protocol of Salin et al. (2022), as published: its best epoch is chosen on the test part.

A linear map, cross-entropy (counting: squared error), Adam at 1e-3 without weight decay, features as they are, 30
epochs in batches of 16, five runs that differ in initial weights and batches. A run's score is the best that any epoch
reached on the test part; the mean over runs is reported. The maximum of thirty scores is above what any one of them is
worth: `salin2022` shows by how much, beside a probe that looks at the test part once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.digest import generator
from vlprobe.errors import DataError
from vlprobe.exact import one_thread
from vlprobe.probes.factor import check
from vlprobe.probes.linear import Split
from vlprobe.statistics import score

RUNS = 5
"""Differ in initial weights and in batches."""
RATE = 1e-3
"""Adam's."""


@dataclass(frozen=True)
class Protocol:
    """What the protocol says of one task."""

    epochs: int = 30
    """Passes over train."""
    batch: int = 16
    """Rows a step."""


PUBLISHED = {"flowers": Protocol(batch=56), "pos-tagging": Protocol(epochs=50, batch=256)}
"""Task -> protocol, where it is not the usual one."""


@dataclass(frozen=True)
class Runs:
    """What the runs answered, each at the epoch that was best on the test part."""

    predicted: np.ndarray
    """(run, row) for the test part."""
    epochs: tuple[int, ...]
    """The epoch that was chosen, from 1."""
    scores: tuple[float, ...]
    """What was reported of each: accuracy, or R², at that epoch."""
    last: tuple[float, ...]
    """The score at the last epoch, which nobody chose."""


@one_thread()
def salin2022(train: Split, test: Split, seed: int, protocol: Protocol, device: torch.device | str = "cpu") -> Runs:
    """Train as published, choosing the best epoch on the test part. The scores are too good on purpose.

    The squared error of counting, as published, is (1 - R²) times the variance of the test targets: the epoch with the
    smallest error is that with the largest R².

    Args:
        train: trained on; there is no validation part.
        test: answered after each epoch; its targets choose the epoch.
        seed: draws weights and batches of all runs.
        protocol: see `PUBLISHED`.
        device: where it is trained.

    Raises:
        DataError: a feature that is not finite, one class only, no score.
    """
    for name, part in (("train", train), ("test", test)):
        check(part.X, f"features of the {name} part")
    classes = None if train.y.dtype.kind == "f" else np.unique(train.y)
    if classes is not None and len(classes) < 2:
        raise DataError(f"the train part has one class only, '{classes[0]}'; a probe needs at least two")
    fits = _Fits(train, classes, seed, device)
    asked = torch.from_numpy(np.asarray(test.X, np.float32)).to(device)
    metric = "r2" if classes is None else "accuracy"
    best, chosen, answers = np.full(RUNS, -np.inf), np.zeros(RUNS, int), [test.y[:0]] * RUNS
    for epoch in range(1, protocol.epochs + 1):
        fits.epoch(protocol.batch)
        answered = fits.answer(asked)
        reached = np.array([score(test.y, each, metric) for each in answered])
        for run in np.flatnonzero(reached > best):
            best[run], chosen[run], answers[run] = reached[run], epoch, answered[run]
    if not chosen.all():
        raise DataError(
            "no epoch of a run of salin2022 has a score: either the test targets are one value repeated, or its "
            "answers overflowed, since it takes features as they are"
        )
    return Runs(np.stack(answers), tuple(chosen.tolist()), tuple(best.tolist()), tuple(reached.tolist()))


class _Fits:
    """All runs at once: Adam treats each weight alone, so that they do not disturb each other."""

    def __init__(self, train: Split, classes: np.ndarray | None, seed: int, device: torch.device | str) -> None:
        self.classes = classes
        y = train.y.astype(np.float32) if classes is None else np.searchsorted(classes, train.y)
        self.X = torch.from_numpy(np.asarray(train.X, np.float32)).to(device)
        self.y = torch.from_numpy(y).to(device)
        width, columns = train.X.shape[1], 1 if classes is None else len(classes)
        draw, reach = generator(seed, "salin2022", "weights"), width**-0.5
        shapes = (RUNS, width, columns), (RUNS, 1, columns)
        drawn = [draw.uniform(-reach, reach, shape).astype(np.float32) for shape in shapes]
        self.weights, self.bias = (torch.from_numpy(each).to(device).requires_grad_() for each in drawn)
        self.optimiser = torch.optim.Adam([self.weights, self.bias], lr=RATE)
        self.orders = generator(seed, "salin2022", "batches")

    def epoch(self, batch: int) -> None:
        """Pass once over all rows, each run in an order of its own."""
        orders = np.stack([self.orders.permutation(len(self.X)) for _ in range(RUNS)])
        for rows in torch.from_numpy(orders).to(self.X.device).split(batch, dim=1):
            self.optimiser.zero_grad()
            outputs, y = torch.baddbmm(self.bias, self.X[rows], self.weights), self.y[rows]
            if self.classes is None:
                loss = torch.nn.functional.mse_loss(outputs[..., 0], y, reduction="sum")
            else:
                loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="sum")
            (loss / rows.shape[1]).backward()
            self.optimiser.step()

    def answer(self, X: torch.Tensor) -> list[np.ndarray]:
        """Return each run's (row,) answers."""
        with torch.no_grad():
            outputs = torch.baddbmm(self.bias, X.expand(RUNS, -1, -1), self.weights).cpu().numpy()
        if self.classes is None:
            return list(outputs[..., 0].astype(np.float64))
        return list(self.classes[outputs.argmax(axis=2)])
