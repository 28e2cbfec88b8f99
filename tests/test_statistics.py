"""Scores and intervals, against scikit-learn, scipy and a simulation of coverage."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, r2_score

from vlprobe.statistics import interval, score


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, guesses = rng.choice(["a", "b", "c"], (2, 200))
    assert score(labels, guesses, "accuracy") == pytest.approx(accuracy_score(labels, guesses))
    y, predicted = rng.normal(size=(2, 200))
    assert score(y, predicted, "r2") == pytest.approx(r2_score(y, predicted))


def test_interval_equals_scipys_when_every_row_is_a_group():
    rng = np.random.default_rng(1)
    y = rng.normal(size=150)
    predicted = y + rng.normal(size=150)
    ours = interval(y, predicted, np.arange(150).astype(str), "r2", 0)
    theirs = bootstrap(
        (y, predicted), r2_score, paired=True, vectorized=False, method="percentile", n_resamples=3000, rng=2
    )
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03)


def test_interval_by_a_slow_definition_over_uneven_groups():
    rng = np.random.default_rng(3)
    group = np.repeat([f"g{i}" for i in range(20)], rng.integers(1, 9, 20))
    right = rng.random(len(group)) < np.repeat(rng.random(20), np.unique(group, return_counts=True)[1])
    y, predicted = np.full(len(group), "a"), np.where(right, "a", "b")
    names = np.unique(group)
    draws = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(group == name) for name in rng.choice(names, len(names))])
        draws.append((y[rows] == predicted[rows]).mean())
    assert interval(y, predicted, group, "accuracy", 0) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


def coverage(by_group):
    """Return how often the interval holds the truth, where rows of one group share their luck."""
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(100):
        right = np.repeat(rng.random(60) < 0.7, 10)
        group = np.repeat(np.arange(60), 10).astype(str) if by_group else np.arange(600).astype(str)
        low, high = interval(np.full(600, "a"), np.where(right, "a", "b"), group, "accuracy", trial)
        hits += low <= 0.7 <= high
    return hits / 100


def test_groups_are_what_the_interval_must_resample():
    assert 0.89 <= coverage(by_group=True) <= 0.99
    assert coverage(by_group=False) < 0.6  # rows taken for independent: far too sure


def test_one_group_tells_nothing():
    assert np.isnan(interval(np.array(["a", "b"]), np.array(["a", "a"]), np.array(["g", "g"]), "accuracy", 0)).all()


def test_a_seed_gives_the_same_interval():
    y, predicted, group = np.array(list("abab")), np.array(list("abba")), np.array(list("pqrs"))
    assert interval(y, predicted, group, "accuracy", 0) == interval(y, predicted, group, "accuracy", 0)
