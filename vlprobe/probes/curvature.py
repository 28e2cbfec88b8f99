"""Approximate inverse Hessians of penalised cross-entropy: they make the way to the optimum short."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from vlprobe.probes.arrays import Array, Arrays
from vlprobe.probes.softmax import Problem, State, covariance

SMALLEST = 1e-10
"""Curvatures below this are taken as this: a probe that is sure of every row has next to none."""
MEMORY = 3 * 10**7
"""Numbers that the blocks of all classes may take together."""
OVERHEAD = 5e5
"""Multiplications that could be done while an iteration's small arrays are seen to."""
SHARE = 3e-3
"""Of the mean curvature, mixed into each class's block: rows that weigh nothing now may weigh something soon."""


CHOOSING = 4
"""Rounds in which it is settled which rows are so heavy that they are surely chosen."""


class Curvature(ABC):
    """An approximate inverse of the Hessian where a fit stands."""

    mass: Array
    """(set, column) the mean variance of each class when it was made."""

    @abstractmethod
    def solve(self, gradient: Array) -> Array:
        """Return the inverse applied to (set, column, direction + 1), in float64."""

    @abstractmethod
    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""

    def aged(self, sets: np.ndarray, mass: Array) -> Array:
        """Return (set, column) how many times a class's curvature has shrunk since, at least 1, of some of the sets.

        Args:
            sets: which.
            mass: (set, column) their `variance` now.
        """
        return (self.mass[sets] / mass).clip(min=1.0)


def variance(at: Arrays, chances: Array) -> Array:
    """Return (set, column) float64: the mean over rows of p (1 - p), of (set, column, row) probabilities."""
    return ((1 - chances) * chances).mean(axis=2, dtype=at.double).clip(min=SMALLEST)


class Kronecker(Curvature):
    """Gram matrix of the features x mean covariance of the classes, + l2: costs nothing, ignores which row is sure.

    Böhning's bound (Multinomial logistic regression algorithm, 1992) with the covariance that is met in place of the
    largest one that can be.
    """

    def __init__(self, problem: Problem, state: State, l2: np.ndarray) -> None:
        factor, at = problem.factor, problem.factor.at
        self.mass = variance(at, state.chances)
        spread = at.cast(covariance(at, state.chances), at.double)
        values, self.vectors = at.xp.linalg.eigh(spread)
        scale = values.clip(min=SMALLEST)[:, :, None] * factor.moments
        scale[..., :-1] += at.put(l2, at.double)[:, None, None]
        self.inverse = 1 / scale
        if values.shape[1] > 1:
            self.inverse[:, 0] = 0  # one number added to all classes changes no prediction

    def solve(self, gradient: Array) -> Array:
        """Return the inverse applied to (set, column, direction + 1)."""
        if self.vectors.shape[1] == 1:
            return gradient * self.inverse
        turned = self.vectors.mT @ gradient
        turned *= self.inverse
        return self.vectors @ turned

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.mass, self.vectors, self.inverse = self.mass[sets], self.vectors[sets], self.inverse[sets]


