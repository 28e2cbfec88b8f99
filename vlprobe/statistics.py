"""How sure we are of a score: metrics, and the bootstrap over groups."""

from __future__ import annotations

import numpy as np

from vlprobe.digest import generator

RESAMPLES = 2000
"""Bootstrap draws of a 95 % interval."""


def score(y: np.ndarray, predicted: np.ndarray, metric: str) -> float:
    """Return accuracy, or R² = 1 - residual / total sum of squares.

    Args:
        y: (row,) true targets.
        predicted: (row,).
        metric: `accuracy` or `r2`.
    """
    sums = _sums(y, predicted, metric).sum(axis=0, keepdims=True)
    return float(_ratio(sums, metric)[0])


def interval(y: np.ndarray, predicted: np.ndarray, group: np.ndarray, metric: str, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a score, resampling groups.

    Rows of one group (captions of one image, words of one sentence) are not independent, so whole groups are drawn
    with replacement (cluster bootstrap: Davison & Hinkley 1997, section 3.8). Both metrics are ratios of sums over
    rows, so a draw is a vector of counts times the sums of each group.

    Args:
        y: (row,) true targets.
        predicted: (row,).
        group: (row,) names.
        metric: `accuracy` or `r2`.
        seed: draws the resamples.

    Returns:
        (low, high); NaN with fewer than two groups, of which no resample can tell anything.
    """
    names, member = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    rows = _sums(y, predicted, metric)
    sums = np.stack([np.bincount(member, column, len(names)) for column in rows.T], axis=1)
    rng = generator(seed, "bootstrap")
    share = np.full(len(names), 1 / len(names))
    draws = np.concatenate([rng.multinomial(len(names), share, size=200) @ sums for _ in range(RESAMPLES // 200)])
    low, high = np.nanquantile(_ratio(draws, metric), [0.025, 0.975])
    return float(low), float(high)


def _sums(y: np.ndarray, predicted: np.ndarray, metric: str) -> np.ndarray:
    """Return (row, term): what each row adds to the sums that a score is made of."""
    one = np.ones(len(y))
    if metric == "accuracy":
        return np.stack([(y == predicted).astype(float), one], axis=1)
    return np.stack([(y - predicted) ** 2, one, y, y**2], axis=1)


def _ratio(sums: np.ndarray, metric: str) -> np.ndarray:
    """Return (draw,) scores from (draw, term) sums."""
    if metric == "accuracy":
        return sums[:, 0] / sums[:, 1]
    residual, count, total, squares = sums.T
    spread = squares - total**2 / count
    # A draw of one value repeated has no spread, hence no R²; it is left out of the quantiles.
    return np.where(spread > 1e-12 * squares, 1 - residual / np.where(spread > 0, spread, 1), np.nan)
