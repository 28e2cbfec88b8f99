"""L2-regularised logistic regression to its optimum, with a certificate.

`fit_path(X, labels, l2s)` needs nothing of the rest of vlprobe. What is done once for a matrix of features (centring,
the eigenvectors of its Gram matrix) serves every strength and every set of labels; all sets are walked to their optima
together, in products as wide as all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.descent import ZERO, End, Goal, Past, descend
from vlprobe.probes.factor import Factor, factorise
from vlprobe.probes.softmax import Problem, State, joined

TOLERANCE = 1e-6
"""Estimated distance of the objective from its optimum, as a share of its value, at which a fit stops."""
CAUTION = 4
"""Where curvature deceives, estimates were up to 3 times too small: fits go on until so many times nearer."""
SURE = 40.0
"""Logit of a class that is certain, to the last digit."""
ITERATIONS = 1000
"""At most so many for each fit."""
LONG = 120
"""After so many, what float32 has not brought near enough it will not: its rounding is all that moves. What is still
short then goes on in float64."""


@dataclass(frozen=True)
class Fit:
    """One fit: what it found and how near the optimum it is.

    Once the intercept b is at its optimum for the weights W, which the last step of a fit sees to, the objective as a
    function of W alone is strongly convex with constant l2. Its gradient g there then bounds what is left:
    |W - W*| <= |g| / l2, and objective - optimum <= |g|² / (2 l2), which is also the duality gap of the probabilities.
    """

    classes: np.ndarray
    """(class,) in sorted order."""
    coef: np.ndarray
    """(class, width); with two classes (1, width), whose logit is the second's."""
    intercept: np.ndarray
    """(class,) or (1,)."""
    l2: float
    """The strength."""
    objective: float
    """Mean cross-entropy + l2/2 |W|², in nats; the intercept is not penalised."""
    gradient: float
    """|g|, over the weights."""
    intercept_gradient: float
    """Largest slope along an intercept: rounding, or the bounds do not hold."""
    gap: float
    """The objective is at most so much above the optimum."""
    distance: float
    """|W - W*| is at most so much."""
    estimate: float
    """Of the gap, as a share of the objective, from the curvature: what the fit was stopped by; sharper, no bound."""
    iterations: int
    """Steps taken."""
    precision: str
    """What the last steps were computed in, `float32` or `float64`; what is said here of the end is float64's."""
    met: bool
    """Whether estimate or gap is within the tolerance."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) the likeliest class of (row, width) features."""
        kind = np.result_type(X, np.float32)
        scores = X @ self.coef.T.astype(kind) + self.intercept
        if len(self.classes) <= 2:
            return self.classes[(scores[:, 0] > 0).astype(int) if len(self.classes) == 2 else np.zeros(len(X), int)]
        return self.classes[scores.argmax(axis=1)]

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean cross-entropy of (row,) labels, in nats; one that was not fitted counts 0 at any strength."""
        scores = (X @ self.coef.T.astype(np.result_type(X, np.float32)) + self.intercept).astype(np.float64)
        if len(self.classes) <= 2:
            scores = np.pad(scores, ((0, 0), (1, 0)))[:, : len(self.classes)]
        at = np.searchsorted(self.classes, y).clip(max=len(self.classes) - 1)
        own = scores[np.arange(len(y)), at]
        return float(((np.logaddexp.reduce(scores, axis=1) - own) * (self.classes[at] == y)).mean())

    def chances(self, X: np.ndarray) -> np.ndarray:
        """Return (row, class) float64: the probabilities of the classes, of (row, width) features."""
        scores = X.astype(np.float64) @ self.coef.T + self.intercept
        if len(self.classes) == 2:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        return scores / scores.sum(axis=1, keepdims=True)


def fit_path(
    X: Any,
    labels: Sequence[np.ndarray],
    l2s: Sequence[float],
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    device: str | None = None,
) -> list[list[Fit]]:
    """Fit every set of labels at every strength.

    Args:
        X: (row, width) features, finite, NumPy or torch; they need not be centred or scaled.
        labels: of each set, (row,) labels of any sortable kind. Sets may differ in their classes.
        l2s: strengths, above 0; each is started from the one before, so give them from strong to weak.
        tolerance: a fit stops when the estimated distance of its objective from the optimum is this share of it.
        iterations: at most so many for each fit; see `Fit.met`.
        device: where to work: `cpu`, `cuda`, `cuda:1`, `auto`; where the features are, if absent.

    Returns:
        A list for each set, a fit for each strength.

    Raises:
        DataError: features that are not finite, labels of another length or that are no classes, a strength that is
            not above 0.
    """
    solver = Solver(factorise(X, device), labels, tolerance, iterations)
    steps = [solver.fit(dict.fromkeys(range(len(labels)), l2)) for l2 in l2s]
    return [[step[place] for step in steps] for place in range(len(labels))]


class Solver:
    """Label sets on one layer's features, fitted together, each fit started from the last of its set.

    Args:
        factor: the features.
        labels: of each set, (row,).
        tolerance: see `fit_path`.
        iterations: see `fit_path`.

    Raises:
        DataError: labels of another length than the features, or that are no classes.
    """

    def __init__(
        self,
        factor: Factor,
        labels: Sequence[np.ndarray],
        tolerance: float = TOLERANCE,
        iterations: int = ITERATIONS,
    ) -> None:
        self.factor = factor
        self.tolerance = tolerance
        self.iterations = iterations
        rows = len(factor.X)
        for place, y in enumerate(labels):
            if np.shape(y) != (rows,):
                raise DataError(f"label set {place} has shape {np.shape(y)}, the features have {rows} rows")
        indexed = [_classes(np.asarray(y), place) for place, y in enumerate(labels)]
        self.classes = [classes for classes, _ in indexed]
        # One class only is the second of two, the first of which never comes.
        self.labels = [index if len(classes) > 1 else index + 1 for classes, index in indexed]
        self.columns = [1 if len(classes) == 2 else len(classes) for classes in self.classes]
        self.states: dict[int, list[tuple[State, float]]] = {}  # by set: its last two fits, at which strengths
        self.weights: dict[int, np.ndarray] = {}  # by set: what the next fit is to start from instead
        self.exact: Factor | None = None  # in float64, where float32 was not enough
        self.blocks: dict[int, bool] = {}  # by number of columns: whether the last fit took blocks

    def start(self, place: int, fit: Fit) -> None:
        """Start the next fit of a set from a fit on other rows; classes that it does not know start from nothing."""
        known = self.factor.weights(fit.coef, fit.intercept)
        classes, columns = self.classes[place], self.columns[place]
        if len(fit.classes) == 2 < len(classes):
            known = np.concatenate([-known, known]) / 2
        weights = self._shares(place)
        if columns == 1 and np.array_equal(fit.classes, classes):
            weights[:] = known
        elif columns > 1 and len(known) == len(fit.classes) and np.isin(fit.classes, classes).all():
            weights[np.isin(classes, fit.classes)] = known
        self.weights[place] = weights

    def fit(self, l2s: Mapping[int, float]) -> dict[int, Fit]:
        """Fit some of the sets, each at its own strength.

        Args:
            l2s: place of the set -> strength.

        Raises:
            DataError: a strength that is not above 0.
        """
        for l2 in l2s.values():
            if not 0 < l2 < np.inf:
                raise DataError(f"l2 = {l2}: the strength of the penalty must be a number above 0")
        together: dict[int, list[int]] = {}
        for place in l2s:
            together.setdefault(self.columns[place], []).append(place)
        fits: dict[int, Fit] = {}
        for places in together.values():
            fits |= self._fit(places, np.array([l2s[place] for place in places]))
        return fits

    def _fit(self, places: list[int], l2: np.ndarray) -> dict[int, Fit]:
        at, columns = self.factor.at, self.columns[places[0]]
        labels = at.put(np.stack([self.labels[place] for place in places]), at.whole)
        problem = Problem(self.factor, labels, columns)
        past = self._past(places, l2)
        standing = [self._standing(problem.pick(np.array([i])), place, l2[[i]]) for i, place in enumerate(places)]
        goal = Goal(self.tolerance / CAUTION, min(self.iterations, LONG))
        end = descend(problem, joined(at, standing), l2, goal, self.blocks.get(columns, False), past)
        self.blocks[columns] = end.blocks
        short = self._short(end, l2)
        finished = np.full(len(places), str(self.factor.turned.dtype).removeprefix("torch."))
        if len(short) and finished[0] == "float32":
            self._finish(problem, end, short, l2)
            finished[short] = "float64"
        coef, shifted = self.factor.coefficients(end.state.weights)
        intercept = at.host(shifted - coef @ self.factor.mean)
        coef = at.host(coef)
        fits = {}
        for i, place in enumerate(places):
            fit = end.state.pick(np.array([i])), float(l2[i])
            self.states[place] = [*self.states.get(place, []), fit][-2:]
            norm, value, strength = float(end.state.norm[i]), max(float(end.state.value[i]), 0.0), float(l2[i])
            gap, estimate = norm**2 / 2 / strength, float(end.reached[i])
            fits[place] = Fit(
                classes=self.classes[place],
                coef=coef[i],
                intercept=intercept[i],
                l2=strength,
                objective=value,
                gradient=norm,
                intercept_gradient=float(end.state.slope[i]),
                gap=gap,
                distance=norm / strength,
                estimate=estimate,
                iterations=int(end.iterations[i]),
                precision=str(finished[i]),
                met=estimate <= self.tolerance or gap <= self.tolerance * max(value, ZERO),
            )
        return fits

    def _short(self, end: End, l2: np.ndarray) -> np.ndarray:
        """Return the sets that stopped before the target though they had iterations left."""
        near = np.minimum(end.reached, end.state.norm**2 / 2 / l2 / np.maximum(end.state.value, ZERO))
        return np.flatnonzero((near > self.tolerance) & (end.iterations < self.iterations))

    def _finish(self, problem: Problem, end: End, sets: np.ndarray, l2: np.ndarray) -> None:
        """Go on in float64 where float32 got no further."""
        if self.exact is None:
            self.exact = self.factor.doubled()
        at = self.factor.at
        state = end.state.pick(sets)
        state = replace(state, chances=at.cast(state.chances, at.double))
        left = self.iterations - int(end.iterations[sets].max())
        again = Problem(self.exact, problem.labels[sets], problem.columns)
        more = descend(again, state, l2[sets], Goal(self.tolerance / CAUTION, left), end.blocks)
        end.state.put(sets, replace(more.state, chances=at.cast(more.state.chances, at.single)))
        end.reached[sets] = more.reached
        end.iterations[sets] += more.iterations

    def _past(self, places: list[int], l2: np.ndarray) -> Past | None:
        """Return what the last strengths tell of where the next optima are, if all sets have come so far."""
        if any(place in self.weights or len(self.states.get(place, [])) < 2 for place in places):
            return None
        first, last = zip(*(self.states[place] for place in places), strict=True)
        logs = [np.log([strength for _, strength in states]) for states in (first, last)]
        way, on = logs[0] - logs[1], logs[1] - np.log(l2)
        share = np.divide(on, way, out=np.zeros(len(l2)), where=way != 0)
        return Past(joined(self.factor.at, [state for state, _ in first]), share)

    def _standing(self, problem: Problem, place: int, l2: np.ndarray) -> State:
        """Return where a set stands, under a new strength."""
        if place in self.weights or place not in self.states:
            weights = self.weights.pop(place, None)
            known = self._shares(place) if weights is None else weights
            return problem.settle(self.factor.at.put(known[None], self.factor.at.double), l2)
        state, before = self.states[place][-1]
        return state.penalised(self.factor.at, np.array([before]), l2)

    def _shares(self, place: int) -> np.ndarray:
        """Return the optimum at endless l2, (column, direction + 1): no weights, the classes' shares as intercepts."""
        columns = self.columns[place]
        weights = np.zeros((columns, self.factor.turned.shape[1]))
        share = np.bincount(self.labels[place]) / len(self.labels[place])
        if columns > 1:
            weights[:, -1] = np.log(share) - np.log(share).mean()
        else:
            weights[:, -1] = np.log(share[1] / share[0]) if share[0] else SURE
        return weights


def _classes(y: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, sorted, and (row,) which of them each label is.

    Raises:
        DataError: labels that are numbers to be regressed, missing, or of kinds that cannot be sorted.
    """
    if y.dtype.kind in "fc" and not np.array_equal(y, np.round(y)):
        row = int((y != np.round(y)).argmax())
        raise DataError(
            f"label set {place}, row {row}: {y[row]} is no class: classes are names or whole numbers; for numbers, use "
            "ridge regression (ridge_path)"
        )
    try:
        return np.unique(y, return_inverse=True)
    except TypeError as error:
        raise DataError(f"label set {place}: its labels cannot be sorted ({error}); is one missing?") from None
