"""Controls in a study: made once, beside the models that see what they are made of, asked for or not."""

import json

import pytest

from test_study import study
from toys import Toy, colour_task
from vlprobe.controls import surface
from vlprobe.errors import StudyError
from vlprobe.findings import read_findings
from vlprobe.report.summary import summarise
from vlprobe.study import Study

CONDITIONS = ["matched", "mismatched", "text-only", "image-only", "matched>mismatched"]
SURFACE = ("majority", "bag-of-words", "n-grams", "pixels")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    heard, hear = [], surface.Surface.hear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surface.Surface, "hear", lambda self: (heard.append(self.control), hear(self))[1])
        models = [Toy(), Toy("reader", ("text",)), Toy("viewer", ("image",))]
        opened = study(tmp_path_factory.mktemp("study"), models, conditions=CONDITIONS)
        return opened, opened.run(), heard


def there(results, model, condition):
    return {r.control for r in results if (r.model, r.condition) == (model, condition) and not r.layer}


def test_a_control_stands_beside_a_model_that_sees_what_it_is_made_of(finished):
    _, results, _ = finished
    for condition in ("matched", "mismatched", "matched>mismatched"):
        assert there(results, "toy", condition) == set(SURFACE)
        assert there(results, "viewer", condition) == {"majority", "pixels"}
    assert there(results, "reader", "matched") == {"majority", "bag-of-words", "n-grams"}
    assert there(results, "toy", "text-only") == {"majority", "bag-of-words", "n-grams"}
    assert there(results, "toy", "image-only") == {"majority", "pixels"}


def test_a_control_is_made_once_whatever_the_models_and_conditions(finished):
    _, results, heard = finished
    keys = {control: {r.key for r in results if r.control == control} for control in SURFACE}
    # The text stays in place under every condition; the image is another's when mismatched, in train too or not.
    assert {name: len(each) for name, each in keys.items()} == {
        "majority": 1, "bag-of-words": 1, "n-grams": 1, "pixels": 3,
    }  # fmt: skip
    assert sorted(heard) == sorted(["majority", "bag-of-words", "n-grams", "pixels", "pixels", "pixels"])
    assert {r.revision for r in results if r.control in SURFACE} == {""}


def test_pixels_know_the_colour_of_their_own_image_and_words_do_not(finished):
    _, results, _ = finished
    by_condition = summarise(results)["colour"]["surface"]
    assert by_condition["matched"]["pixels"] > 0.95
    assert by_condition["image-only"] == {name: by_condition["matched"][name] for name in ("majority", "pixels")}
    for condition in ("mismatched", "matched>mismatched"):
        assert abs(by_condition[condition]["pixels"] - 0.25) < 0.13
    for name in ("bag-of-words", "n-grams"):
        assert abs(by_condition["matched"][name] - 0.25) < 0.13


def test_no_model_is_said_to_know_more_than_pixels_where_the_colour_is_all(finished):
    opened, _, _ = finished
    (found,) = [each for each in read_findings(opened.output) if (each.kind, each.model) == ("pixels", "viewer")]
    assert not found.significant
    assert "viewer is not shown to know more than raw pixels tell" in found.statement


def words_and_tags(layers="all", **settings):
    from test_controls import tagged

    return {"models": [Toy("reader", ("text",))], "tasks": [tagged()], "layers": layers} | settings


def test_the_control_task_has_answers_and_a_selectivity_of_its_own(tmp_path):
    opened = study(tmp_path, **words_and_tags())
    results = opened.run()
    drawn = [r for r in results if r.control == "control-task"]
    assert {r.layer for r in drawn} == {"joint.0", "joint.1"}
    answers, true = (
        opened.results().predictions(next(r.key for r in results if (r.control, r.layer) == (control, "joint.1")))
        for control in ("control-task", "")
    )
    assert (answers.id == true.id).all() and (answers.index == true.index).all()
    assert (answers.target != true.target).any()
    cell = summarise(results)["tags"]["rows"]["reader (pretrained)"]["matched"]
    assert cell["selectivity"] == pytest.approx(cell["score"] - cell["controls"]["control-task"])


