"""Two runs are compared item by item where the items are the same, and what is not the same is named."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from scipy.stats import binomtest
from test_findings import N, Planted
from test_report_tables import NASTY, described
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.comparisons import holm
from vlprobe.findings.folder import open_folder
from vlprobe.findings.two_runs import NO_ANSWER, SAME_INPUT, compare_runs
from vlprobe.report.two_runs import COLUMNS
from vlprobe.types import Predictions


class Run(Planted):
    """A planted run; `put` as there, `answers` for items of other names, targets and groups."""

    def answers(self, right, ids=None, target="a", model="m", condition="matched", seed=0, group=None):
        ids = np.array([f"e{i}" for i in range(len(right))] if ids is None else ids)
        self.put(np.asarray(right), model, condition, seed=seed)
        (key,) = [r.key for r in self.results.all() if (r.model, r.condition, r.seed) == (model, condition, seed)]
        target = np.full(len(ids), target) if isinstance(target, str) else np.asarray(target)
        predicted = np.where(right, target, "other") if target.dtype.kind == "U" else target + ~np.asarray(right)
        group = ids if group is None else np.asarray(group)
        self.results.files.write(key, Predictions(ids, np.zeros(len(ids), np.int32), group, target, predicted))
        return self


def compared(a, b, **study):
    for run in (a, b):
        described(run, **study)
    return compare_runs(open_folder(a.results.folder), open_folder(b.results.folder))


def one(found, **named):
    (change,) = [each for each in found.changes if all(getattr(each, name) == value for name, value in named.items())]
    return change


def mask(*places, n=N):
    return np.isin(np.arange(n), np.concatenate([np.asarray(each) for each in places]))


def test_a_change_is_found_item_by_item(tmp_path):
    """Scipy's exact sign test is the referee of p, Holm over all that is tested."""
    before, after = mask(range(60), range(100, 104)), mask(range(90))
    a = Planted(tmp_path / "a").put(before).put(0.5, "still").put(mask(range(0, N, 2)), "other")
    b = Planted(tmp_path / "b").put(after).put(0.5, "still").put(mask(range(1, N, 2)), "other")
    found = compared(a, b)
    change, other, still = (one(found, model=name) for name in ("m", "other", "still"))
    assert change.scores == (64 / N, 90 / N) and change.difference == pytest.approx(26 / N)
    assert (change.compared, change.groups, change.differing, change.n) == (N, N, 34, (N, N))
    assert change.p == pytest.approx(binomtest(30, 34).pvalue) and other.p == pytest.approx(1)
    assert found.tests == 2 and [change.corrected, other.corrected] == holm([change.p, other.p])
    assert change.significant and change.interval[0] > 0 and not other.significant and other.difference == 0
    assert (still.untested, still.difference, still.differing) == (NO_ANSWER, 0, 0) and np.isnan(still.p)


def test_the_other_way_round_is_the_negative(tmp_path):
    a = Planted(tmp_path / "a").model(0.9, 0.5)
    b = Planted(tmp_path / "b").model(mask(range(7, 70)), mask(range(3, 40)))
    there, back = compared(a, b), compared(b, a)
    for kind, condition in (("score", "matched"), ("score", "mismatched"), ("loss", "mismatched")):
        first, second = (one(each, kind=kind, condition=condition) for each in (there, back))
        assert first.difference == pytest.approx(-second.difference) and first.p == pytest.approx(second.p)
        assert first.interval == pytest.approx((-second.interval[1], -second.interval[0]))


def test_chance_is_not_taken_for_a_change(tmp_path):
    """Of 24 pairs of runs of equal probes, three tests each, hardly more than one in twenty shows any change."""
    draws, shown = np.random.default_rng(0), 0
    for number in range(24):
        a, b = (Planted(tmp_path / f"{name}{number}", n=40) for name in "ab")
        for run in (a, b):
            for model in "xyz":
                run.put(draws.random(40) < 0.7, model)
        shown += any(change.significant for change in compared(a, b).changes)
    assert shown <= 4  # at 5 %, more come by chance once in 180 times


def test_what_a_wrong_image_costs_is_compared(tmp_path):
    a = Planted(tmp_path / "a").model(0.9, 0.9).model(0.9, 0.2, "blind")
    b = Planted(tmp_path / "b").model(0.9, 0.3).model(0.9, 0.2, "blind")
    found = compared(a, b)
    loss = one(found, kind="loss", model="m")
    assert loss.scores == pytest.approx((0, 0.6)) and loss.difference == pytest.approx(0.6) and loss.significant
    assert one(found, kind="loss", model="blind").untested == NO_ANSWER
    assert one(found, condition="matched", model="m").verdicts == ("from the text", "from the image")
    assert one(found, kind="score", condition="mismatched", model="m").verdicts == ("", "")


