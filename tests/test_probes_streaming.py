"""Streaming probes: the same however the rows are cut, equal to probes that hold all rows at once, in little memory."""

import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import lstsq
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from vlprobe.errors import DataError
from vlprobe.probes.linear import Ridge, Split, probe
from vlprobe.probes.moments import gather, of_classes, of_numbers
from vlprobe.probes.streaming import (
    SHRINKAGES,
    DiscriminantPath,
    RidgePath,
    stream_discriminant,
    stream_ridge,
    stream_score,
)
from vlprobe.statistics import score

SCALES = np.array([1, 1e6, 1e-6, 1, 1, 1, 10, 1])
MEANS = np.array([0, 0, 0, 1e5, -3e4, 7, 1e3, 0])


def rows(count, seed, classes="abc", signal=1.0):
    """Return features of very different scales and means, labels and numbers that a linear map gives."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(count, 8)) @ (np.eye(8) + 0.3 * np.random.default_rng(7).normal(size=(8, 8)))
    weights = np.random.default_rng(99).normal(size=(8, len(classes)))
    labels = (signal * Z @ weights + rng.gumbel(size=(count, len(classes)))).argmax(1)
    numbers = 1e4 + signal * Z @ weights[:, 0] + rng.normal(size=count)
    return Z * SCALES + MEANS, np.array(list(classes))[labels], numbers


def cut(X, y, seed):
    """Yield the rows in another order, in batches of any size, many of one row."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    places = np.sort(rng.choice(len(y) - 1, len(y) // 5, replace=False) + 1)
    places = np.union1d(places, np.arange(1, 30))
    for some in np.split(order, places):
        yield X[some], y[some]


def in_pairs(moments, seed):
    """Merge many moments pair by pair in a random tree, as machines would that each saw a part."""
    rng, left = np.random.default_rng(seed), list(moments)
    while len(left) > 1:
        a, b = (left.pop(int(rng.integers(len(left)))) for _ in range(2))
        left.append(a.merge(b))
    return left[0]


def same(a, b, rtol=1e-9):
    """Say whether two moments are one, each entry measured by the deviations of its columns."""
    scale = np.sqrt(np.diag(b.scatter))
    assert (a.classes == b.classes).all() and (a.count == b.count).all()
    np.testing.assert_allclose((a.mean - b.mean) / scale, 0, atol=rtol)
    np.testing.assert_allclose(a.scatter / np.outer(scale, scale), b.scatter / np.outer(scale, scale), atol=rtol)


@pytest.mark.parametrize("make", [of_classes, of_numbers])
@pytest.mark.parametrize("seed", range(4))
def test_moments_are_the_same_however_the_rows_are_cut(make, seed):
    X, labels, numbers = rows(500, 0)
    y = labels if make is of_classes else numbers
    whole = make(X, y)
    same(gather(cut(X, y, seed), make), whole)
    same(in_pairs([make(*batch) for batch in cut(X, y, seed)], seed), whole)


def test_moments_are_what_they_are_called():
    X, labels, numbers = rows(300, 1)
    moments = gather(cut(X, labels, 0), of_classes)
    for c, name in enumerate("abc"):
        mine = X[labels == name]
        assert moments.count[c] == len(mine)
        np.testing.assert_allclose(moments.mean[c], mine.mean(axis=0), rtol=1e-12, atol=1e-12)
    within = sum(np.cov(X[labels == name].T, bias=True) * (labels == name).sum() for name in "abc")
    scale = np.outer(X.std(axis=0), X.std(axis=0)) * len(X)
    np.testing.assert_allclose(moments.scatter / scale, within / scale, atol=1e-10)
    np.testing.assert_allclose(moments.together().scatter / scale, np.cov(X.T, bias=True) * len(X) / scale, atol=1e-10)
    joint = of_numbers(X, numbers)
    np.testing.assert_allclose(joint.scatter[-1, -1], numbers.var() * len(numbers), rtol=1e-9)


def test_columns_of_a_large_mean_keep_their_digits():
    """Sums of squares in place of centred moments would leave none of them."""
    X = np.random.default_rng(0).normal(size=(2000, 2)) + 1e9
    moments = gather(((X[i : i + 1], np.zeros(1, int)) for i in range(len(X))), of_classes)
    exact = np.cov((X - 1e9).T, bias=True) * len(X)
    np.testing.assert_allclose(moments.scatter, exact, rtol=1e-5, atol=1e-3)
    naive = X.T @ X - len(X) * np.outer(X.mean(axis=0), X.mean(axis=0))
    assert np.abs(naive - exact).max() > 100


