"""Probes beside the linear one: asked for by name, kept apart from it, computed once."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_findings import Planted
from test_report import printed

from test_study import study
from toys import Toy, colour_task
from vlprobe.digest import digest
from vlprobe.errors import DataError
from vlprobe.findings import best_layer
from vlprobe.listening import LISTENERS, SHUFFLED
from vlprobe.probes import PROBES
from vlprobe.report.summary import summarise
from vlprobe.results import Results, write_result
from vlprobe.statistics import score
from vlprobe.store import Store
from vlprobe.types import Example, Sent, Task


@pytest.fixture
def parrot(monkeypatch):
    """A probe that says what the linear one says."""
    monkeypatch.setitem(PROBES, "parrot", "says what the linear one says")

    def listen(layer):
        return {control: replace(heard, probe="parrot") for control, heard in LISTENERS["linear"](layer).items()}

    monkeypatch.setitem(LISTENERS, "parrot", listen)


OTHERS = ("mlp", "mdl", "salin2022")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("listening")
    opened = study(folder, layers=["joint.1"], probes=list(OTHERS), conditions=CONDITIONS)
    yield folder, opened.run()
    torch.set_num_threads(threads)


CONDITIONS = ["matched", "mismatched", "matched>mismatched"]


def rows_of(results, probe, control="", condition="matched", layer="joint.1"):
    (row,) = [r for r in results if (r.probe, r.control, r.condition, r.layer) == (probe, control, condition, layer)]
    return row


def test_each_probe_finds_the_colour_and_shuffled_labels_do_not(finished):
    _, results = finished
    for probe, least in (("mlp", 0.95), ("salin2022", 0.45)):  # the published steps end far from the optimum
        assert rows_of(results, probe).score > least
        assert abs(rows_of(results, probe, "shuffled-labels").score - 0.25) < 0.2
        assert abs(rows_of(results, probe, "", "matched>mismatched").score - 0.25) < 0.15
    assert rows_of(results, "mlp").validation > 0.95
    published = rows_of(results, "salin2022")
    assert math.isnan(published.validation) and published.l2 is None
    assert "chosen on the test part" in published.warnings[0]
    assert {r.n_train for r in results} == {160}
    assert {r.n_test for r in results if r.probe != "mdl"} == {80}


def test_the_code_is_short_where_the_colour_is(finished):
    folder, results = finished
    for layer, condition, control, low, high in (
        ("joint.1", "matched", "", 3, 20),
        ("joint.1", "matched", "shuffled-labels", 0.85, 1.02),
        ("joint.1", "mismatched", "", 0.85, 1.02),
    ):
        result = rows_of(results, "mdl", control, condition, layer)
        assert low < result.score < high
        assert result.interval[0] < result.score < result.interval[1]
        assert (result.metric, result.n_test, result.l2) == ("compression", 160, None) and math.isnan(result.validation)
        sent = Results(folder).predictions(result.key)
        assert isinstance(sent, Sent) and result.score == pytest.approx(160 * 2 / sent.bits.sum())
    true, shuffled = (Results(folder).predictions(rows_of(results, "mdl", control).key).target for control in SHUFFLED)
    assert sorted(true) == sorted(shuffled) and (true != shuffled).any()


def test_what_mdl_cannot_be_asked_is_noted(finished, tmp_path):
    folder, results = finished
    assert {r.condition for r in results if r.probe == "mdl"} == {"matched", "mismatched"}
    (note,) = [each for each in json.loads((folder / "study.json").read_text())["not_done"] if "mdl" in each]
    assert note == "colour, matched>mismatched: mdl not done, it codes labels of train and is not tested on anything"
    few = study(tmp_path, tasks=[colour_task(60, groups=12)], probes=["mdl"], controls=["shuffled-labels"]).plan()
    assert few.notes == ("colour: mdl not done, train has 8 groups, and 11 blocks are to be coded",)
    assert few.probes == 1 + 2 * 2


def test_every_answer_is_kept(finished):
    folder, results = finished
    there = Results(folder)
    linear = there.predictions(rows_of(results, "logistic").key)
    for result in results:
        answers = there.predictions(result.key)
        if result.probe != "mdl":
            reached = score(answers.target, answers.predicted, result.metric)
            assert reached == pytest.approx(result.score, abs=1e-12)
    mlp = there.predictions(rows_of(results, "mlp").key)
    assert (mlp.id == linear.id).all() and (mlp.target == linear.target).all()
    runs = there.predictions(rows_of(results, "salin2022").key)
    assert (runs.id.reshape(5, -1) == linear.id).all() and (runs.group.reshape(5, -1) == linear.group).all()


def test_a_run_again_trains_nothing(finished, monkeypatch):
    folder, results = finished
    for name in OTHERS:
        monkeypatch.setitem(LISTENERS, name, None)
    again = study(folder, [Toy()], layers=["joint.1"], probes=list(OTHERS), conditions=CONDITIONS)
    assert again.plan().probes == 0
    # NaN, which salin2022 has for a validation score, equals nothing.
    assert list(map(write_result, again.run())) == list(map(write_result, results))


def test_numbers_are_heard_too(tmp_path, one_thread):
    examples = [
        Example(f"n{i}", f"g{i}", f"text {i}", each.image, (float(i % 3),), (), (), f"n.csv, row {i}")
        for i, each in enumerate(colour_task(90).splits["all"])
    ]
    task = Task("number", "vision", "input", (), {"all": tuple(examples)})
    opened = study(tmp_path, tasks=[task], layers=["joint.1"], probes=list(OTHERS), controls=["shuffled-labels"])
    results = opened.run()
    assert {r.probe for r in results} == {"", "ridge", "mlp", "salin2022"}
    assert {r.metric for r in results} == {"r2"}
    assert opened.plan().notes == ("number: mdl not done, a code is of classes, and the targets are numbers",)


def test_every_probe_has_a_listener():
    assert list(PROBES) == list(LISTENERS)


def test_linear_is_there_where_it_is_not_named(tmp_path, parrot):
    assert study(tmp_path).file.probes == ["linear"]
    assert study(tmp_path, probes=[]).file.probes == ["linear"]
    assert study(tmp_path, probes=["parrot"]).file.probes == ["linear", "parrot"]


def test_another_probe_leaves_what_is_there_as_it_is(tmp_path, parrot):
    alone = study(tmp_path).run()
    before = (tmp_path / "results.jsonl").read_text()
    beside = study(tmp_path, probes=["parrot", "linear"])
    assert beside.plan().probes == 2 * 2  # layers x (true, shuffled)
    both = beside.run()
    assert [result for result in both if result.probe != "parrot"] == alone
    assert (tmp_path / "results.jsonl").read_text().startswith(before)
    added = [result for result in both if result.probe == "parrot"]
    assert [(r.layer, r.control) for r in added] == [
        (layer, control) for layer in ("joint.0", "joint.1") for control in ("", "shuffled-labels")
    ]
    assert json.loads((tmp_path / "study.json").read_text())["study"]["probes"] == ["linear", "parrot"]
    model = Toy()
    again = study(tmp_path, [model], probes=["parrot"])
    assert again.plan().probes == 0
    assert again.run() == both and not model.seen


def test_a_linear_result_is_called_what_it_was_called_before_there_were_others(tmp_path, parrot):
    opened = study(tmp_path, probes=["parrot"], controls=["shuffled-labels"])
    (cell,) = opened.plan().cells
    keys = {(each.layer, each.probe, each.control): each.key for each in cell.wanted(Store(tmp_path))}
    assert keys["joint.1", "linear", ""] == digest(cell.key, "joint.1", "")
    assert len(set(keys.values())) == len(keys) == 1 + 2 * 2 * 2


def test_lost_answers_of_another_probe_are_named(tmp_path, parrot):
    results = study(tmp_path, probes=["parrot"]).run()
    lost = next(r for r in results if r.probe == "parrot" and r.layer == "joint.1" and r.control)
    (tmp_path / "predictions" / f"{lost.key}.npz").unlink()
    assert study(tmp_path, probes=["parrot"]).run() == results
    said = json.loads((tmp_path / "study.json").read_text())["computed_again"]
    assert said == [
        "colour, toy, matched, seed 0, joint.1 parrot shuffled-labels: its predictions were missing or damaged"
    ]


def beside(folder):
    """Return a model whose other probes know more, best at another layer than the linear one's."""
    planted = Planted(folder).model(0.6, 0.25, layer="joint.1").model(0.5, 0.25, layer="joint.2")
    for layer, right in (("joint.1", 0.8), ("joint.2", 0.95)):
        for condition in ("matched", "mismatched"):
            planted.put(right, condition=condition, layer=layer, probe="mlp")
            planted.put(right / 2, condition=condition, layer=layer, probe="mlp", control="shuffled-labels")
    for control, compression in (("", 3.25), ("shuffled-labels", 0.75)):
        planted.put(
            np.full(planted.n, compression), layer="joint.1", probe="mdl", metric="compression", control=control
        )
    return planted


