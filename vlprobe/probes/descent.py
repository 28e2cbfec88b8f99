"""Preconditioned L-BFGS on several convex problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlprobe.probes.arrays import Array
from vlprobe.probes.curvature import Blocks, Curvature, Kronecker, blocks_cost, variance
from vlprobe.probes.memory import Memory
from vlprobe.probes.softmax import Problem, State, dot, joined

ZERO = 1e-12
"""An objective this small, as where there is one class, is as good as none."""
TRIES = 30
"""Points tried along one direction."""
RENEWED = 20
"""Iterations, beyond what they cost, for which `Blocks` serve."""
AGED = 4.0
"""`Blocks` are made anew where a fit is not done and the curvature of a class has shrunk so many times."""
FLAT, AHEAD = 0.9, 0.2
"""What may be left of the slope after a step, and after the first one of a fit, which curvature did not scale."""
LATELY = 8
"""The last one in so many of a fit's iterations tells how much is left."""


@dataclass
class End:
    """What a descent came to."""

    state: State
    """Of all sets, exact."""
    reached: np.ndarray
    """(set,) estimated distance of the objective from its optimum, as a share of its value."""
    iterations: np.ndarray
    """(set,)."""
    blocks: bool
    """Whether it took `Blocks` to get here."""


@dataclass(frozen=True)
class Goal:
    """When a descent ends."""

    tolerance: float
    """Estimated distance from the optimum, as a share of the objective, at which a set is done."""
    most: int
    """Iterations."""


@dataclass(frozen=True)
class Past:
    """How some sets came to where they start."""

    before: State
    """The optimum before the one that is started from."""
    share: np.ndarray
    """(set,) how far the way on is likely to be, as a share of the way from there."""


def descend(problem: Problem, start: State, l2: np.ndarray, goal: Goal, blocks: bool, past: Past | None = None) -> End:
    """Walk to the optimum of every set, or as near to it as iterations or rounding allow.

    Steps are moved along in the precision of the features. A set that seems to be done, or gets no further, is
    computed anew in float64, and goes on from there if it is not done.

    Args:
        problem: of all sets.
        start: where to start from; written over.
        l2: (set,).
        goal: when to end.
        blocks: take `Blocks` from the start; else when the iterations have cost what they would.
        past: where the path of strengths came from, if the sets have one.
    """
    end = End(start, np.full(len(l2), np.inf), np.zeros(len(l2), int), blocks)
    step, change = step_ahead(problem, start, past, l2) if past else (None, None)
    walk = Walk(problem, start, l2, blocks)
    if past and (dot(problem.factor.at, step, change) > 0).all():
        walk.learn(step, change)
    ended: list[tuple[np.ndarray, State]] = []
    for iteration in range(goal.most + 1):
        last = iteration == goal.most
        over = (walk.aim() <= goal.tolerance) | walk.stuck | last
        again = np.flatnonzero(over & ~walk.exact)
        if len(again):
            walk.settle(again)
            # What was stuck may have been stuck for want of digits, which it has now.
            over[again] = (walk.aim()[again] <= goal.tolerance) | last
        if over.any():
            done = np.flatnonzero(over)
            places = walk.active[done]
            ended.append((places, walk.state.pick(done)))
            end.reached[places], end.iterations[places] = walk.reached[done], iteration
            if over.all():
                break
            walk.pick(np.flatnonzero(~over))
        walk.step()
    order = np.argsort(np.concatenate([places for places, _ in ended]))
    end.state, end.blocks = joined(problem.factor.at, [state for _, state in ended]).pick(order), walk.blocks
    return end


