"""Comparisons, against enumeration, scipy, slow definitions and simulations with and without a difference."""

from dataclasses import astuple, replace
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import binom, binomtest, norm, permutation_test, t
from sklearn.metrics import accuracy_score, r2_score

from vlprobe.comparisons import compare, compare_losses, elsewhere, holm, pool, shared
from vlprobe.errors import DataError
from vlprobe.exchange import drawn_p, exact_p
from vlprobe.statistics import mixed, tango
from vlprobe.types import Predictions


def answers(right, group=None, y=None):
    """Return predictions that are right where they are said to be."""
    right = np.asarray(right)
    y = np.full(len(right), "a") if y is None else y
    group = np.arange(len(right)) if group is None else np.asarray(group)
    ids = np.array([f"e{i:04d}" for i in range(len(right))])
    return Predictions(ids, np.zeros(len(right), np.int32), group.astype(str), y, np.where(right, y, "wrong"))


def numbers(y, predicted, group=None):
    return replace(answers(np.full(len(y), True), group), target=y, predicted=predicted)


def by_enumeration(gain):
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, gain, strict=True)))
        for signs in product((1, -1), repeat=len(gain))
    ]
    return np.mean([value >= abs(sum(gain)) - 1e-12 for value in sums])


@pytest.mark.parametrize("seed", range(8))
def test_p_by_enumeration(seed):
    rng = np.random.default_rng(seed)
    gain = rng.integers(-4, 6, rng.integers(1, 11))
    assert exact_p(gain) == pytest.approx(by_enumeration(gain.tolist()))
    wide = rng.normal(0.5, 1, rng.integers(1, 11))
    assert drawn_p(wide, 0) == pytest.approx(by_enumeration(wide.tolist()))


def test_p_equals_scipys_permutation_test_of_whole_groups():
    gain = np.array([3, -1, 2, 2, 0, 5, 1, -2])
    pairs = (gain, np.zeros(8))
    theirs = permutation_test(pairs, lambda x, y: x.sum() - y.sum(), permutation_type="samples", n_resamples=np.inf)
    assert exact_p(gain) == pytest.approx(theirs.pvalue)
    assert drawn_p(gain.astype(float), 0) == pytest.approx(theirs.pvalue)


def test_p_of_single_rows_is_mcnemars():
    for better, worse in ((9, 2), (40, 21), (0, 5), (300, 300), (2000, 1800)):
        gain = np.array([1] * better + [-1] * worse + [0] * 50)
        assert exact_p(gain) == pytest.approx(binomtest(better, better + worse).pvalue)


def test_p_that_is_drawn_is_near_the_exact_one_and_never_none():
    rng = np.random.default_rng(0)
    gain = rng.integers(-3, 5, 40)
    assert drawn_p(gain.astype(float), 0) == pytest.approx(exact_p(gain), abs=0.003)
    assert drawn_p(gain.astype(float), 0) == drawn_p(gain.astype(float), 0)
    assert drawn_p(gain.astype(float), 0) != drawn_p(gain.astype(float), 1)
    assert drawn_p(np.ones(200), 0) == pytest.approx(1 / 100_001)


def test_r2_by_exchanging_whole_groups_and_scoring_anew():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(7), [1, 4, 2, 3, 5, 2, 6])
    y = rng.normal(size=len(group)) + 5
    first, second = y + rng.normal(0, 0.8, len(y)), y + rng.normal(0, 1.2, len(y))
    differences = []
    for swap in product((False, True), repeat=7):
        swapped = np.array(swap)[group]
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        differences.append(r2_score(y, one) - r2_score(y, other))
    found = compare(numbers(y, first, group), numbers(y, second, group), 0)
    assert found.difference == pytest.approx(differences[0])
    assert found.scores == pytest.approx((r2_score(y, first), r2_score(y, second)))
    assert found.p == pytest.approx(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12))