def test_no_other_probe_has_a_say(tmp_path):
    mixed, alone = beside(tmp_path / "a"), Planted(tmp_path / "b")
    alone.model(0.6, 0.25, layer="joint.1").model(0.5, 0.25, layer="joint.2")
    assert mixed.find() == alone.find()
    matched = [result for result in mixed.results.all() if result.condition == "matched"]
    assert best_layer(matched) == best_layer(list(reversed(matched))) == "joint.1"
    cells = [summarise(each.results.all())["colour"]["rows"]["m (pretrained)"]["matched"] for each in (mixed, alone)]
    others = cells[0].pop("beside")
    assert cells[1].pop("beside") == {}
    assert cells[0] == cells[1]
    assert {name: (each["metric"], each["score"], each["shuffled"]) for name, each in others.items()} == {
        "mlp": ("accuracy", pytest.approx(0.8), pytest.approx(0.4)),
        "mdl": ("compression", 3.25, 0.75),
    }


@pytest.mark.parametrize("order", [1, -1])
def test_the_metric_of_a_table_is_the_linear_probes(tmp_path, order):
    assert summarise(beside(tmp_path).results.all()[::order])["colour"]["metric"] == "accuracy"


def test_a_table_shows_the_others_below(tmp_path):
    rows = [line.split("│")[3].strip() for line in printed(beside(tmp_path)).splitlines() if line.count("│") == 5]
    assert rows[0] == "majority 0.250"
    assert rows[1:4] == ["0.600 *", "[0.000, 1.000]", "joint.1"]
    at = rows.index("mlp 0.800")
    assert rows[at : at + 4] == ["mlp 0.800", "shuffled 0.400", "mdl 3.250x", "shuffled 0.750x"]


def test_a_control_that_was_not_asked_for_is_not_shown(tmp_path):
    assert (
        printed(beside(tmp_path / "a")).count("shuffled") > printed(bare_beside(tmp_path / "b")).count("shuffled") == 0
    )


def bare_beside(folder):
    """Return a model with another probe, none with controls."""
    return Planted(folder).put(0.9).put(0.8, probe="mlp")


def test_an_error_names_the_probe_and_the_layer(tmp_path, monkeypatch):
    def fail(layer):
        raise DataError("nothing to be heard")

    monkeypatch.setitem(LISTENERS, "mlp", fail)
    with pytest.raises(
        DataError, match="nothing to be heard\n  while mlp listened to layer joint.0\n  while running toy"
    ):
        study(tmp_path, probes=["mlp"]).run()
