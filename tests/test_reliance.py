"""What every layer loses: planted losses are found at their layers, none where none is; the file and its reader."""

import json
import math
import random
from dataclasses import asdict

import numpy as np
import pytest
from test_findings import TRAINED, N, Planted, last

from test_study import study
from toys import Toy
from vlprobe.comparisons import compare, holm
from vlprobe.errors import DataError
from vlprobe.findings import find, find_reliance, read_reliance, write_reliance
from vlprobe.results import Results


def layers(planted, losses, condition="mismatched", **other):
    """Put a probe at joint.0, joint.1, ... that has 0.9 right, and 0.9 - loss under a condition."""
    for index, loss in enumerate(losses):
        planted.put(0.9, layer=f"joint.{index}", **other)
        planted.put(0.9 - loss, condition=condition, layer=f"joint.{index}", **other)
    return planted


def test_a_loss_is_found_at_the_layers_where_it_is(tmp_path):
    losses = [0, 0, 0.05, *[0.5] * 8]
    rows = find_reliance(layers(Planted(tmp_path), losses).results)
    assert [row.layer for row in rows] == [f"joint.{index}" for index in range(11)]  # joint.2 before joint.10
    assert [row.loss for row in rows] == pytest.approx(losses)
    assert [row.matched for row in rows] == pytest.approx([0.9] * 11)
    assert [row.without for row in rows] == pytest.approx([0.9 - loss for loss in losses])
    assert [row.corrected <= 0.05 for row in rows] == [loss > 0.1 for loss in losses]
    assert all(row.interval[0] <= row.loss <= row.interval[1] for row in rows)
    assert {(row.side, row.condition, row.n, row.groups, row.seeds) for row in rows} == {
        ("image", "mismatched", N, N, 1)
    }
    assert rows[2].p == pytest.approx(2 / 2**6)  # six items, all one way: of one layer shown, of eleven not


def test_rows_are_what_compare_says_and_corrected_as_one_family_of_their_own(tmp_path):
    planted = Planted(tmp_path)
    for task in ("a", "b"):
        planted.model(0.8, last(0.7), task=task).put(last(0.75), task=task, condition="text-only")
    rows = find_reliance(planted.results)
    assert len(rows) == 4
    keys = {(result.task, result.condition): result.key for result in planted.results.all() if not result.control}
    for row in rows:
        pair = (planted.results.predictions(keys[row.task, condition]) for condition in ("matched", row.condition))
        found = compare(*pair, 0, N / TRAINED)
        assert (row.loss, row.interval, row.p, row.smallest) == (
            found.difference,
            found.interval,
            found.p,
            found.smallest,
        )
    assert [row.corrected for row in rows] == pytest.approx(holm([row.p for row in rows]))
    tests = [finding for finding in find(planted.results) if not math.isnan(finding.p) and finding.kind != "verdict"]
    assert [finding.corrected for finding in tests] == pytest.approx(holm([finding.p for finding in tests]))


@pytest.mark.parametrize(("level", "moved"), [("language", "image"), ("multimodal", "image"), ("vision", "text")])
def test_a_row_names_the_side_that_is_lost(tmp_path, level, moved):
    planted = Planted(tmp_path, level).put(0.9)
    for condition in ("mismatched", "text-only", "image-only", "matched>mismatched"):
        planted.put(0.5, condition=condition)
    sides = {row.condition: row.side for row in find_reliance(planted.results)}
    assert sides == {"mismatched": moved, "text-only": "image", "image-only": "text"}


def test_layers_and_models_without_the_other_side_have_no_row(tmp_path):
    planted = Planted(tmp_path).put(0.9, layer="joint.0").put(0.5, layer="joint.1", condition="mismatched")
    for condition in ("matched", "mismatched"):
        planted.put(0.9, "reader", condition, key="same")  # one input to it
    planted.put(0.9, "other", seed=0).put(0.5, "other", "mismatched", seed=1)
    assert find_reliance(planted.results) == []


def test_seeds_are_pooled_on_what_both_sides_have(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(0.5, condition="mismatched").put(0.9, seed=1)
    (row,) = find_reliance(planted.results)
    assert (row.n, row.groups, row.seeds) == (N, N, 1)
    (row,) = find_reliance(planted.put(0.5, condition="mismatched", seed=1).results)
    assert (row.n, row.groups, row.seeds) == (2 * N, N, 2)


def test_the_same_whatever_the_order_of_the_file(tmp_path):
    planted = layers(layers(Planted(tmp_path), [0, 0.3] * 6), [0.2, 0.4], model="other", condition="text-only")
    rows = find_reliance(planted.results)
    lines = planted.results.file.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    planted.results.file.write_text("".join(lines))
    assert find_reliance(Results(tmp_path)) == rows


def test_no_layer_is_found_where_nothing_is_lost(tmp_path):
    """Eight layers of noise: in at most one study of twenty may any of them be significant."""
    rng, wrong, each = np.random.default_rng(0), 0, []
    for trial in range(30):
        planted = Planted(tmp_path / str(trial), n=60)
        for index in range(8):
            for condition in ("matched", "mismatched"):
                planted.put(rng.random(60) < 0.6, condition=condition, layer=f"joint.{index}")
        rows = find_reliance(planted.results)
        wrong += any(row.corrected <= 0.05 for row in rows)
        each += [row.interval[0] <= 0 <= row.interval[1] for row in rows]
    assert wrong <= 4  # of 30 at 5 %: more than 4 in 1.6 % of cases
    assert np.mean(each) == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / 240))


def test_the_file_comes_back(tmp_path):
    planted = layers(Planted(tmp_path, n=4), [0, 0.5])
    rows = find_reliance(planted.results)
    assert math.isnan(rows[0].smallest)  # four items can show nothing
    write_reliance(planted.results, rows, complete=True)
    assert repr(read_reliance(tmp_path)) == repr(rows)
    kept = json.loads((tmp_path / "reliance.json").read_text())
    assert kept["tests"] == 2 and kept["rows"][0]["smallest"] is None
    assert kept["rows"][1] == asdict(rows[1]) | {"interval": list(rows[1].interval), "smallest": None}
    (tmp_path / "reliance.json").write_text("{}")
    with pytest.raises(DataError, match=r"reliance\.json: cannot be read"):
        read_reliance(tmp_path)


def test_a_study_of_toys_shows_where_the_image_matters(tmp_path):
    models = [Toy(), Toy("reader", ("text",))]
    study(tmp_path, models, conditions=["matched", "mismatched", "text-only"], seeds=[0, 1]).run()
    rows = {(row.model, row.layer, row.condition): row for row in read_reliance(tmp_path)}
    assert {(model, condition) for model, _, condition in rows} == {("toy", "mismatched"), ("toy", "text-only")}
    # A word's own vector knows nothing of the image; joint.1 mixes every position with the mean of all.
    for condition in ("mismatched", "text-only"):
        assert rows["toy", "joint.0", condition].corrected > 0.05
        assert rows["toy", "joint.1", condition].corrected <= 0.05 and rows["toy", "joint.1", condition].loss > 0.4
    assert json.loads((tmp_path / "reliance.json").read_text())["complete"]