@pytest.mark.parametrize(("items", "mine", "up", "down"), [(20, 6, 3, 4), (10, 9, 0, 3), (40, 10, 9, 1), (12, 0, 5, 0)])
def test_the_mix_of_a_test_part_is_a_binomial_draw(items, mine, up, down):
    """scipy's binomial: so few, or so many, items that the second has right, were both as good; mid-p and its ends."""
    others = items - mine
    gained, missed = up / others, down / mine if mine else 1.0  # where none was drawn, none is taken to be right
    law = binom(items, gained / (gained + missed))
    few = law.cdf(mine) - law.pmf(mine) / 2
    many = law.sf(mine) + law.pmf(mine) / 2 if mine else 1.0
    p, low, high = mixed(items, mine / items, up / items, down / items)
    assert p == pytest.approx(min(1, 2 * min(few, many)))
    share = (gained - low) / (gained + missed)
    assert binom.cdf(mine, items, share) - binom.pmf(mine, items, share) / 2 == pytest.approx(0.025)
    if mine:
        share = (gained - high) / (gained + missed)
        assert binom.sf(mine, items, share) + binom.pmf(mine, items, share) / 2 == pytest.approx(0.025)
    assert mixed(items, 1 - mine / items, down / items, up / items) == pytest.approx((p, -high, -low))
    assert (p <= 0.05) == (not low <= 0 <= high)


def test_of_items_that_were_not_drawn_the_worst_is_taken():
    """Six draws of one kind, all a little better: of the other kind, which the second has right, none was drawn."""
    p, low, high = mixed(6, 0.0, 0.25, 0.0)
    assert p == pytest.approx((1 / 1.25) ** 6)  # mid-p, both sides; r / (r + w) is 0.25 / 1.25
    assert low < 0 < 0.25 == pytest.approx(high)
    assert mixed(6, 1.0, 0.0, 0.1)[0] == pytest.approx((1 / 1.1) ** 6)
    assert mixed(5, 0.4, 0.0, 0.0)[0] == 1
    assert mixed(5, 1.0, 0.0, 0.0)[0] == 1


def test_p_and_interval_of_one_class_groups_agree():
    """Six groups of the majority class, each with a few errors, tell nothing of the class that was not drawn."""
    group = np.repeat(np.arange(6), 50)
    found = compare(answers(np.arange(300) % 10 > 0, group), answers(np.full(300, True), group), 0)
    assert found.p > 0.3 and found.difference == pytest.approx(-0.1)
    assert found.interval[0] < -0.1 and found.interval[1] > 0.3
    turned = compare(answers(np.full(300, True), group), answers(np.arange(300) % 10 > 0, group), 0)
    assert turned.p == pytest.approx(found.p)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def left_out(group, measure):
    return [measure(np.asarray(group) != name) for name in np.unique(group)]


def jackknife(values):
    return np.sqrt((len(values) - 1) * np.var(values))


def test_interval_of_a_difference_of_r2_by_its_slow_definition():
    rng = np.random.default_rng(2)
    group = rng.integers(0, 12, 80)
    y = rng.normal(size=80)
    first, second = y + rng.normal(size=(2, 80))
    error = jackknife(left_out(group, lambda rows: r2_score(y[rows], first[rows]) - r2_score(y[rows], second[rows])))
    found = compare(numbers(y, first, group), numbers(y, second, group), 0)
    reach = t(11).ppf(0.975) * error
    assert found.interval == pytest.approx((found.difference - reach, found.difference + reach))
    assert found.smallest == pytest.approx((t(11).ppf(0.975) + t(11).ppf(0.8)) * error)


