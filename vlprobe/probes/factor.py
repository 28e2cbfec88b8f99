"""One layer's features, turned once for every strength and every label set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlprobe.errors import DataError


@dataclass(frozen=True)
class Factor:
    """Centred features in the eigenvectors of their Gram matrix, the strongest direction first.

    Turning the features turns the weights and leaves their norm, and so the penalised problem, as it is.
    """

    mean: np.ndarray
    """(width,) of the columns."""
    basis: np.ndarray
    """(width, direction), orthonormal."""
    turned: np.ndarray
    """(row, direction + 1) float64: (X - mean) basis, and a column of ones for the intercept."""
    moments: np.ndarray
    """(direction + 1,) mean square of each turned column."""

    def coefficients(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (column, width) and (column,): what weights (column, direction + 1) are for the features as given."""
        coef = weights[:, :-1] @ self.basis.T
        return coef, weights[:, -1] - coef @ self.mean

    def weights(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Return (column, direction + 1), the inverse of `coefficients`."""
        return np.concatenate([coef @ self.basis, (intercept + coef @ self.mean)[:, None]], axis=1)


def factorise(X: np.ndarray) -> Factor:
    """Turn features into the eigenvectors of their Gram matrix.

    Where there are fewer rows than columns, the weights of an optimum lie in the space that the rows span: it is found
    by QR, and the work is done inside it. Only directions in which rounding is all that is left are dropped, so that
    one column of enormous scale does not take the others with it.

    Args:
        X: (row, width) of finite numbers.

    Raises:
        DataError: not a matrix, no row, or a row with NaN or infinity.
    """
    check(X)
    mean = X.mean(axis=0, dtype=np.float64)
    turned = X - mean
    span = None
    if len(X) < X.shape[1]:
        span, triangle = np.linalg.qr(turned.T)
        turned = triangle.T
    basis = np.linalg.eigh(turned.T @ turned)[1][:, ::-1]
    turned = turned @ basis
    moments = np.einsum("nd,nd->d", turned, turned) / len(X)
    rounding = np.finfo(np.float64).eps * max(X.shape)
    kept = moments > rounding**2 * moments.max(initial=0.0)
    turned = np.concatenate([turned[:, kept], np.ones((len(X), 1))], axis=1)
    basis = basis[:, kept] if span is None else span @ basis[:, kept]
    return Factor(mean, basis, turned, np.append(moments[kept], 1.0))


def check(X: np.ndarray, what: str = "features") -> None:
    """Raise DataError where features are not a matrix of finite numbers."""
    if X.ndim != 2 or not len(X):
        raise DataError(f"{what} have shape {X.shape}: give a matrix (row, width) of at least one row")
    finite = np.isfinite(X).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        column = int(np.isfinite(X[row]).argmin())
        raise DataError(f"{what}, row {row}, column {column}: {X[row, column]} is not a finite number")
