"""Scores and intervals, against scikit-learn, scipy, slow definitions and a simulation of coverage."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, t
from sklearn.metrics import accuracy_score, r2_score

from vlprobe.statistics import interval, score


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, guesses = rng.choice(["a", "b", "c"], (2, 200))
    assert score(labels, guesses, "accuracy") == pytest.approx(accuracy_score(labels, guesses))
    y, predicted = rng.normal(size=(2, 200)) + 1e4
    assert score(y, predicted, "r2") == pytest.approx(r2_score(y, predicted))


def uneven(rng, groups=20):
    """Return (row,) groups of 1 to 8 rows, and whether each row is right: rows of a group are alike."""
    group = np.repeat([f"g{i}" for i in range(groups)], rng.integers(1, 9, groups))
    _, sizes = np.unique(group, return_counts=True)
    return group, rng.random(len(group)) < np.repeat(rng.random(groups), sizes)


def slow_jackknife(y, predicted, group, measure):
    """Return the standard error by leaving out the rows of each group and scoring the rest."""
    names = np.unique(group)
    left = [measure(y[group != name], predicted[group != name]) for name in names]
    return np.sqrt((len(names) - 1) / len(names) * sum((value - np.mean(left)) ** 2 for value in left))


@pytest.mark.parametrize("seed", range(3))
def test_interval_of_r2_by_its_slow_definition(seed):
    rng = np.random.default_rng(seed)
    group, _ = uneven(rng)
    y = rng.normal(3, 2, len(group))
    predicted = y + rng.normal(size=len(group))
    error, value = slow_jackknife(y, predicted, group, r2_score), r2_score(y, predicted)
    reach = t(19).ppf(0.975) * error
    assert interval(y, predicted, group, "r2") == pytest.approx((value - reach, min(value + reach, 1)))


@pytest.mark.parametrize("seed", range(3))
def test_interval_of_accuracy_by_its_slow_definition(seed):
    """The bounds are the accuracies from which what was seen is t standard errors away, of as many rows as count."""
    group, right = uneven(np.random.default_rng(seed))
    y, predicted = np.full(len(group), "a"), np.where(right, "a", "b")
    seen = right.mean()
    count = min(len(group), seen * (1 - seen) / slow_jackknife(y, predicted, group, accuracy_score) ** 2)

    def away(truth):
        return abs(seen - truth) - t(19).ppf(0.975) * np.sqrt(truth * (1 - truth) / count)

    bounds = brentq(away, 1e-9, seen), brentq(away, seen, 1 - 1e-9)
    assert interval(y, predicted, group, "accuracy") == pytest.approx(bounds)


def test_interval_of_accuracy_is_scipys_wilson_where_rows_are_many_and_alone():
    right = np.arange(5000) % 7 > 0
    ours = interval(np.full(5000, "a"), np.where(right, "a", "b"), np.arange(5000).astype(str), "accuracy")
    theirs = binomtest(int(right.sum()), 5000).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_interval_is_near_the_bootstrap_where_groups_are_many():
    rng = np.random.default_rng(1)
    y = rng.normal(size=600)
    predicted = y + rng.normal(size=600)
    ours = interval(y, predicted, np.arange(600).astype(str), "r2")
    theirs = bootstrap((y, predicted), r2_score, paired=True, vectorized=False, n_resamples=1000, rng=2)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03)


def coverage(by_group, groups=60, rows=10, truth=0.7, trials=300):
    """Return how often the interval holds the truth, where rows of one group share their luck."""
    rng = np.random.default_rng(4)
    count = groups * rows
    hits = 0
    for _ in range(trials):
        right = np.repeat(rng.random(groups) < truth, rows)
        group = np.arange(count) // rows if by_group else np.arange(count)
        low, high = interval(np.full(count, "a"), np.where(right, "a", "b"), group.astype(str), "accuracy")
        hits += low <= truth <= high
    return hits / trials


def test_groups_are_what_an_interval_must_count():
    assert 0.92 <= coverage(by_group=True) <= 0.98
    assert coverage(by_group=False) < 0.6  # rows taken for independent: far too sure


@pytest.mark.parametrize("truth", [0.5, 0.95, 0.99])
def test_few_groups_and_scores_near_one_are_not_taken_for_sure(truth):
    assert coverage(by_group=True, groups=10, truth=truth) >= 0.9  # the percentile bootstrap: 0.1 to 0.4 near one


def test_all_right_is_no_point():
    y, group = np.full(160, "a"), np.arange(160).astype(str)
    low, high = interval(y, y, group, "accuracy")
    assert (round(low, 3), high) == (0.976, 1.0)
    assert interval(y, y, (np.arange(160) % 8).astype(str), "accuracy")[0] < 0.65  # eight groups tell less


def test_an_accuracy_stays_between_none_and_all():
    y, group = np.full(20, "a"), np.arange(20).astype(str)
    for right in range(21):
        low, high = interval(y, np.where(np.arange(20) < right, "a", "b"), group, "accuracy")
        assert 0 <= low <= right / 20 <= high <= 1


def test_one_group_tells_nothing():
    assert np.isnan(interval(np.array(["a", "b"]), np.array(["a", "a"]), np.array(["g", "g"]), "accuracy")).all()


def test_the_order_of_rows_tells_nothing():
    rng = np.random.default_rng(5)
    group, _ = uneven(rng)
    y, noise = rng.normal(size=(2, len(group)))
    order = rng.permutation(len(group))
    mixed = interval(y[order], (y + noise)[order], group[order], "r2")
    assert interval(y, y + noise, group, "r2") == pytest.approx(mixed, abs=1e-12)


def test_more_rows_than_there_are_never_count():
    """Every group is half right, so that scores of groups do not differ: still no better than independent rows."""
    right, group = np.arange(40) % 2 > 0, (np.arange(40) // 2).astype(str)
    low, high = interval(np.full(40, "a"), np.where(right, "a", "b"), group, "accuracy")
    assert high - low == pytest.approx(2 * t(19).ppf(0.975) * 0.5 / np.sqrt(40 + t(19).ppf(0.975) ** 2))