def test_interval_of_a_difference_of_accuracies_by_its_slow_definition():
    """Its ends are t errors from what was seen, the error being that of the likeliest world with such a difference."""
    rng = np.random.default_rng(3)
    group = rng.integers(0, 15, 200)
    first, second = rng.random((2, 200)) < np.array([[0.8], [0.6]])
    error = jackknife(left_out(group, lambda rows: first[rows].mean() - second[rows].mean()))
    up, down = (first & ~second).mean(), (second & ~first).mean()
    items = min(200, (up + down - (up - down) ** 2) / error**2)

    def away(difference):
        def unlikely(less):
            shares = [less + difference, less, 1 - 2 * less - difference]
            return -sum(seen * np.log(share) for seen, share in zip([up, down, 1 - up - down], shares, strict=True))

        room = (max(0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9)
        less = minimize_scalar(unlikely, bounds=room, method="bounded", options={"xatol": 1e-12}).x
        return abs(up - down - difference) / np.sqrt((2 * less + difference - difference**2) / items)

    found = compare(answers(first, group), answers(second, group), 0)
    assert found.difference == pytest.approx(up - down)
    for bound in found.interval:
        assert away(bound) == pytest.approx(t(14).ppf(0.975), rel=1e-4)
    assert found.interval[0] < up - down < found.interval[1]


def test_the_interval_of_a_difference_stays_inside_and_turns_with_the_sides():
    for up, down in product((0.0, 0.1, 0.5, 1.0), repeat=2):
        if up + down <= 1:
            low, high = tango(up, down, 30, 2.05)
            assert -1 <= low <= up - down <= high <= 1
            assert tango(down, up, 30, 2.05) == pytest.approx((-high, -low), abs=1e-6)


def test_the_order_of_rows_and_the_side_tell_nothing():
    rng = np.random.default_rng(4)
    group, y = rng.integers(0, 30, 120), rng.choice(["a", "b"], 120)
    a, b = (answers(rng.random(120) < chance, group, y) for chance in (0.8, 0.6))
    order = rng.permutation(120)
    mixed = Predictions(b.id[order], b.index[order], b.group[order], b.target[order], b.predicted[order])
    found, swapped = compare(a, b, 0), compare(mixed, a, 0)
    assert compare(a, mixed, 0) == found
    assert (swapped.difference, swapped.p) == pytest.approx((-found.difference, found.p))
    assert swapped.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_an_example_with_one_row_is_the_same_item_whatever_its_unit():
    a = answers(np.array([True, False, True]))
    word = replace(a, index=np.array([3, 5, 2], np.int32))
    assert compare(a, word, 0).n == 3
    twice = replace(a, id=np.array(["e", "e", "f"]), index=np.array([0, 1, 0], np.int32))
    with pytest.raises(DataError, match="one answered 3, another 3, all of them 1"):
        compare(twice, replace(twice, index=np.array([0, 2, 5], np.int32)), 0)


def test_other_items_or_targets_are_refused():
    a = answers(np.full(8, True))
    fewer = Predictions(*(column[2:] for column in astuple(a)))
    with pytest.raises(DataError, match=r"the same items only: one answered 8, another 6, all of them 6"):
        compare(a, fewer, 0)
    assert compare(*shared(a, fewer), 0).n == 6
    with pytest.raises(DataError, match="unit 0 of example e0003 has the target 'a' for one and 'b' for the other"):
        compare(a, replace(a, target=np.where(np.arange(8) == 3, "b", "a")), 0)
    with pytest.raises(DataError, match="example e0001 has the group '1' for one and 'x' for the other"):
        compare(a, replace(a, group=np.array(["0", "x", *"234567"])), 0)
    with pytest.raises(DataError, match="example e0002, unit 0 is answered 2 times"):
        compare(a, replace(a, id=np.where(a.id == "e0003", "e0002", a.id)), 0)


def test_two_that_never_differ_are_not_proven_equal():
    """None of 160 differ: up to 0.023 of all items may (1 - 0.025^(1/160), exactly), and the interval says so."""
    same = answers(np.arange(160) % 3 > 0)
    found = compare(same, same, 0)
    assert (found.difference, found.p) == (0, 1)
    assert found.interval == pytest.approx((-0.023, 0.023), abs=0.001)
    assert 0.01 < found.smallest < 0.06


def test_too_few_groups_can_show_nothing():
    found = compare(answers([True] * 5), answers([False] * 5), 0)
    assert found.p == pytest.approx(2 / 2**5)
    assert np.isnan(found.smallest)
    assert found.interval[0] < 1
    one = compare(answers([True] * 3, [0, 0, 0]), answers([False] * 3, [0, 0, 0]), 0)
    assert (one.p, one.groups) == (1, 1)
    assert np.isnan([*one.interval, one.smallest]).all()


def test_seeds_are_pooled_and_groups_stay_groups():
    rng = np.random.default_rng(5)
    group = rng.integers(0, 40, 100)
    a, b = (answers(rng.random(100) < chance, group) for chance in (0.8, 0.65))
    alone, twice = compare(a, b, 0), compare(pool({1: a, 0: a}), pool({0: b, 1: b}), 0)
    assert (twice.n, twice.groups) == (200, alone.groups)
    # The same items answered again by the same probes bring nothing new.
    assert (twice.difference, twice.p) == pytest.approx((alone.difference, alone.p))
    assert twice.interval == pytest.approx(alone.interval)
    new = pool({0: a, 1: replace(a, group=np.char.add("other", a.group))})
    assert compare(new, pool({0: b, 1: replace(b, group=np.char.add("other", b.group))}), 0).p < alone.p


def of_thirds(probe):
    """Return a probe's answers as if three seeds had tested a third of the items each."""
    thirds = [Predictions(*(column[seed::3] for column in astuple(probe))) for seed in range(3)]
    return pool(dict(enumerate(thirds)))


def test_seeds_that_test_what_others_trained_on_are_not_counted_as_independent():
    """One in three pairs of seed and item is a test: variances are 1 + 2/3 times as large, by scipy."""
    rng = np.random.default_rng(14)
    group, y = np.repeat(np.arange(20), 6), rng.normal(size=120)
    numbered = [numbers(y, y + rng.normal(0, width, 120), group) for width in (0.8, 1.1)]
    named = [answers(rng.random(120) < chance, group) for chance in (0.8, 0.65)]
    for pair in (numbered, named):
        alone, parted = compare(*pair, 0), compare(*map(of_thirds, pair), 0)
        assert (parted.n, parted.groups) == (alone.n, alone.groups)
        assert parted.difference == pytest.approx(alone.difference)
        assert parted.p == pytest.approx(2 * norm.sf(norm.isf(alone.p / 2) / np.sqrt(5 / 3)), rel=0.05)
        wider = np.diff(parted.interval) / np.diff(alone.interval)
        assert wider == pytest.approx(np.sqrt(5 / 3), rel=1e-6 if pair is numbered else 0.05)
        assert parted.smallest > 1.2 * alone.smallest


@pytest.mark.parametrize(("kind", "share"), [("classes", 0.5), ("numbers", 1.0)])
def test_what_training_adds_is_in_p_interval_and_smallest(kind, share):
    """One row tested for two trained on: 1/4 of the variance between groups for classes, 1/2 for numbers, by scipy."""
    rng = np.random.default_rng(15)
    group, y = np.repeat(np.arange(20), 6), rng.normal(size=120)
    four = [numbers(y, y + rng.normal(0, width, 120), group) for width in (0.8, 1.1, 0.9, 1.0)]
    if kind == "classes":
        four = [answers(rng.random(120) < chance, group) for chance in (0.8, 0.65, 0.75, 0.7)]
    for measure, probes in ((compare, four[:2]), (compare_losses, (four[:2], four[2:]))):
        without, found = measure(*probes, 0), measure(*probes, 0, 0.5)
        wider = np.sqrt(1 + share / 2)
        assert found.difference == without.difference
        assert found.p == pytest.approx(2 * norm.sf(norm.isf(without.p / 2) / wider), rel=1e-6)
        assert np.diff(found.interval) / np.diff(without.interval) == pytest.approx(wider, rel=0.05)
        assert found.smallest / without.smallest == pytest.approx(wider, rel=0.08)
    parted = [of_thirds(probe) for probe in four[:2]]  # they take as much, or more, into account
    assert compare(*parted, 0, 0.5).p == compare(*parted, 0).p


def test_elsewhere_counts_what_seeds_did_not_test():
    ids = np.array([f"e{i}" for i in range(9)])
    a = Predictions(ids, np.zeros(9, np.int32), ids, ids, ids)
    words = replace(a, id=np.repeat(ids[:3], 3), index=np.tile(np.arange(3), 3).astype(np.int32))
    half = Predictions(*(column[:5] for column in astuple(a)))
    assert elsewhere(a.id) == elsewhere(pool({7: a}).id) == elsewhere(pool({0: a, 1: a, 2: a}).id) == 0
    assert elsewhere(pool({0: words, 1: words}).id) == 0
    assert elsewhere(of_thirds(a).id) == pytest.approx(2 / 3)
    assert elsewhere(pool({0: a, 1: half}).id) == pytest.approx(4 / 18)
    assert elsewhere(ids[:0]) == 0


def test_with_seeds_that_test_other_items_six_groups_are_too_few():
    pair = [answers(np.full(18, right), np.repeat(np.arange(6), 3)) for right in (True, False)]
    alone, parted = compare(*pair, 0), compare(*map(of_thirds, pair), 0)
    assert alone.p == pytest.approx(2 / 2**6) and alone.smallest <= 1
    assert parted.p > 0.05 and np.isnan(parted.smallest)
    same = compare(of_thirds(pair[0]), of_thirds(pair[0]), 0)
    assert (same.p, same.difference) == (1, 0)


def test_holm_by_its_definition():
    def slowly(ps):
        """Go through the p-values from the smallest; each is held against what is left, and none falls behind."""
        corrected, worst = {}, 0.0
        for left, i in zip(range(len(ps), 0, -1), sorted(range(len(ps)), key=lambda i: ps[i]), strict=True):
            worst = max(worst, ps[i] * left)
            corrected[i] = min(worst, 1.0)
        return [corrected[i] for i in range(len(ps))]

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    rng = np.random.default_rng(6)
    for _ in range(20):
        ps = rng.choice([0.001, 0.2, 0.04, *rng.random(5)], rng.integers(1, 12)).tolist()
        assert holm(ps) == pytest.approx(slowly(ps))


def draw(rng, groups, rows, first, second, alike):
    """Return two probes that are right with given chances; rows of a group share part of their luck."""
    group = np.repeat(np.arange(groups), rows)
    share, chance = rng.random((2, groups))[:, group], rng.random((2, len(group)))
    luck = np.where(rng.random((2, len(group))) < alike, share, chance)
    return answers(luck[0] < first, group), answers(luck[1] < second, group)


def majority(rng, groups, rows, alike):
    """Return a probe that is right 80 % of the time, and the majority of classes 4 : 1, which is so too."""
    group = np.repeat(np.arange(groups), rows)
    y = np.where(
        np.where(rng.random(len(group)) < alike, rng.random(groups)[group], rng.random(len(group))) < 0.8, "a", "b"
    )
    right = rng.random(len(y)) < np.where(y == "a", 0.9, 0.4)
    return answers(right, group, y), answers(y == "a", group, y)


NULLS = {
    "few groups": lambda rng: draw(rng, 10, 6, 0.7, 0.7, 0.4),
    "few rows": lambda rng: draw(rng, 25, 1, 0.6, 0.6, 0),
    "near one": lambda rng: draw(rng, 40, 3, 0.96, 0.96, 0.5),
    "hardly ever right": lambda rng: draw(rng, 12, 1, 0.1, 0.1, 0),
    "unbalanced classes": lambda rng: majority(rng, 40, 4, 0.3),
    "unbalanced classes, few groups": lambda rng: majority(rng, 10, 10, 0),
}


@pytest.mark.parametrize("kind", NULLS)
def test_nothing_is_found_where_nothing_is(kind):
    rng = np.random.default_rng(7)
    found = [compare(*NULLS[kind](rng), 0) for _ in range(600)]
    error = np.sqrt(0.05 * 0.95 / 600)
    assert np.mean([each.p <= 0.05 for each in found]) <= 0.05 + 2.5 * error
    assert np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found]) >= 0.95 - 2.5 * error


