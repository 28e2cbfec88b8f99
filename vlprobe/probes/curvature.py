"""Approximate inverse Hessians of penalised cross-entropy: they make the way to the optimum short."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from vlprobe.probes.softmax import Problem, covariance

SMALLEST = 1e-10
"""Curvatures below this are taken as this: a probe that is sure of every row has next to none."""
MEMORY = 3 * 10**7
"""Numbers that the blocks of all classes may take together."""
OVERHEAD = 5e5
"""Multiplications that could be done while an iteration's small arrays are seen to."""
SHARE = 0.05
"""Of the mean curvature, mixed into each class's block: rows that weigh nothing now may weigh something soon."""


class Curvature(ABC):
    """An approximate inverse of the Hessian where a fit stands."""

    @abstractmethod
    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse applied to (set, column, direction + 1)."""

    @abstractmethod
    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""


class Kronecker(Curvature):
    """Gram matrix of the features x mean covariance of the classes, + l2: costs nothing, ignores which row is sure.

    Böhning's bound (Multinomial logistic regression algorithm, 1992) with the covariance that is met in place of the
    largest one that can be.
    """

    def __init__(self, problem: Problem, weights: np.ndarray, l2: np.ndarray) -> None:
        values, self.vectors = np.linalg.eigh(covariance(problem.chances(weights)))
        scale = np.maximum(values, SMALLEST)[:, :, None] * problem.factor.moments
        scale[..., :-1] += l2[:, None, None]
        self.inverse = 1 / scale
        if values.shape[1] > 1:
            self.inverse[:, 0] = 0  # one number added to all classes changes no prediction

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse applied to (set, column, direction + 1)."""
        if self.vectors.shape[1] == 1:
            return gradient * self.inverse
        turned = self.vectors.transpose(0, 2, 1) @ gradient
        turned *= self.inverse
        return self.vectors @ turned

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.vectors, self.inverse = self.vectors[sets], self.inverse[sets]


class Blocks(Curvature):
    """Each class's own block of the Hessian, X' diag(p (1 - p)) X / n + l2, in the strongest directions.

    The intercept is one of them; the others are taken as uncoupled. With two classes and all directions this is the
    Hessian. Of many rows a sample is enough, drawn in proportion to p (1 - p).
    """

    def __init__(self, problem: Problem, weights: np.ndarray, l2: np.ndarray) -> None:
        sets, columns, width = weights.shape
        moments = problem.factor.moments
        self.directions, sampled = _size(problem, sets * columns)
        near = np.r_[: self.directions, width - 1]
        rows = problem.factor.turned if len(near) == width else problem.factor.turned[:, near]
        chances = problem.chances(weights)
        variance = np.maximum(chances * (1 - chances), SMALLEST)
        mean = variance.mean(axis=2)
        penalty = np.append(np.ones(self.directions), 0.0)
        blocks = np.empty((sets, columns, len(near), len(near)))
        for b in range(sets):
            for c in range(columns):
                block = (1 - SHARE) * _gram(rows, variance[b, c], sampled)
                block.flat[:: len(near) + 1] += SHARE * mean[b, c] * moments[near] + l2[b] * penalty
                blocks[b, c] = np.linalg.inv(block)
        self.blocks = blocks
        self.far = 1 / (mean[..., None] * moments[self.directions : -1] + l2[:, None, None])

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse applied to (set, column, direction + 1)."""
        k = self.directions
        near = gradient if k == gradient.shape[2] - 1 else np.concatenate([gradient[..., :k], gradient[..., -1:]], 2)
        near = (self.blocks @ near[..., None])[..., 0]
        step = near
        if near.shape[2] < gradient.shape[2]:
            step = np.concatenate([near[..., :k], gradient[..., k:-1] * self.far, near[..., -1:]], axis=2)
        if step.shape[1] > 1:
            step -= step.mean(axis=1, keepdims=True)
        return step

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.blocks, self.far = self.blocks[sets], self.far[sets]


def blocks_cost(problem: Problem, weights: np.ndarray) -> float:
    """Return about how many evaluations making `Blocks` takes the time of."""
    sets, columns, _ = weights.shape
    rows, width = problem.factor.turned.shape
    k, sampled = _size(problem, sets * columns)
    # Multiplications for each row and column, the rate of square products being about twice that of thin ones.
    block = (k**2 * sampled + 4 * k**3) / 2 / rows
    return block / (4 * width + 100 + OVERHEAD / (rows * sets * columns))


def _size(problem: Problem, blocks: int) -> tuple[int, int]:
    """Return how many directions blocks hold and how many rows they are made from."""
    rows, width = problem.factor.turned.shape
    sampled = min(rows, max(4 * width, 2000))
    most = int((MEMORY / blocks) ** 0.5)
    return min(width - 1, max(most - 1, 0), int((200 * rows * width / sampled) ** 0.5)), sampled


def _gram(rows: np.ndarray, weight: np.ndarray, sampled: int) -> np.ndarray:
    """Return mean over rows of weight x x', from about so many rows, drawn evenly along the summed weight."""
    if sampled < len(rows):
        along = np.cumsum(weight)
        places = (np.arange(sampled) + 0.5) * (along[-1] / sampled)
        drawn = rows[np.minimum(np.searchsorted(along, places), len(rows) - 1)]
        return drawn.T @ drawn * (along[-1] / sampled / len(rows))
    scaled = rows * np.sqrt(weight / len(rows))[:, None]
    return scaled.T @ scaled