@pytest.mark.parametrize("l2", [10.0, 1e-1, 1e-4])
def test_ridge_is_scipys_least_squares_with_the_penalty_as_rows(l2):
    X, _, y = rows(400, 0)
    found = RidgePath(gather(cut(X, y, 3), of_numbers)).fit(l2)
    Z = StandardScaler().fit_transform(X)
    above = np.concatenate([Z, np.sqrt(l2 * len(y)) * np.eye(8)])
    w = lstsq(above, np.concatenate([y - y.mean(), np.zeros(8)]))[0]
    np.testing.assert_allclose(found.predict(X), Z @ w + y.mean(), rtol=0, atol=1e-6 * y.std())


@pytest.mark.parametrize("seed", range(3))
def test_ridge_is_our_ridge(seed):
    parts = [rows(count, seed * 10 + part, signal=0.2) for part, count in enumerate((300, 100, 200))]
    train, validation, test = (Split(X, y) for X, _, y in parts)
    ours = probe(Ridge, train, validation, test)
    found = stream_ridge(cut(train.X, train.y, 1), cut(validation.X, validation.y, 2))
    assert found.probe.l2 == ours.l2
    assert found.validation == pytest.approx(ours.validation, abs=1e-5)
    np.testing.assert_allclose(found.probe.predict(test.X), ours.predicted, rtol=0, atol=1e-4 * test.y.std())
    reached = stream_score(found.probe, cut(test.X, test.y, 3))
    assert reached == pytest.approx(score(test.y, found.probe.predict(test.X), "r2"), abs=1e-9)


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
@pytest.mark.parametrize("shrinkage", [1.0, 0.5, 1e-2, 0.0])
@pytest.mark.parametrize("classes", ["ab", "abcd"])
def test_discriminants_are_scikit_learns(solver, shrinkage, classes):
    X, y, _ = rows(400, 0, classes)
    new = rows(300, 5, classes)[0]
    scaler = StandardScaler().fit(X)
    referee = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage or None)
    referee.fit(scaler.transform(X), y)
    found = DiscriminantPath(gather(cut(X, y, 3), of_classes)).fit(shrinkage)
    scores = (new - found.mean) @ found.coef.T + found.intercept
    theirs = referee.predict_log_proba(scaler.transform(new))
    differences, expected = scores - scores[:, :1], theirs - theirs[:, :1]
    np.testing.assert_allclose(differences, expected, rtol=1e-6, atol=1e-6)
    assert (found.predict(new) == referee.predict(scaler.transform(new))).all()


def test_the_shrinkage_is_chosen_on_the_validation_stream():
    train, validation, test = (rows(count, seed, signal=0.5) for seed, count in enumerate((60, 200, 300)))
    found = stream_discriminant(cut(*train[:2], 1), cut(*validation[:2], 2))
    moments = of_classes(*train[:2])
    for shrinkage in SHRINKAGES:
        other = (DiscriminantPath(moments).fit(shrinkage).predict(validation[0]) == validation[1]).mean()
        assert found.validation >= other if shrinkage <= found.probe.shrinkage else found.validation > other
    again = DiscriminantPath(moments).fit(found.probe.shrinkage)
    assert found.validation == (again.predict(validation[0]) == validation[1]).mean()
    both = of_classes(*(np.concatenate(pair) for pair in zip(train[:2], validation[:2], strict=True)))
    same(found.moments, both)
    expected = DiscriminantPath(both).fit(found.probe.shrinkage).predict(test[0])
    assert (found.probe.predict(test[0]) == expected).all()
    assert stream_score(found.probe, cut(*test[:2], 3)) == pytest.approx((expected == test[1]).mean(), abs=1e-12)


def test_they_find_what_is_there_and_nothing_where_nothing_is():
    def streams(signal, column, seed):
        return [cut(X, (None, labels, numbers)[column], 1) for X, labels, numbers in
                (rows(count, seed + part, signal=signal) for part, count in enumerate((600, 200, 400)))]  # fmt: skip

    train, validation, test = streams(3.0, 1, 0)
    assert stream_score(stream_discriminant(train, validation).probe, test) > 0.85
    train, validation, test = streams(3.0, 2, 0)
    assert stream_score(stream_ridge(train, validation).probe, test) > 0.9
    found = []
    for repetition in range(8):
        train, validation, test = streams(0.0, 1, 100 * repetition)
        found.append(stream_score(stream_discriminant(train, validation).probe, test))
        train, validation, test = streams(0.0, 2, 100 * repetition)
        assert -0.1 < stream_score(stream_ridge(train, validation).probe, test) < 0.03
    assert np.mean(found) == pytest.approx(1 / 3, abs=0.025)