def test_rows_taken_for_groups_would_find_what_is_not_there():
    rng = np.random.default_rng(8)
    ps = []
    for _ in range(200):
        pair = draw(rng, 10, 20, 0.7, 0.7, 1.0)
        ps.append(compare(*(replace(each, group=each.id) for each in pair), 0).p)
    assert np.mean(np.array(ps) <= 0.05) > 0.4


def test_nothing_is_found_in_numbers_where_nothing_is():
    rng = np.random.default_rng(9)
    found = []
    for trial in range(300):
        group = np.repeat(np.arange(12), 5)
        y = rng.normal(size=12)[group] + rng.normal(size=60)
        found.append(compare(*(numbers(y, y + rng.normal(size=60), group) for _ in range(2)), trial))
    error = np.sqrt(0.05 * 0.95 / 300)
    assert abs(np.mean([each.p <= 0.05 for each in found]) - 0.05) <= 3 * error
    assert np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found]) >= 0.95 - 3 * error


def test_what_is_there_is_found_with_its_size():
    rng = np.random.default_rng(10)
    found = [compare(*draw(rng, 100, 4, 0.85, 0.7, 0.3), 0) for _ in range(200)]
    assert np.mean([each.difference for each in found]) == pytest.approx(0.15, abs=0.01)
    assert np.mean([each.p <= 0.05 for each in found]) > 0.95
    assert np.mean([each.interval[0] <= 0.15 <= each.interval[1] for each in found]) == pytest.approx(0.95, abs=0.04)


