"""Mean cross-entropy + l2/2 |W|² of several label sets on the same features: value, gradient, curvature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vlprobe.probes.factor import Factor

CACHED = 1 << 17
"""Logits of a block of rows: from the product to the gradient they stay in the processor's cache."""
SETTLING = 5
"""Newton steps on the intercepts."""
SETTLED = 1e-13
"""Slope along an intercept that is rounding."""


@dataclass(frozen=True)
class Problem:
    """Label sets with the same number of columns of weights: one for two classes, else one for each class.

    Arrays have the axes (set, column, row or direction + 1), so that sums over classes run along rows in memory, and
    all sets go through one product.
    """

    factor: Factor
    """The features."""
    targets: np.ndarray
    """(set, column, direction + 1): mean over rows of [the row is of the class] x, which is all that labels do here."""

    @classmethod
    def of(cls, factor: Factor, indices: np.ndarray, classes: int) -> Problem:
        """Make the problem of labels (set, row), each from 0 to classes - 1."""
        rows = len(factor.turned)
        chosen = range(1, 2) if classes == 2 else range(classes)
        targets = [[factor.turned[index == c].sum(axis=0) / rows for c in chosen] for index in indices]
        return cls(factor, np.array(targets))

    def pick(self, sets: np.ndarray) -> Problem:
        """Return the problem of some of the sets."""
        return Problem(self.factor, self.targets[sets])

    def evaluate(self, weights: np.ndarray, l2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the objectives (set,) and their gradients, shaped as the weights.

        Args:
            weights: (set, column, direction + 1); the last is the intercept, which is not penalised.
            l2: (set,).
        """
        sets, columns, width = weights.shape
        flat = weights.reshape(-1, width)
        gradient = np.zeros_like(flat)
        partition = np.zeros(sets)
        for rows, chances, logs in self._chances(weights):
            partition += logs
            gradient += chances.reshape(sets * columns, -1) @ rows
        gradient = gradient.reshape(weights.shape)
        gradient /= len(self.factor.turned)
        gradient -= self.targets
        values = partition / len(self.factor.turned) - dot(weights, self.targets)
        penalised = weights[..., :-1]
        values += l2 / 2 * np.einsum("bcq,bcq->b", penalised, penalised)
        gradient[..., :-1] += l2[:, None, None] * penalised
        return values, gradient

    def chances(self, weights: np.ndarray) -> np.ndarray:
        """Return (set, column, row): the predicted probability of each class (of the second, for two)."""
        return np.concatenate([chances for _, chances, _ in self._chances(weights)], axis=2)

    def settle(self, weights: np.ndarray, l2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put the intercepts at their optimum for the weights as they are.

        Newton's method on the logits, which are computed once. Where rounding or a far start stops it, the intercepts
        stay as good as they got; what is left shows in the gradient.

        Args:
            weights: (set, column, direction + 1).
            l2: (set,).

        Returns:
            Weights, objectives (set,) and gradients there.
        """
        sets, columns, width = weights.shape
        moved, best = weights.copy(), np.full(sets, np.inf)
        logits = (weights.reshape(-1, width) @ self.factor.turned.T).reshape(sets, columns, -1)
        shift = np.zeros((sets, columns))
        for _ in range(SETTLING):
            chances = logits + shift[..., None]
            (_sigmoid if columns == 1 else _softmax)(chances)
            slope = chances.mean(axis=2) - self.targets[..., -1]
            size = np.abs(slope).max(axis=1)
            better = size < best
            best = np.where(better, size, best)
            moved[..., -1] = np.where(better[:, None], weights[..., -1] + shift, moved[..., -1])
            if (~better | (size < SETTLED)).all():
                break
            bend = covariance(chances) + np.full((columns, columns), 1.0 if columns > 1 else 0.0)
            bend[:, np.arange(columns), np.arange(columns)] += 1e-12
            shift = shift - np.linalg.solve(bend, slope[..., None])[..., 0]
        return moved, *self.evaluate(moved, l2)

    def _chances(self, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield, block by block, rows (row, direction + 1), probabilities and the summed log partition (set,)."""
        sets, columns, width = weights.shape
        flat = weights.reshape(-1, width)
        turned = self.factor.turned
        step = max(CACHED // len(flat), 256)
        for start in range(0, len(turned), step):
            rows = turned[start : start + step]
            logits = (flat @ rows.T).reshape(sets, columns, -1)
            yield rows, logits, (_sigmoid if columns == 1 else _softmax)(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities in place and return the summed log partition function (set,)."""
    top = logits.max(axis=1, keepdims=True)
    logits -= top
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    logits /= total
    return (top + np.log(total)).sum(axis=(1, 2))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """As `_softmax`, for two classes of which the first has logit 0."""
    small = np.exp(-np.abs(logits))
    logs = (np.maximum(logits, 0) + np.log1p(small)).sum(axis=(1, 2))
    np.divide(np.where(logits >= 0, 1, small), 1 + small, out=logits)
    return logs


def covariance(chances: np.ndarray) -> np.ndarray:
    """Return (set, column, column): the classes' covariance diag(p) - p p', averaged over (set, column, row)."""
    result = -(chances @ chances.transpose(0, 2, 1)) / chances.shape[2]
    diagonal = np.arange(chances.shape[1])
    result[:, diagonal, diagonal] += chances.mean(axis=2)
    return result


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (set,): the inner product of each set's weights."""
    return np.einsum("bcq,bcq->b", a, b)
