"""Findings from planted results: each verdict, the right size, nothing where nothing is, in whatever order."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from test_study import study
from toys import Toy, colour_task
from vlprobe.comparisons import holm
from vlprobe.errors import DataError, VlprobeError
from vlprobe.findings import KINDS, VERDICTS, best_layer, find, headlines, read_findings, write_findings
from vlprobe.findings.compared import CONTROLS
from vlprobe.results import Results
from vlprobe.types import Predictions, Result

N = 120
TRAINED = 10**15
"""Rows trained on: so many that no other ones would have made other probes."""


class Planted:
    """A results folder that is filled by hand: of N items, the first are right, or those of a given mask."""

    def __init__(self, folder, level="multimodal", n=N):
        self.results, self.level, self.n = Results(folder), level, n

    def put(self, right, model="m", condition="matched", **other):
        right = right if isinstance(right, np.ndarray) else np.arange(self.n) < right * self.n
        names = {"stage": "pretrained", "control": "", "layer": "joint.1", "seed": 0, "task": "colour"} | other
        names = {"probe": "logistic", "metric": "accuracy"} | names
        validation, trained = names.pop("validation", float(right.mean())), names.pop("n_train", TRAINED)
        named = "x".join([model, condition, *map(str, names.values())])
        key = names.pop("key", named.replace(".", "y").replace("-", "z"))
        result = Result(
            level=self.level, model=model, revision="r", condition=condition, unit="input: cls",
            score=float(right.mean()), interval=(0.0, 1.0), validation=validation, l2=1.0,
            n_train=trained, n_test=self.n, key=key, **names,
        )  # fmt: skip
        ids = np.array([f"e{i}" for i in range(self.n)])
        answers = Predictions(ids, np.zeros(self.n, np.int32), ids, np.full(self.n, "a"), np.where(right, "a", "b"))
        self.results.add(result, answers)
        return self

    def model(self, matched, mismatched, model="m", **other):
        """Put a model with its controls: every fourth item is right for the majority."""
        for condition, right in (("matched", matched), ("mismatched", mismatched)):
            self.put(right, model, condition, **other)
            self.put(np.arange(self.n) % 4 == 0, model, condition, control="majority", **other | {"layer": ""})
            self.put(np.arange(self.n) % 4 == 1, model, condition, control="shuffled-labels", **other)
        return self

    def find(self):
        return find(self.results)

    def one(self, kind):
        (finding,) = [finding for finding in self.find() if finding.kind == kind]
        return finding


def last(share, n=N):
    return np.arange(n) >= n - share * n


@pytest.mark.parametrize(
    ("matched", "mismatched", "moves_image", "moves_text"),
    [
        (0.9, 0.25, "from the image", "from the text"),
        (0.9, 0.9, "from the text", "from the image"),
        (0.9, 0.875, "from the text", "from the image"),
        (0.95, 0.6, "from both", "from both"),
        (0.3, 0.3, "not at all", "not at all"),
        (0.3, 0.9, "not at all", "not at all"),
        (0.0, 0.0, "not at all", "not at all"),
    ],
)
@pytest.mark.parametrize("level", ["language", "multimodal", "vision"])
def test_each_verdict_is_found_where_it_was_planted(tmp_path, matched, mismatched, moves_image, moves_text, level):
    finding = Planted(tmp_path, level).model(matched, mismatched).one("verdict")
    assert finding.verdict == (moves_text if level == "vision" else moves_image)
    assert finding.verdict in VERDICTS
    assert finding.scores == pytest.approx({"matched": matched, "mismatched": mismatched, "majority": 0.25})
    assert finding.effect == pytest.approx(matched - mismatched)
    assert finding.significant == (finding.verdict != "not at all")


def test_what_was_not_shown_is_undecided(tmp_path):
    planted = Planted(tmp_path, n=60)
    planted.model(np.arange(60) < 33, last(24 / 60, 60))
    tests = {finding.kind: finding for finding in planted.find()}
    assert tests["majority"].significant and not tests["mismatched"].significant and not tests["rest"].significant
    assert tests["verdict"].verdict == "undecided"
    assert "neither a loss (less than" in tests["verdict"].statement


def test_a_statement_holds_its_numbers(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25)
    lost = planted.one("mismatched")
    assert lost.statement == (
        "colour: m loses with a wrong image: accuracy 0.900 (joint.1) against 0.250 (joint.1), +0.650 "
        f"[{lost.interval[0]:+.3f}, {lost.interval[1]:+.3f}], corrected p < 0.0001."
    )
    assert lost.interval[0] < 0.65 < lost.interval[1]
    assert (lost.n, lost.groups, lost.significant, lost.layers) == (N, N, True, ("joint.1", "joint.1"))
    rest = planted.one("rest")
    assert "with a wrong image, m is not shown to differ from the majority class" in rest.statement
    assert f"less than {rest.smallest:.3f} may go unseen" in rest.statement
    assert (rest.corrected, rest.significant) == (1, False)
    verdict = planted.one("verdict").statement
    assert "m takes it from the image: accuracy 0.900, with a wrong image 0.250, the majority class 0.250" in verdict
    assert "a wrong image costs 0.650 [" in verdict
    assert f"no rest is shown (less than {rest.smallest:.3f} may go unseen)" in verdict


@pytest.mark.parametrize("level", ["multimodal", "vision"])
def test_a_model_that_does_not_see_what_is_moved(tmp_path, level):
    planted = Planted(tmp_path, level)
    for key, control, layer, right in (("p", "", "joint.1", 0.9), ("c", "majority", "", 0.25)):
        for condition in ("matched", "mismatched"):
            planted.put(right, condition=condition, key=key, control=control, layer=layer)
    moved, kept = ("text", "image") if level == "vision" else ("image", "text")
    findings = {finding.kind: finding for finding in planted.find()}
    assert set(findings) == {"unseen", "majority", "verdict"}
    assert (
        findings["unseen"].statement
        == f"colour: m does not see the {moved}: matched and mismatched are one input to it."
    )
    assert math.isnan(findings["unseen"].p)
    assert findings["verdict"].verdict == f"from the {kept}"
    assert findings["verdict"].statement.endswith(f"it does not see the {moved}.")
    planted.results.write("x.json", {})
    write_findings(planted.results, planted.find(), complete=True)
    assert json.loads((tmp_path / "findings.json").read_text())["tests"] == 1


def test_tests_are_corrected_together_those_of_controls_as_a_family_of_their_own(tmp_path):
    planted = Planted(tmp_path)
    for i, task in enumerate(["a", "b", "c"]):
        planted.model(0.35 + 0.05 * i, 0.3, task=task).model(last(0.3), 0.25, "other", task=task)
    tests = [finding for finding in planted.find() if not math.isnan(finding.p) and not finding.verdict]
    families = [[finding for finding in tests if (finding.kind in CONTROLS) == controls] for controls in (False, True)]
    assert [len(family) for family in families] == [3 * 2 * 3, 3 * 2]
    for family in families:
        assert [finding.corrected for finding in family] == pytest.approx(holm([finding.p for finding in family]))
    assert any(finding.p <= 0.05 < finding.corrected for finding in tests)
    assert all(finding.significant == (finding.corrected <= 0.05) for finding in tests)


def test_what_other_train_rows_would_have_made_counts_between_trained_probes_only(tmp_path):
    """As many rows tested as trained on: half as much variance again, but not beside the majority class."""
    many, few = (Planted(tmp_path / f"{n}").model(0.5, last(0.55), n_train=n) for n in (TRAINED, N))
    many, few = ({finding.kind: finding for finding in planted.find()} for planted in (many, few))
    for kind in ("majority", "rest"):
        assert few[kind].p == many[kind].p and few[kind].interval == many[kind].interval
    for kind in ("mismatched", "shuffled-labels"):
        z = [norm.isf(found[kind].p / 2) for found in (many, few)]
        assert z[0] / z[1] == pytest.approx(np.sqrt(1.5), rel=1e-6) and z[0] > 0.3
        assert np.diff(few[kind].interval) > 1.15 * np.diff(many[kind].interval)
        assert few[kind].smallest > 1.15 * many[kind].smallest


def test_more_controls_leave_the_verdicts_as_they_are(tmp_path):
    before = Planted(tmp_path / "a").model(0.6, 0.45)
    after = Planted(tmp_path / "b").model(0.6, 0.45)
    for control in ("bag-of-words", "n-grams", "pixels"):
        after.put(0.3, control=control, layer="")
    for control, layer in (("control-task", "joint.1"), ("layer-0", "joint.0"), ("random-init", "joint.2")):
        after.put(0.3, control=control, layer=layer)
    verdicts, controls = (
        [{f.kind: f for f in planted.find() if f.kind not in CONTROLS} for planted in (before, after)],
        [f.kind for f in after.find() if f.kind in CONTROLS],
    )
    assert verdicts[0] == verdicts[1]
    assert sorted(controls) == ["control-task", "layer-0", "pixels", "random-init", "shuffled-labels", "words"]


def test_the_same_whatever_the_order_of_the_file(tmp_path):
    planted = Planted(tmp_path)
    for i, task in enumerate(["b", "a"]):
        for seed in (0, 1):
            planted.model(0.9 - 0.2 * i, 0.5, task=task, seed=seed)
            planted.model(0.9 - 0.2 * i, 0.5, task=task, seed=seed, layer="joint.10", validation=0.95)
            planted.model(0.9 - 0.2 * i, 0.3, task=task, seed=seed, layer="joint.2", validation=0.95)
    findings = planted.find()
    assert findings == planted.find()
    lines = planted.results.file.read_text().splitlines(keepends=True)
    for draw in range(3):
        random.Random(draw).shuffle(lines)
        planted.results.file.write_text("".join(lines))
        assert find(Results(tmp_path)) == findings
    assert next(f for f in findings if f.kind == "mismatched").layers == ("joint.2", "joint.2")


def test_the_layer_is_chosen_on_validation_first_of_equals_and_with_all_seeds(tmp_path):
    planted = Planted(tmp_path)
    planted.put(0.2, layer="joint.10", validation=0.8).put(0.9, layer="joint.1", validation=0.5)
    planted.put(0.3, layer="joint.2", validation=0.8).put(0.3, layer="joint.pooler", validation=0.8)
    assert best_layer(planted.results.all()) == "joint.2"
    planted.put(0.3, layer="joint.10", validation=0.7, seed=1)  # of a run that was stopped
    assert best_layer(planted.results.all()) == "joint.10"
    nothing = [replace(result, validation=math.nan) for result in planted.results.all()]
    assert best_layer(nothing) == "joint.10"
    pairs = zip(planted.results.all(), nothing, strict=True)
    mixed = [result if result.layer == "joint.10" else bare for result, bare in pairs]
    assert best_layer([replace(result, seed=0) for result in mixed]) == "joint.10"


def test_sides_without_a_seed_in_common_are_not_compared(tmp_path):
    planted = Planted(tmp_path).put(0.9, seed=0).put(0.5, condition="mismatched", seed=1)
    assert planted.find() == []


def test_seeds_are_pooled_on_the_items_that_both_sides_have(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.5).put(0.7, seed=1)
    lost = planted.one("mismatched")
    assert (lost.n, lost.groups) == (N, N)  # seed 1 has no mismatched result yet
    assert "on the 120 of 240 items that both answered" in lost.statement
    planted.put(0.5, condition="mismatched", seed=1)
    assert (planted.one("mismatched").n, planted.one("mismatched").groups) == (2 * N, N)
    assert planted.one("mismatched").effect == pytest.approx(0.3)


def described(*models):
    layers = {"joint.0": 4, "joint.1": 4}
    return {"models": [{"name": name, "family": family, "layers": layers} for name, family in models]}


def test_stages_of_one_architecture_are_compared_and_no_others(tmp_path):
    planted = Planted(tmp_path)
    planted.put(0.9, "vqa-model", stage="vqa").put(0.5, "vilt").put(0.3, "noise", stage="random").put(0.2, "lxmert")
    assert planted.find() == []  # nothing says who is kin
    planted.results.describe(
        described(("vqa-model", "ViLT"), ("vilt", "ViLT"), ("noise", "ViLT"), ("lxmert", "LXMERT"))
    )
    found = {(finding.kind, finding.model, *finding.scores): finding for finding in planted.find()}
    assert set(found) == {
        ("stage", "vqa-model", "vqa-model (vqa)", "vilt (pretrained)"),
        ("random", "vqa-model", "vqa-model (vqa)", "noise (random)"),
        ("random", "vilt", "vilt (pretrained)", "noise (random)"),
    }
    stage = found["stage", "vqa-model", "vqa-model (vqa)", "vilt (pretrained)"]
    assert stage.statement.startswith("colour: vqa-model knows more than vilt: accuracy 0.900 (joint.1) against 0.500")
    assert stage.effect == pytest.approx(0.4)
    assert (
        "vilt knows more than noise (random)"
        in found["random", "vilt", "vilt (pretrained)", "noise (random)"].statement
    )


def tuned(folder, pretrained, fine_tuned, level="multimodal"):
    """Plant a model at two stages: (matched, mismatched) of each."""
    planted = Planted(folder, level)
    for model, stage, both in (("vilt", "pretrained", pretrained), ("vilt-vqa", "vqa", fine_tuned)):
        for condition, right in zip(("matched", "mismatched"), both, strict=True):
            planted.put(right, model, condition, stage=stage)
    planted.results.describe(described(("vilt", "ViLT"), ("vilt-vqa", "ViLT")))
    return planted


@pytest.mark.parametrize("level", ["multimodal", "vision"])
def test_what_fine_tuning_changed_is_found(tmp_path, level):
    """Both know as much with the right image; the tuned one loses half of it with a wrong one, the other a tenth."""
    changed = tuned(tmp_path, (0.9, 0.8), (0.9, 0.4), level).one("stage-loss")
    assert changed.effect == pytest.approx(0.4)
    assert changed.scores == pytest.approx({"vilt-vqa (vqa)": 0.5, "vilt (pretrained)": 0.1})
    assert changed.significant and changed.interval[0] < 0.4 < changed.interval[1]
    assert changed.p == pytest.approx(2 * 0.5**48)  # 48 items change sides, all one way
    assert changed.layers == ("joint.1",) * 4
    moved = "text" if level == "vision" else "image"
    assert changed.statement.startswith(
        f"colour: vilt-vqa needs the {moved} more than vilt: a wrong {moved} costs 0.500 of accuracy "
        "(joint.1, joint.1) against 0.100 (joint.1, joint.1), +0.400 ["
    )
    assert headlines([changed]) == [changed]


def test_no_change_is_found_where_as_much_is_lost(tmp_path):
    """The tuned one knows more, and what it knows more it keeps with a wrong image: nothing is said of reliance."""
    planted = tuned(tmp_path, (0.6, 0.3), (0.9, 0.6))
    assert planted.one("stage").significant
    kept = planted.one("stage-loss")
    assert (kept.significant, kept.effect) == (False, pytest.approx(0))
    assert "vilt-vqa is not shown to need the image more or less than vilt" in kept.statement
    assert f"less than {kept.smallest:.3f} may go unseen" in kept.statement


def test_losses_need_both_sides_of_both_models(tmp_path):
    planted = Planted(tmp_path)
    planted.results.describe(described(("vilt", "ViLT"), ("vilt-vqa", "ViLT"), ("noise", "ViLT")))
    planted.put(0.9, "vilt").put(0.5, "vilt", "mismatched").put(0.9, "vilt-vqa", stage="vqa")
    assert "stage-loss" not in {finding.kind for finding in planted.find()}
    planted.put(0.9, "noise", stage="random").put(0.2, "noise", "mismatched", stage="random")
    assert "stage-loss" not in {finding.kind for finding in planted.find()}  # untrained: `random` says all
    for condition in ("matched", "mismatched"):  # does not see the image
        planted.put(0.9, "blind", condition, stage="vqa", key="same")
    planted.results.describe(described(("vilt", "ViLT"), ("blind", "ViLT")))
    assert "stage-loss" not in {finding.kind for finding in planted.find()}


def test_one_side_alone_is_compared(tmp_path):
    findings = Planted(tmp_path).put(0.9).put(0.3, condition="text-only").put(0.9, condition="image-only").find()
    assert [(finding.kind, finding.significant) for finding in findings] == [("text-only", True), ("image-only", False)]
    assert findings[0].statement.startswith("colour: m loses without any image: accuracy 0.900")
    assert findings[1].statement.startswith("colour: m is not shown to change without any text: accuracy 0.900")
    assert all(finding.kind in KINDS for finding in findings)


def test_results_of_two_runs_are_not_mixed(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(0.5, key="other")
    with pytest.raises(
        DataError, match=r"task colour, m, matched, seed 0: two results for joint\.1 probe.*another limit"
    ):
        planted.find()
    assert find(planted.results, planted.results.all()[:1]) == []


def test_missing_predictions_are_an_error(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.5)
    for path in (tmp_path / "predictions").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="run the study again"):
        find(Results(tmp_path))
    assert planted.results.all()


def test_findings_come_back_from_their_file(tmp_path):
    planted = (
        Planted(tmp_path).model(0.9, 0.25).put(0.5, key="same").put(0.5, condition="mismatched", key="same", task="t")
    )
    planted.put(0.5, task="t", key="same")
    findings = find(
        planted.results, [result for result in planted.results.all() if result.key != "same" or result.task == "t"]
    )
    assert {finding.kind for finding in findings} >= {"verdict", "unseen"}
    write_findings(planted.results, findings, complete=True)
    assert repr(read_findings(tmp_path)) == repr(findings)
    (tmp_path / "findings.json").write_text("{}")
    with pytest.raises(DataError, match=r"findings\.json: cannot be read"):
        read_findings(tmp_path)


def test_headlines_leave_out_what_a_verdict_is_made_of(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25).put(0.9, condition="text-only")
    assert [finding.kind for finding in headlines(planted.find())] == ["verdict", "text-only"]
    planted.put(np.arange(N) % 4 == 0, "alone", control="majority", layer="").put(0.9, "alone")
    assert [finding.kind for finding in headlines(planted.find())] == ["majority", "verdict", "text-only"]


def test_no_better_than_shuffled_labels_is_news(tmp_path):
    planted = Planted(tmp_path)
    planted.put(0.6).put(0.25, control="majority", layer="").put(0.6, control="shuffled-labels")
    assert [finding.kind for finding in headlines(planted.find())] == ["majority", "shuffled-labels"]


def test_a_probe_is_compared_with_the_better_of_the_controls_on_words(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(0.3, control="bag-of-words", layer="", validation=0.6)
    planted.put(0.8, control="n-grams", layer="", validation=0.5)
    found = planted.one("words")
    assert found.scores == pytest.approx({"matched": 0.9, "bag-of-words": 0.3})
    assert found.layers == ("joint.1",)
    assert found.statement.startswith(
        "colour: m knows more than a bag of words tells: accuracy 0.900 (joint.1) against 0.300, +0.600 ["
    )


def test_selectivity_is_tested_by_what_each_probe_got_right(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(0.5, control="control-task")
    (result,) = [each for each in planted.results.all() if each.control == "control-task"]
    answers = planted.results.predictions(result.key)
    other = replace(answers, target=np.full(N, "z"), predicted=np.where(answers.predicted == "a", "z", "y"))
    planted.results.add(result, other)  # the control task has labels of its own
    found = planted.one("control-task")
    assert (found.effect, found.scores) == (pytest.approx(0.4), {"matched": 0.9, "control-task": 0.5})
    assert "the probe of m is selective, and does better than on random labels of types" in found.statement


@pytest.mark.parametrize("labelled", ["", "layer-0"])
def test_layer_0_is_that_of_the_best_layers_stream_asked_for_or_not(tmp_path, labelled):
    planted = Planted(tmp_path).put(0.9, layer="joint.2").put(0.4, layer="joint.0", control=labelled)
    planted.put(0.1, layer="regions.0", control=labelled, validation=0.0)
    found = planted.one("layer-0")
    assert found.layers == ("joint.2", "joint.0")
    assert found.scores == {"matched": 0.9, "layer-0": 0.4}
    assert Planted(tmp_path / "alone").put(0.9, layer="joint.0").find() == []


def test_random_weights_answer_at_their_own_best_layer(tmp_path):
    planted = Planted(tmp_path).put(0.9, layer="joint.2")
    planted.put(0.2, layer="joint.2", control="random-init").put(0.6, layer="joint.1", control="random-init")
    found = planted.one("random-init")
    assert found.layers == ("joint.2", "joint.1")
    assert found.statement.startswith(
        "colour: m knows more than with random weights: accuracy 0.900 (joint.2) against 0.600 (joint.1)"
    )


def test_a_control_is_news_where_a_probe_that_knows_does_not_beat_it(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25)
    for control, right in (("n-grams", 0.3), ("pixels", 0.89)):
        planted.put(right, control=control, layer="")
    assert [finding.kind for finding in headlines(planted.find())] == ["verdict", "pixels"]
    below = Planted(tmp_path / "b").model(0.5, 0.25).put(0.95, control="n-grams", layer="")
    assert [(f.kind, f.significant) for f in headlines(below.find())] == [("words", True), ("verdict", True)]
    unknowing = Planted(tmp_path / "c").model(0.25, 0.25).put(0.3, control="pixels", layer="")
    assert [finding.kind for finding in headlines(unknowing.find())] == ["verdict"]


def test_nothing_is_found_where_nothing_is(tmp_path):
    """Five models that guess, four tests each: in at most one study of twenty may any of them be significant."""
    rng, wrong = np.random.default_rng(0), 0
    for trial in range(40):
        planted = Planted(tmp_path / str(trial), n=40)
        for model in "abcde":
            for condition in ("matched", "mismatched"):
                for control, layer in (("", "joint.1"), ("majority", ""), ("shuffled-labels", "joint.1")):
                    planted.put(rng.random(40) < 0.5, model, condition, control=control, layer=layer)
        wrong += any(finding.significant for finding in planted.find())
    assert wrong <= 5  # of 40 at 5 %: 2 expected, more than 5 in 1 % of cases


def test_a_study_of_toys_is_found_out(tmp_path):
    models = [Toy(), Toy("reader", ("text",)), Toy("viewer", ("image",))]
    conditions = ["matched", "mismatched", "text-only", "image-only"]
    opened = study(tmp_path, models, conditions=conditions, seeds=[0, 1])
    opened.run()
    findings = read_findings(tmp_path)
    assert repr(findings) == repr(find(opened.results()))
    verdicts = {finding.model: finding.verdict for finding in findings if finding.verdict}
    assert verdicts == {"toy": "from the image", "reader": "not at all", "viewer": "from the image"}
    toy = {finding.kind: finding for finding in findings if finding.model == "toy"}
    assert toy["text-only"].significant and toy["text-only"].effect > 0.5
    assert not toy["image-only"].significant  # asked as a question on the whole image: other units, the same items
    assert toy["image-only"].n == toy["mismatched"].n == 160
    assert toy["mismatched"].groups <= 60
    assert [finding.kind for finding in findings if finding.model == "reader"].count("unseen") == 1
    assert json.loads((tmp_path / "findings.json").read_text())["complete"]


class Failing(Toy):
    def encode(self, batch):
        raise self.error


@pytest.mark.parametrize("error", [VlprobeError("out of luck"), KeyboardInterrupt()])
def test_a_run_that_is_stopped_leaves_what_it_found(tmp_path, error):
    failing = Failing("failing")
    failing.error = error
    with pytest.raises(type(error)):
        study(tmp_path, [Toy(), failing], conditions=["matched", "mismatched"]).run()
    content = json.loads((tmp_path / "findings.json").read_text())
    assert not content["complete"]
    assert {finding["model"] for finding in content["findings"]} == {"toy"}
    study(tmp_path, [Toy()], conditions=["matched", "mismatched"]).run()
    assert json.loads((tmp_path / "findings.json").read_text())["complete"]


def test_findings_are_of_this_run_not_of_the_folder(tmp_path):
    study(tmp_path).run()
    study(tmp_path, tasks=[colour_task(count=120)]).run()
    assert len(Results(tmp_path).all()) == 16
    assert {finding.n for finding in read_findings(tmp_path)} == {40}