def test_a_rare_difference_in_one_direction_is_in_the_interval():
    """2 % of 60 groups differ, all one way: 30 % of test parts show none, where a bootstrap's interval is 0."""
    rng = np.random.default_rng(13)
    held = []
    for _ in range(400):
        a = answers(rng.random(60) < 0.02)
        low, high = compare(a, answers(np.full(60, False)), 0).interval
        held.append(low <= 0.02 <= high)
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(("groups", "rows", "alike"), [(160, 1, 0), (60, 5, 0.3), (20, 1, 0)])
def test_the_smallest_difference_is_shown_four_times_out_of_five(groups, rows, alike):
    rng = np.random.default_rng(11)
    named = np.median([compare(*draw(rng, groups, rows, 0.65, 0.65, alike), 0).smallest for _ in range(60)])
    pairs = (draw(rng, groups, rows, 0.65 + named / 2, 0.65 - named / 2, alike) for _ in range(400))
    assert np.mean([compare(*pair, 0).p <= 0.05 for pair in pairs]) == pytest.approx(0.8, abs=0.07)


def four(rng, groups, rows, chances, alike, y=None):
    """Return (matched, mismatched) of two models that are right with given chances: an item is as hard for all."""
    group = np.repeat(np.arange(groups), rows)
    of_group, of_row = rng.normal(size=(5, groups))[:, group], rng.normal(size=(5, len(group)))
    luck = np.sqrt(alike) * of_group + np.sqrt(1 - alike) * of_row
    right = (luck[0] + luck[1:]) / np.sqrt(2) < ndtri(chances)[:, None]
    a, lost, b, gone = (answers(each, group) for each in right)
    return (a, lost), (b, gone)


