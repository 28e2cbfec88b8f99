"""Linear probes: multinomial logistic regression and ridge, L2 chosen on a validation part."""

from __future__ import annotations

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
    """L2-regularised multinomial logistic regression; with two classes, one column of weights.

    L-BFGS on coordinates in which the Hessian is near the identity: the features are turned into the eigenvectors of
    their Gram matrix (eigenvalues v, found once for all strengths) and each coordinate is divided by
    sqrt(c v + l2), c being the mean variance p (1 - p) of the predicted classes where the fit starts. The optimum is
    that of the plain problem; the way there is short. With c taken where the fit stands, the squared gradient in these
    coordinates, halved, estimates how far the objective is from its optimum.
    """

    metric = "accuracy"
    strengths = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    tolerance = 1e-6
    """Estimated distance of the objective from its optimum, as a share of its value, at which a fit stops."""
    max_iterations = 1000

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        super().__init__(X, y)
        self.classes, self.index = np.unique(y, return_inverse=True)
        values, vectors = np.linalg.eigh(X.T.astype(np.float64) @ X / len(y))
        seen = values > 1e-9 * max(values[-1], 1e-30)  # directions in which no row differs have weight 0
        self.values, self.basis = values[seen], vectors[:, seen].astype(np.float32)
        self.turned = X @ self.basis
        share = np.bincount(self.index) / len(y)
        self.variance = float((share * (1 - share)).mean())
        columns = 1 if len(self.classes) == 2 else len(self.classes)
        self.weights = np.zeros((self.turned.shape[1] + 1, columns))  # the last row is the intercept

    def fit(self, l2: float) -> Callable[[np.ndarray], np.ndarray]:
        """Fit at one strength, from the weights of the last one."""
        from scipy.optimize import minimize

        scale = 1 / np.sqrt(self._curvature(l2))[:, None]
        reached = [np.inf]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self._objective(flat.reshape(self.weights.shape) * scale, l2)
            reached[0] = float((gradient**2 / self._curvature(l2)[:, None]).sum()) / 2 / max(value, 1e-12)
            return value, (gradient * scale).ravel()

        def enough(intermediate_result: object) -> None:
            if reached[0] < self.tolerance:
                raise StopIteration

        options = {"maxiter": self.max_iterations, "maxcor": 20, "gtol": 0.0, "ftol": 0.0}
        start = (self.weights / scale).ravel()
        found = minimize(objective, start, jac=True, method="L-BFGS-B", callback=enough, options=options)
        self.weights = found.x.reshape(self.weights.shape) * scale
        if reached[0] > 10 * self.tolerance:  # float32 products end some fits a little early
            self.warnings.append(
                f"logistic regression at l2 = {l2:g} stopped after {found.nit} iterations, an estimated "
                f"{reached[0]:.0e} of its objective away from the optimum"
            )
        coef, intercept = (self.basis @ self.weights[:-1]).astype(np.float32), self.weights[-1]

        def predict(X: np.ndarray) -> np.ndarray:
            scores = X @ coef + intercept
            return self.classes[(scores[:, 0] > 0).astype(int) if len(self.classes) == 2 else scores.argmax(axis=1)]

        return predict

    def _curvature(self, l2: float) -> np.ndarray:
        """Return (direction + 1,): about the Hessian's diagonal, the intercept's last."""
        return np.append(self.variance * self.values + l2, max(self.variance, 1e-12))

    def _objective(self, weights: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
        """Return mean cross-entropy + l2/2 |W|², and its gradient (direction + 1, column), in the turned features."""
        rows = np.arange(len(self.y))
        logits = (self.turned @ weights[:-1].astype(np.float32)).astype(np.float64) + weights[-1]
        if len(self.classes) == 2:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        total = chances.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - logits[rows, self.index]).mean()
        residual = chances / total
        self.variance = float((residual * (1 - residual)).mean())
        residual[rows, self.index] -= 1
        residual = residual[:, -weights.shape[1] :] / len(self.y)
        gradient = np.empty_like(weights)
        gradient[:-1] = self.turned.T @ residual.astype(np.float32) + l2 * weights[:-1]
        gradient[-1] = residual.sum(axis=0)
        return loss + l2 / 2 * float((weights[:-1] ** 2).sum()), gradient


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
