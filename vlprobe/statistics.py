"""How sure we are of a score: metrics, and intervals that count groups instead of rows.

Rows of one group (captions of one image, words of one sentence) are not independent. Every error here is found by
leaving out whole groups in turn, and few groups are paid for by Student's t with one degree of freedom less than
there are groups. benchmarks/certainty.md measures how often these intervals hold the truth, and how much rarer the
percentile bootstrap does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LEVEL = 0.05
"""Intervals are of 1 - LEVEL; tests are significant at it."""


def score(y: np.ndarray, predicted: np.ndarray, metric: str) -> float:
    """Return accuracy, or R² = 1 - residual / total sum of squares.

    Args:
        y: (row,) true targets.
        predicted: (row,).
        metric: `accuracy` or `r2`.
    """
    return float(ratio(terms(y, predicted, metric).sum(axis=0, keepdims=True))[0])


def interval(y: np.ndarray, predicted: np.ndarray, group: np.ndarray, metric: str) -> tuple[float, float]:
    """Return the 95 % interval of a score over the groups of a test part.

    R²: score ± t error, the error being the jackknife's over groups (Efron & Tibshirani 1993, chapter 11; t with few
    clusters: Cameron & Miller 2015, section VI). Accuracy: Wilson's interval (1927) with t for z and, for the number
    of rows, that of independent rows that would have the same error (Korn & Graubard 1998), so that it neither leaves
    [0, 1] nor shrinks to a point where every answer is right.

    Args:
        y: (row,) true targets.
        predicted: (row,).
        group: (row,) names.
        metric: `accuracy` or `r2`.

    Returns:
        (low, high); NaN with fewer than two groups, which tell nothing of how groups differ.
    """
    sums = by_group(terms(y, predicted, metric), group)
    if len(sums) < 2:
        return math.nan, math.nan
    value, error = score(y, predicted, metric), jackknife(sums, ratio)
    t = student(len(sums), 1 - LEVEL / 2)
    if metric == "r2":
        return value - t * error, min(value + t * error, 1.0)
    k = t**2 / effective_rows(value * (1 - value), error, len(y), len(sums))
    middle, reach = (value + k / 2) / (1 + k), math.sqrt(k * (value * (1 - value) + k / 4)) / (1 + k)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def terms(y: np.ndarray, predicted: np.ndarray, metric: str) -> np.ndarray:
    """Return (row, term): what each row adds to the sums that a score is made of.

    The first term alone depends on the predictions: 1 where they are right, or the squared residual.
    """
    one = np.ones(len(y))
    if metric == "accuracy":
        return np.stack([(y == predicted).astype(float), one], axis=1)
    # R² does not change when all targets move, and sums of squares near zero round less.
    return np.stack([(y - predicted) ** 2, one, y - y.mean(), (y - y.mean()) ** 2], axis=1)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Return (draw,) scores from (draw, term) sums: two terms make an accuracy, four an R²."""
    if sums.shape[1] == 2:
        return sums[:, 0] / sums[:, 1]
    residual, count, total, squares = sums.T
    spread = squares - total**2 / count
    # One value repeated has no spread, hence no R².
    return np.where(spread > 1e-12 * squares, 1 - residual / np.where(spread > 0, spread, 1), np.nan)


def by_group(rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return (group, term): the sums of (row, term) inside each group, in the order of the groups' names."""
    names, member = np.unique(group, return_inverse=True)
    return np.stack([np.bincount(member, column, len(names)) for column in rows.T], axis=1)


def jackknife(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the standard error of a statistic of sums, each group left out once.

    sqrt((G - 1) / G * sum of (s_g - mean s)²), s_g being the statistic without group g (Efron & Tibshirani 1993,
    chapter 11).

    Args:
        sums: (group, term), at least two groups.
        statistic: (draw, term) sums -> (draw,) values.
    """
    without = statistic(sums.sum(axis=0) - sums)
    return float(np.sqrt((len(sums) - 1) * without.var()))


def student(groups: int, share: float) -> float:
    """Return the quantile of Student's t with one degree of freedom less than there are groups."""
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, share))


