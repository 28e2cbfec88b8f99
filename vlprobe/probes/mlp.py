"""A probe with one hidden layer: what is there for a map that is not linear.

For comparison only. How much such a probe finds tells of its own learning, too (Hewitt & Liang 2019, arXiv
1909.03368), so that it never stands without the linear one beside it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.digest import generator
from vlprobe.errors import DataError
from vlprobe.exact import one_thread
from vlprobe.probes.factor import check
from vlprobe.probes.linear import Probed, Split, Standardise
from vlprobe.statistics import score

HIDDEN = 128
"""Rectified units of the hidden layer."""
RATE = 1e-3
"""Adam's."""
BATCH = 64
"""Rows a step."""
EPOCHS = 200
"""At most so many passes over train."""
PATIENCE = 10
"""Training ends after so many epochs in a row without a lower loss on the validation part."""


@one_thread()
def mlp(train: Split, validation: Split, test: Split, seed: int, device: torch.device | str = "cpu") -> Probed:
    """Choose the number of epochs on the validation part, train anew on train and validation together, answer test.

    Features are standardised, as for the linear probe; so are targets that are numbers. The loss is cross-entropy, or
    the squared error.

    Args:
        train: trained on.
        validation: says when to stop, then trained on too.
        test: answered; its targets are not read.
        seed: draws weights and batches.
        device: where it is trained; the same seed gives the same answers on the same kind of device.

    Returns:
        Answers, and the validation score of the probe that was trained without validation rows.

    Raises:
        DataError: a feature that is not finite, one class only.
    """
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        check(part.X, f"features of the {name} part")
    both = Split(np.concatenate([train.X, validation.X]), np.concatenate([train.y, validation.y]))
    coder = _Coder.of(both.y)
    scale = Standardise(train.X)
    first = _Training(Split(scale(train.X), train.y), coder, seed, device)
    held_out = torch.from_numpy(scale(validation.X)).to(device)
    wanted = coder.encode(validation.y).to(device)
    best, chosen, reached = np.inf, 0, first.network
    for epoch in range(1, EPOCHS + 1):
        first.epoch()
        loss = first.loss(held_out, wanted)
        if loss < best:
            best, chosen, reached = loss, epoch, copy.deepcopy(first.network)
        elif epoch - chosen >= PATIENCE:
            break
    metric = "r2" if coder.classes is None else "accuracy"
    validated = score(validation.y, coder.decode(reached(held_out)), metric)
    said = () if epoch < EPOCHS else (f"the mlp was still learning after {EPOCHS} epochs",)
    scale = Standardise(both.X)
    final = _Training(Split(scale(both.X), both.y), coder, seed, device)
    for _ in range(chosen):
        final.epoch()
    return Probed(coder.decode(final.network(torch.from_numpy(scale(test.X)).to(device))), validated, None, said)


@dataclass(frozen=True)
class _Coder:
    """Targets as the network has them: places of classes, or numbers of mean 0 and deviation 1."""

    classes: np.ndarray | None
    """(class,) sorted; None for numbers."""
    mean: float
    """Of numbers."""
    deviation: float
    """Of numbers."""

    @classmethod
    def of(cls, y: np.ndarray) -> _Coder:
        if y.dtype.kind == "f":
            return cls(None, float(y.mean()), float(y.std()) or 1.0)
        classes = np.unique(y)
        if len(classes) < 2:
            raise DataError(f"an mlp cannot learn one class only: all {len(y)} rows are '{classes[0]}'")
        return cls(classes, 0.0, 1.0)

    @property
    def width(self) -> int:
        return 1 if self.classes is None else len(self.classes)

    def encode(self, y: np.ndarray) -> torch.Tensor:
        if self.classes is None:
            return torch.from_numpy(((y - self.mean) / self.deviation).astype(np.float32))
        return torch.from_numpy(np.searchsorted(self.classes, y))

    def decode(self, outputs: torch.Tensor) -> np.ndarray:
        found = outputs.detach().cpu().numpy()
        if self.classes is None:
            return found[:, 0].astype(np.float64) * self.deviation + self.mean
        return self.classes[found.argmax(axis=1)]


class _Training:
    """A network on its way: weights and the order of rows come from the seed, on every device the same."""

    def __init__(self, rows: Split, coder: _Coder, seed: int, device: torch.device | str) -> None:
        self.X = torch.from_numpy(rows.X).to(device)
        self.y = coder.encode(rows.y).to(device)
        self.criterion = torch.nn.MSELoss() if coder.classes is None else torch.nn.CrossEntropyLoss()
        shapes = (rows.X.shape[1], HIDDEN), (HIDDEN, coder.width)
        into, out = (torch.nn.utils.skip_init(torch.nn.Linear, *shape) for shape in shapes)
        self.network = torch.nn.Sequential(into, torch.nn.ReLU(), out)
        draw = generator(seed, "mlp", "weights")
        with torch.no_grad():
            for layer in (into, out):
                reach = layer.in_features**-0.5
                for weights in (layer.weight, layer.bias):
                    weights.copy_(torch.from_numpy(draw.uniform(-reach, reach, weights.shape)))
        self.network.to(device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=RATE)
        self.batches = generator(seed, "mlp", "batches")

    def epoch(self) -> None:
        """Pass once over all rows."""
        order = torch.from_numpy(self.batches.permutation(len(self.X))).to(self.X.device)
        for rows in order.split(BATCH):
            self.optimiser.zero_grad()
            self._loss(self.X[rows], self.y[rows]).backward()
            self.optimiser.step()

    def loss(self, X: torch.Tensor, y: torch.Tensor) -> float:
        """Return the mean loss on other rows."""
        with torch.no_grad():
            return float(self._loss(X, y))

    def _loss(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = self.network(X)
        return self.criterion(outputs[:, 0] if y.is_floating_point() else outputs, y)
