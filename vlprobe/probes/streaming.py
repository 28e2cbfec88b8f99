"""Linear probes in one pass over features that are never kept: ridge regression and linear discriminants.

All that they need of the rows are `Moments`: so they are exact, the same however the rows are cut into batches, and
their memory does not grow with the rows. Nothing of the rest of vlprobe is needed.

    fitted = stream_discriminant(train, validation)      # each yields (X, y): (row, width) features, (row,) labels
    print(fitted.validation, stream_score(fitted.probe, test))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.linear import Ridge, inverse_deviation
from vlprobe.probes.moments import Batches, Moments, gather, of_classes, of_numbers, refuse

SHRINKAGES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-6)
"""Tried strong to weak."""


@dataclass(frozen=True)
class Plane:
    """A fitted ridge regression."""

    metric: ClassVar[str] = "r2"
    mean: np.ndarray
    """(width,) of the features."""
    coef: np.ndarray
    """(width,) of the features as given."""
    level: float
    """Mean of the targets."""
    l2: float
    """The strength, on standardised features: mean squared error / 2 + l2/2 |w|²."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) numbers for (row, width) features."""
        return (X.astype(np.float64) - self.mean) @ self.coef + self.level


@dataclass(frozen=True)
class Discriminant:
    """Fitted linear discriminants: classes that are normal with one covariance."""

    metric: ClassVar[str] = "accuracy"
    classes: np.ndarray
    """(class,) sorted."""
    mean: np.ndarray
    """(width,) of the features."""
    coef: np.ndarray
    """(class, width) of the features as given."""
    intercept: np.ndarray
    """(class,): the score of a class at the mean."""
    shrinkage: float
    """0: the covariance as it is; 1: a multiple of the identity. Of standardised features."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) the likeliest class of (row, width) features."""
        scores = (X.astype(np.float64) - self.mean) @ self.coef.T + self.intercept
        return self.classes[scores.argmax(axis=1)]


class RidgePath:
    """Ridge regressions at any strength: one eigen-decomposition of the moments serves them all.

    Args:
        moments: made by `of_numbers`.
    """

    def __init__(self, moments: Moments) -> None:
        rows = moments.count.sum()
        self.mean, self.level = moments.mean[0, :-1], float(moments.mean[0, -1])
        covariance = moments.scatter / rows
        self.inverse = inverse_deviation(self.mean, np.sqrt(np.diag(covariance)[:-1]))
        values, self.vectors = np.linalg.eigh(covariance[:-1, :-1] * self.inverse * self.inverse[:, None])
        self.values = np.maximum(values, 0)
        self.along = self.vectors.T @ (covariance[:-1, -1] * self.inverse)

    def fit(self, l2: float) -> Plane:
        """Return the probe at one strength, above 0."""
        if not 0 < l2 < math.inf:
            raise DataError(f"l2 = {l2}: the strength of the penalty must be a number above 0")
        coef = self.inverse * (self.vectors @ (self.along / (self.values + l2)))
        return Plane(self.mean, coef, self.level, l2)


class DiscriminantPath:
    """Linear discriminants at any shrinkage: one eigen-decomposition of the moments serves them all.

    Within the classes, standardised features have the covariance (1 - s) C + s tr(C) / width I.

    Args:
        moments: made by `of_classes`.

    Raises:
        DataError: one class only, or classes of which no row differs from its mean.
    """

    def __init__(self, moments: Moments) -> None:
        if len(moments.classes) < 2:
            raise DataError(
                f"all rows are of class '{moments.classes[0]}'; linear discriminants need at least two classes"
            )
        together, rows = moments.together(), moments.count.sum()
        self.classes, self.logs = moments.classes, np.log(moments.count / rows)
        self.mean = together.mean[0]
        self.inverse = inverse_deviation(self.mean, np.sqrt(np.diag(together.scatter) / rows))
        self.values, self.vectors = np.linalg.eigh(moments.scatter / rows * self.inverse * self.inverse[:, None])
        self.values = np.maximum(self.values, 0)
        if self.values.max() < 1e-15:  # of variances that are 1 over all rows: rounding
            raise DataError("inside each class all rows are the same: there is no scatter to divide by")
        self.centres = (moments.mean - self.mean) * self.inverse @ self.vectors

    def fit(self, shrinkage: float) -> Discriminant:
        """Return the probe at one shrinkage, from 0 to 1.

        Raises:
            DataError: not in that range, or 0 where the scatter within classes has directions without any.
        """
        if not 0 <= shrinkage <= 1:
            raise DataError(f"shrinkage = {shrinkage}: it must be from 0 to 1")
        shrunk = (1 - shrinkage) * self.values + shrinkage * self.values.mean()
        if shrunk.min() <= np.finfo(np.float64).eps * len(shrunk) * shrunk.max():
            raise DataError("the scatter inside classes has directions without any: give a shrinkage above 0")
        turned = self.centres / shrunk
        intercept = self.logs - np.einsum("cq,cq->c", turned, self.centres) / 2
        return Discriminant(self.classes, self.mean, turned @ self.vectors.T * self.inverse, intercept, shrinkage)


Probe = TypeVar("Probe", Plane, Discriminant)


