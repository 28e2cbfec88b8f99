"""Cutting: groups stay whole, leaks and unseen labels are told."""

from dataclasses import replace

import numpy as np
import pytest

from toys import colour_task
from vlprobe.errors import BadRow, DataError
from vlprobe.splits import TEST_SHARE, cut
from vlprobe.types import Example, Task


def example(i, group, target="x", place=None):
    return Example(f"e{i}", group, f"text {i}", None, (target,), place=place or f"a.csv, row {i}")


def task(**splits):
    values = {t for part in splits.values() for e in part for t in e.target if t is not None}
    return Task("t", "language", "input", tuple(sorted(values)), {k: tuple(v) for k, v in splits.items()})


def groups(examples):
    return {e.group for e in examples}


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_cut(seed):
    parts = cut(colour_task(), seed)
    sides = [groups(parts.train), groups(parts.validation), groups(parts.test)]
    assert all(a.isdisjoint(b) for i, a in enumerate(sides) for b in sides[i + 1 :])
    assert sum(len(p) for p in parts.named().values()) == 240
    assert len(parts.test) == pytest.approx(240 * TEST_SHARE, abs=4)


def test_the_seed_draws_the_cut_and_only_the_seed():
    assert cut(colour_task(), 1) == cut(colour_task(), 1)
    assert cut(colour_task(), 1).test != cut(colour_task(), 2).test


def test_given_splits_stay_and_validation_comes_out_of_train():
    examples = [example(i, f"g{i}", "xy"[i % 2]) for i in range(30)]
    parts = cut(task(train=examples[:20], test=examples[20:]), 0)
    assert parts.test == tuple(examples[20:])
    assert {e.id for e in [*parts.train, *parts.validation]} == {e.id for e in examples[:20]}
    assert len(parts.validation) == 4


def test_a_group_in_train_and_test_is_an_error_that_names_both_rows():
    train = [example(i, f"g{i}", "xy"[i % 2]) for i in range(20)]
    test = [example(30, "g3"), example(31, "h", "y")]
    with pytest.raises(BadRow, match=r"a.csv, row 3: this train row shares its group 'g3'.*a.csv, row 30; 1 of 20"):
        cut(task(train=train, test=test), 0)
    parts = cut(task(train=train, test=test), 0, bad_rows="skip")
    assert parts.test == tuple(test)
    assert "g3" not in groups([*parts.train, *parts.validation])
    assert parts.skipped == ("a.csv, row 3: train row shares group 'g3' with a.csv, row 30",)


def test_a_label_unseen_in_train_is_told_or_counted():
    train = [example(i, f"g{i}", "xy"[i % 2]) for i in range(20)]
    test = [example(30, "h", "x"), example(31, "i", "y"), example(32, "j", "z")]
    with pytest.raises(BadRow, match="row 32: label 'z' of this test row of task t does not occur in train"):
        cut(task(train=train, test=test), 0)
    parts = cut(task(train=train, test=test), 0, bad_rows="skip")
    assert [e.id for e in parts.test] == ["e30", "e31"]
    assert len(parts.skipped) == 1


def test_only_the_unseen_word_of_a_sentence_is_taken_out():
    train = [replace(example(i, f"g{i}"), target=("A", "B")) for i in range(20)]
    test = [replace(example(30, "h"), target=("A", "C", "B"))]
    parts = cut(task(train=train, test=test), 0, bad_rows="skip")
    assert parts.test[0].target == ("A", None, "B")


@pytest.mark.parametrize(("train", "test", "part"), [("xx", "xy", "train"), ("xy", "xx", "test")])
def test_a_part_with_one_class_is_refused(train, test, part):
    rows = {
        name: [example(f"{name}{i}", f"{name}{i}", label) for i, label in enumerate(labels * 5)]
        for name, labels in (("train", train), ("test", test))
    }
    with pytest.raises(DataError, match=f"its {part} part holds one class only \\('x'\\)"):
        cut(task(**rows), 0, bad_rows="skip")


def test_one_group_cannot_be_cut():
    with pytest.raises(DataError, match="form 1 group .*at least two groups"):
        cut(task(all=[example(i, "g", "xy"[i % 2]) for i in range(9)]), 0)


def test_limit_draws_at_random_and_keeps_the_order():
    examples = [example(i, f"g{i}", "x" if i < 50 else "y") for i in range(100)]
    more = [example(i, f"g{i}", "x" if i < 150 else "y") for i in range(100, 200)]
    parts = cut(task(train=examples, test=more), 0, limit=20)
    drawn = [int(e.id[1:]) for e in parts.test]
    assert len(drawn) == 20
    assert drawn == sorted(drawn)
    assert {e.target for e in parts.train} == {("x",), ("y",)}
    assert len(parts.train) + len(parts.validation) == 20
    assert 3 < np.sum(np.array(drawn) < 150) < 17