def test_a_class_may_come_late():
    X, y, _ = rows(300, 0)
    late = np.argsort(y == "b", kind="stable")
    batches = [(X[some], y[some]) for some in np.array_split(late, 20)]
    assert set(batches[0][1]) == {"a", "c"}
    same(gather(batches, of_classes), of_classes(X, y))


def test_constant_columns_and_more_columns_than_rows_are_no_trouble():
    X, y, numbers = rows(30, 0)
    wide = np.concatenate([X, np.full((30, 1), 1234.567), np.random.default_rng(0).normal(size=(30, 50))], axis=1)
    found = stream_discriminant([(wide, y)], [(wide, y)])
    assert np.isfinite(found.probe.predict(wide) == y).all() and (found.probe.coef[:, 8] == 0).all()
    assert stream_ridge([(wide, numbers)], [(wide, numbers)]).probe.coef[8] == 0
    with pytest.raises(DataError, match="directions without any: give a shrinkage above 0"):
        DiscriminantPath(of_classes(wide, y)).fit(0.0)


def test_memory_does_not_grow_with_the_rows():
    def stream(count, seed):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield rng.normal(size=(50, 40)), rng.choice(["a", "b"], 50)

    peaks = []
    for count in (20, 400):
        tracemalloc.start()
        stream_discriminant(stream(count, 0), stream(count // 4, 1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 400 * 50 * 40 * 8 / 4


X, LABELS, NUMBERS = rows(20, 0)
HOLED = np.where(np.arange(20)[:, None] == 3, np.inf, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stream_ridge([], [(X, NUMBERS)]), "the train stream is empty"),
        (lambda: stream_ridge([(X, NUMBERS)], []), "the validation stream is empty"),
        (lambda: stream_ridge([(X, NUMBERS), (HOLED, NUMBERS)], []), "row 3, column 0: inf.*in batch 1 of the train"),
        (lambda: stream_ridge([(X, LABELS)], []), "for classes take stream_discriminant"),
        (lambda: stream_ridge([(X, np.where(NUMBERS > 1e4, np.nan, 1.0))], []), "target of row . is not a finite"),
        (lambda: stream_ridge([(X, NUMBERS), (X[:, :3], NUMBERS)], []), "of 9 and of 4 columns.*\n  in batch 1"),
        (lambda: stream_ridge([(X, NUMBERS[:5])], []), r"targets have shape \(5,\), the features have 20 rows"),
        (lambda: stream_ridge([(X, NUMBERS)], [(X, NUMBERS)], [0.0]), "l2 = 0.0: the strength"),
        (lambda: stream_discriminant([(X, NUMBERS)], []), "take stream_ridge"),
        (lambda: stream_discriminant([(X, np.full(20, "a"))], []), "all rows are of class 'a'"),
        (lambda: stream_discriminant([(X, LABELS), (X, np.arange(20))], []), "one type, text or numbers"),
        (lambda: stream_discriminant([(X, LABELS)], [(X[:, :3], LABELS)]), "3 columns, the probe was fitted on 8"),
        (lambda: stream_discriminant([(X, LABELS)], [(X, LABELS)], [2.0]), "shrinkage = 2.0: it must be from 0 to 1"),
        (
            lambda: stream_discriminant([(np.repeat(X[:2], 3, axis=0), np.repeat(["a", "b"], 3))], []),
            "all rows are the same",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_is_said(call, message):
    with pytest.raises(DataError) as caught:
        call()
    assert re.search(message, str(caught.value), re.DOTALL)


def test_the_documentation_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, scope)
    shrinkage, validation, test = map(float, capsys.readouterr().out.split())
    assert shrinkage in SHRINKAGES and abs(validation - test) < 0.03 and test > 0.5
    assert scope["probe"].shrinkage == 0.1


def test_targets_of_one_value_have_no_r2():
    found = stream_ridge([(X, NUMBERS)], [(X, np.full(20, 0.1))])
    assert math.isnan(found.validation) and found.probe.l2 == Ridge.strengths[0]
    assert math.isnan(stream_score(found.probe, [(X, np.full(20, 0.1))]))


def test_of_equal_scores_the_stronger_wins():
    y = np.where(np.arange(60) % 2, "a", "b")
    apart = np.random.default_rng(0).normal(size=(60, 3)) + 50 * (y == "a")[:, None]
    found = stream_discriminant([(apart, y)], [(apart, y)])
    assert (found.validation, found.probe.shrinkage) == (1.0, 1.0)