def test_losses_by_exchanging_whole_groups_and_scoring_anew():
    """Classes and numbers: swap both answers of a group between the models, and see what is lost then."""
    rng = np.random.default_rng(20)
    group = np.repeat(np.arange(7), [1, 4, 2, 3, 5, 2, 6])
    y, told = rng.normal(size=len(group)) + 5, rng.normal(size=(4, len(group)))
    right = rng.random((4, len(group))) < np.array([[0.9], [0.4], [0.8], [0.7]])
    letters = np.array(["a", "b"])[rng.integers(0, 2, len(group))]
    kinds = [
        ([numbers(y, y + each, group) for each in told], r2_score),
        ([replace(answers(each, group, letters)) for each in right], accuracy_score),
    ]
    for probes, measure in kinds:
        differences = []
        for swap in product((False, True), repeat=7):
            swapped, given = np.array(swap)[group], [each.predicted for each in probes]
            turned = [np.where(swapped, given[(k + 2) % 4], given[k]) for k in range(4)]
            matched, mismatched, other, others = (measure(probes[0].target, each) for each in turned)
            differences.append((matched - mismatched) - (other - others))
        found = compare_losses(tuple(probes[:2]), tuple(probes[2:]), 0)
        assert found.difference == pytest.approx(differences[0])
        assert found.scores[0] - found.scores[1] == pytest.approx(differences[0])
        assert found.scores[0] == pytest.approx(compare(*probes[:2], 0).difference)
        assert found.p == pytest.approx(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12))
        assert (found.n, found.groups) == (len(group), 7)
        turned = compare_losses(tuple(probes[2:]), tuple(probes[:2]), 0)
        assert (turned.difference, turned.p) == pytest.approx((-found.difference, found.p))
        assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_intervals_of_losses_by_their_slow_definition():
    rng = np.random.default_rng(21)
    (a, lost), (b, gone) = four(rng, 15, 8, (0.9, 0.5, 0.85, 0.7), 0.4)
    right = np.array([each.predicted == each.target for each in (a, lost, b, gone)]).astype(int)
    signs = np.array([1, -1, -1, 1])
    error = jackknife(left_out(a.group.astype(int), lambda rows: signs @ right[:, rows].mean(axis=1)))
    seen = dict.fromkeys(product((0, 1), repeat=4), 0.0)
    for column in right.T:
        seen[tuple(column)] += 1 / right.shape[1]
    gains = {cell: int(signs @ cell) for cell in seen}

    def variance(shares):
        middle = sum(shares[cell] * gains[cell] for cell in shares)
        return middle, sum(shares[cell] * (gains[cell] - middle) ** 2 for cell in shares)

    items = min(120, variance(seen)[1] / error**2)
    middle, spread = variance({cell: (share * items + 1 / 8) / (items + 2) for cell, share in seen.items()})
    reach = t(14).ppf(0.975) * np.sqrt(spread / (items + 2))
    found = compare_losses((a, lost), (b, gone), 0)
    assert found.interval == pytest.approx((middle - reach, middle + reach))

    y, told = rng.normal(size=120), rng.normal(size=(4, 120))

    def loss(rows):
        scores = [r2_score(y[rows], (y + each)[rows]) for each in told]
        return signs @ scores

    error = jackknife(left_out(a.group.astype(int), loss))
    probes = [numbers(y, y + each, a.group) for each in told]
    found = compare_losses(tuple(probes[:2]), tuple(probes[2:]), 0)
    reach = t(14).ppf(0.975) * error
    assert found.interval == pytest.approx((found.difference - reach, found.difference + reach))


