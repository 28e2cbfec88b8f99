"""Mean cross-entropy + l2/2 |W|² of several label sets on the same features: value, gradient, curvature."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from vlprobe.probes.arrays import Array, Arrays
from vlprobe.probes.factor import Factor

CACHED = 1 << 16
"""Logits of a block of rows: from the product to the probabilities they stay in the processor's cache."""
SETTLING = 6
"""Newton steps on the intercepts."""
SETTLED = 1e-13
"""Slope along an intercept that is rounding."""


@dataclass(frozen=True)
class State:
    """Where the fits of some sets stand; arrays have the axes (set, column, ...)."""

    weights: Array
    """(set, column, direction + 1) float64."""
    gradient: Array
    """As the weights; exact in float64 after `Problem.settle`, then moved along in the precision of the features."""
    logits: Array
    """(set, column, row) float64."""
    chances: Array
    """(set, column, row) probabilities, in the features' precision."""
    value: np.ndarray
    """(set,) objective."""
    norm: np.ndarray
    """(set,) of the gradient over the weights, when it was last exact."""
    slope: np.ndarray
    """(set,) largest slope along an intercept, when it was last exact."""

    def pick(self, sets: np.ndarray) -> State:
        """Return the state of some of the sets."""
        return State(*(getattr(self, field.name)[sets] for field in fields(self)))

    def put(self, sets: np.ndarray, other: State) -> None:
        """Take over the state of some of the sets."""
        for field in fields(self):
            getattr(self, field.name)[sets] = getattr(other, field.name)

    def move(self, at: Arrays, step: Array, length: Array, along: Array, chances: Array, value: np.ndarray) -> Array:
        """Go one step, in place; return the probabilities' change."""
        rows = self.logits.shape[2]
        part = max(CACHED // (along.shape[0] * along.shape[1]), 64) if at.xp is np else rows
        moved = along  # is read for the last time, block by block, before it is overwritten
        self.weights[...] += step
        self.value[...] = value
        for start in range(0, rows, part):
            block = slice(start, start + part)
            self.logits[:, :, block] += length * along[:, :, block]
            moved[:, :, block] = chances[:, :, block] - self.chances[:, :, block]
            self.chances[:, :, block] = chances[:, :, block]
        return moved

    def penalised(self, at: Arrays, before: np.ndarray, now: np.ndarray) -> State:
        """Return the state under other strengths of the penalty (set,): it needs no pass over the features."""
        change = now - before
        gradient = at.copy(self.gradient)
        gradient[..., :-1] += at.put(change, at.double)[:, None, None] * self.weights[..., :-1]
        squares = at.host((self.weights[..., :-1] ** 2).sum(axis=(1, 2)))
        return replace(self, gradient=gradient, value=self.value + change / 2 * squares)


def joined(at: Arrays, states: list[State]) -> State:
    """Return the states of some sets as one."""
    each = {field.name: [getattr(state, field.name) for state in states] for field in fields(State)}
    return State(
        **{
            name: np.concatenate(parts) if isinstance(parts[0], np.ndarray) else at.xp.concatenate(parts)
            for name, parts in each.items()
        }
    )


@dataclass(frozen=True)
class Problem:
    """Label sets with the same number of columns of weights: one for two classes, else one for each class.

    All sets go through one product. Sums over classes run along rows in memory.
    """

    factor: Factor
    """The features."""
    labels: Array
    """(set, row) int64: class of each row."""
    columns: int
    """Of weights."""

    def pick(self, sets: np.ndarray) -> Problem:
        """Return the problem of some of the sets."""
        return replace(self, labels=self.labels[sets])

    def logits(self, weights: Array) -> Array:
        """Return (set, column, row), of (set, column, direction + 1), in the precision of the features."""
        turned = self.factor.turned
        narrow = self.factor.at.cast(weights, turned.dtype).reshape(-1, weights.shape[2])
        return (narrow @ turned.T).reshape(*weights.shape[:2], len(turned))

    def settle(self, weights: Array, l2: np.ndarray) -> State:
        """Compute logits, put the intercepts at their optimum, and compute objective and gradient: all in float64.

        The features are read as they were given, so that nothing of how they were turned is left in the certificate.
        The intercepts take Newton's method; where rounding or a far start stops it, they stay as good as they got, and
        what is left shows in the gradient.

        Args:
            weights: (set, column, direction + 1).
            l2: (set,).
        """
        at, xp, factor = self.factor.at, self.factor.at.xp, self.factor
        sets, columns, _ = weights.shape
        rows = len(factor.X)
        coef, intercept = factor.coefficients(weights)
        flat = coef.reshape(sets * columns, -1)
        logits = at.empty((sets, columns, rows), at.double)
        for part, block in factor.blocks():
            logits[:, :, part] = (flat @ block.T).reshape(sets, columns, -1)
        logits += intercept[..., None]
        chances, losses, shift = self._intercepts(logits)
        logits += shift[..., None]
        weights = at.copy(weights)
        weights[..., -1] += shift
        residual = chances.reshape(sets * columns, rows)
        subtract(at, chances, self.labels)
        gradient = at.zeros(tuple(flat.shape), at.double)
        for part, block in factor.blocks():
            gradient += residual[:, part] @ block
        gradient = gradient.reshape(coef.shape) / rows
        coef, _ = factor.coefficients(weights)
        strength = at.put(l2, at.double)
        gradient += strength[:, None, None] * coef
        slopes = chances.mean(axis=2)
        turned = xp.concatenate([gradient @ factor.basis, slopes[..., None]], axis=2)
        subtract(at, chances, self.labels, -1)
        return State(
            weights=weights,
            gradient=turned,
            logits=logits,
            chances=at.cast(chances, factor.turned.dtype),
            value=losses / rows + l2 / 2 * dot(at, coef, coef),
            norm=np.sqrt(dot(at, gradient, gradient)),
            slope=at.host(xp.amax(xp.abs(slopes), 1)),
        )

    def _intercepts(self, logits: Array) -> tuple[Array, np.ndarray, Array]:
        """Return probabilities, summed losses and what to add to the intercepts (set, column)."""
        at, xp = self.factor.at, self.factor.at.xp
        sets, columns, _ = logits.shape
        shares = at.zeros((sets, columns), at.double)
        for c in range(columns):
            shares[:, c] = at.cast(self.labels == (1 if columns == 1 else c), at.double).mean(axis=1)
        chances = at.empty(tuple(logits.shape), at.double)
        shift = at.zeros((sets, columns), at.double)
        best, kept = np.full(sets, np.inf), at.copy(shift)
        for step in range(SETTLING):
            losses = self.look(logits, shift[..., None], None, chances)[0]
            slope = chances.mean(axis=2) - shares
            size = at.host(xp.amax(xp.abs(slope), 1))
            better = size < best
            improved = at.put(better, xp.bool)[:, None]
            kept = xp.where(improved, shift, kept)
            done = ~better | (size < SETTLED)
            best = np.where(better, size, best)
            if done.all() or step == SETTLING - 1:
                break
            bend = covariance(at, chances) + (1.0 if columns > 1 else 0.0)
            bend += 1e-12 * at.eye(columns)
            change = xp.linalg.solve(bend, slope[..., None])[..., 0]
            shift = xp.where(at.put(done, xp.bool)[:, None], kept, kept - change)
        if not better.all():
            losses = self.look(logits, kept[..., None], None, chances)[0]
        return chances, losses, kept

    def look(
        self, logits: Array, length: Array, along: Array | None, chances: Array, before: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fill in the probabilities at logits + length x along (or + length), block by block.

        Returns:
            (set,) summed losses, and (set,) sum of (probabilities - those before) x along, if both are given.
        """
        at, xp = self.factor.at, self.factor.at.xp
        sets, columns, rows = logits.shape
        losses, slopes = at.zeros((sets,), at.double), at.zeros((sets,), at.double)
        step = max(CACHED // (sets * columns), 64) if xp is np else rows
        for start in range(0, rows, step):
            part = slice(start, start + step)
            z = logits[:, :, part] + (length if along is None else length * along[:, :, part])
            losses += (sigmoid if columns == 1 else softmax)(at, z, self.labels[:, part], chances[:, :, part])
            if along is not None and before is not None:
                moved = chances[:, :, part] - before[:, :, part]
                slopes += xp.einsum("bcn,bcn->b", moved, along[:, :, part])
        return at.host(losses), at.host(slopes)


def softmax(at: Arrays, z: Array, labels: Array, chances: Array) -> Array:
    """Turn logits (set, class, row) into probabilities, in place there, and return the summed losses (set,).

    What is exponentiated is cast to the kind of the probabilities: it is at most 0.
    """
    xp = at.xp
    z -= xp.amax(z, 1)[:, None]
    sets, rows = z.shape[0], z.shape[2]
    own = z[at.count(sets)[:, None], labels, at.count(rows)]
    chances[...] = z
    xp.exp(chances, out=chances)
    total = chances.sum(axis=1, dtype=at.double)
    chances /= at.cast(total, chances.dtype)[:, None]
    return (xp.log(total) - own).sum(axis=1)


def sigmoid(at: Arrays, z: Array, labels: Array, chances: Array) -> Array:
    """As `softmax`, for two classes of which the first has logit 0: z is (set, 1, row)."""
    xp = at.xp
    small = xp.exp(-xp.abs(z))
    # log(1 + exp(z)) - z for the second class: the sign of z is turned before anything is lost.
    signed = xp.where(labels[:, None] == 1, -z, z)
    losses = (signed.clip(min=0) + xp.log1p(small)).sum(axis=(1, 2))
    chances[...] = xp.where(z >= 0, 1.0, small) / (1 + small)
    return losses


def subtract(at: Arrays, chances: Array, labels: Array, what: int = 1) -> None:
    """Take 1 from the probability of each row's own class, in place."""
    sets, columns, rows = chances.shape
    if columns == 1:
        chances[:, 0] -= what * labels
    else:
        chances[at.count(sets)[:, None], labels, at.count(rows)] -= what


def covariance(at: Arrays, chances: Array) -> Array:
    """Return (set, column, column): the classes' covariance diag(p) - p p', averaged over (set, column, row)."""
    diagonal = chances.mean(axis=2)[:, :, None] * at.eye(chances.shape[1], chances.dtype)
    return diagonal - chances @ chances.mT / chances.shape[2]


def dot(at: Arrays, a: Array, b: Array) -> np.ndarray:
    """Return (set,) on the processor: the inner product of each set's weights."""
    return at.host(at.xp.einsum("bcq,bcq->b", a, b))