def test_an_mlp_has_a_selectivity_too_and_the_published_protocol_is_left_as_it_is(tmp_path, one_thread):
    opened = study(tmp_path, **words_and_tags(["joint.1"], probes=["mlp", "salin2022"], controls=["control-task"]))
    results = opened.run()
    assert {r.probe for r in results if r.control == "control-task"} == {"logistic", "mlp"}
    (linear, mlp) = (
        opened.results().predictions(next(r.key for r in results if (r.probe, r.control) == (probe, "control-task")))
        for probe in ("logistic", "mlp")
    )
    assert (linear.target == mlp.target).all()
    beside = summarise(results)["tags"]["rows"]["reader (pretrained)"]["matched"]["beside"]
    assert "selectivity" in beside["mlp"] and "selectivity" not in beside["salin2022"]


def test_a_model_that_sees_no_types_has_no_control_task(finished):
    _, results, _ = finished
    assert not [r for r in results if r.control == "control-task" and r.model == "viewer"]


def test_why_there_is_no_control_task_is_noted(finished):
    opened, _, _ = finished
    notes = json.loads((opened.output / "study.json").read_text())["not_done"]
    (note,) = [each for each in notes if "control-task" in each]
    assert note.startswith("colour, control-task: not done, train and test have 1 types in common")


def test_layer_0_is_probed_beside_the_layers_asked_for_and_is_not_among_them(tmp_path):
    results = study(tmp_path / "a", layers=["joint.1"]).run()
    assert {(r.layer, r.control) for r in results if r.layer} == {
        ("joint.1", ""), ("joint.1", "shuffled-labels"), ("joint.0", "layer-0"),
    }  # fmt: skip
    cell = summarise(results)["colour"]["rows"]["toy (pretrained)"]["matched"]
    assert (cell["layer"], list(cell["layers"])) == ("joint.1", ["joint.1"])
    whole = study(tmp_path / "b").run()
    (plain,) = [r for r in whole if (r.layer, r.control) == ("joint.0", "")]
    assert cell["controls"]["layer-0"] == plain.score
    assert plain.key in {r.key for r in results}


def test_a_study_names_its_controls(tmp_path):
    results = study(tmp_path, controls=["bag-of-words"], layers=["joint.1"]).run()
    assert {r.control for r in results} == {"", "majority", "bag-of-words"}
    with pytest.raises(StudyError, match="unknown control 'pixel'; did you mean 'pixels'"):
        study(tmp_path, controls=["pixel"])
    assert "random-init" not in study(tmp_path).file.controls
    assert "random-init" in study(tmp_path, controls="all").file.controls


SCENES = {"name": "color", "scenes": {"train": 90, "test": 20}}


def test_random_weights_stand_beside_the_model_they_are_of(tmp_path, one_thread):
    own = tmp_path / "own.py"
    own.write_text("from toys import Toy\n\n\nclass Mine(Toy):\n    pass\n")
    models = [
        "zoo:bert",
        {"model": "zoo:bert", "name": "drawn", "weights": "random", "seed": 0},
        {"name": "mine", "file": "own.py", "class": "Mine"},
    ]
    settings = {
        "name": "s",
        "tasks": [SCENES],
        "store": str(tmp_path / "features"),
        "layers": ["language.4", "joint.1"],
    }
    settings |= {"layers": ["language.4", "joint.1"], "output": str(tmp_path / "out")}
    opened = Study.from_settings(tmp_path, models=models, controls=["random-init"], **settings)
    results = opened.run()
    (twin,) = [r for r in results if r.control == "random-init"]
    (drawn,) = [r for r in results if (r.model, r.layer, r.control) == ("drawn", "language.4", "")]
    assert (twin.model, twin.stage, twin.layer) == ("bert", "pretrained", "language.4")
    assert (twin.key, twin.score, twin.revision) == (drawn.key, drawn.score, drawn.revision)
    (trained,) = [r for r in results if (r.model, r.layer, r.control) == ("bert", "language.4", "")]
    assert trained.revision != twin.revision
    notes = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [each["name"] for each in notes["untrained"]] == ["bert"]
    said = [each for each in notes["not_done"] if "random-init" in each]
    assert [each.split(": not done")[0] for each in said] == ["drawn, random-init", "mine, random-init"]
    assert opened.plan().forward_passes == 0


def test_a_control_that_lost_its_answers_is_made_again(tmp_path):
    results = study(tmp_path).run()
    (words,) = [r for r in results if r.control == "n-grams"]
    (tmp_path / "predictions" / f"{words.key}.npz").unlink()
    again = study(tmp_path)
    assert again.run() == results
    assert len(again.toys[0].seen) == 0
    assert colour_task().name == words.task
