"""Tables of a report: every number is the results' own, and a name is shown as it is, whatever it holds."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from markdown_it import MarkdownIt
from test_findings import N, Planted
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.errors import DataError
from vlprobe.findings import write_findings
from vlprobe.report.contents import read_contents
from vlprobe.report.layers import in_order
from vlprobe.report.tables import Table, comma_separated, latex, long_table, main_table, markdown, tex

NASTY = r"""<script>alert("1")</script> \x_{a}^b & 100% #1 $x$ ~ | `c` *d* --e 'f'"""


def described(planted, **study):
    """Write a `study.json` to a planted folder that says what is in it, and return what a report holds."""
    results = planted.results.all()
    names = {
        "models": dict.fromkeys((each.model, each.stage) for each in results),
        "tasks": dict.fromkeys(each.task for each in results),
        "conditions": dict.fromkeys(each.condition for each in results),
    }
    content = {
        "study": {"name": "planted", "seeds": sorted({each.seed for each in results}),
                  "conditions": [*names["conditions"]], "layers": None} | study,
        "command": ["vlprobe", "run", "planted.yaml"],
        "python": "3.11.7", "platform": "here", "packages": {"vlprobe": "0.1.0", "numpy": "2.4"},
        "models": [{"name": name, "family": "Toy", "stage": stage, "revision": "abc123", "layers": {"joint.1": 8},
                    "left_out": []} for name, stage in names["models"]],
        "untrained": [],
        "tasks": [{"name": name, "level": planted.level, "unit": "input", "classes": ["a", "b"],
                   "examples": {"train": N, "test": N}, "options": {}, "source": [], "revision": "", "licence": "",
                   "citation": ""} for name in names["tasks"]],
        "images": {}, "not_done": [], "skipped_rows": [],
    }  # fmt: skip
    planted.results.describe(content)
    return read_contents(planted.results.folder)


@pytest.fixture
def planted(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25, "looker").model(0.9, 0.9, "reader", stage="vqa")
    for control, right in (("bag-of-words", 0.3), ("pixels", 0.88)):
        planted.put(right, "looker", control=control, layer="")
    planted.put(0.8, "looker", layer="joint.0", validation=0.1).put(0.5, "looker", layer="joint.10", validation=0.2)
    return planted.put(0.7, "looker", layer="joint.norm", validation=0.2)


def test_the_main_table_has_the_scores_the_layers_and_the_controls(planted):
    table = main_table(described(planted))
    assert table.columns == ["model", "stage", "condition", "colour (accuracy)"]
    assert table.rows == [
        ["looker", "pretrained", "matched", "0.900*† (joint.1)"],
        ["looker", "pretrained", "mismatched", "0.250 (joint.1)"],
        ["reader", "vqa", "matched", "0.900 (joint.1)"],
        ["reader", "vqa", "mismatched", "0.900 (joint.1)"],
        ["majority", "", "matched", "0.250"],
        ["bag-of-words", "", "matched", "0.300"],
        ["pixels", "", "matched", "0.883"],
    ]
    assert table.bold == {(0, 3), (2, 3), (3, 3)} and table.breaks == {2, 4}


def test_the_long_table_has_every_result(planted):
    contents = described(planted)
    rows = list(csv.DictReader(io.StringIO(comma_separated(long_table(contents)))))
    results = planted.results.all()
    told = {(row["model"], row["condition"], row["control"], row["layer"]): float(row["score"]) for row in rows}
    assert len(told) == len(rows)
    for each in results:
        assert told[(each.model if each.layer else "", each.condition, each.control, each.layer)] == each.score
    chosen = {row["layer"]: row["chosen"] for row in rows if row["model"] == "looker" and row["condition"] == "matched"
              and not row["control"]}  # fmt: skip
    assert chosen == {"joint.0": "", "joint.1": "best", "joint.10": "last", "joint.norm": ""}


def test_layers_stand_in_their_order():
    shuffled = ["joint.10", "vision.2", "joint.norm", "own.1", "joint.2", "language.0"]
    assert in_order(shuffled) == ["language.0", "vision.2", "joint.2", "joint.10", "joint.norm", "own.1"]


def test_findings_older_than_the_results_are_made_anew(planted):
    write_findings(planted.results, planted.find(), complete=True)
    first = described(planted)
    planted.model(0.5, 0.25, "later")
    path = planted.results.folder / "findings.json"
    assert {each["model"] for each in json.loads(path.read_text())["findings"]} == {"looker", "reader"}
    second = described(planted)
    assert {each["model"] for each in first["all_findings"]} == {"looker", "reader"}
    assert {each["model"] for each in second["all_findings"]} == {"looker", "reader", "later"}


def test_what_is_not_there_yet_is_named(planted):
    planted.put(0.5, "third")
    assert described(planted)["lacking"] == ["colour, third (pretrained), mismatched"]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no study.json"):
        read_contents(tmp_path)
    planted = Planted(tmp_path)
    planted.put(0.5, control="majority", layer="")
    with pytest.raises(DataError, match="no result of a probe yet"):
        described(planted)


def test_results_of_two_runs_are_refused(planted):
    planted.put(0.5, "looker", key="another-limit")
    with pytest.raises(DataError, match="two runs"):
        described(planted)


def test_results_of_an_earlier_study_file_are_left_out(planted):
    described(planted)
    content = planted.results.description()
    content["models"] = content["models"][:1]
    planted.results.describe(content)
    assert read_contents(planted.results.folder)["models"] == ["looker (pretrained)"]


NASTY_TABLE = Table(NASTY, ["model", "score"], [[NASTY, "-0.5"], ["b", "-"]], frozenset({(0, 0)}), left=1)


def test_markdown_shows_a_name_as_it_is():
    html = MarkdownIt("commonmark").enable("table").render(markdown(NASTY_TABLE))
    assert "<script" not in html and html.count("<tr>") == 3 and html.count("<td") == 4
    (cell,) = re.findall(r"<strong>(.*?)</strong>", html)
    shown = re.sub("<[^>]*>", "", cell)
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, sign)
    assert shown == NASTY


def test_latex_is_balanced_and_escaped():
    text = latex(NASTY_TABLE)
    body = text.partition("\\toprule")[2]
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert r"$-$0.5 \\" in body and r"-{}-e" in body and r"\_\{a\}" in body
    assert [line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")] == [1, 1, 1]
    assert tex("R²") == "R$^2$" and tex("0.900*†") == r"0.900$^{*}$$^{\dagger}$"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(planted, tmp_path):
    (tmp_path / "nasty.tex").write_text(latex(NASTY_TABLE))
    (tmp_path / "main.tex").write_text(latex(main_table(described(planted))))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,textcomp}\begin{document}\input{main}\input{nasty}\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]


def test_the_command_writes_the_tables(planted):
    described(planted)
    folder = planted.results.folder
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    names = {str(path.relative_to(folder / "report")) for path in (folder / "report").rglob("*.*")}
    assert {f"tables/{name}" for name in ("main.md", "main.tex", "main.csv", "scores.csv")} <= names
    (first, *_) = csv.DictReader(io.StringIO((folder / "report/tables/scores.csv").read_text(encoding="utf-8")))
    assert float(first["score"]) == 0.25