@dataclass(frozen=True)
class Streamed(Generic[Probe]):
    """A probe that was fitted on streams."""

    probe: Probe
    """Fitted on train and validation together, at the chosen strength."""
    validation: float
    """Score on the validation stream, of the probe fitted without it."""
    moments: Moments
    """Of train and validation, to be merged with more."""


def stream_ridge(train: Batches, validation: Batches, l2s: Sequence[float] = Ridge.strengths) -> Streamed[Plane]:
    """Ridge regression: choose L2 on the validation stream, fit on train and validation together.

    The moments of the validation stream hold the squared error of every strength. Features are standardised with the
    mean and deviation of the rows that are fitted on; of equal scores the stronger L2 wins.

    Args:
        train: gone through once.
        validation: gone through once.
        l2s: strengths, from strong to weak.

    Raises:
        DataError: see `gather`, `of_numbers`.
    """
    return choose_plane(gather(train, of_numbers), gather(validation, of_numbers, "validation"), l2s)


def choose_plane(fitted: Moments, held_out: Moments, l2s: Sequence[float] = Ridge.strengths) -> Streamed[Plane]:
    """Ridge regression of moments: choose L2 by the squared error that those of validation hold, fit on both together.

    Args:
        fitted: of train.
        held_out: of validation.
        l2s: strengths, from strong to weak.
    """
    path = RidgePath(fitted)
    scores = [_r2(path.fit(l2), held_out) for l2 in l2s]
    best = int(np.argmax([-math.inf if math.isnan(score) else score for score in scores]))
    both = fitted.merge(held_out)
    return Streamed(RidgePath(both).fit(l2s[best]), scores[best], both)


def _r2(probe: Plane, moments: Moments) -> float:
    """Return R² on rows of which only the moments are known."""
    mean, rows = moments.mean[0], moments.count.sum()
    outward = np.append(probe.coef, -1.0)
    error = (mean[:-1] - probe.mean) @ probe.coef + probe.level - mean[-1]
    return _of_sums(outward @ moments.scatter @ outward + rows * error**2, moments)


def _of_sums(residual: float, moments: Moments) -> float:
    """Return R² from a residual sum of squares and the moments, whose last column are the targets."""
    mean, spread = moments.mean[0, -1], moments.scatter[-1, -1]
    # One value repeated has no spread but rounding, hence no R².
    return float(1 - residual / spread) if spread > 1e-24 * moments.count.sum() * mean**2 else math.nan


def stream_discriminant(
    train: Batches, validation: Batches, shrinkages: Sequence[float] = SHRINKAGES
) -> Streamed[Discriminant]:
    """Linear discriminants: choose the shrinkage on the validation stream, fit on train and validation together.

    Features are standardised with the mean and deviation of the rows that are fitted on. Classes need not be known
    beforehand. Of equal scores the stronger shrinkage wins.

    Args:
        train: gone through once.
        validation: gone through once.
        shrinkages: from 1 to 0, from strong to weak.

    Raises:
        DataError: see `gather`, `DiscriminantPath`.
    """
    fitted = gather(train, of_classes)
    path = DiscriminantPath(fitted)
    probes, right = [path.fit(shrinkage) for shrinkage in shrinkages], np.zeros(len(shrinkages))

    def scored(X: np.ndarray, y: np.ndarray) -> Moments:
        _refuse_others(probes[0], X, y)
        there = of_classes(X, y)
        right[:] += [(probe.predict(X) == y).sum() for probe in probes]
        return there

    held_out = gather(validation, scored, "validation")
    best = int(right.argmax())
    both = fitted.merge(held_out)
    return Streamed(DiscriminantPath(both).fit(shrinkages[best]), float(right[best] / held_out.count.sum()), both)


def stream_score(probe: Plane | Discriminant, batches: Batches) -> float:
    """Return accuracy, or R², of a probe on a stream.

    Args:
        probe: a `Plane` or a `Discriminant`.
        batches: gone through once.

    Raises:
        DataError: see `gather`; features of another width than the probe's.
    """

    def answered(X: np.ndarray, y: np.ndarray) -> Moments:
        _refuse_others(probe, X, y)
        if isinstance(probe, Discriminant):
            return of_classes((probe.predict(X) == y)[:, None], np.zeros(len(y), int))
        return of_numbers((probe.predict(X) - y)[:, None], y)

    whole = gather(batches, answered, "test")
    if isinstance(probe, Discriminant):
        return float(whole.mean[0, 0])
    return _of_sums(whole.scatter[0, 0] + whole.count.sum() * whole.mean[0, 0] ** 2, whole)


def _refuse_others(probe: Plane | Discriminant, X: np.ndarray, y: np.ndarray) -> None:
    """Raise DataError where a probe was fitted on features or classes of another kind."""
    refuse(X, y)
    if X.shape[1] != len(probe.mean):
        raise DataError(f"features have {X.shape[1]} columns, the probe was fitted on {len(probe.mean)}")
    if isinstance(probe, Discriminant) and y.dtype.kind != probe.classes.dtype.kind:
        raise DataError(f"targets are {y.dtype}, the classes that the probe was fitted on are {probe.classes.dtype}")
