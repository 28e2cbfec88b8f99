"""A whole study on toys whose answers are known: it finds the colour in the image, and only there."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from toys import Toy, colour_task
from vlprobe import run
from vlprobe.errors import DataError, StudyError, VlprobeError
from vlprobe.extraction.jobs import Shelf
from vlprobe.findings.folder import open_folder
from vlprobe.report.summary import summarise
from vlprobe.results import Results, read_results
from vlprobe.store import Shard
from vlprobe.study import Study
from vlprobe.types import Example, Task

CONDITIONS = ["matched", "mismatched", "text-only", "image-only", "matched>mismatched"]


def study(folder, models=None, tasks=None, **settings):
    models = models or [Toy()]
    specs = [f"toy:{number}" for number in range(len(models))]
    values = {"name": "toy", "models": specs, "tasks": ["z"], "output": str(folder)}
    values |= {"store": str(folder / "features")} | settings
    opened = Study.from_settings(**values)
    opened.toys = models
    opened._shelf = Shelf(lambda asked: models[specs.index(asked.spec)])
    opened._tasks = tasks or [colour_task()]
    return opened


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    models = [Toy(), Toy("reader", ("text",)), Toy("viewer", ("image",))]
    opened = study(folder, models, conditions=CONDITIONS, seeds=[0, 1])
    return opened, opened.run()


def cell(results, model, condition):
    return summarise(results)["colour"]["rows"][f"{model} (pretrained)"][condition]


def test_colour_is_taken_from_the_image(finished):
    _, results = finished
    chance = cell(results, "toy", "matched")["majority"]
    assert cell(results, "toy", "matched")["score"] > 0.95
    assert cell(results, "toy", "matched")["layer"] == "joint.1"
    for condition in ("mismatched", "text-only", "matched>mismatched"):
        assert abs(cell(results, "toy", condition)["score"] - 0.25) < 0.13, condition
    assert cell(results, "toy", "image-only")["score"] > 0.95
    assert abs(cell(results, "toy", "matched")["controls"]["shuffled-labels"] - 0.25) < 0.15
    assert chance < 0.4


def test_a_text_model_scores_the_same_whatever_the_image(finished):
    opened, results = finished
    matched, mismatched = (
        {(r.layer, r.control, r.seed): (r.score, r.key) for r in results if (r.model, r.condition) == ("reader", c)}
        for c in ("matched", "mismatched")
    )
    assert matched == mismatched
    assert len(opened.toys[1].seen) == 240  # run once per distinct text
    assert len(opened.toys[2].seen) == 240  # a mismatch hands the same images to other texts


def test_an_image_model_loses_the_colour_with_the_image(finished):
    """The same images, handed to other texts: nothing new to encode, and yet another result."""
    _, results = finished
    assert cell(results, "viewer", "matched")["score"] > 0.95
    for condition in ("mismatched", "matched>mismatched"):
        assert abs(cell(results, "viewer", condition)["score"] - 0.25) < 0.13, condition


def test_what_cannot_be_asked_is_noted(finished):
    opened, _ = finished
    notes = json.loads((opened.output / "study.json").read_text())["not_done"]
    assert "colour, reader, image-only: not done, the model reads text only" in notes
    assert "colour, viewer, text-only: not done, the model reads image only" in notes


def test_results_are_strict_json_lines_with_everything_named(finished):
    opened, results = finished

    def refuse(constant):
        raise ValueError(constant)

    lines = (opened.output / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert len(rows) == len(results) == len({(r["key"], r["model"], r["condition"]) for r in rows})
    first = next(r for r in rows if r["layer"] == "joint.1" and r["model"] == "toy" and not r["control"])
    assert first["unit"] == "word: first"
    assert first["probe"] == "logistic"
    assert first["interval"][0] <= first["score"] <= first["interval"][1]
    viewer = next(r for r in rows if r["model"] == "viewer" and r["layer"] == "joint.1")
    assert viewer["unit"] == "input: cls"  # the [MASK] is not there for a model that reads no text
    majority = next(r for r in rows if r["control"] == "majority")
    assert majority["l2"] is None


def test_run_again_computes_nothing(finished):
    opened, results = finished
    models = [Toy(), Toy("reader", ("text",)), Toy("viewer", ("image",))]
    again = study(opened.output, models, conditions=CONDITIONS, seeds=[0, 1])
    plan = again.plan()
    assert (plan.forward_passes, plan.feature_bytes, plan.probes) == (0, 0, 0)
    before = (opened.output / "results.jsonl").read_bytes()
    assert again.run() == results
    assert (opened.output / "results.jsonl").read_bytes() == before
    assert not any(model.seen for model in models)


def test_the_plan_says_what_the_run_then_does(tmp_path):
    opened = study(tmp_path / "a", conditions=["matched", "mismatched"])
    plan = opened.plan()
    assert plan.forward_passes == 480
    assert plan.feature_bytes == 480 * (8 + 16) * 4  # a pooler has no words
    assert not (tmp_path / "a").exists()
    opened.run()
    assert len(opened.toys[0].seen) == plan.forward_passes
    kept = [Shard(path) for path in (tmp_path / "a" / "features").rglob("*.safetensors")]
    read = [
        shard.read(section, layer) for shard in kept for section in shard.sections for layer in shard.layers(section)
    ]
    assert sum(array.nbytes for array in read) == plan.feature_bytes
    # two layers, true and shuffled labels, under two conditions; majority and words once, pixels twice
    assert plan.probes == len(opened.results().known) == 2 * 2 * 2 + 3 + 2


def test_a_run_that_was_killed_goes_on(tmp_path):
    whole = study(tmp_path).run()
    file = tmp_path / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:50])  # the last line was being written
    assert study(tmp_path).run() == whole
    assert sorted(file.read_text().splitlines(keepends=True)) == sorted(lines)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_changes_no_number(tmp_path, batch_size):
    reference = study(tmp_path / "a", batch_size=64).run()
    other = study(tmp_path / "b", batch_size=batch_size).run()
    assert [(r.key, r.l2) for r in reference] == [(r.key, r.l2) for r in other]
    assert [r.score for r in reference] == pytest.approx([r.score for r in other], abs=1e-9)


def test_seeds_move_the_numbers_and_nothing_else_does(tmp_path):
    first, second = (study(tmp_path / name, seeds=[3]).run() for name in "ab")
    assert first == second
    other = study(tmp_path / "c", seeds=[4]).run()
    assert {r.key for r in first}.isdisjoint({r.key for r in other})
    assert [r.score for r in first] != [r.score for r in other]


def test_a_regression_study(tmp_path):
    def brightness(example, i):
        return Example(f"n{i}", f"g{i}", f"text {i}", example.image, (float(i % 7),), (), (), f"n.csv, row {i}")

    examples = tuple(brightness(e, i) for i, e in enumerate(colour_task().splits["all"]))
    results = study(tmp_path, tasks=[Task("number", "vision", "input", (), {"all": examples})]).run()
    assert {r.metric for r in results} == {"r2"}
    assert {r.probe for r in results} == {"ridge", ""}
    assert all(-1 < r.score < 0.3 and not math.isnan(r.score) for r in results)


def test_a_misspelt_layer_is_an_error_with_the_nearest_names(tmp_path):
    with pytest.raises(StudyError, match=r"no model of this study has a layer 'join.1'; did you mean 'joint.1'"):
        study(tmp_path, layers=["join.1"]).plan()


def test_a_pooling_of_what_a_model_is_not_given_is_not_done(tmp_path):
    models = [Toy(), Toy("reader", ("text",))]
    opened = study(tmp_path, models, conditions=["matched", "text-only"], pooling={"input": "patches"})
    opened._tasks = [replace(colour_task(), unit="input", splits=unmasked(colour_task()))]
    done = {(cell.called, cell.condition) for cell in opened.plan().cells}
    assert done == {("toy", "matched")}
    said = [note for note in opened.plan().notes if "pooling 'patches' reads the image" in note]
    assert len(said) == 3
    assert {r.unit for r in opened.run() if r.layer} == {"input: patches"}


def unmasked(task):
    """The splits of a word task about one word, as questions on the whole input."""
    return {
        name: [
            replace(example, words=(), target=tuple(t for t in example.target if t is not None)) for example in examples
        ]
        for name, examples in task.splits.items()
    }


def test_a_study_of_which_nothing_can_be_done_says_why(tmp_path):
    opened = study(tmp_path, [Toy("reader", ("text",))], conditions=["image-only"])
    with pytest.raises(StudyError, match="nothing of this study can be done") as caught:
        opened.run()
    assert "\n  colour, reader, image-only: not done, the model reads text only" in str(caught.value)
    assert not (tmp_path / "results.jsonl").exists()


def test_a_pooling_that_no_task_uses_is_checked_too(tmp_path):
    with pytest.raises(StudyError, match="unknown pooling 'bx' for unit 'region'; did you mean 'box'"):
        study(tmp_path, pooling={"region": "bx"}).plan()


def test_what_earlier_data_or_another_pooling_gave_is_no_result_of_the_study(tmp_path):
    """The same task, model, condition and seed: only the keys say that these are results of other things."""
    study(tmp_path, layers=["joint.0"]).run()
    opened = study(tmp_path, layers=["joint.1"], pooling={"word": "mean"})
    made = {(r.key, r.condition) for r in opened.run()}
    assert {(r.key, r.condition) for r in read_results(tmp_path)} == made
    changed = study(tmp_path, tasks=[colour_task(seed=1)])
    made = {(r.key, r.condition) for r in changed.run()}
    assert {(r.key, r.condition) for r in read_results(tmp_path)} == made
    assert {r.key for r in open_folder(tmp_path).chosen} == {key for key, _ in made}
    assert len(Results(tmp_path).all()) > len(made)
    back = study(tmp_path, layers=["joint.0"])  # as it was first: nothing is computed, and nothing was lost
    assert not back.plan().probes
    made = {(r.key, r.condition) for r in back.run()}
    assert {(r.key, r.condition) for r in read_results(tmp_path)} == made


@pytest.mark.parametrize(("where", "what"), [("output", "the results folder"), ("store", "the store")])
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_runs(tmp_path, where, what):
    (tmp_path / "file").write_text("")
    opened = study(tmp_path / "good", **{where: str(tmp_path / "file" / "x")})
    with pytest.raises(DataError, match=f"{what} .*file/x cannot be written to .*; name another `{where}`"):
        opened.run()


def test_a_store_that_is_removed_while_a_study_runs_is_made_again(tmp_path, monkeypatch):
    undisturbed = study(tmp_path / "one").run()
    opened = study(tmp_path / "two")
    left_out, removed = run.left_out, []

    def remove_once(*arguments):
        if not removed:
            removed.append(shutil.rmtree(tmp_path / "two" / "features"))
            arguments[2].refresh(arguments[1].home)
        return left_out(*arguments)

    monkeypatch.setattr(run, "left_out", remove_once)
    assert {(r.key, r.score) for r in opened.run()} == {(r.key, r.score) for r in undisturbed}
    assert removed
    (said,) = opened.results().description()["computed_again"]
    assert said.endswith("it was removed while the study ran")


def test_only_the_layers_asked_for(tmp_path):
    assert {r.layer for r in study(tmp_path, layers=["joint.0"]).run()} == {"", "joint.0"}


class Failing(Toy):
    def encode(self, batch):
        raise VlprobeError("out of luck")


def test_an_error_says_where_it_happened(tmp_path):
    with pytest.raises(VlprobeError, match="out of luck\n  while computing the representations of failing for colour"):
        study(tmp_path, models=[Failing("failing")]).run()


def test_two_models_of_one_name_are_refused(tmp_path):
    (tmp_path / "own.py").write_text("from toys import Toy\n\n\nclass Mine(Toy):\n    pass\n")
    model = {"name": "mine", "file": "own.py", "class": "Mine"}
    with pytest.raises(StudyError, match="models: the name 'mine' is given twice"):
        Study.from_settings(tmp_path, name="s", tasks=["x"], models=[model, model]).models()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modles": ["a:b"]}, "unknown key 'modles'; did you mean 'models'?"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"conditions": ["mismatchd"]}, "unknown condition 'mismatchd'; did you mean 'mismatched'"),
        ({"limit": 0}, "limit"),
        ({"bad_rows": "skipp"}, "bad_rows"),
        ({"layers": []}, "layers"),
        ({"name": ".."}, "name"),
        ({"conditions": ["mismached"]}, "study: conditions: unknown condition 'mismached'; did you mean 'mismatched'"),
        ({"pooling": {"wrd": "first"}}, "unknown key 'pooling.wrd'; did you mean 'word'?"),
        ({"name": "../up"}, "name"),
        ({"tasks": []}, "tasks"),
        ({"probes": ["linaer"]}, "probes: unknown probe 'linaer'; did you mean 'linear'?"),
        ({"probes": ["linear", "linear"]}, "probes must be different"),
    ],
)
def test_wrong_settings_name_the_key(settings, message):
    with pytest.raises(StudyError) as caught:
        Study.from_settings(**{"name": "s", "models": ["a:b"], "tasks": ["t"]} | settings)
    assert message in str(caught.value)