LOSSES = {
    "nothing lost": ((0.7, 0.7, 0.7, 0.7), 20, 3, 0.3),
    "as much lost": ((0.9, 0.5, 0.8, 0.4), 40, 3, 0.3),
    "few groups": ((0.8, 0.5, 0.8, 0.5), 10, 6, 0.4),
    "near one": ((0.97, 0.95, 0.97, 0.95), 60, 1, 0),
    "few rows": ((0.9, 0.3, 0.8, 0.2), 16, 1, 0),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_no_change_is_found_where_as_much_is_lost(kind):
    chances, groups, rows, alike = LOSSES[kind]
    rng = np.random.default_rng(22)
    found = [compare_losses(*four(rng, groups, rows, chances, alike), 0) for _ in range(600)]
    error = np.sqrt(0.05 * 0.95 / 600)
    assert np.mean([each.p <= 0.05 for each in found]) <= 0.05 + 2.5 * error
    assert np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found]) >= 0.95 - 2.5 * error


def test_a_change_is_found_with_its_size():
    rng = np.random.default_rng(23)
    found = [compare_losses(*four(rng, 80, 3, (0.9, 0.5, 0.8, 0.7), 0.3), 0) for _ in range(300)]
    assert np.mean([each.difference for each in found]) == pytest.approx(0.3, abs=0.01)
    assert np.mean([each.p <= 0.05 for each in found]) > 0.95
    assert np.mean([each.interval[0] <= 0.3 <= each.interval[1] for each in found]) == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize(("groups", "rows", "alike"), [(160, 1, 0), (60, 5, 0.3), (20, 1, 0)])
def test_the_smallest_change_is_shown_four_times_out_of_five(groups, rows, alike):
    rng = np.random.default_rng(24)
    named = np.median([compare_losses(*four(rng, groups, rows, [0.6] * 4, alike), 0).smallest for _ in range(60)])
    chances = 0.6 + named / 4 * np.array([1, -1, -1, 1])
    found = [compare_losses(*four(rng, groups, rows, chances, alike), 0) for _ in range(300)]
    assert np.mean([each.p <= 0.05 for each in found]) == pytest.approx(0.8, abs=0.08)


def test_losses_that_never_differ_are_not_proven_equal():
    same = answers(np.arange(160) % 3 > 0)
    found = compare_losses((same, same), (same, same), 0)
    assert (found.difference, found.p) == (0, 1)
    low, high = found.interval
    assert low == -high and 0.01 < high < 0.04
    all_lost = answers(np.full(160, True)), answers(np.full(160, False))
    assert compare_losses(all_lost, all_lost[::-1], 0).interval[1] == 2
    few = [answers(np.full(5, right)) for right in (True, False)]
    assert np.isnan(compare_losses((few[0], few[1]), (few[1], few[0]), 0).smallest)


def test_losses_are_compared_on_the_same_items_only():
    a = answers(np.full(8, True))
    fewer = Predictions(*(column[2:] for column in astuple(a)))
    with pytest.raises(DataError, match=r"one answered 8, another 6, all of them 6"):
        compare_losses((a, a), (a, fewer), 0)
    one, other, third = shared(a, fewer, Predictions(*(column[:7] for column in astuple(a))))
    assert one.id.tolist() == other.id.tolist() == third.id.tolist() == ["e0002", "e0003", "e0004", "e0005", "e0006"]


def test_accuracies_are_what_scikit_learn_says():
    rng = np.random.default_rng(12)
    y = rng.choice(["x", "y", "z"], 90)
    a, b = (replace(answers(np.full(90, True), y=y), predicted=rng.choice(["x", "y", "z"], 90)) for _ in range(2))
    assert compare(a, b, 0).scores == pytest.approx((accuracy_score(y, a.predicted), accuracy_score(y, b.predicted)))
