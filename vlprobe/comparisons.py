"""Two probes on the same items: how far apart they are, how sure that is, and what would have gone unseen.

One noun, `Comparison`, made by `compare`, and by `compare_losses` of two differences. Whole groups are what is
compared: the rows of one group share their luck.

Several seeds: each has a split, and so a test part, of its own. `pool` puts the items of all seeds together; a group
that is tested under several seeds stays one group, so that testing an image twice does not count as two images. Where
the seeds do not test the same items, one tests what another was trained on, and their luck is not independent: every
variance is multiplied by 1 + `elsewhere` (in the spirit of Nadeau & Bengio 2003). What other train rows would have made
of two probes is added to the variance, too: `TRAINING`. benchmarks/retraining.md shows how often two probes that know
the same are then told apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np

from vlprobe.errors import DataError
from vlprobe.exchange import drawn_p, exact_p
from vlprobe.statistics import LEVEL, by_group, effective_rows, jackknife, mixed, ratio, score, student, tango, terms
from vlprobe.types import Predictions

POWER = 0.8
"""Chance of showing a difference of the size that `Comparison.smallest` names."""
TRAINING = {"accuracy": 0.5, "r2": 1.0}
"""What training adds to the variance of a difference of two trained probes: so many times tested / trained rows.

With k features and residuals of variance v, the luck of n train rows makes two least-squares probes answer apart by
2 k v / n, squared, on average; the errors of m test rows then move their difference by 8 k v² / (n m), and the luck
itself, which no test row shows, by 4 k v² / n², that is m / (2 n) as much. The chosen strength adds its own luck: next
to nothing to answers that are classes, which do not change with the size of the weights, and about as much again to
numbers, of which it decides how far they are drawn to the mean. The sum is Nadeau & Bengio's m / n (2003).
"""
SEED = "\x1f"
"""Stands between the seed and the example in the ids of pooled answers."""


@dataclass(frozen=True)
class Comparison:
    """One score minus another, on the same items; or what one model loses minus what another loses."""

    difference: float
    """Score of the first minus score of the second."""
    interval: tuple[float, float]
    """95 % interval of the difference over groups; NaN with one group."""
    p: float
    """Two-sided: how often exchanging the two answers of whole groups at random brings as large a difference; of two
    accuracies, no smaller than how often their difference comes of which items were drawn (`statistics.mixed`)."""
    n: int
    """Items."""
    groups: int
    """Groups that they belong to."""
    smallest: float
    """The smallest difference that a test part like this one shows four times out of five (two-sided, 5 %); NaN where
    none can be shown: fewer than six groups (up to nine where seeds test other items), or two probes that answered
    the very same numbers."""
    scores: tuple[float, float]
    """Of the first and of the second, on these items; the two losses, where losses are compared."""


def compare(a: Predictions, b: Predictions, seed: int, trained: float = 0.0) -> Comparison:
    """Compare two probes on the same items: accuracy where the targets are classes, R² where they are numbers.

    p is that of the exchange (sign-flip) test: were there no difference, the two answers of a group could be swapped.
    It is exact under that exchangeability, and nearly so where only the means are equal and groups are not very few
    (Canay, Romano & Shaikh 2017). Where whole groups are right or wrong together beside a constant answer, their gains
    are far from even, and few groups may hold none that speaks against the difference. So p of accuracies is no
    smaller, and the interval no narrower, than the mix of the items makes them (`statistics.mixed`). `smallest` is
    (t(0.975) + t(0.8)) times the standard error (Lachin 1981, with Student's t for few groups: 1.96 + 0.84 where there
    are many); below ten groups it is too hopeful.

    Args:
        a: answers of the first probe.
        b: answers of the second.
        seed: draws the exchanges where there are too many to try all; of use for R² only.
        trained: how many rows both are tested on for each that they were trained on; 0 leaves out what other train rows
            would have made of them: one of them was not trained (the majority class), or these very probes are meant.

    Raises:
        DataError: they did not answer the same items (see `shared`), or disagree on the target or group of one.
    """
    return _compared(_aligned(a, b), (1, -1), seed, trained)


def compare_losses(
    a: tuple[Predictions, Predictions], b: tuple[Predictions, Predictions], seed: int, trained: float = 0.0
) -> Comparison:
    """Compare what two models lose, a difference of differences: (a[0] - a[1]) - (b[0] - b[1]).

    Each pair is what a model's probes answered with its own input and with another, matched and mismatched say, all
    four on the same items. As in `compare`, whole groups are exchanged: were nothing to choose between the models, the
    two answers of the one could be swapped for the two of the other. `Comparison.scores` are the two losses.

    Args:
        a: answers of the first model's probes: with, and without.
        b: answers of the second model's.
        seed: as in `compare`.
        trained: as in `compare`.

    Raises:
        DataError: as `compare` does.
    """
    return _compared(_aligned(*a, *b), (1, -1, -1, 1), seed, trained)


def _compared(probes: Sequence[Predictions], signs: tuple[int, ...], seed: int, trained: float) -> Comparison:
    """Compare the sum of the scores of some probes with that of as many others, on the same items.

    Args:
        probes: row by row the same items.
        signs: (probe,) how each score counts: 1 or -1, as many of the one as of the other.
        seed: draws the exchanges, which swap all signs of a group.
        trained: rows tested for each that they were trained on.
    """
    first = probes[0]
    metric = "accuracy" if first.target.dtype.kind == "U" else "r2"
    rows = np.concatenate([terms(each.target, each.predicted, metric) for each in probes], axis=1)
    sums = by_group(rows, first.group)
    width = rows.shape[1] // len(probes)
    gain = sums[:, ::width] @ signs
    scores = [score(each.target, each.predicted, metric) for each in probes]
    sides = scores if len(probes) == 2 else [scores[0] - scores[1], scores[2] - scores[3]]
    wider = 1 + max(elsewhere(first.id), TRAINING[metric] * trained)
    if metric == "accuracy":
        p = _widened(exact_p(gain.astype(int)), wider)
        low, high, smallest = _of_accuracies(rows[:, ::width] @ signs, sums, signs, wider)
        if len(probes) == 2:
            mix, lowest, highest = _of_mix(rows, sums, wider)
            p, low, high = max(p, mix), min(low, lowest), max(high, highest)
    else:
        p, (low, high, smallest) = _widened(drawn_p(gain, seed), wider), _of_r2(sums, signs, wider)
    difference = sides[0] - sides[1]
    return Comparison(difference, (low, high), p, len(first.id), len(sums), smallest, (sides[0], sides[1]))


def elsewhere(ids: np.ndarray) -> float:
    """Return how many of the pairs of a seed and a tested example are no test: the seed may have been trained on it.

    0 for one seed, and where all seeds test the same examples; near 2/3 for many seeds that test a third each.

    Args:
        ids: (row,) as `pool` names them.
    """
    tested = np.unique(ids)
    if not len(tested) or SEED not in tested[0]:
        return 0.0
    seeds, _, examples = np.char.partition(tested, SEED).T
    return 1 - len(tested) / (len(np.unique(seeds)) * len(np.unique(examples)))


def _widened(p: float, wider: float) -> float:
    """Return the two-sided p of a deviation whose variance is so many times as large as p takes it to be."""
    from scipy.special import ndtr, ndtri

    return p if wider <= 1 else float(2 * ndtr(ndtri(p / 2) / math.sqrt(wider)))


def _fewest(wider: float) -> int:
    """Return the fewest groups that can be significant, all of them for one side: six, where variances are as found."""
    return next(groups for groups in range(2, 100) if _widened(2.0 ** (1 - groups), wider) <= LEVEL)


def _error(sums: np.ndarray, signs: tuple[int, ...]) -> tuple[float, float]:
    """Return the difference and its jackknife error over groups, from (group, terms of the first, of the next, ...)."""

    def difference(sums: np.ndarray) -> np.ndarray:
        parts = np.split(sums, len(signs), axis=1)
        return sum((sign * ratio(part) for sign, part in zip(signs, parts, strict=True)), np.zeros(len(sums)))

    return float(difference(sums.sum(axis=0, keepdims=True))[0]), jackknife(sums, difference)


def _of_r2(sums: np.ndarray, signs: tuple[int, ...], wider: float) -> tuple[float, float, float]:
    """Return (low, high, smallest): the difference, and Student's t times its jackknife error to both sides."""
    groups = len(sums)
    if groups < 2:
        return math.nan, math.nan, math.nan
    difference, error = _error(sums, signs)
    error *= math.sqrt(wider)
    t = student(groups, 1 - LEVEL / 2)
    shown = groups >= _fewest(wider) and error > 0
    return difference - t * error, difference + t * error, (t + student(groups, POWER)) * error if shown else math.nan


