"""Two probes on the same items: how far apart they are, how sure that is, and what would have gone unseen.

One noun, `Comparison`, made by `compare`. Whole groups are what is compared: the rows of one group share their luck.

Several seeds: each has a split, and so a test part, of its own. `pool` puts the items of all seeds together; a group
that is tested under several seeds stays one group, so that testing an image twice does not count as two images. What
the numbers then speak of is these probes on other test groups; that another train part would have given other probes
is in them only as far as the seeds' probes differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from vlprobe.digest import generator
from vlprobe.errors import DataError
from vlprobe.statistics import LEVEL, by_group, effective_rows, jackknife, ratio, score, student, terms
from vlprobe.types import Predictions

POWER = 0.8
"""Chance of showing a difference of the size that `Comparison.smallest` names."""
ENUMERATED = 12
"""Up to so many groups that differ, every exchange is tried."""
DRAWS = 100_000
"""Exchanges drawn where there are more: p then is at least 1e-5, which leaves room for correction over many tests."""
FEWEST = 6
"""With fewer groups no exchange is rare enough: 2 of 2^5 is more than 5 %."""


@dataclass(frozen=True)
class Comparison:
    """One score minus another, on the same items."""

    difference: float
    """Score of the first minus score of the second."""
    interval: tuple[float, float]
    """95 % interval of the difference over groups; NaN with one group."""
    p: float
    """Two-sided: how often exchanging the two answers of whole groups at random brings as large a difference."""
    n: int
    """Items."""
    groups: int
    """Groups that they belong to."""
    smallest: float
    """The smallest difference that a test part like this one shows four times out of five (two-sided, 5 %); NaN where
    none can be shown: fewer than six groups, or two probes that answered the very same numbers."""
    scores: tuple[float, float]
    """Of the first and of the second, on these items."""


def compare(a: Predictions, b: Predictions, seed: int) -> Comparison:
    """Compare two probes on the same items: accuracy where the targets are classes, R² where they are numbers.

    p is that of the exchange (sign-flip) test: were there no difference, the two answers of a group could be swapped.
    It is exact under that exchangeability, and nearly so where only the means are equal and groups are not very few
    (Canay, Romano & Shaikh 2017). `smallest` is (t(0.975) + t(0.8)) times the standard error (Lachin 1981,
    with Student's t for few groups: 1.96 + 0.84 where there are many); below ten groups it is too hopeful.

    Args:
        a: answers of the first probe.
        b: answers of the second.
        seed: draws the exchanges where there are too many to try all; of use for R² only.

    Raises:
        DataError: they did not answer the same items (see `shared`), or disagree on the target or group of one.
    """
    a, b = _aligned(a, b)
    metric = "accuracy" if a.target.dtype.kind == "U" else "r2"
    rows = np.concatenate([terms(each.target, each.predicted, metric) for each in (a, b)], axis=1)
    sums = by_group(rows, a.group)
    gain = sums[:, 0] - sums[:, sums.shape[1] // 2]
    scores = score(a.target, a.predicted, metric), score(b.target, b.predicted, metric)
    if metric == "accuracy":
        p, (low, high, smallest) = exact_p(gain.astype(int)), _of_accuracies(rows, sums)
    else:
        p, (low, high, smallest) = drawn_p(gain, seed), _of_r2(sums)
    return Comparison(scores[0] - scores[1], (low, high), p, len(a.id), len(sums), smallest, scores)


def _difference(sums: np.ndarray) -> np.ndarray:
    """Return (draw,) differences from sums of (draw, terms of the first, then of the second)."""
    half = sums.shape[1] // 2
    return ratio(sums[:, :half]) - ratio(sums[:, half:])


def _error(sums: np.ndarray) -> tuple[float, float]:
    """Return the difference and its jackknife error over groups."""
    return float(_difference(sums.sum(axis=0, keepdims=True))[0]), jackknife(sums, _difference)


def _of_r2(sums: np.ndarray) -> tuple[float, float, float]:
    """Return (low, high, smallest): the difference, and Student's t times its jackknife error to both sides."""
    groups = len(sums)
    if groups < 2:
        return math.nan, math.nan, math.nan
    difference, error = _error(sums)
    t = student(groups, 1 - LEVEL / 2)
    shown = groups >= FEWEST and error > 0
    return difference - t * error, difference + t * error, (t + student(groups, POWER)) * error if shown else math.nan


def _of_accuracies(rows: np.ndarray, sums: np.ndarray) -> tuple[float, float, float]:
    """Return (low, high, smallest) of a difference of accuracies.

    As many items are counted as there would be independent ones with the same jackknife error over groups; so many of
    them are right by the first probe only, so many by the second only (`tango`).

    The error of `smallest` has half an item added to each of the four cells, right or wrong by the first and by the
    second (Agresti & Min 2005), for two that never differ would have none. It is made larger where few answers
    differ: p moves in steps then, of which half a one is added, as in Yates's correction; and no fewer than six that
    differ, all in one direction, can be significant.
    """
    groups = len(sums)
    if groups < 2:
        return math.nan, math.nan, math.nan
    difference, error = _error(sums)
    differ = float((rows[:, 0] != rows[:, 2]).mean())
    items = effective_rows(differ - difference**2, error, len(rows), groups)
    t = student(groups, 1 - LEVEL / 2)
    low, high = tango((differ + difference) / 2, (differ - difference) / 2, items, t)
    if groups < FEWEST:
        return low, high, math.nan
    middle, differ = difference * items / (items + 2), (differ * items + 1) / (items + 2)
    error = math.sqrt((differ - middle**2) / (items + 2))
    gain = (sums[:, 0] - sums[:, 2]).astype(int)
    step = max(int(np.gcd.reduce(gain)), 1) / len(rows)
    return low, high, min(max((t + student(groups, POWER)) * error + step, _six_of(items)), 1.0)


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


def _six_of(items: float) -> float:
    """Return the share of items that must differ for at least six of them to differ, four times out of five."""
    from scipy.special import betaincinv

    return float(betaincinv(6, items - 5, POWER)) if items > 5 else 1.0


def exact_p(gain: np.ndarray) -> float:
    """Return the exact two-sided p of the sign-flip test of whole numbers, however many.

    The share of all 2^groups sums of ±gain that are as large as the one observed, either way. They are counted, not
    listed: the sum of the sizes that keep a plus sign has few values, and each group is added to its distribution.

    Args:
        gain: (group,) int: by how many rows more the first probe is right.
    """
    sizes = np.abs(gain[gain != 0])
    chance = np.zeros(sizes.sum() + 1)
    chance[0], reach = 1.0, 0
    for size in sizes.tolist():
        half = chance[: reach + 1] / 2
        chance[: reach + 1] = half
        chance[size : size + reach + 1] += half
        reach += size
    at_least = (reach + abs(int(gain.sum()))) // 2  # plus sizes of so much make a sum that large
    return min(1.0, 2 * float(chance[at_least:].sum()))


def drawn_p(gain: np.ndarray, seed: int) -> float:
    """Return the two-sided p of the sign-flip test of any numbers.

    All sums of ±gain are tried for up to 12 groups that differ; beyond, `DRAWS` of them, and the observed one is
    counted among them: (b + 1) / (m + 1), Phipson & Smyth (2010).

    R² of both probes has the same total sum of squares, whatever is exchanged, so that the difference of residual
    sums of squares is all of the statistic that an exchange can change.

    Args:
        gain: (group,) by how much the residual sum of squares of the second exceeds that of the first.
        seed: draws the signs.
    """
    sizes = np.abs(gain[gain != 0])
    enough = abs(float(gain.sum())) * (1 - 1e-9)  # equal sums may round apart
    if len(sizes) <= ENUMERATED:
        every = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1
        return float((np.abs(2 * (every @ sizes) - sizes.sum()) >= enough).mean())
    rng, reached = generator(seed, "sign-flip"), 0
    for _ in range(DRAWS // 1000):
        bits = np.frombuffer(rng.bytes(1000 * -(-len(sizes) // 8)), np.uint8).reshape(1000, -1)
        signs = np.unpackbits(bits, axis=1, count=len(sizes))
        reached += int((np.abs(2 * (signs @ sizes) - sizes.sum()) >= enough).sum())
    return (reached + 1) / (DRAWS + 1)


def _aligned(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    first, second = shared(a, b)
    if not len(first.id) == len(a.id) == len(b.id):
        raise DataError(
            f"two probes can be compared on the same items only: one answered {len(a.id)}, the other {len(b.id)}, both "
            f"of them {len(first.id)}. `shared` takes the items that both answered"
        )
    for name in ("target", "group"):
        left, right = getattr(first, name), getattr(second, name)
        if not np.array_equal(left, right):
            i = int(np.argmax(left != right))
            raise DataError(
                f"two probes cannot be compared: unit {first.index[i]} of example {first.id[i]} has the {name} "
                f"'{left[i]}' for one and '{right[i]}' for the other; both must be asked the same task"
            )
    return first, second


def shared(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Return what two probes answered on the items that both answered, row by row the same item.

    An item is a unit of an example. Where both have one row for each example, the example is the item: the word that
    a text model is asked about is unit 3 of its text, and a question on the whole image, unit 0, to an image model.

    Raises:
        DataError: one of them answered an item twice.
    """
    alone = all(len(np.unique(each.id)) == len(each.id) for each in (a, b))
    items = [_items(each, alone) for each in (a, b)]
    for item, each in zip(items, (a, b), strict=True):
        names, counts = np.unique(item, return_counts=True)
        if len(names) < len(each.id):
            double = str(names[counts.argmax()]).replace("\x1f", ", unit ")
            raise DataError(f"example {double} is answered {counts.max()} times by one probe; ids must differ")
    _, left, right = np.intersect1d(items[0], items[1], assume_unique=True, return_indices=True)
    return _rows(a, left), _rows(b, right)


def pool(answers: Mapping[int, Predictions]) -> Predictions:
    """Return the answers under several seeds as one: each seed's rows are items of their own, groups stay groups.

    Args:
        answers: seed -> what the probe of that seed answered on that seed's test part.
    """
    parts = [replace(answers[seed], id=np.char.add(f"{seed}\x1f", answers[seed].id)) for seed in sorted(answers)]
    return Predictions(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Predictions)))


def _items(predictions: Predictions, alone: bool) -> np.ndarray:
    """Return (row,) names: of the example, and of the unit in it unless it stands alone."""
    if alone:
        return predictions.id
    return np.char.add(np.char.add(predictions.id, "\x1f"), predictions.index.astype(str))


def _rows(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    return Predictions(*(getattr(predictions, each.name)[chosen] for each in fields(Predictions)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in their order (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1; a larger p never gets a smaller corrected one. The chance that
    any true null hypothesis has a corrected p below 5 % is at most 5 %, however the tests depend on one another.

    Args:
        ps: one a test.
    """
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps, dtype=float)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in corrected]