class Walk:
    """Sets on their way to their optima.

    Args:
        problem: as in `descend`.
        state: where they stand.
        l2: (set,).
        blocks: whether to take `Blocks` from the start.
    """

    def __init__(self, problem: Problem, state: State, l2: np.ndarray, blocks: bool) -> None:
        self.problem, self.state, self.l2, self.blocks = problem, state, l2, blocks
        self.active = np.arange(len(l2))
        """(set,) which of the sets that there were at the start."""
        self.exact = np.zeros(len(l2), bool)
        """(set,) whether the gradient is float64's."""
        self.stuck = np.zeros(len(l2), bool)
        """(set,) whether the last step led nowhere."""
        self.fell: list[np.ndarray] = []
        """(iteration, set) what the objective fell by."""
        self.aged = problem.factor.at.zeros(state.weights.shape[:2], problem.factor.at.double) + 1
        """(set, column) how many times the curvature of a class had shrunk when the set was last exact."""
        self.curvature: Curvature = (Blocks if blocks else Kronecker)(problem, state, l2)
        self.memory = self._nothing()
        self.solved = self.curvature.solve(state.gradient)
        """H0 times the gradient."""
        self.patience, self.since = blocks_cost(problem, len(l2)), 0

    def aim(self) -> np.ndarray:
        """Choose where to go next; return the estimated distance from the optimum (set,), as a share of the objective.

        What the objective is above its optimum is what it will fall by. It falls less and less, so what it fell by in
        the last eighth of the iterations is about as much or more (Hestenes and Stiefel 1952, for conjugate gradients;
        Strakos and Tichy 2002); so is half the decrement where the curvature is the true one.
        """
        at, sets, gradient = self.problem.factor.at, len(self.l2), self.state.gradient
        along = self.memory.apply(gradient.reshape(sets, -1), self.solved.reshape(sets, -1))
        self.direction = -along.reshape(gradient.shape)
        self.slope = dot(at, gradient, self.direction)
        left = np.maximum(-self.slope, dot(at, gradient, self.solved)) / 2
        left = np.maximum(left, dot(at, gradient, self.aged[..., None] * self.solved) / 2)
        if self.fell:
            recent = max(len(self.fell) // LATELY, 1)
            left = np.maximum(left, np.sum(self.fell[-recent:], axis=0))
        self.reached = left / np.maximum(self.state.value, ZERO)
        return self.reached

    def settle(self, sets: np.ndarray) -> None:
        """Compute some sets anew in float64."""
        problem = self.problem.pick(sets)
        self.state.put(sets, problem.settle(self.state.weights[sets], self.l2[sets]))
        self.exact[sets] = True
        self.aged[sets] = self.curvature.aged(sets, variance(self.problem.factor.at, self.state.chances[sets]))
        self.solved = self.curvature.solve(self.state.gradient)

    def step(self) -> None:
        """Go one step on, and learn from it."""
        line = Line(self.direction, self.problem.logits(self.direction), self.slope)
        step, change, fell, self.stuck = step_along(self.problem, self.state, line, self.l2)
        self.fell.append(fell)
        self.exact &= self.stuck
        self.since += 1
        if self.stuck.any():
            self.memory = self._nothing()
            return
        self.solved = self.solved + self.learn(step, change)
        old = self.blocks and float(self.aged.max()) > AGED
        if old or self.since > self.patience + (RENEWED if self.blocks else 0):
            self.blocks, self.since, self.aged = True, 0, self.aged * 0 + 1
            self.curvature = Blocks(self.problem, self.state, self.l2)
            self.memory.rebase(self.curvature, self.problem.columns)
            self.solved = self.curvature.solve(self.state.gradient)

    def learn(self, step: Array, change: Array) -> Array:
        """Remember a step and the gradient's change; return H0 times the latter."""
        sets, solved = len(self.l2), self.curvature.solve(change)
        self.memory.add(step.reshape(sets, -1), change.reshape(sets, -1), solved.reshape(sets, -1))
        return solved

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.problem, self.state = self.problem.pick(sets), self.state.pick(sets)
        for name in ("active", "l2", "exact", "stuck", "aged", "direction", "slope", "solved", "reached"):
            setattr(self, name, getattr(self, name)[sets])
        self.fell = [each[sets] for each in self.fell]
        self.curvature.pick(sets)
        self.memory.pick(sets)

    def _nothing(self) -> Memory:
        sets, columns, width = self.state.weights.shape
        return Memory(self.problem.factor.at, sets, columns * width)


@dataclass(frozen=True)
class Line:
    """Where steps lead, of each set."""

    direction: Array
    """(set, column, direction + 1) of the weights."""
    along: Array
    """(set, column, row) what the logits change by."""
    slope: np.ndarray
    """(set,) of the objective."""


def step_ahead(problem: Problem, here: State, past: Past, l2: np.ndarray) -> tuple[Array, Array]:
    """Go on, in place, the way that the optima went; return the step and the gradient's change.

    Along a path of strengths optima follow one another: the start of the next fit, and the curvature there, come nearer
    to what they will be at its end. The logits are known at both, so that the features are passed over once.
    """
    at, before = problem.factor.at, past.before
    down = dot(at, here.gradient, here.weights - before.weights) < 0
    share = at.put(np.where(down, past.share, 0.0), at.double)[:, None, None]
    direction = share * (here.weights - before.weights)
    along = at.cast(share * (here.logits - before.logits), here.chances.dtype)
    step, change, _, _ = step_along(problem, here, Line(direction, along, dot(at, here.gradient, direction)), l2, AHEAD)
    return step, change


def step_along(
    problem: Problem, here: State, line: Line, l2: np.ndarray, flat: float = FLAT
) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """Move the state one step on; return the step, the gradient's change, the objective's fall, and which sets stay.

    The features are passed over once, for the gradient's change, whatever the number of points tried. A point is good
    where no more than a share of the slope is left, `flat`, and the objective did not rise; else the zero of the slope,
    which is monotone, is sought by secants between the bounds that are known.
    """
    factor, at = problem.factor, problem.factor.at
    direction, along, slope = line.direction, line.along, line.slope
    sets, columns, _ = direction.shape
    rows = len(factor.turned)
    inner = l2 * dot(at, here.weights[..., :-1], direction[..., :-1])
    outer = l2 * dot(at, direction[..., :-1], direction[..., :-1])
    penalty = l2 / 2 * dot(at, here.weights[..., :-1], here.weights[..., :-1])
    length = np.ones(sets)
    low, high = np.zeros(sets), np.full(sets, np.inf)
    chances = at.empty(tuple(here.chances.shape), here.chances.dtype)
    for _ in range(TRIES):
        lengths = at.put(length, at.double)[:, None, None]
        losses, slopes = problem.look(here.logits, lengths, along, chances, here.chances)
        there = slope + slopes / rows + length * outer
        value = losses / rows + penalty + length * inner + length**2 / 2 * outer
        good = (np.abs(there) <= flat * np.abs(slope)) & (value <= here.value + 0.01 * np.abs(slope))
        if good.all():
            break
        low = np.where(~good & (there < 0), length, low)
        high = np.where(~good & ~(there < 0), length, high)
        length = np.where(good, length, _between(length, slope, there, low, high))
    if not good.all():
        bad = np.flatnonzero(~good)
        length = np.where(good, length, 0.0)
        chances[bad], value[bad] = here.chances[bad], here.value[bad]
        lengths = at.put(length, at.double)[:, None, None]
    step = lengths * direction
    moved = here.move(at, step, lengths, along, chances, value)
    change = at.cast(moved.reshape(sets * columns, rows) @ factor.turned, at.double).reshape(direction.shape) / rows
    change[..., :-1] += at.put(l2, at.double)[:, None, None] * step[..., :-1]
    here.gradient[...] += change
    return step, change, -(slope + there) / 2 * length, ~good


def _between(length: np.ndarray, slope: np.ndarray, there: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return (set,) where the secant through the slopes at 0 and at a length is zero, well inside the bounds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        secant = length * slope / (slope - there)
    secant = np.where(np.isfinite(secant) & (secant > 0), secant, length / 2)
    wide = np.where(np.isfinite(high), high, 4 * length)
    return np.clip(secant, low + 0.1 * (wide - low), wide - 0.1 * (wide - low))
