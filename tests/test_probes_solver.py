"""The solver against scikit-learn, against Newton's method written out, and against its own certificate."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vlprobe.errors import DataError, StudyError
from vlprobe.probes import factor as factor_module
from vlprobe.probes.curvature import _chosen, _gram
from vlprobe.probes.factor import factorise
from vlprobe.probes.logistic import TOLERANCE, Solver, fit_path
from vlprobe.probes.softmax import Problem


def objective(X, y, l2, coef, intercept):
    """Mean cross-entropy + l2/2 |W|² by its definition, and its gradients by weights and intercepts."""
    classes, index = np.unique(y, return_inverse=True)
    binary = len(coef) == 1
    scores = X.astype(float) @ coef.T + intercept
    scores = np.concatenate([np.zeros_like(scores), scores], axis=1) if binary else scores
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    residual = np.exp(logs) - np.eye(len(classes))[index]
    residual = residual[:, 1:] if binary else residual
    value = -logs[np.arange(len(y)), index].mean() + l2 / 2 * (coef**2).sum()
    return value, residual.T @ X.astype(float) / len(y) + l2 * coef, residual.mean(axis=0)


def newton(X, y, l2):
    """The optimum's objective by damped Newton steps on the whole Hessian, in columns scaled to a deviation of 1."""
    classes, index = np.unique(y, return_inverse=True)
    n, k = len(y), len(classes)
    scale = np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    Z = np.concatenate([(X - X.mean(axis=0)) / scale, np.ones((n, 1))], axis=1)
    penalty = np.append(l2 / scale**2, 0.0)
    hot = np.eye(k)[index]

    def at(W):
        scores = Z @ W.T
        logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return -(hot * logs).sum(1).mean() + (penalty * W**2).sum() / 2, np.exp(logs)

    W = np.zeros((k, Z.shape[1]))
    value, p = at(W)
    for _ in range(300):
        gradient = (p - hot).T @ Z / n + penalty * W
        weights = np.eye(k)[None] * p[:, :, None] - p[:, :, None] * p[:, None, :]
        hessian = np.einsum("ncd,ni,nj->cidj", weights, Z, Z).reshape(gradient.size, -1) / n
        hessian += np.diag(np.tile(penalty, k))
        hessian += 1e-14 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
        step = np.linalg.lstsq(hessian, gradient.ravel(), rcond=1e-15)[0].reshape(W.shape)
        decrement, length = (step * gradient).sum(), 1.0
        while at(W - length * step)[0] > value - 0.1 * length * decrement and length > 1e-9:
            length /= 2
        W = W - length * step
        value, p = at(W)
        if decrement < 1e-10 * value:
            return value
    raise AssertionError("the referee did not converge")


def make(kind, rows=200, width=8):
    """Return features and labels, each kind hard in its own way."""
    rng = np.random.default_rng(0)
    if kind == "fewer rows than columns":
        rows, width = 30, 40
    X = rng.normal(size=(rows, width))
    scores = X @ rng.normal(size=(width, 3))
    y = (scores if kind == "separable" else scores + 2 * rng.gumbel(size=scores.shape)).argmax(axis=1)
    if kind == "constant and repeated columns":
        X = np.concatenate([X, X[:, :3], np.full((rows, 2), 7.0)], axis=1)
    if kind == "rare classes":
        y[0], y[1:3] = 3, 4
    if kind == "one huge column":
        X[:, 3] = X[:, 3] * 1e5 + 1e6
    if kind.startswith("two classes"):
        y = X[:, 0] > 0.3 if "separable" in kind else y == 1
    return X, y


