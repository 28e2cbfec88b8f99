"""Counts, means and centred second moments of rows, which can be merged.

Computed of any batches, in any order, on any number of machines, they come to the same (Chan, Golub & LeVeque 1983,
Algorithms for Computing the Sample Variance, eq. 2.1), and take width² + classes x width numbers however many rows
there are. Centring first is what keeps columns with a large mean exact: sums of squares would lose their digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.factor import check

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""(row, width) features and (row,) targets, batch by batch; gone through once."""


@dataclass(frozen=True)
class Moments:
    """Rows of several classes, boiled down; see `of_classes`, `of_numbers`."""

    classes: np.ndarray
    """(class,) sorted."""
    count: np.ndarray
    """(class,) rows."""
    mean: np.ndarray
    """(class, width) float64."""
    scatter: np.ndarray
    """(width, width) float64: sum over rows of (x - mean of its class) (x - mean of its class)'."""

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together.

        Raises:
            DataError: they differ in width, or in what their classes are (text, numbers).
        """
        if self.mean.shape[1] != other.mean.shape[1]:
            raise DataError(f"moments of {self.mean.shape[1]} and of {other.mean.shape[1]} columns cannot be merged")
        if self.classes.dtype.kind != other.classes.dtype.kind:
            names = f"{self.classes[0]!r} and {other.classes[0]!r}"
            raise DataError(f"classes must be of one type, text or numbers: found {names}")
        classes = np.union1d(self.classes, other.classes)
        (n, mean), (m, there) = self._spread(classes), other._spread(classes)
        total = n + m
        apart = there - mean
        steps = apart * np.sqrt(n * m / total)[:, None]
        mean = mean + apart * (m / total)[:, None]
        return Moments(classes, total, mean, self.scatter + other.scatter + steps.T @ steps)

    def _spread(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return counts and means of more classes; one that is not there has no rows."""
        at = np.searchsorted(classes, self.classes)
        count, mean = np.zeros(len(classes)), np.zeros((len(classes), self.mean.shape[1]))
        count[at], mean[at] = self.count, self.mean
        return count, mean

    def together(self) -> Moments:
        """Return the moments of the same rows as one class, 0: scatter within the classes and between them."""
        rows = self.count.sum()
        mean = self.count @ self.mean / rows
        between = (self.mean - mean) * np.sqrt(self.count)[:, None]
        scatter = self.scatter + between.T @ between
        return Moments(np.zeros(1, int), np.array([rows]), mean[None], scatter)


def of_classes(X: np.ndarray, y: np.ndarray) -> Moments:
    """Return the moments of (row, width) features by class, (row,).

    Raises:
        DataError: a feature that is not finite, no row, labels of another length, or that are no classes.
    """
    refuse(X, y)
    if y.dtype.kind == "f":
        raise DataError(f"targets are {y.dtype}: classes are text or whole numbers; for numbers take stream_ridge")
    classes, member = np.unique(y, return_inverse=True)
    count = np.bincount(member).astype(float)
    X = X.astype(np.float64)
    mean = np.stack([X[member == c].mean(axis=0) for c in range(len(classes))])
    X -= mean[member]
    return Moments(classes, count, mean, X.T @ X)


def of_numbers(X: np.ndarray, y: np.ndarray) -> Moments:
    """Return the moments of (row, width) features with their (row,) targets as one column more, of one class, 0.

    Raises:
        DataError: a feature or target that is not a finite number, no row, targets of another length.
    """
    refuse(X, y)
    if y.dtype.kind not in "fiu":
        raise DataError(f"targets are {y.dtype}: ridge regression is of numbers; for classes take stream_discriminant")
    if not np.isfinite(y).all():
        raise DataError(f"target of row {int(np.isfinite(y).argmin())} is not a finite number")
    return of_classes(np.column_stack([X.astype(np.float64), y]), np.zeros(len(y), int))


def gather(batches: Batches, moments: Callable[[np.ndarray, np.ndarray], Moments], part: str = "train") -> Moments:
    """Return the moments of a stream.

    Args:
        batches: gone through once.
        moments: `of_classes` or `of_numbers`.
        part: what the stream is called in messages.

    Raises:
        DataError: an empty stream; what `moments` and `Moments.merge` raise.
    """
    whole: Moments | None = None
    for number, (X, y) in enumerate(batches):
        with _told(part, number):
            there = moments(X, y)
            whole = there if whole is None else whole.merge(there)
    if whole is None:
        raise DataError(f"the {part} stream is empty; it must yield at least one batch (X, y)")
    return whole


@contextmanager
def _told(part: str, number: int) -> Iterator[None]:
    """Name the batch in an error that rises inside."""
    try:
        yield
    except DataError as error:
        error.add_note(f"in batch {number} of the {part} stream, counted from 0")
        raise


def refuse(X: np.ndarray, y: np.ndarray) -> None:
    """Raise DataError where features are not a matrix of finite numbers, or targets are not one a row."""
    check(X)
    if np.shape(y) != (len(X),):
        raise DataError(f"targets have shape {np.shape(y)}, the features have {len(X)} rows")
