"""Null studies, short versions of the benchmarks: no more false alarms than the level allows, intervals that hold."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import retraining  # noqa: E402
from certainty import FOUR, NULLS, UNEQUAL, World, beside_majority, classes, numbers  # noqa: E402
from retraining import World as Data  # noqa: E402
from retraining import significant, studies  # noqa: E402

from test_study import study  # noqa: E402
from toys import colour_task  # noqa: E402
from vlprobe import comparisons  # noqa: E402
from vlprobe.comparisons import compare  # noqa: E402
from vlprobe.digest import generator  # noqa: E402
from vlprobe.statistics import interval  # noqa: E402

WORLDS = [World(6, "1 to 15", 0.3), World(10, "1", 0.0), World(30, "1 to 15", 1.0), World(30, "1 to 15", 0.3)]
"""Few groups, few rows, groups that are alike."""
ONE_CLASS = [World(6, "50", 1.0), World(10, "1 to 15", 1.0)]
"""Few groups, beside a majority of one class each: often no group of one of the classes is drawn."""


def room(trials, share=0.05):
    """Return what chance may add to a share: 2.5 standard errors."""
    return 2.5 * np.sqrt(share * (1 - share) / trials)


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("world", [*WORLDS, *ONE_CLASS], ids=str)
def test_no_more_false_alarms_than_the_level_allows(world, name):
    if name.startswith("R²") and world in ONE_CLASS:
        pytest.skip("numbers have no classes, and R² of alike rows in few groups is what benchmarks/certainty.md shows")
    draw, fewer = NULLS[name]
    rng, trials = generator(0, "test", name, str(world)), 400 // min(fewer, 2)
    found = [draw(rng, world) for _ in range(trials)]
    assert np.mean([each.p <= 0.05 for each in found]) <= 0.05 + room(trials)
    assert np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found]) >= 0.95 - room(trials)


@pytest.mark.parametrize("world", ONE_CLASS, ids=str)
@pytest.mark.parametrize(("shares", "chances"), [(UNEQUAL, (0.95, 0.9)), (FOUR, (0.95, 0.95))], ids=str)
def test_what_is_better_than_the_majority_is_not_found_below_it(world, shares, chances):
    """Where the rare class is not drawn a probe can only lose; where it is, what is far above is found to be."""
    rng, trials = generator(0, "better", str(world), str(shares)), 300
    found = [compare(*beside_majority(rng, world, shares, chances), 0) for _ in range(trials)]
    assert np.mean([each.p <= 0.05 and each.difference < 0 for each in found]) <= 0.025 + room(trials, 0.025)
    if shares == FOUR and world.groups == 10:
        assert np.mean([each.p <= 0.05 and each.difference > 0 for each in found]) > 0.8


TRIALS = 1000


def held(world, truth, by_group=True):
    rng, hits = generator(0, "held", str(world), str(truth)), []
    for _ in range(TRIALS):
        (a,) = numbers(rng, world, 0.05) if truth is None else classes(rng, world, truth)
        group = a.group if by_group else np.arange(len(a.group)).astype(str)
        low, high = interval(a.target, a.predicted, group, "r2" if truth is None else "accuracy")
        hits.append(low <= (0.45 if truth is None else truth) <= high)
    return np.mean(hits)


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_interval_of_an_accuracy_holds_it(world, truth):
    assert held(world, truth) >= 0.95 - room(TRIALS)


def test_the_interval_of_r2_holds_it_unless_groups_are_few():
    assert held(World(30, "1 to 15", 0.3), None) >= 0.95 - room(TRIALS)
    assert held(World(6, "1", 0.0), None) >= 0.9


def test_rows_taken_for_groups_are_found_out():
    """The fault that these tests are there to find."""
    assert held(World(30, "50", 0.3), 0.8, by_group=False) < 0.7


STUDIES = 100


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (0.25, 0.25, 0.25, 0.25), ()], ids=str)
def test_a_study_of_noise_finds_nothing(shares):
    """Labels that features say nothing of, from the cut to the test; few groups, unequal classes, numbers."""
    found = studies(Data(60, 2, shares), 1, STUDIES)
    assert significant([each.above for each in found], 1) <= 100 * (0.025 + room(STUDIES, 0.025))
    assert significant([each.lost for each in found]) <= 100 * (0.05 + room(STUDIES))
    assert significant([each.rest for each in found], 1) <= 100 * (0.025 + room(STUDIES, 0.025))
    assert np.mean([hold for each in found for hold in each.held]) >= 0.95 - room(STUDIES)


def test_what_the_text_tells_is_not_taken_from_the_image():
    found = studies(Data(150, 1, (0.5, 0.5), (3.0, 0.0)), 1, STUDIES)
    assert significant([each.lost for each in found]) <= 100 * (0.05 + room(STUDIES))
    assert significant([each.rest for each in found], 1) > 90


def test_numbers_that_the_text_tells_are_not_taken_from_the_image(monkeypatch):
    """Few train rows make two ridge regressions that know the same differ on all groups; it is not in the test part."""
    few, trials = Data(36, 2, (), (1.0, 0.0)), 200
    found = studies(few, 1, trials)
    assert significant([each.lost for each in found]) <= 100 * (0.05 + room(trials))
    monkeypatch.setattr(comparisons, "TRAINING", {"accuracy": 0.0, "r2": 0.0})
    assert significant([each.lost for each in studies(few, 1, trials)]) > 100 * (0.05 + room(trials))


def test_what_the_image_tells_is_lost_with_another():
    found = studies(Data(150, 1, (0.5, 0.5), (0.0, 3.0)), 1, STUDIES)
    assert significant([each.lost for each in found], 1) > 90
    assert significant([each.rest for each in found], 1) <= 100 * (0.025 + room(STUDIES, 0.025))


def test_a_study_that_takes_rows_for_groups_is_found_out(monkeypatch):
    """Eight rows of a group share image and label: their luck is one, and rows make the interval far too narrow."""
    counted, world = retraining.Predictions, Data(60, 8, (0.5, 0.5))
    monkeypatch.setattr(retraining, "Predictions", lambda ids, index, group, *rest: counted(ids, index, ids, *rest))
    monkeypatch.setattr(
        retraining, "interval", lambda y, predicted, group, metric: interval(y, predicted, np.arange(len(y)), metric)
    )
    found = studies(world, 1, STUDIES)
    assert np.mean([hold for each in found for hold in each.held]) < 0.85
    assert np.mean([each.above.p <= 0.05 for each in found]) > 0.05 + room(STUDIES)


@pytest.mark.parametrize("splits", ["all", "train and test"])
def test_seeds_vary_cut_and_mismatch(tmp_path, splits):
    task = colour_task()
    examples = task.splits["all"]
    if splits != "all":
        test = {f"g{i}" for i in range(20)}
        given = {
            name: tuple(e for e in examples if (e.group in test) == (name == "test")) for name in ("train", "test")
        }
        task = replace(task, splits=given)
    opened = study(tmp_path, tasks=[task], conditions=["matched", "mismatched"], seeds=[0, 1, 2])
    shown, parts = {}, {}
    for cell in opened.plan().cells:
        shown[cell.condition, cell.seed] = {each.id: each.image for each in cell.trained.examples}
        parts[cell.seed] = cell.part
    owner = {each.image: each for each in examples}
    group = {each.id: each.group for each in examples}
    assert len(owner) == len(examples)
    assert shown["matched", 0] == {name: each.image for each in examples if (name := each.id) in parts[0]}
    for seed, part in parts.items():
        for name, image in shown["mismatched", seed].items():
            donor = owner[image]
            assert donor.group != group[name] and part[donor.id] == part[name]
    for one, other in ((0, 1), (1, 2)):
        same = [shown["mismatched", one][name] == shown["mismatched", other].get(name) for name in parts[one]]
        assert np.mean(same) < 0.1
        moved = {name for name in parts[one] if parts[one][name] != parts[other].get(name)}
        assert len(moved) > 20
        tested = [{name for name, part in parts[seed].items() if part == "test"} for seed in (one, other)]
        assert (tested[0] == tested[1]) == (splits != "all")