KINDS = [
    "plain",
    "separable",
    "constant and repeated columns",
    "rare classes",
    "fewer rows than columns",
    "one huge column",
    "two classes",
    "two classes, separable",
]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
def test_every_fit_is_at_the_optimum(kind, l2):
    X, y = make(kind)
    fit = fit_path(X, [y], [l2])[0][0]
    assert fit.met
    best = newton(X, y, 2 * l2 if len(fit.coef) == 1 else l2)  # w and -w, half each, are penalised half as much
    assert -1e-9 * best <= fit.objective - best <= TOLERANCE * best
    if l2 >= 1e-4 and kind != "one huge column":  # where scikit-learn gets there
        referee = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-10, max_iter=50000).fit(X, y)
        theirs = log_loss(y, referee.predict_proba(X)) + l2 / 2 * (referee.coef_**2).sum()
        assert fit.objective == pytest.approx(theirs, rel=1e-6)
        assert (fit.predict(X) == referee.predict(X)).mean() > 0.99


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_is_what_it_says(kind, given):
    X, y = make(kind)
    X = X.astype(given)
    loose = fit_path(X, [y], [1e-2, 1e-4], tolerance=1e-3)[0][1]
    tight = fit_path(X, [y], [1e-2, 1e-4], tolerance=1e-10)[0][1]
    for fit in (loose, tight):
        value, slope, intercepts = objective(X, y, fit.l2, fit.coef, fit.intercept)
        assert fit.objective == pytest.approx(value, rel=1e-10)
        big = float(np.abs(X).max())
        assert fit.gradient == pytest.approx(np.sqrt((slope**2).sum()), rel=1e-5, abs=1e-13 * big)
        assert fit.intercept_gradient < 1e-12 and np.abs(intercepts).max() < 1e-10
        assert fit.gap == pytest.approx(fit.gradient**2 / 2 / fit.l2)
    assert loose.objective - tight.objective <= min(loose.gap, 1e-3 * loose.objective)
    away = np.sqrt(((loose.coef - tight.coef) ** 2).sum())
    assert away <= loose.distance + tight.distance


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("kind", KINDS)
def test_no_fit_is_further_from_the_optimum_than_it_was_allowed(kind, tolerance):
    """Loose tolerances and long steps on the path are where an estimate is deceived."""
    X, y = make(kind)
    for l2s in ([1.0, 1e-2, 1e-4, 1e-6], [1e-2, 1e-4], [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]):
        tight = fit_path(X.astype(np.float32), [y], l2s, tolerance=1e-9)[0]
        for fit, best in zip(fit_path(X.astype(np.float32), [y], l2s, tolerance=tolerance)[0], tight, strict=True):
            assert fit.met and fit.objective - best.objective <= tolerance * best.objective


def test_a_sample_of_rows_holds_all_that_weigh_much_and_stands_for_the_others():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 6)).astype(np.float32)
    weight = 0.25 * rng.random(5000) ** 8
    problem = Problem(factorise(X), np.zeros((1, 5000), int), 1)
    exact = (X * weight[:, None]).T @ X / 5000
    often = _chosen(problem.factor.at, weight, 800)
    assert often.sum() == pytest.approx(800, rel=1e-2) and often.max() == 1.0
    assert (often[weight > 2 * weight.sum() / 800] == 1.0).all()
    sample = _gram(problem, X, weight, 800)
    assert np.abs(sample - exact).max() < 0.12 * exact.max()  # three deviations of what 800 rows may miss
    assert np.abs(_gram(problem, X, weight, 5000) - exact).max() < 1e-6 * exact.max()


def test_sets_together_come_to_what_each_comes_to_alone():
    X, y = make("plain")
    sets = [y, np.random.default_rng(1).permutation(y), y == 1, np.array(list("abcd"))[np.arange(len(y)) % 4]]
    l2s = [1.0, 1e-2, 1e-5]
    for y, fits in zip(sets, fit_path(X, sets, l2s), strict=True):
        for fit, alone in zip(fits, fit_path(X, [y], l2s)[0], strict=True):
            assert fit.objective == pytest.approx(alone.objective, rel=TOLERANCE)
            assert list(fit.classes) == list(alone.classes) and fit.met


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_comes_to_what_numpy_comes_to(kind, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    X, y = make(kind)
    X = X.astype(np.float32)
    sets, l2s = [y, np.random.default_rng(1).permutation(y)], [1.0, 1e-2, 1e-4, 1e-6]
    ours = fit_path(X, sets, l2s)
    theirs = fit_path(torch.tensor(X, device=device), sets, l2s)
    for a, b in zip([f for fits in ours for f in fits], [f for fits in theirs for f in fits], strict=True):
        assert b.objective == pytest.approx(a.objective, rel=2 * TOLERANCE)
        assert a.met == b.met and isinstance(b.coef, np.ndarray)
        assert (a.predict(X) == b.predict(X)).mean() > 0.99


def test_features_may_be_lists_whole_numbers_or_tensors_whatever_the_device():
    X = np.random.default_rng(0).integers(0, 9, size=(60, 4))
    y = X[:, 0] > 4
    expected = fit_path(X.astype(float), [y], [1e-2])[0][0].objective
    tensor = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    for given, device in ((X, None), (X.tolist(), "cpu"), (tensor, "cpu"), (tensor, None), (X, "auto")):
        assert fit_path(given, [y], [1e-2], device=device)[0][0].objective == pytest.approx(expected, rel=TOLERANCE)
    with pytest.raises(StudyError, match="device 'gpu' is unknown"):
        fit_path(X, [y], [1e-2], device="gpu")


def test_many_rows_take_blocks_from_a_sample_and_refresh_them():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 30)).astype(np.float32)
    scores = X @ rng.normal(size=(30, 5)) * 2
    y = (scores + rng.gumbel(size=scores.shape) / 5).argmax(axis=1)
    y[:4] = 7
    fits = fit_path(X, [y], [1e-2, 1e-4, 1e-6, 1e-8])[0]
    exact = fit_path(X, [y], [1e-2, 1e-4, 1e-6, 1e-8], tolerance=1e-10)[0]
    for fit, best in zip(fits, exact, strict=True):
        assert fit.met
        assert fit.objective - best.objective <= TOLERANCE * best.objective