def _of_accuracies(
    gain: np.ndarray, sums: np.ndarray, signs: tuple[int, ...], wider: float
) -> tuple[float, float, float]:
    """Return (low, high, smallest) of a difference of accuracies, or of a difference of such differences.

    As many items are counted as there would be independent ones with the same jackknife error over groups. Of two
    probes, so many of them are right by the first only, so many by the second only (`tango`).

    The error of `smallest`, and that of the interval for four probes, has two items added, one half to each of the four
    cells, right or wrong by the first and by the second (Agresti & Min 2005), or an eighth to each of the sixteen of
    four probes: those that never differ would have none. `smallest` is made larger where few answers differ: p moves
    in steps then, of which half a one is added, as in Yates's correction; and no fewer than six that differ, all in one
    direction, can be significant (`_fewest`).

    Args:
        gain: (row,) sum of signs of the probes that are right.
        sums: (group, terms of the first, of the next, ...).
        signs: (probe,) 1 or -1.
        wider: how many times as large the variance is as that between groups.
    """
    groups = len(sums)
    if groups < 2:
        return math.nan, math.nan, math.nan
    difference, error = _error(sums, signs)
    square, added, most = float((gain**2).mean()), len(signs) / 2, len(signs) / 2
    items = effective_rows(square - difference**2, error, len(gain), groups) / wider
    t = student(groups, 1 - LEVEL / 2)
    middle = difference * items / (items + 2)
    error = math.sqrt(((square * items + added) / (items + 2) - middle**2) / (items + 2))
    if len(signs) == 2:
        low, high = tango((square + difference) / 2, (square - difference) / 2, items, t)
    else:
        low, high = max(middle - t * error, -most), min(middle + t * error, most)
    if groups < _fewest(wider):
        return low, high, math.nan
    step = max(int(np.gcd.reduce((sums[:, :: sums.shape[1] // len(signs)] @ signs).astype(int))), 1) / len(gain)
    return low, high, min(max((t + student(groups, POWER)) * error + step, _share_of(_fewest(wider), items)), most)


def _of_mix(rows: np.ndarray, sums: np.ndarray, wider: float) -> tuple[float, float, float]:
    """Return (p, low, high): how much of a difference of two accuracies may come of which items were drawn (`mixed`).

    It is asked of the items that the second has right, and of those that the first has; as many are counted as there
    would be independent ones with the same jackknife error of their share over groups.

    Args:
        rows: (row, terms of the first, of the second).
        sums: (group, terms of the first, of the second).
        wider: how many times as large the variance is as that between groups.
    """
    if len(sums) < 2:
        return 1.0, math.nan, math.nan
    up, down = (float((rows[:, a] > rows[:, b]).mean()) for a, b in ((0, 2), (2, 0)))
    found = []
    for own, more, less in ((2, up, down), (0, down, up)):
        share, error = float(rows[:, own].mean()), jackknife(sums[:, own : own + 2], ratio)
        items = effective_rows(share * (1 - share), error, len(rows), len(sums)) / wider
        found.append(mixed(items, share, more, less))
    (p, low, high), (q, less, more) = found
    return max(p, q), min(low, -more), max(high, -less)


def _share_of(fewest: int, items: float) -> float:
    """Return the share of items that must differ for at least so many of them to differ, four times out of five."""
    from scipy.special import betaincinv

    return float(betaincinv(fewest, items - fewest + 1, POWER)) if items > fewest - 1 else 1.0


def _aligned(*probes: Predictions) -> tuple[Predictions, ...]:
    first, *others = same = shared(*probes)
    counts = [len(each.id) for each in probes]
    if min(counts) < max(counts) or len(first.id) < max(counts):
        raise DataError(
            f"probes can be compared on the same items only: one answered {max(counts)}, another {min(counts)}, all of "
            f"them {len(first.id)}. `shared` takes the items that all answered"
        )
    for other, name in product(others, ("target", "group")):
        left, right = getattr(first, name), getattr(other, name)
        if not np.array_equal(left, right):
            i = int(np.argmax(left != right))
            raise DataError(
                f"two probes cannot be compared: unit {first.index[i]} of example {first.id[i]} has the {name} "
                f"'{left[i]}' for one and '{right[i]}' for the other; both must be asked the same task"
            )
    return same


def shared(*probes: Predictions) -> tuple[Predictions, ...]:
    """Return what probes answered on the items that all of them answered, row by row the same item.

    An item is a unit of an example. Where all have one row for each example, the example is the item: the word that
    a text model is asked about is unit 3 of its text, and a question on the whole image, unit 0, to an image model.

    Raises:
        DataError: one of them answered an item twice.
    """
    alone = all(len(np.unique(each.id)) == len(each.id) for each in probes)
    items = [_items(each, alone) for each in probes]
    for item, each in zip(items, probes, strict=True):
        names, counts = np.unique(item, return_counts=True)
        if len(names) < len(each.id):
            double = str(names[counts.argmax()]).replace("\x1f", ", unit ")
            raise DataError(f"example {double} is answered {counts.max()} times by one probe; ids must differ")
    common = items[0]
    for item in items[1:]:
        common = np.intersect1d(common, item, assume_unique=True)
    return tuple(
        _rows(each, np.intersect1d(common, item, assume_unique=True, return_indices=True)[2])
        for item, each in zip(items, probes, strict=True)
    )


def pool(answers: Mapping[int, Predictions]) -> Predictions:
    """Return the answers under several seeds as one: each seed's rows are items of their own, groups stay groups.

    Args:
        answers: seed -> what the probe of that seed answered on that seed's test part.
    """
    parts = [replace(answers[seed], id=np.char.add(f"{seed}{SEED}", answers[seed].id)) for seed in sorted(answers)]
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
