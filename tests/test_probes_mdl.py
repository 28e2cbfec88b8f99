"""The online code, against its definition written out slowly; about 1 where nothing is, high where labels are."""

import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vlprobe.errors import DataError
from vlprobe.probes.linear import Standardise
from vlprobe.probes.mdl import PERCENT, STRENGTHS, blocks, online_code


def data(rows=240, width=6, classes="abc", signal=2.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, width)).astype(np.float32) * 4 + 1
    weights = np.random.default_rng(99).normal(size=(width, len(classes)))
    noise = rng.gumbel(size=(rows, len(classes)))
    return X, np.array(list(classes))[(signal * (X - 1) / 4 @ weights + noise).argmax(1)], np.arange(rows).astype(str)


def slowly(X, y, order, ends):
    """Write the definition out: scikit-learn's probes, one strength, one block, one row at a time."""
    X, classes = Standardise(X)(X).astype(float), sorted(set(y))
    bits, start = ends[0] * math.log2(len(classes)), ends[0]
    for end in ends[1:]:
        sent, coded = order[:start], order[start:end]
        of_strength = []
        for strength in STRENGTHS:
            if len(set(y[sent])) > 1:
                fit = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=50_000).fit(X[sent], y[sent])
                found = [dict(zip(fit.classes_, row, strict=True)) for row in fit.predict_proba(X[coded])]
            else:
                found = [{y[sent][0]: 1.0}] * len(coded)
            product = 0.0
            for row, chances in zip(coded, found, strict=True):
                p = (start * chances.get(y[row], 0.0) + 1 / len(classes)) / (start + 1)
                product += math.log2(p)
            of_strength.append(product)
        best = max(of_strength)
        bits -= best + math.log2(sum(2 ** (each - best) for each in of_strength) / len(STRENGTHS))
        start = end
    return bits


@pytest.mark.parametrize("classes", ["ab", "abcd"])
@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_it_is_the_definition(classes, signal):
    X, y, group = data(classes=classes, signal=signal)
    (code,) = online_code(X, [y], group, seed=4)
    order, ends = blocks(group, seed=4)
    assert code.length == pytest.approx(slowly(X, y, order, ends), rel=2e-4)
    assert code.uniform == pytest.approx(len(y) * math.log2(len(classes)))
    assert code.compression == code.uniform / code.length


def test_features_that_say_nothing_cost_what_counting_costs():
    """Closed form: a probe of constant features knows the classes' shares, and each label takes a counted chance."""
    y = np.array(list("aabacabbcaabacabbcaa") * 50)
    (code,) = online_code(np.ones((len(y), 3), np.float32), [y], np.arange(len(y)), seed=0)
    order, ends = blocks(np.arange(len(y)), seed=0)
    bits, start = 0.0, 0
    for end in ends:
        sent = y[order[:start]].tolist()
        bits -= sum(math.log2((sent.count(label) + 1 / 3) / (start + 1)) for label in y[order[start:end]])
        start = end
    assert code.length == pytest.approx(bits, rel=1e-6)
    assert (code.predicted[order[ends[-2] :]] == "a").all()


def test_labels_that_are_there_are_cheap():
    X, y, group = data(rows=1000, signal=30.0)
    (code,) = online_code(X, [y], group, seed=0)
    assert code.compression > 4
    order, ends = blocks(group, seed=0)
    assert (code.predicted == y)[order[ends[-2] :]].mean() > 0.95


def test_labels_that_are_not_there_take_what_they_take_without_features():
    for repetition in range(4):
        X, y, group = data(rows=1000, width=50, signal=0.0, seed=repetition)
        (code,) = online_code(X, [np.random.default_rng(repetition).permutation(y)], group, seed=repetition)
        assert 0.96 < code.compression < 1.01


def test_more_is_shorter():
    lengths = []
    for signal in (0.0, 1.0, 3.0, 9.0):
        X, y, group = data(signal=signal)
        lengths.append(online_code(X, [y], group, 0)[0].length)
    assert lengths == sorted(lengths, reverse=True)


def test_no_group_is_cut_and_blocks_end_where_they_should():
    group = np.repeat(np.arange(100), np.random.default_rng(0).integers(1, 30, 100)).astype(str)
    group = np.random.default_rng(1).permutation(group)
    order, ends = blocks(group, seed=5)
    assert sorted(order) == list(range(len(group)))
    assert ends[-1] == len(group)
    for end in ends[:-1]:
        assert not set(group[order[:end]]) & set(group[order[end:]])
    sizes = [int((group == group[order[end - 1]]).sum()) for end in ends]
    for percent in PERCENT:  # the first end of a group at or after each share
        wanted = percent / 100 * len(group)
        reached = min(end for end in ends if end >= wanted - 1e-6)
        assert reached - sizes[ends.index(reached)] < wanted
    singles, ends = blocks(np.arange(1000), seed=0)
    assert ends == [1, 2, 4, 8, 16, 32, 63, 125, 250, 500, 1000]
    assert (singles != blocks(np.arange(1000), seed=1)[0]).any()


def test_the_order_of_the_rows_is_the_seeds_alone():
    X, y, group = data()
    turn = np.random.default_rng(3).permutation(len(y))
    (code,), (turned,) = online_code(X, [y], group, 0), online_code(X[turn], [y[turn]], group[turn], 0)
    np.testing.assert_allclose(turned.bits, code.bits[turn], rtol=1e-4, atol=1e-6)
    assert (turned.predicted == code.predicted[turn]).all()
    assert online_code(X, [y], group, 1)[0].length != code.length


def test_sets_are_coded_as_if_alone():
    X, y, group = data()
    other = np.random.default_rng(0).choice(["x", "y"], len(y))
    together = online_code(X, [y, other], group, 0)
    for labels, code in zip((y, other), together, strict=True):
        np.testing.assert_allclose(code.bits, online_code(X, [labels], group, 0)[0].bits, rtol=1e-4, atol=1e-6)


def test_a_rare_class_that_comes_last_has_a_price():
    X, y, group = data(signal=9.0)
    order, _ = blocks(group, 0)
    y[:] = np.where(y == "c", "b", y)
    y[order[-1]] = "z"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (code,) = online_code(X, [y], group, 0)
    assert math.log2(3 * 120) < code.bits[order[-1]] == code.bits.max() < math.log2(3 * 121) + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y, g: (np.where(np.arange(len(X))[:, None] == 7, np.nan, X), y, g), "row 7, column 0: nan"),
        (lambda X, y, g: (X, np.full(len(y), "a"), g), "all 'a': a code needs at least two classes"),
        (
            lambda X, y, g: (X, np.arange(len(y)) / 2, g),
            "numbers: the length of a code is defined for classes",
        ),
        (lambda X, y, g: (X, y, np.arange(len(y)) % 10), "form 10 groups, too few for the 11 blocks"),
        (lambda X, y, g: (X[:6], y[:6], g[:6]), "the 6 rows form 6 groups, too few"),
        (lambda X, y, g: (X, y[:-1], g), r"labels of set 0 has shape \(239,\), the features have 240 rows"),
        (lambda X, y, g: (X, y, g[:-1]), r"group has shape \(239,\)"),
    ],
)
def test_what_cannot_be_coded_is_said(change, message):
    X, y, group = change(*data())
    with pytest.raises(DataError, match=message):
        online_code(X, [y], group, 0)
