"""Calibration is right on the pipeline as it is, and says which statements a planted fault makes wrong."""

import io
import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import vlprobe.encoders.bert
import vlprobe.encoders.uniter
from vlprobe import load_model, plan, pooling, run
from vlprobe.calibration import measures
from vlprobe.calibration.measures import Checked, Measured, calibrate
from vlprobe.calibration.statements import STATEMENTS, SUBJECTS, Probe, Statement
from vlprobe.calibration.studies import Scale, studies
from vlprobe.calibration.telling import closing, print_checked, write_checked
from vlprobe.cells import Layers
from vlprobe.cli import app
from vlprobe.comparisons import compare
from vlprobe.encoders.taps import tap
from vlprobe.errors import DataError
from vlprobe.scenes.tasks import RECIPES
from vlprobe.types import Predictions

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = {
    "color-seen": ("uniter",),
    "color-lost": ("uniter",),
    "color-last": ("uniter",),
    "color-first": ("uniter",),
    "color-twin": ("uniter-shuffled",),
    "color-text": ("bert",),
    "color-untold": ("bert", "uniter-shuffled"),
    "color-shuffled-labels": ("bert", "uniter"),
    "count-told": ("bert",),
    "tag-word": ("uniter",),
    "tag-context": ("uniter",),
    "region-color": ("uniter",),
}
"""Statements and models of the small calibration."""
SMALL = [replace(each, models=ASKED[each.name]) for each in STATEMENTS if each.name in ASKED]
SCALE = Scale(worlds=(1,), train=200, test=240)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The small calibration of the pipeline as it is: its folder and what came out."""
    folder = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLPROBE_CACHE", str(folder / "cache"))
        yield folder, calibrate(SMALL, SCALE, folder / "results")


def wrong(folder, base, fault, *, features, names=tuple(ASKED)):
    """Return which statements a fault makes wrong.

    Args:
        folder: an empty one.
        base: what the fixture gave.
        fault: called with a monkeypatch.
        features: whether the fault lies behind the representations, so that those of `base` are what it would have.
        names: of the statements to test.
    """
    if features:
        shutil.copytree(base[0] / "results" / "features", folder / "features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLPROBE_CACHE", str(base[0] / "cache"))
        fault(patch)
        checked = calibrate([each for each in SMALL if each.name in names], SCALE, folder)
    return {each.statement.name for each in checked if not each.right}


def test_a_small_calibration_is_right(base):
    _, checked = base
    assert {each.statement.name: each.measured for each in checked if not each.right} == {}
    assert [each.statement for each in checked] == SMALL
    by_name = {each.statement.name: each.measured for each in checked}
    (seen,) = by_name["color-seen"]
    assert seen.effect == pytest.approx(seen.scores[0] - seen.scores[1]) == pytest.approx(seen.worlds[0])
    assert seen.interval[0] < seen.effect < seen.interval[1] and seen.n == 240


def test_what_is_there_is_not_computed_again(base, monkeypatch):
    folder, checked = base

    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(run, "probe", never)
    monkeypatch.setattr("vlprobe.encoders.self_check.faults", lambda encoder: [])  # which encodes at load
    for encoder in (vlprobe.encoders.uniter.Uniter, vlprobe.encoders.bert.Bert):
        monkeypatch.setattr(encoder, "encode", never)
    assert calibrate(SMALL, SCALE, folder / "results") == checked


# Planted faults


def labels_shuffled(patch):
    real, rng = Layers.read, np.random.default_rng(0)

    def parts(*arguments):
        found = real(*arguments)
        return {
            name: part if name == "test" else replace(part, y=rng.permutation(part.y)) for name, part in found.items()
        }

    patch.setattr(Layers, "read", parts)


def paired_as(conditions):
    def fault(patch):
        real = plan.pair
        patch.setattr(
            plan, "pair", lambda examples, condition, *rest: real(examples, conditions.get(condition, condition), *rest)
        )

    return fault


def trained_on_test_rows(patch):
    real = Layers.read
    joined = ("X", "y", "group", "id", "index")

    def parts(*arguments):
        found = real(*arguments)
        if "train" not in found:
            return found
        train, test = found["train"], found["test"]
        both = {name: np.concatenate([getattr(train, name), getattr(test, name)]) for name in joined}
        return found | {"train": replace(train, **both)}

    patch.setattr(Layers, "read", parts)


def layers_as(moved):
    """Plant states under other addresses, where they are collected."""

    @contextmanager
    def elsewhere(blocks, chained=True):
        with tap(blocks, chained) as states:
            yield states
        states[:] = moved(states)

    def fault(patch):
        for module in (vlprobe.encoders.uniter, vlprobe.encoders.bert):
            patch.setattr(module, "tap", elsewhere)
        patch.setattr("vlprobe.encoders.self_check.faults", lambda encoder: [])  # it sees that a layer stands twice

    return fault


def the_next_word(patch):
    real = pooling._pieces

    def first(hidden, positions, i, example, k):
        weights = np.zeros(positions.shape[1], dtype=np.float32)
        weights[np.flatnonzero(real(hidden, positions, i, example, k))[0] + 1] = 1
        return weights

    patch.setitem(pooling._WEIGHTS, "first", first)


def region_of_another_box(patch):
    real = pooling._overlap
    patch.setitem(
        pooling._WEIGHTS,
        "box",
        lambda hidden, positions, i, example, k: real(hidden, positions, i, example, (k + 1) % len(example.boxes)),
    )


BEHIND = {
    "labels shuffled": (
        labels_shuffled,
        {"color-seen", "color-last", "count-told", "tag-word", "tag-context", "region-color"},
    ),
    "conditions swapped": (
        paired_as({"matched": "mismatched", "mismatched": "matched"}),
        {"color-seen", "color-lost", "color-last", "count-told"},
    ),
    "a mismatch that moves nothing": (paired_as({"mismatched": "matched"}), {"color-lost", "count-told"}),
}
"""Fault behind the representations -> what plants it, and the statements that it makes wrong."""


@pytest.mark.parametrize("fault", BEHIND)
def test_a_fault_behind_the_representations_is_noticed(tmp_path, base, fault):
    plant, expected = BEHIND[fault]
    assert wrong(tmp_path, base, plant, features=True) == expected


def test_a_leak_is_noticed(tmp_path, base):
    unknown = {"color-lost", "color-twin", "color-untold"}
    asked = [*unknown, "color-last", "color-text"]
    found = wrong(tmp_path, base, trained_on_test_rows, features=True, names=asked)
    assert found and found <= unknown  # which of them, depends on the strength that was chosen


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (layers_as(lambda states: [states[0], *states[:-1]]), {"tag-context"}),
        (layers_as(lambda states: [*states[1:], states[-1]]), {"tag-context", "count-told"}),
    ],
    ids=["the layer before", "the layer after"],
)
def test_the_wrong_layer_is_noticed(tmp_path, base, plant, expected):
    assert wrong(tmp_path, base, plant, features=False) == expected


def test_the_wrong_word_is_noticed(tmp_path, base):
    assert wrong(tmp_path, base, the_next_word, features=False) == {"color-seen", "color-last", "tag-word"}


def test_the_wrong_region_is_noticed(tmp_path, base):
    assert wrong(tmp_path, base, region_of_another_box, features=False, names=["region-color"]) == {"region-color"}


# Statements, studies, measures


def test_the_list_can_be_asked():
    assert len({each.name for each in STATEMENTS}) == len(STATEMENTS)
    asked = {model + probe.twin for each in STATEMENTS for model in each.models for probe in each.probes()}
    assert asked == set(SUBJECTS)
    assert {each.task for each in STATEMENTS} <= set(RECIPES)
    assert all(len(each.claim) < 170 and each.claim.endswith(".") for each in STATEMENTS)


def test_the_documentation_shows_what_was_measured_of_this_list():
    shown = json.loads((Path(__file__).parents[1] / "docs" / "calibration.json").read_text(encoding="utf-8"))
    declared = [json.loads(json.dumps(asdict(each))) for each in STATEMENTS]
    kept = [{name: row[name] for name in declared[0]} for row in shown["statements"]]
    assert kept == declared, "run `vlprobe calibrate`, copy calibration.json to docs/, and run `make docs`"
    assert shown["right"] and shown["scale"] == json.loads(json.dumps(asdict(Scale())))


def test_layers_are_counted_as_the_models_count_them():
    for name, subject in SUBJECTS.items():
        if subject.trained:
            layers = load_model(f"zoo:{name}").layers
            assert {subject.layer(each) for each in ("first", "second", "last but one", "last")} <= set(layers)
            assert f"{subject.stream}.{subject.depth + 1}" not in layers
    assert SUBJECTS["lxmert"].layer("last but one") == "language.3"
    assert SUBJECTS["vit"].layer("best") == "best" and SUBJECTS["uniter"].layer("regions.0") == "regions.0"


def statement(test="more", margin=0.5, than=None, **other):
    names = {"name": "a", "claim": "So it is.", "models": ("bert",), "task": "color", "of": Probe()} | other
    return Statement(than=than, test=test, margin=margin, **names)


@pytest.mark.parametrize(
    ("test", "low", "high", "right"),
    [
        ("more", 0.51, 0.9, True),
        ("more", 0.49, 0.9, False),
        ("more", -0.9, -0.6, False),
        ("same", -0.49, 0.49, True),
        ("same", -0.51, 0.2, False),
        ("same", 0.4, 0.51, False),
        ("at least", 0.51, 1.0, True),
        ("at least", 0.4, 1.0, False),
        ("more", float("nan"), float("nan"), False),
        ("same", float("nan"), float("nan"), False),
    ],
)
def test_a_statement_holds_where_the_whole_interval_says_so(test, low, high, right):
    assert statement(test).holds(low, high) is right


def test_a_statement_says_what_it_expects():
    last = Probe("mismatched", "last")
    assert statement("at least", 0.9, of=last).expected == "mismatched, last layer: over 0.9"
    twin = statement("more", 0.6, than=replace(last, twin="-shuffled"), of=last)
    assert twin.expected == "mismatched, last layer: more than its shuffled twin, by over 0.6"
    other = statement("same", 0.1, than=Probe("matched", "last", "majority"), of=last)
    assert other.expected == "mismatched, last layer: the same as the majority, matched, within 0.1"
    plain = statement("same", 0.02, than=Probe(layer="language.2"), of=Probe("mismatched", "language.2"))
    assert plain.expected == "mismatched, language.2: the same as matched, within 0.02"


def test_a_study_is_run_once_for_all_its_statements(tmp_path):
    asked = [
        statement(of=Probe(layer="last"), models=("bert", "uniter")),
        statement(than=Probe("mismatched", "first", twin="-random"), of=Probe(layer="second"), models=("lxmert",)),
        statement(tell=0.5, pooling="words", models=("vit",)),
    ]
    made = studies(asked, Scale((7, 8), 5, 4), tmp_path)
    assert list(made) == ["color", "color-tell-0.5"]
    file = made["color"].file
    assert file.models == [
        {"model": "zoo:bert"},
        {"model": "zoo:uniter"},
        {"model": "zoo:lxmert"},
        {"model": "zoo:lxmert", "name": "lxmert-random", "weights": "random"},
    ]
    assert file.layers == ["joint.4", "language.0", "language.1", "language.4"]
    assert file.conditions == ["matched", "mismatched"] and file.controls == ["majority"]
    scenes = {"task": "color", "train": 5, "test": 4, "tell": 0.0}
    assert file.tasks == [{"name": f"color-{seed}", "scenes": scenes | {"seed": seed}} for seed in (7, 8)]
    told = made["color-tell-0.5"].file
    assert (told.layers, told.pooling.input, told.conditions) == ("all", "words", ["matched"])
    assert told.store == file.store == str(tmp_path / "features")
    with pytest.raises(ValueError, match="about color pool by auto and words"):
        studies([statement(), statement(pooling="words")], SCALE, tmp_path)


def test_scenes_of_two_worlds_are_two_groups():
    ids = np.array(["tasks-1", "tasks-1", "tasks-3"])
    one = Predictions(ids, np.array([0, 1, 0], np.int32), ids, np.array(["a"] * 3), np.array(["a", "b", "a"]))
    both = measures._together({1: one, 2: one})
    assert len(both.id) == 6 and len(set(both.group)) == 4
    assert len(set(zip(both.id, both.index, strict=True))) == 6
    assert compare(both, both, 0).interval == compare(*[replace(both, id=np.arange(6).astype(str))] * 2, 0).interval


def test_probes_of_other_labels_are_compared_by_what_they_got_right(base):
    folder, _ = base
    asked = [each for each in STATEMENTS if each.name == "tag-selectivity"]
    ((small,),) = (
        each.measured
        for each in calibrate([replace(asked[0], models=("uniter-random",))], SCALE, folder / "selectivity")
    )
    assert small.right and small.scores[0] > 0.97 and 0.85 < small.scores[1] < 0.95


def test_a_layer_without_a_result_is_an_error(base):
    folder, _ = base
    study = studies([each for each in SMALL if each.task == "thing-color"], SCALE, folder / "results")["thing-color"]
    answers = measures._Answers(study, study.results().all())
    with pytest.raises(DataError, match="uniter, mismatched: there is no result of layer regions.0"):
        answers("thing-color-1", "uniter", Probe("mismatched", "regions.0"))


# What is told


def measured(model, effect, right, low=0.1, high=0.2):
    return Measured(model, effect, (low, high), (effect,), (effect,), 9, right)


RIGHT = Checked(statement("at least", name="well"), (measured("bert", 0.912, True),))
WRONG = Checked(statement(than=Probe()), (measured("bert", 0.812, True), measured("vit", -0.256, False)))


def test_the_table_says_what_is_right_and_what_is_wrong():
    out = io.StringIO()
    print_checked([RIGHT, WRONG], Console(file=out, width=100, color_system=None))
    text = out.getvalue()
    assert "well: matched, best layer: over 0.5" in text
    assert "bert            0.91 [0.10, 0.20]      right" in text
    assert "vit             -0.26 [+0.10, +0.20]" in text
    assert "WRONG" in text and "1 of 2 statements are wrong: a. " in " ".join(text.split())
    assert closing([RIGHT]) == "All of 1 statements are right."


def test_the_file_holds_all_numbers(tmp_path):
    content = json.loads(write_checked([RIGHT, WRONG], SCALE, tmp_path).read_text())
    assert content["right"] is False and content["scale"] == {"worlds": [1], "train": 200, "test": 240}
    first, second = content["statements"]
    assert (first["right"], second["right"]) == (True, False)
    assert first["expected"] == RIGHT.statement.expected and first["of"]["condition"] == "matched"
    assert second["measured"][1] == {
        "model": "vit", "effect": -0.256, "interval": [0.1, 0.2], "scores": [-0.256], "worlds": [-0.256], "n": 9,
        "right": False,
    }  # fmt: skip


@pytest.mark.parametrize(("checked", "code"), [([RIGHT], 0), ([RIGHT, WRONG], 1)])
def test_the_command_ends_with_1_where_something_is_wrong(tmp_path, monkeypatch, checked, code):
    asked = []
    monkeypatch.setattr(measures, "calibrate", lambda *arguments, **settings: asked.append(arguments) or checked)
    done = CliRunner().invoke(app, ["calibrate", "--output", str(tmp_path / "out")])
    assert done.exit_code == code
    assert asked[0][:3] == (STATEMENTS, Scale(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["right"] is (code == 0)
