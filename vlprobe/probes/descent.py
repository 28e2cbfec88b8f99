"""Preconditioned L-BFGS on several convex problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlprobe.probes.curvature import Blocks, Curvature, Kronecker, blocks_cost
from vlprobe.probes.softmax import Problem, dot

MEMORY = 16
"""Steps remembered; a full memory is halved, or the curvature is taken anew."""
ZERO = 1e-12
"""An objective this small, as where there is one class, is as good as none."""
TRIES = 30
"""Points tried along one direction."""


@dataclass
class Standing:
    """Where the fits of all sets stand."""

    weights: np.ndarray
    """(set, column, direction + 1)."""
    value: np.ndarray
    """(set,) objective."""
    gradient: np.ndarray
    """As the weights."""
    reached: np.ndarray
    """(set,) estimated distance of the objective from its optimum, as a share of its value."""
    iterations: np.ndarray
    """(set,)."""
    blocks: bool
    """Whether it took `Blocks` to get here."""


class Memory:
    """The compact inverse BFGS matrix (Byrd, Nocedal and Schnabel 1994, eq. 3.1), of each set its own.

    Kept are the steps S and V = H0 Y, Y being the changes of the gradient: both meet a new gradient in one product.
    """

    def __init__(self, sets: int, size: int) -> None:
        self.count = 0
        self.both = np.zeros((sets, 2, MEMORY, size))
        self.curves = np.zeros((sets, 2, MEMORY, MEMORY))  # S Y' and V Y'

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.both, self.curves = self.both[sets], self.curves[sets]

    def halve(self) -> None:
        """Forget the older half."""
        half = MEMORY // 2
        self.both[:, :, :half] = self.both[:, :, half:]
        self.curves[:, :, :half, :half] = self.curves[:, :, half:, half:]
        self.count = half

    def add(self, step: np.ndarray, change: np.ndarray, solved: np.ndarray) -> None:
        """Take in one step, the change of the gradient along it, and H0 times that change; all (set, size)."""
        new = self.count
        self.count += 1
        self.both[:, 0, new], self.both[:, 1, new] = step, solved
        meets = (self.both[:, :, : self.count] @ change[:, None, :, None])[..., 0]
        self.curves[:, :, : self.count, new] = meets
        self.curves[:, 1, new, : self.count] = meets[:, 1]

    def apply(self, gradient: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """Return the matrix times a gradient, given H0 times it; all (set, size)."""
        m = self.count
        if not m:
            return solved
        kept = self.both[:, :, :m]
        meets = (kept @ gradient[:, None, :, None])[..., 0]
        upper = np.triu(self.curves[:, 0, :m, :m])
        inverse = np.linalg.inv(upper)
        first = inverse @ meets[:, 0, :, None]
        middle = self.curves[:, 1, :m, :m] @ first
        middle += np.einsum("bii->bi", upper)[..., None] * first
        a = inverse.transpose(0, 2, 1) @ (middle - meets[:, 1, :, None])
        mixed = np.concatenate([a, -first], axis=1).transpose(0, 2, 1) @ kept.reshape(len(kept), 2 * m, -1)
        return solved + mixed[:, 0]


def descend(problem: Problem, start: np.ndarray, l2: np.ndarray, tolerance: float, most: int, blocks: bool) -> Standing:
    """Walk to the optimum of every set, or as near to it as `most` iterations or rounding allow.

    Args:
        problem: of all sets.
        start: (set, column, direction + 1) weights.
        l2: (set,).
        tolerance: half the decrement g' H⁻¹ g / 2, as a share of the objective, at which a set is done.
        most: iterations.
        blocks: take `Blocks` from the start; else when the iterations have cost what they would.
    """
    value, gradient = problem.evaluate(start, l2)
    end = Standing(start.copy(), value, gradient, np.full(len(l2), np.inf), np.zeros(len(l2), int), blocks)
    active = np.arange(len(l2))
    weights = start
    curvature, memory = _fresh(problem, weights, l2, blocks)
    patience = blocks_cost(problem, weights)
    since = 0
    for iteration in range(most + 1):
        solved = curvature.solve(gradient)
        shape = weights.shape
        direction = -memory.apply(gradient.reshape(shape[0], -1), solved.reshape(shape[0], -1)).reshape(shape)
        slope = dot(gradient, direction)
        reached = np.maximum(-slope, dot(gradient, solved)) / 2 / np.maximum(value, ZERO)
        end.reached[active] = reached
        going = (reached > tolerance) & (iteration < most)
        if going.any():
            tried = step_along(problem, Point(weights, value, gradient), direction, l2, slope)
            moved, lower, turned, better = tried
            going &= better
        if not going.all():
            done = ~going
            at = active[done]
            end.weights[at], end.value[at], end.gradient[at] = weights[done], value[done], gradient[done]
            end.iterations[at] = iteration
            if not going.any():
                return end
            keep = np.flatnonzero(going)
            active, problem, l2 = active[keep], problem.pick(keep), l2[keep]
            weights, gradient, solved = weights[keep], gradient[keep], solved[keep]
            moved, lower, turned = moved[keep], lower[keep], turned[keep]
            curvature.pick(keep)
            memory.pick(keep)
        step, change = moved - weights, turned - gradient
        weights, value, gradient = moved, lower, turned
        since += 1
        if (not end.blocks and since > patience) or (end.blocks and memory.count == MEMORY and since > 2 * patience):
            end.blocks, since = True, 0
            curvature, memory = _fresh(problem, weights, l2, True)
            continue
        if memory.count == MEMORY:
            memory.halve()
        sets = len(l2)
        memory.add(step.reshape(sets, -1), change.reshape(sets, -1), curvature.solve(change).reshape(sets, -1))
    return end


def _fresh(problem: Problem, weights: np.ndarray, l2: np.ndarray, blocks: bool) -> tuple[Curvature, Memory]:
    kind = Blocks if blocks else Kronecker
    return kind(problem, weights, l2), Memory(len(l2), weights[0].size)


@dataclass(frozen=True)
class Point:
    """Weights with what is known there."""

    weights: np.ndarray
    """(set, column, direction + 1)."""
    value: np.ndarray
    """(set,)."""
    gradient: np.ndarray
    """As the weights."""


def step_along(
    problem: Problem, here: Point, direction: np.ndarray, l2: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, values and gradients one step on, and which sets got lower (set,).

    A step is good where the slope has lost a tenth and the objective did not rise; else the zero of the slope, which
    is monotone, is sought by secants between the bounds that are known.
    """
    length = np.ones(len(l2))
    low, high = np.zeros(len(l2)), np.full(len(l2), np.inf)
    rounding = 1e-14 * np.abs(here.value)
    for _ in range(TRIES):
        moved = here.weights + length[:, None, None] * direction
        value, gradient = problem.evaluate(moved, l2)
        there = dot(gradient, direction)
        good = (np.abs(there) <= 0.9 * np.abs(slope)) & (value <= here.value + rounding)
        if good.all():
            break
        low = np.where(~good & (there < 0), length, low)
        high = np.where(~good & ~(there < 0), length, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = length * slope / (slope - there)
        secant = np.where(np.isfinite(secant) & (secant > 0), secant, length / 2)
        wide = np.where(np.isfinite(high), high, 4 * length)
        inside = np.clip(secant, low + 0.1 * (wide - low), wide - 0.1 * (wide - low))
        length = np.where(good, length, inside)
    return moved, value, gradient, good
