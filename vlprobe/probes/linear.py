"""Linear probes: multinomial logistic regression and ridge, L2 chosen on a validation part."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlprobe.statistics import score

PATIENCE = 2
"""The path ends after so many strengths in a row without a better validation score."""


@dataclass(frozen=True)
class Split:
    """Rows of one part."""

    X: np.ndarray
    """(row, width) float32."""
    y: np.ndarray
    """(row,)."""


@dataclass(frozen=True)
class Probed:
    """A fitted probe's answers on the test part."""

    predicted: np.ndarray
    """(row,) for the test part."""
    validation: float
    """Score on the validation part, of the probe fitted without it, at the chosen strength."""
    l2: float | None
    """The chosen strength; None where nothing was fitted."""
    warnings: tuple[str, ...]
    """Not converged, strength at the end of the path."""


class L2Path(ABC):
    """Fits of one data set along the L2 path, strong to weak, each started from the one before.

    Args:
        X: (row, width) standardised features.
        y: (row,) targets.
    """

    metric: ClassVar[str]
    strengths: ClassVar[tuple[float, ...]]
    """Tried strong to weak: the objective is mean loss + l2/2 |W|², the intercept free, features standardised."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X = X
        self.y = y
        self.warnings: list[str] = []

    @abstractmethod
    def fit(self, l2: float) -> Callable[[np.ndarray], np.ndarray]:
        """Fit at one strength and return the function (row, width) -> (row,) predictions."""


class Logistic(L2Path):
    """L2-regularised multinomial logistic regression, to scikit-learn's L-BFGS optimum."""

    metric = "accuracy"
    strengths = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        super().__init__(X, y)
        self.model = LogisticRegression(tol=1e-4, max_iter=2000, warm_start=True)

    def fit(self, l2: float) -> Callable[[np.ndarray], np.ndarray]:
        """Fit at one strength, from the coefficients of the last one."""
        from sklearn.exceptions import ConvergenceWarning

        self.model.set_params(C=1 / (l2 * len(self.y)))  # scikit-learn sums the loss over rows
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self.model.fit(self.X, self.y)
        if any(issubclass(entry.category, ConvergenceWarning) for entry in caught):
            self.warnings.append(f"logistic regression at l2 = {l2:g} stopped after {self.model.max_iter} iterations")
        coef, intercept, classes = self.model.coef_.copy(), self.model.intercept_.copy(), self.model.classes_

        def predict(X: np.ndarray) -> np.ndarray:
            scores = X @ coef.T + intercept
            return classes[(scores[:, 0] > 0).astype(int) if len(classes) == 2 else scores.argmax(axis=1)]

        return predict


class Ridge(L2Path):
    """Ridge regression in closed form: one eigen-decomposition serves every strength.

    (1/n) |y - Xw - b|² / 2 + l2/2 |w|² is smallest at w = (X'X/n + l2 I)⁻¹ X'(y - mean y)/n, X being centred.
    """

    metric = "r2"
    strengths = (1e3, 1e2, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        super().__init__(X.astype(np.float64), y.astype(np.float64))
        self.values, self.vectors = np.linalg.eigh(self.X.T @ self.X / len(y))
        self.along = self.vectors.T @ (self.X.T @ (self.y - self.y.mean()) / len(y))

    def fit(self, l2: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the solution at one strength."""
        w = self.vectors @ (self.along / (np.maximum(self.values, 0) + l2))
        mean = self.y.mean()
        return lambda X: X @ w + mean


def probe(kind: type[L2Path], train: Split, validation: Split, test: Split) -> Probed:
    """Choose L2 on the validation part, fit on train and validation together, answer the test part.

    Features are standardised with the mean and deviation of the rows that are fitted on. The path is walked from
    strong to weak L2; of equal validation scores the stronger L2 wins.

    Args:
        kind: `Logistic` or `Ridge`.
        train: fitted on.
        validation: chooses L2, then fitted on too.
        test: answered; its targets are not read.
    """
    scale = Standardise(train.X)
    path = kind(scale(train.X), train.y)
    held_out = scale(validation.X)
    best, best_l2, since = -np.inf, kind.strengths[0], 0
    for l2 in kind.strengths:
        reached = score(validation.y, path.fit(l2)(held_out), kind.metric)
        if reached > best:
            best, best_l2, since = reached, l2, 0
        else:
            since += 1
            if since == PATIENCE:
                break
    X = np.concatenate([train.X, validation.X])
    scale = Standardise(X)
    final = kind(scale(X), np.concatenate([train.y, validation.y]))
    predict = final.fit(best_l2)
    said = [*path.warnings, *final.warnings]
    if best_l2 == kind.strengths[-1]:
        said.append(f"the chosen l2 = {best_l2:g} is the weakest that was tried")
    return Probed(predict(scale(test.X)), float(best), best_l2, tuple(said))


class Standardise:
    """Subtract the mean and divide by the deviation of the rows it was made from; a constant column becomes 0."""

    def __init__(self, X: np.ndarray) -> None:
        self.mean = X.mean(axis=0, dtype=np.float64)
        deviation = X.std(axis=0, dtype=np.float64)
        # Rounding leaves a constant column a tiny deviation, which must not be blown up into a feature.
        varies = deviation > 1e-6 * np.maximum(np.abs(self.mean), 1e-12)
        self.inverse = np.where(varies, 1 / np.where(varies, deviation, 1), 0)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Return (row, width) float32."""
        return ((X - self.mean) * self.inverse).astype(np.float32)
