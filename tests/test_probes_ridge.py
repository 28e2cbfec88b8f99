"""Ridge regression against a direct solve, and leaving one out against leaving one out."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import RidgeCV

from vlprobe.errors import DataError
from vlprobe.probes.linear import Ridge
from vlprobe.probes.ridge import ClosedForm, ridge_path


def make(kind, rows=40, width=6):
    rng = np.random.default_rng(0)
    if kind == "fewer rows than columns":
        rows, width = 15, 30
    X = rng.normal(size=(rows, width)) + 3
    y = X[:, 0] * 2 + rng.normal(size=rows) + 5
    if kind == "constant and repeated columns":
        X = np.concatenate([X, X[:, :2], np.full((rows, 1), 7.0)], axis=1)
    if kind == "one huge column":
        X[:, 3] = X[:, 3] * 1e5 + 1e6
    return X, y


KINDS = ["plain", "constant and repeated columns", "fewer rows than columns", "one huge column"]


def direct(X, y, l2):
    """Solve the normal equations of weights and intercept together, in columns scaled alike."""
    n, d = X.shape
    scale = np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    Z = np.concatenate([X / scale, np.ones((n, 1))], axis=1)
    root = np.concatenate([np.diag(np.sqrt(l2 * n) / scale), np.zeros((d, 1))], axis=1)
    stacked = np.concatenate([Z, root])
    solution = scipy.linalg.lstsq(stacked, np.append(y, np.zeros(d)), lapack_driver="gelsy")[0]
    return solution[:-1] / scale, solution[-1]


@pytest.mark.parametrize("l2", [10.0, 1e-1, 1e-4])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_direct_solution(kind, l2):
    X, y = make(kind)
    other = y[::-1].copy()
    for target, lines in zip((y, other), ridge_path(X, [y, other], [1.0, l2]), strict=True):
        w, b = direct(X, target, l2)
        line = lines[1]
        np.testing.assert_allclose(line.predict(X), X @ w + b, rtol=1e-7, atol=1e-7)
        assert line.objective == pytest.approx(((X @ w + b - target) ** 2).mean() / 2 + l2 / 2 * (w**2).sum(), rel=1e-9)
        assert np.linalg.norm(line.w - w) <= line.distance + 1e-9 * np.linalg.norm(w)
        slope = (X - X.mean(axis=0)).T @ (line.predict(X) - target) / len(y) + l2 * line.w
        assert np.linalg.norm(slope) < 1e-9 * np.abs(X).max()


@pytest.mark.parametrize("l2", [10.0, 1e-1, 1e-4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_left_out_is_predicted_as_by_the_fit_without_it(kind, l2):
    X, y = make(kind)
    n = len(y)
    found = ClosedForm(X, [y[::-1], y]).left_out(1, l2)
    for i in range(n):
        rest = np.arange(n) != i
        w, b = direct(X[rest], y[rest], l2 * n / (n - 1))
        assert found[i] == pytest.approx(y[i] - X[i] @ w - b, rel=1e-6, abs=1e-6)


def test_leaving_one_out_equals_scikit_learns():
    X, y = make("plain")
    alphas = [0.1, 1.0, 10.0]
    referee = RidgeCV(alphas=alphas, store_cv_results=True).fit(X, y)
    ours = ClosedForm(X, [y])
    for i, alpha in enumerate(alphas):
        np.testing.assert_allclose(ours.left_out(0, alpha / len(y)) ** 2, referee.cv_results_[:, i], rtol=1e-8)


def test_wrong_input_is_refused():
    X, y = make("plain")
    with pytest.raises(DataError, match=r"target set 0 holds .*'a'.*for classes, use logistic regression"):
        ridge_path(X, [np.full(len(y), "a")], [1.0])
    with pytest.raises(DataError, match=r"target set 1, row 3: nan is not a finite number"):
        ridge_path(X, [y, np.where(np.arange(len(y)) == 3, np.nan, y)], [1.0])
    with pytest.raises(DataError, match="target set 0 has shape"):
        ridge_path(X, [y[1:]], [1.0])
    with pytest.raises(DataError, match="must be a number above 0"):
        ridge_path(X, [y], [0.0])
    with pytest.raises(DataError, match="row 1, column 2"):
        Ridge(np.where(np.arange(6) + 6 * np.arange(40)[:, None] == 8, np.inf, X), [y])
    with pytest.raises(DataError, match="at least two"):
        ClosedForm(X[:1], [y[:1]]).left_out(0, 1.0)