def test_float64_finishes_where_float32_gets_no_further(monkeypatch):
    X, y = make("fewer rows than columns")
    fit = fit_path(X, [y], [1e-8])[0][0]
    assert fit.met and fit.precision == "float64"
    assert fit_path(X, [y], [1e-2])[0][0].precision == "float32"
    monkeypatch.setattr(Solver, "_finish", lambda *_: None)
    assert not fit_path(X, [y], [1e-8])[0][0].met  # so float32 alone does not get there, and says so


def test_a_fit_that_float32_keeps_from_its_end_goes_on_in_float64(monkeypatch):
    monkeypatch.setattr("vlprobe.probes.logistic.LONG", 3)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 30)).astype(np.float32)
    y = (X @ rng.normal(size=(30, 4)) + rng.gumbel(size=(200, 4))).argmax(axis=1)
    ((fit,),) = fit_path(X, [y], [1e-4])
    assert (fit.precision, fit.met, fit.iterations > 3) == ("float64", True, True)
    assert fit.objective <= newton(X, y, 1e-4) * (1 + TOLERANCE)
    monkeypatch.undo()
    ((plain,),) = fit_path(X, [y], [1e-4])
    assert plain.precision == "float32"


def test_columns_of_very_different_scale_are_turned_in_float64(monkeypatch):
    X, _ = make("one huge column")
    assert factorise(X).turned.dtype == np.float64
    assert factorise(make("plain")[0]).turned.dtype == np.float32
    monkeypatch.setattr(factor_module, "SPREAD", 1e9)
    assert factorise(X).turned.dtype == np.float32


def test_one_class_and_features_that_do_not_vary():
    fit = fit_path(np.ones((5, 3)), [np.zeros(5)], [1.0])[0][0]
    assert fit.met and fit.objective < 1e-12 and (fit.predict(np.ones((2, 3))) == 0).all()
    shares = fit_path(np.ones((6, 3), np.float32), [np.array([0, 0, 1, 1, 1, 2])], [1e-3])[0][0]
    assert shares.objective == pytest.approx(-(np.log(1 / 3) / 3 + np.log(1 / 2) / 2 + np.log(1 / 6) / 6))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value):
    X = np.ones((4, 3), np.float32)
    X[2, 1] = value
    for given in (X, torch.tensor(X)):
        with pytest.raises(DataError, match=r"row 2, column 1: .*(nan|inf).* is not a finite number"):
            fit_path(given, [np.arange(4)], [1.0])


def test_wrong_input_is_refused():
    X, y = make("plain")
    with pytest.raises(DataError, match=r"label set 1 has shape \(3,\), the features have 200 rows"):
        fit_path(X, [y, y[:3]], [1.0])
    for l2 in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="strength of the penalty must be a number above 0"):
            fit_path(X, [y], [l2])
    with pytest.raises(DataError, match=r"shape \(200,\)"):
        fit_path(X[:, 0], [y], [1.0])
    with pytest.raises(DataError, match=r"label set 1, row 0: 0\.5 is no class: .* for numbers, use ridge regression"):
        fit_path(X, [y, np.linspace(0.5, 1, len(y))], [1.0])
    with pytest.raises(DataError, match=r"label set 0, row 2: nan is no class"):
        fit_path(X, [np.where(np.arange(len(y)) == 2, np.nan, y)], [1.0])
    with pytest.raises(DataError, match="label set 0: its labels cannot be sorted"):
        fit_path(X, [np.array([None, *["a"] * (len(y) - 1)], dtype=object)], [1.0])
    whole = fit_path(X, [y.astype(float)], [1.0])[0][0]
    assert list(whole.classes) == [0.0, 1.0, 2.0]
