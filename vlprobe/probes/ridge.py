"""Ridge regression to its optimum, with a certificate and the errors on rows left out.

`ridge_path(X, targets, l2s)` needs nothing of the rest of vlprobe. The eigenvectors of the features' Gram matrix serve
every strength and every set of targets. NumPy's float64 throughout: a closed form has no iterations to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.arrays import Arrays
from vlprobe.probes.factor import check

REFINED = 3
"""Times that what rounding left of the gradient is solved for again."""


@dataclass(frozen=True)
class Line:
    """A fitted map to one number.

    The objective (1/n) |y - Xw - b|² / 2 + l2/2 |w|² is strongly convex in w with constant l2, so its gradient g bounds
    what is left: |w - w*| <= |g| / l2.
    """

    w: np.ndarray
    """(width,)."""
    b: float
    """The intercept, which is not penalised."""
    l2: float
    """The strength."""
    objective: float
    """Mean squared error / 2 + l2/2 |w|²."""
    gradient: float
    """|g|, over the weights."""
    distance: float
    """|w - w*| is at most so much."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) numbers for (row, width) features."""
        return X @ self.w + self.b

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean squared error."""
        return float(((self.predict(X) - y) ** 2).mean())


def ridge_path(X: Any, targets: Sequence[np.ndarray], l2s: Sequence[float]) -> list[list[Line]]:
    """Fit every set of targets at every strength.

    Args:
        X: (row, width) features, finite, NumPy or torch; they need not be centred or scaled.
        targets: of each set, (row,) finite numbers.
        l2s: strengths, above 0, in any order. scikit-learn's alpha is l2 x rows.

    Returns:
        A list for each set, a fit for each strength.

    Raises:
        DataError: features or targets that are not finite numbers, targets of another length, a strength that is not
            above 0.
    """
    closed = ClosedForm(X, targets)
    return [[closed.fit(place, l2) for l2 in l2s] for place in range(len(targets))]


class ClosedForm:
    """Sets of targets on the same features.

    Args:
        X: (row, width).
        targets: of each set, (row,).

    Raises:
        DataError: as `ridge_path`.
    """

    def __init__(self, X: Any, targets: Sequence[np.ndarray]) -> None:
        X = Arrays().take(X)
        check(X)
        self.targets = [numbers(y, len(X), f"target set {place}") for place, y in enumerate(targets)]
        self.mean = X.mean(axis=0, dtype=np.float64)
        self.centred = X - self.mean
        inside, span = self.centred, None
        if len(X) < X.shape[1]:  # the optimum lies in the space that the rows span
            span, triangle = np.linalg.qr(self.centred.T)
            inside = triangle.T
        values, vectors = np.linalg.eigh(inside.T @ inside / len(X))
        self.values = values.clip(min=0)
        self.vectors = vectors if span is None else span @ vectors
        self.levels = [float(y.mean()) for y in self.targets]

    def fit(self, place: int, l2: float) -> Line:
        """Return the optimum of one set: w = (X'X/n + l2)⁻¹ X'(y - mean y)/n, X being centred.

        Raises:
            DataError: a strength that is not above 0.
        """
        scale = self._scale(l2)
        y, w = self.targets[place] - self.levels[place], np.zeros(self.centred.shape[1])
        for _ in range(REFINED):
            w = w - self.vectors @ ((self.vectors.T @ self._slope(w, y, l2)) / scale)
        residual, size = y - self.centred @ w, float(np.sqrt((self._slope(w, y, l2) ** 2).sum()))
        objective = float((residual**2).mean() / 2 + l2 / 2 * (w**2).sum())
        return Line(w, float(self.levels[place] - w @ self.mean), l2, objective, size, size / l2)

    def left_out(self, place: int, l2: float) -> np.ndarray:
        """Return (row,) what each row's target is above its prediction by the fit to all other rows.

        e_i / (1 - h_i), e being the residuals and h_i = 1/n + x_i' (X'X + n l2)⁻¹ x_i (Allen 1974; the intercept of
        the other rows is theirs): no fit is made for it. It is exact where n l2 is the same number with and without
        the row, that is, where scikit-learn's alpha is.

        Raises:
            DataError: a strength that is not above 0; one row, which leaves none to fit.
        """
        rows = len(self.centred)
        if rows < 2:
            raise DataError("a row is to be left out, and there is one only: give at least two")
        turned = self.centred @ self.vectors
        leverage = 1 / rows + ((turned * turned) @ (1 / self._scale(l2))) / rows
        line = self.fit(place, l2)
        residual = self.targets[place] - self.levels[place] - self.centred @ line.w
        return residual / (1 - leverage)

    def _slope(self, w: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
        return self.centred.T @ (self.centred @ w - y) / len(y) + l2 * w

    def _scale(self, l2: float) -> np.ndarray:
        if not 0 < l2 < np.inf:
            raise DataError(f"l2 = {l2}: the strength of the penalty must be a number above 0")
        return self.values + l2


def numbers(y: Any, rows: int, what: str) -> np.ndarray:
    """Return targets as float64.

    Raises:
        DataError: of another length, no numbers, or not finite.
    """
    y = np.asarray(y)
    if y.shape != (rows,):
        raise DataError(f"{what} has shape {y.shape}, the features have {rows} rows")
    if y.dtype.kind not in "fiub":
        raise DataError(f"{what} holds {y[0]!r}, which is no number: ridge regression is of numbers; for classes, use "
                        "logistic regression (fit_path)")  # fmt: skip
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        row = int(np.isfinite(y).argmin())
        raise DataError(f"{what}, row {row}: {y[row]} is not a finite number")
    return y