def test_what_a_model_does_not_see_is_no_test_of_its_own(tmp_path):
    a, b = Planted(tmp_path / "a"), Planted(tmp_path / "b")
    for run, right in ((a, 0.5), (b, 0.8)):
        for condition in ("matched", "mismatched"):
            run.put(right, condition=condition, key=f"one{right}".replace(".", ""))
    found = compared(a, b)
    assert found.tests == 1 and len(found.changes) == 2
    assert one(found, condition="mismatched").untested == SAME_INPUT


def test_items_that_only_one_run_has_are_not_compared(tmp_path):
    a = Run(tmp_path / "a").answers(mask(range(100)))
    b = Run(tmp_path / "b", n=80).answers(mask(range(20, 60), n=80), ids=[f"e{i}" for i in range(40, 120)])
    change = one(compared(a, b))
    assert (change.compared, change.n) == (80, (N, 80)) and change.scores == (60 / 80, 40 / 80)


@pytest.mark.parametrize("field", ["target", "group"])
def test_items_that_are_not_the_same_are_not_paired(tmp_path, field):
    a = Run(tmp_path / "a").answers(mask(range(60)))
    other = np.array(["a" if field == "target" else f"e{i}" for i in range(N)], dtype="<U9")
    other[[7, 30]] = "changed"
    change = one(compared(a, Run(tmp_path / "b").answers(mask(range(90)), **{field: other})))
    was = "a" if field == "target" else "e30"
    assert change.untested == (
        f"not the same data: 2 of {N} items have another {field}, e30 is one ('{was}' in A, 'changed' in B)"
    )
    assert change.compared == 0 and np.isnan([change.difference, change.p, *change.interval]).all()
    assert change.scores == (0.5, 0.75) and change.intervals == ((0.0, 1.0), (0.0, 1.0))


def test_numbers_are_not_paired_with_classes(tmp_path):
    a = Run(tmp_path / "a").answers(mask(range(60)))
    b = Run(tmp_path / "b").answers(mask(range(60)), target=np.arange(N, dtype=float))
    assert f"{N} of {N} items have another target" in one(compared(a, b)).untested


def test_other_items_are_not_paired(tmp_path):
    a = Run(tmp_path / "a").answers(mask(range(60)))
    b = Run(tmp_path / "b").answers(mask(range(60)), ids=[f"f{i}" for i in range(N)])
    assert one(compared(a, b)).untested == "no item is in both"


def test_the_seeds_that_both_have_are_compared(tmp_path):
    a, b = Run(tmp_path / "a"), Run(tmp_path / "b")
    for seed in (0, 1, 2):
        a.answers(mask(range(60)), seed=seed)
    for seed in (1, 2, 5):
        b.answers(mask(range(90)), seed=seed)
    change = one(compared(a, b))
    assert (change.seeds, change.compared, change.groups, change.n) == ((1, 2), 2 * N, N, (3 * N, 3 * N))
    assert {each.what: (each.a, each.b) for each in compared(a, b).apart}["setting seeds"] == ("0, 1, 2", "1, 2, 5")


def test_one_seed_each_is_compared_whatever_the_seed(tmp_path):
    a, b = Run(tmp_path / "a").answers(mask(range(60))), Run(tmp_path / "b").answers(mask(range(90)), seed=3)
    change = one(compared(a, b))
    assert (change.compared, change.difference) == (N, 0.25)
    a.answers(mask(range(60)), seed=1)
    assert one(compared(a, b)).untested == "no seed in common: 0, 1 in A, 3 in B"


def test_what_only_one_run_has_is_named(tmp_path):
    a = Planted(tmp_path / "a").put(0.5).put(0.5, "gone").put(0.5, condition="text-only").put(0.5, task="shape")
    b = Planted(tmp_path / "b").put(0.5).put(0.5, "new").put(0.5, "new", task="shape")
    found = compared(a, b)
    assert [(each.run, each.task, each.model, each.condition, each.why) for each in found.alone] == [
        ("A", "colour", "gone", "matched", "no model gone"),
        ("A", "colour", "m", "text-only", "no condition text-only"),
        ("A", "shape", "m", "matched", "no result yet: the run is not finished"),
        ("B", "colour", "new", "matched", "no model new"),
        ("B", "shape", "new", "matched", "no model new"),
    ]