def effective_rows(variance: float, error: float, rows: int, groups: int) -> float:
    """Return how many independent rows would have a given error: never more than there are.

    Args:
        variance: of one row.
        error: standard error of the rows' mean, over groups.
        rows: how many there are.
        groups: how many there are; the answer where no row differs from another, which tells nothing of how much
            alike the rows of one group are.
    """
    if variance <= 0:
        return groups
    return rows if error <= 0 else min(variance / error**2, rows)


def tango(up: float, down: float, items: float, t: float) -> tuple[float, float]:
    """Return the score interval of a difference of paired proportions (Tango 1998).

    Its ends are the differences D from which `up - down` is t standard errors away, the error being that under D: with
    q(D) the likeliest share of `down` if the true difference were D, sqrt((2 q + D (1 - D)) / items). It is no point
    where nothing differs, and holds the truth where differences are few and all in one direction.

    Args:
        up: share of items that the first alone has right.
        down: share of items that the second alone has right.
        items: how many there are.
        t: how many standard errors.
    """
    from scipy.optimize import brentq

    def away(difference: float) -> float:
        b = -up - down + (2 - up + down) * difference
        q = (math.sqrt(max(b**2 + 8 * down * difference * (1 - difference), 0.0)) - b) / 4
        error = math.sqrt(max((2 * q + difference * (1 - difference)) / items, 1e-30))
        return (up - down - difference) / error

    middle, edge = up - down, 1 - 1e-9
    low = brentq(lambda d: away(d) - t, -edge, middle) if away(-edge) > t and middle > -edge else -1.0
    high = brentq(lambda d: away(d) + t, middle, edge) if away(edge) < -t and middle < edge else 1.0
    return float(low), float(high)


def mixed(items: float, own: float, up: float, down: float) -> tuple[float, float, float]:
    """Return (p, low, high) of a difference of two accuracies, as far as it hangs on the mix of the test part.

    Items are of two kinds: those that the second has right, of which the first misses a share w, and the others, of
    which it has a share r right; the difference is r (1 - s) - w s, if a share s is of the first kind. Were the two
    equal, s would be r / (r + w). p is how likely a draw of `items` then has so few, or so many, of that kind
    (binomial, two-sided, mid-p: Lancaster 1961); the interval is that of all s that the draw allows. Of a kind of which
    less than one item was drawn r or w is not known: what that one lacks is taken to be against the finding.

    Beside a constant answer (the majority class) the kinds are classes. Groups of one class each bring so few draws
    of the class that an exchange of their answers cannot know what the rare kind would have told.

    Args:
        items: how many were drawn, in independent ones.
        own: share that the second has right.
        up: share that the first alone has right.
        down: share that the second alone has right.
    """
    few, low = _few(items, own, up, down)
    many, high = _few(items, 1 - own, down, up)
    return min(1.0, 2 * min(few, many)), low, -high


def _few(items: float, own: float, up: float, down: float) -> tuple[float, float]:
    """Return how likely so few of the second's own items are, were the two equal, and the lowest difference."""
    from scipy.optimize import brentq

    mine = items * own
    missed = (items * down + max(1 - mine, 0.0)) / max(mine, 1.0)
    gained = up / (1 - own) if own < 1 else 0.0
    both = gained + missed
    edge = 1 - 1e-12
    most = 1.0
    if _tail(mine, items, edge) < LEVEL / 2:
        most = float(brentq(lambda share: _tail(mine, items, share) - LEVEL / 2, 0.0, edge))
    return _tail(mine, items, gained / both) if both > 0 else 1.0, gained - most * both


def _tail(count: float, items: float, share: float) -> float:
    """Return the chance of fewer than `count` of `items`, and half of that of just so many."""
    from scipy.special import betainc

    if count >= items:
        return 1 - share**items / 2
    below = betainc(items - count + 1, count, 1 - share) if count > 0 else 0.0
    return float(below + betainc(items - count, count + 1, 1 - share)) / 2