class Blocks(Curvature):
    """Each class's own block of the Hessian, X' diag(p (1 - p)) X / n + l2, in the strongest directions.

    The intercept is one of them; the others are taken as uncoupled. With two classes and all directions this is the
    Hessian. Of many rows a sample is enough, drawn in proportion to p (1 - p).
    """

    def __init__(self, problem: Problem, state: State, l2: np.ndarray) -> None:
        factor, at = problem.factor, problem.factor.at
        xp, (sets, columns, width) = at.xp, state.weights.shape
        self.at, self.kind = at, factor.turned.dtype
        self.directions, sampled = _size(problem, sets * columns)
        k = self.directions
        rows = factor.turned
        if k + 1 < width:
            rows = xp.concatenate([rows[:, :k], rows[:, -1:]], axis=1)
        moments = xp.concatenate([factor.moments[:k], factor.moments[-1:]], axis=0)
        penalty = xp.concatenate([at.zeros((k,), at.double) + 1, at.zeros((1,), at.double)], axis=0)
        self.blocks = at.empty((sets, columns, k + 1, k + 1), self.kind)
        self.mass = mean = at.zeros((sets, columns), at.double)
        for b in range(sets):
            for c in range(columns):
                chances = at.cast(state.chances[b, c], at.double)
                weight = (chances * (1 - chances)).clip(min=SMALLEST)
                mean[b, c] = weight.mean()
                block = (1 - SHARE) * at.cast(_gram(problem, rows, weight, sampled), at.double)
                diagonal = at.count(k + 1)
                block[diagonal, diagonal] += SHARE * mean[b, c] * moments + float(l2[b]) * penalty
                self.blocks[b, c] = at.cast(at.inverse(block), self.kind)
        self.far = 1 / (mean[..., None] * factor.moments[k:-1] + at.put(l2, at.double)[:, None, None])

    def solve(self, gradient: Array) -> Array:
        """Return the inverse applied to (set, column, direction + 1)."""
        k, xp, at = self.directions, self.at.xp, self.at
        all_near = k + 1 == gradient.shape[2]
        near = gradient if all_near else xp.concatenate([gradient[..., :k], gradient[..., -1:]], axis=2)
        near = at.cast((self.blocks @ at.cast(near, self.kind)[..., None])[..., 0], at.double)
        step = near
        if not all_near:
            step = xp.concatenate([near[..., :k], gradient[..., k:-1] * self.far, near[..., -1:]], axis=2)
        if step.shape[1] > 1:
            step -= step.mean(axis=1)[:, None]
        return step

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.mass, self.blocks, self.far = self.mass[sets], self.blocks[sets], self.far[sets]


def blocks_cost(problem: Problem, sets: int) -> float:
    """Return about how many iterations making `Blocks` takes the time of."""
    rows, width = problem.factor.turned.shape
    k, sampled = _size(problem, sets * problem.columns)
    # Multiplications for each row and column, the rate of square products being about twice that of thin ones.
    block = (k**2 * sampled + 2 * k**3) / 2 / rows
    return block / (4 * width + 100 + OVERHEAD / (rows * sets * problem.columns))


def _size(problem: Problem, blocks: int) -> tuple[int, int]:
    """Return how many directions blocks hold and how many rows they are made from."""
    rows, width = problem.factor.turned.shape
    sampled = min(rows, max(4 * width, 2000))
    most = int((MEMORY / blocks) ** 0.5)
    return min(width - 1, max(most - 1, 0), int((200 * rows * width / sampled) ** 0.5)), sampled


def _gram(problem: Problem, rows: Array, weight: Array, sampled: int) -> Array:
    """Return mean over rows of weight x x', from about so many rows: the heaviest, and an even choice of the others."""
    at, xp = problem.factor.at, problem.factor.at.xp
    if sampled < len(rows):
        often = _chosen(at, weight, sampled)
        passed = often.cumsum(axis=0)
        places = at.cast(at.count(sampled), at.double) + 0.5
        drawn = xp.searchsorted(passed, places[places < passed[-1]]).clip(max=len(rows) - 1)
        rows, weight = rows[drawn], weight[drawn] / often[drawn]
    scaled = rows * at.cast(xp.sqrt(weight / problem.factor.turned.shape[0]), rows.dtype)[:, None]
    return scaled.T @ scaled


def _chosen(at: Arrays, weight: Array, sampled: int) -> Array:
    """Return (row,) how likely each row is chosen: in proportion to its weight, or surely; in sum what is sampled."""
    often = weight * (sampled / weight.sum())
    for _ in range(CHOOSING):
        sure = often >= 1
        left = sampled - int(sure.sum())
        rest = at.xp.where(sure, 0.0, often)
        often = at.xp.where(sure, 1.0, rest * (left / rest.sum().clip(min=SMALLEST)))
    return often.clip(max=1.0)