def test_what_runs_were_made_of_is_told_apart(tmp_path):
    a, b = Planted(tmp_path / "a").put(0.5), Planted(tmp_path / "b").put(0.5, stage="vqa")
    described(a), described(b, layers=["joint.1"], pooling={"word": "mean"}, output="/elsewhere", store="x")
    content = b.results.description()
    content["packages"]["numpy"] = "3.0"
    content["models"][0]["revision"] = "def456"
    content["tasks"][0]["source"] = [{"path": "/b.csv", "sha256": "f" * 64}]
    content["images"] = {"/x.jpg": "1", "/y.jpg": "2"}
    content["skipped_rows"] = ["b.csv, row 3: damaged"]
    b.results.describe(content)
    found = compare_runs(open_folder(a.results.folder), open_folder(b.results.folder))
    assert {(each.what, each.a, each.b) for each in found.apart} == {
        ("numpy", "2.4", "3.0"),
        ("setting layers", "none", "joint.1"),
        ("setting pooling.word", "", "mean"),
        ("model m: stage", "pretrained", "vqa"),
        ("model m: revision", "abc123", "def456"),
        ("task colour: sources, by sha256", "none", "f" * 12),
        ("image files, by sha256", "0 that the other lacks", "2 that the other lacks"),
        ("rows left out", "", "b.csv, row 3: damaged"),
    }
    assert one(found).stages == ("pretrained", "vqa")


@pytest.fixture
def folders(tmp_path):
    """Two runs whose names no terminal should take for markup: `[bold]`, a control character, Markdown's signs."""
    a, b = Planted(tmp_path / "a"), Planted(tmp_path / "b")
    for run, share in ((a, 0.5), (b, 0.9)):
        run.put(share).put(0.5, "[bold]\x1b[31m*red*|", task="[blue]").put(
            share, "lone", task=f"{run.results.folder.name}\x1b[31m"
        )
        described(run)
    return [str(run.results.folder) for run in (a, b)]


def said(folders, *options):
    done = CliRunner().invoke(app, ["compare", *folders, *options], env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done


def test_the_command_prints_a_table(folders):
    text = said(folders).stdout
    assert (
        "+0.400 *" in text
        and "< 0.0001" in text
        and r"only in A: task a\x1b[31m (B: no task a\x1b[31m)" in text
        and "\x1b" not in text
    )
    assert "1 test, 1 shown to differ; not in the tables: 1 of which no answer differs." in " ".join(text.split())


def test_the_command_writes_for_programs(folders):
    content = json.loads(said(folders, "--format", "json").stdout, parse_constant=lambda sign: pytest.fail(sign))
    assert content["tests"] == 1 and len(content["changes"]) == 2 and len(content["alone"]) == 2
    assert [each["p"] is None for each in content["changes"]] == [False, True]
    done = said(folders, "--format", "csv")
    (first, second) = csv.DictReader(io.StringIO(done.stdout))
    assert list(first) == list(COLUMNS) and "only in A: task a" in done.stderr and "\x1b" not in done.stderr
    assert (first["difference"], first["significant"], second["p"], second["untested"]) == (
        "0.4", "true", "", NO_ANSWER,
    )  # fmt: skip
    for name, value in first.items():
        kept = content["changes"][0].get(name)
        assert kept is None or value in (str(kept), str(kept).lower())


def test_the_command_writes_markdown(folders):
    html = MarkdownIt("commonmark").enable("table").render(said(folders, "--format", "markdown").stdout)
    assert html.count("<table>") == 2 and "[bold]" in html and "*red*|" in html and "<em>" not in html
    assert "only in A" in html and "+0.400 *" in html


def test_a_name_is_shown_as_it_is(tmp_path):
    a, b = (Planted(tmp_path / name).put(share, NASTY, key="k") for name, share in (("a", 0.5), ("b", 0.9)))
    described(a), described(b)
    assert "+0.400 *" in said([str(run.results.folder) for run in (a, b)]).stdout


def test_runs_without_anything_in_common_are_refused(tmp_path):
    a, b = Planted(tmp_path / "a").put(0.5), Planted(tmp_path / "b").put(0.5, "other")
    described(a), described(b)
    done = CliRunner().invoke(app, ["compare", str(a.results.folder), str(b.results.folder)])
    assert "name both in one study" in str(done.exception)


def test_a_change_that_is_not_there_is_not_made_by_the_number_of_tests(tmp_path):
    """A p of 0.016 beside three others is none."""
    right = [mask(range(60)), mask(range(60), range(60, 67))]
    a, b = Planted(tmp_path / "a"), Planted(tmp_path / "b")
    for k in range(4):
        a.put(right[0], f"m{k}"), b.put(right[1], f"m{k}")
    found = compared(a, b)
    assert [change.p for change in found.changes] == pytest.approx([2 / 2**7] * 4)
    assert not any(change.significant for change in found.changes)
    assert one(compared(replace_only(a, tmp_path / "c"), replace_only(b, tmp_path / "d"))).significant


def replace_only(run, folder):
    """Plant one model of a run again by itself."""
    planted = Planted(folder)
    result = run.results.all()[0]
    planted.results.add(replace(result), run.results.predictions(result.key))
    return planted
