"""One layer's features, turned once for every strength and every label set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlprobe.errors import DataError
from vlprobe.probes.arrays import Array, Arrays, arrays_for

BLOCK = 1 << 21
"""Numbers of the features that are turned into float64 at a time."""
SPREAD = 1e3
"""Columns whose deviations differ by more would leave the small ones too few of float32's digits."""


@dataclass(frozen=True)
class Factor:
    """Centred features in the eigenvectors of their Gram matrix, the strongest direction first.

    Turning the features turns the weights and leaves their norm, and so the penalised problem, as it is.
    """

    at: Arrays
    """Where the arrays are."""
    X: Array
    """(row, width) the features as given."""
    mean: Array
    """(width,) float64, of the columns."""
    basis: Array
    """(width, direction) float64, orthonormal."""
    turned: Array
    """(row, direction + 1): (X - mean) basis, and a column of ones for the intercept; float32 where `SPREAD` allows."""
    moments: Array
    """(direction + 1,) float64, mean square of each turned column."""
    centred: Array | None = None
    """(row, width) float64, X - mean, where that is small enough to be kept."""

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield (rows, (row, width) float64 centred features), some rows at a time."""
        if self.centred is not None:
            yield slice(None), self.centred
        else:
            yield from _centred(self.at, self.X, self.mean, self.at.double)

    def doubled(self) -> Factor:
        """Return the same with `turned` in float64."""
        turned = self.at.empty(tuple(self.turned.shape), self.at.double)
        for part, block in self.blocks():
            turned[part, :-1] = block @ self.basis
        turned[:, -1] = 1
        return replace(self, turned=turned)

    def coefficients(self, weights: Array) -> tuple[Array, Array]:
        """Return (..., width) and (...): what weights (..., direction + 1) are for the centred features."""
        return weights[..., :-1] @ self.basis.T, weights[..., -1]

    def weights(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Return (column, direction + 1) for coefficients (column, width) and intercepts of the features as given."""
        basis, mean = self.at.host(self.basis), self.at.host(self.mean)
        return np.concatenate([coef @ basis, (intercept + coef @ mean)[:, None]], axis=1)


def factorise(X: Any, device: str | None = None) -> Factor:
    """Turn features into the eigenvectors of their Gram matrix.

    Where there are fewer rows than columns, the weights of an optimum lie in the space that the rows span: it is found
    by QR, and the work is done inside it. Only directions in which rounding is all that is left are dropped, so that
    one column of enormous scale does not take the others with it.

    Args:
        X: (row, width) of finite numbers, NumPy or torch.
        device: see `arrays_for`.

    Raises:
        DataError: not a matrix, no row, or a row with NaN or infinity.
    """
    at = arrays_for(X, device)
    X = at.take(X)
    check(X)
    xp, (rows, width) = at.xp, X.shape
    mean = X.mean(axis=0, dtype=at.double)
    squares = at.zeros((width,), at.double)
    for _, block in _centred(at, X, mean, at.double):
        squares += xp.einsum("nd,nd->d", block, block)
    whole = block if len(block) == rows else None
    scale = at.host(xp.sqrt(squares / rows))
    scale = scale[scale > 1e-7 * np.abs(at.host(mean))[: len(scale)]]
    kind = at.single if len(scale) and scale.max() <= SPREAD * scale.min() else at.double
    span = None
    if rows < width:
        span, triangle = xp.linalg.qr((at.cast(X, at.double) - mean).T)
        inside, centre = at.cast(triangle.T, kind), at.zeros((len(triangle),), at.double)
    else:
        inside, centre = X, mean
    gram = at.zeros((inside.shape[1], inside.shape[1]), at.double)
    for _, block in _centred(at, inside, centre, kind):
        gram += block.T @ block
    basis = xp.flip(xp.linalg.eigh(gram)[1], (1,))
    turned = at.empty((rows, inside.shape[1] + 1), kind)
    narrow = at.cast(basis, kind)
    for part, block in _centred(at, inside, centre, kind):
        turned[part, :-1] = block @ narrow
    turned[:, -1] = 1
    moments = (turned * turned).mean(axis=0, dtype=at.double)
    rounding = (np.finfo(np.float64).eps * max(rows, width)) ** 2
    kept = moments > rounding * moments[:-1].max() if width else moments > 0
    kept[-1] = True
    if not kept.all():
        turned, moments, basis = turned[:, kept], moments[kept], basis[:, kept[:-1]]
    return Factor(at, X, mean, basis if span is None else span @ basis, turned, moments, whole)


def check(X: Any, what: str = "features") -> None:
    """Raise DataError where features are not a matrix of finite numbers."""
    if X.ndim != 2 or not len(X):
        raise DataError(f"{what} have shape {tuple(X.shape)}: give a matrix (row, width) of at least one row")
    with np.errstate(all="ignore"):
        if np.isfinite(float(X.sum(dtype=np.float64) if isinstance(X, np.ndarray) else X.double().sum())):
            return
    host = X if isinstance(X, np.ndarray) else X.cpu().numpy()
    finite = np.isfinite(host).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        column = int(np.isfinite(host[row]).argmin())
        raise DataError(f"{what}, row {row}, column {column}: {host[row, column]} is not a finite number")


def _centred(at: Arrays, X: Array, mean: Array, kind: Any) -> Iterator[tuple[slice, Array]]:
    step = max(BLOCK // max(X.shape[1], 1), 1)
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        yield rows, at.cast(at.cast(X[rows], at.double) - mean, kind)
