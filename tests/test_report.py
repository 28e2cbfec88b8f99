"""What a run prints: the tables say in words where a model takes it from, and nothing is cut off."""

import io

import numpy as np
import pytest
from rich.console import Console
from test_findings import N, Planted

from vlprobe.findings import find
from vlprobe.report.summary import summarise
from vlprobe.report.terminal import LINES, print_findings, print_tables


def printed(planted, width=100, findings=None):
    findings = planted.find() if findings is None else findings
    console = Console(file=io.StringIO(), width=width)
    print_tables(summarise(planted.results.all(), findings), console)
    print_findings(findings, planted.results.folder, console)
    return console.file.getvalue()


def test_a_table_says_where_a_model_takes_it_from(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25, "looker").model(0.9, 0.9, "reader").model(0.3, 0.3, "noise")
    rows = [line for line in printed(planted).splitlines() if "│" in line]
    assert [
        line.split("│")[2].strip() for line in rows if line.split("│")[1].strip() in ("looker", "reader", "noise")
    ] == [
        "from the image",
        "from the text",
        "not at all",
    ]
    (starred,) = [line for line in rows if " *" in line]
    assert (starred.split("│")[1].strip(), starred.count(" *"), "0.900 *" in starred) == ("looker", 1, True)


def test_what_a_model_does_not_see_stands_in_the_table(tmp_path):
    planted = Planted(tmp_path, "vision")
    for key, control, layer, right in (("p", "", "joint.1", 0.9), ("c", "majority", "", 0.25)):
        for condition in ("matched", "mismatched"):
            planted.put(right, condition=condition, key=key, control=control, layer=layer)
    assert "sees no text" in printed(planted)


def test_one_of_a_kind_is_not_many_and_cells_are_explained_without_findings(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(np.arange(N) % 4 == 0, control="majority", layer="")
    said = " ".join(printed(planted).split())
    assert "Findings of 1 test, and 0 of controls" in said and said.count("In a cell: score") == 1
    alone = " ".join(printed(planted, findings=[]).split())
    assert "In a cell: score" in alone and "Findings" not in alone and "takes it" not in alone


def test_controls_stand_in_the_table(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25).put(0.9, layer="joint.0", validation=0.1)
    for control, right in (("bag-of-words", 0.3), ("n-grams", 0.4), ("pixels", 0.88)):
        planted.put(right, control=control, layer="").put(0.2, condition="mismatched", control=control, layer="")
    planted.put(0.6, control="control-task").put(0.5, control="random-init")
    summary = summarise(planted.results.all(), planted.find())["colour"]
    assert summary["surface"]["matched"] == pytest.approx(
        {"majority": 0.25, "bag-of-words": 0.3, "n-grams": 0.4, "pixels": 0.883}, abs=1e-3
    )
    cell = summary["rows"]["m (pretrained)"]["matched"]
    assert cell["controls"] == pytest.approx(
        {"layer-0": 0.9, "shuffled-labels": 0.25, "control-task": 0.6, "random-init": 0.5}
    )
    assert cell["selectivity"] == cell["layers"]["joint.1"]["selectivity"] == pytest.approx(0.3)
    assert summary["verdicts"]["m (pretrained)"]["unbeaten"] == ["pixels", "layer-0"]
    first, second = ([part.strip() for part in printed(planted).split("├")[k].split("│")] for k in (0, 1))
    assert [part for part in first if part][-9:] == [
        "no model", "majority 0.250", "majority 0.250", "words 0.300", "words 0.200", "n-grams 0.400",
        "n-grams 0.200", "pixels 0.883", "pixels 0.200",
    ]  # fmt: skip
    for line in ("not above", "pixels", "layer 0", "layer 0 0.900", "selects +0.300", "untrained 0.500"):
        assert line in second
    assert "majority 0.250" not in second


def test_without_verdicts_there_is_no_column_for_them(tmp_path):
    planted = Planted(tmp_path).put(0.9).put(0.25, control="majority", layer="")
    assert "takes it" not in printed(planted)
    assert "takes it" not in printed(planted, findings=[])
    assert "Findings" not in printed(planted, findings=[])
    assert "colour: m knows more than the majority class" in printed(planted)


def test_a_summary_holds_the_verdicts(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25)
    summary = summarise(planted.results.all(), planted.find())["colour"]
    assert summary["verdicts"] == {
        "m (pretrained)": {"verdict": "from the image", "unseen": False, "differs": True, "unbeaten": []}
    }
    assert summary["rows"]["m (pretrained)"]["matched"]["score"] == 0.9
    assert summarise(planted.results.all())["colour"]["verdicts"] == {}


@pytest.mark.parametrize("width", [80, 100])
def test_five_conditions_are_not_cut(tmp_path, width):
    planted = Planted(tmp_path).model(0.9, 0.25, "a-model-with-a-long-name", stage="finetuned")
    for condition in ("text-only", "image-only", "matched>mismatched"):
        planted.put(0.5, "a-model-with-a-long-name", condition, stage="finetuned")
    out = printed(planted, width)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width or "findings.json" in max(out.splitlines(), key=len)


def test_fifteen_findings_are_printed_and_the_rest_counted(tmp_path):
    planted = Planted(tmp_path)
    for number in range(LINES + 3):
        planted.model(0.9 - number / 40, np.arange(N) % 4 == 2, f"m{number:02d}")
    out = printed(planted)
    assert out.count(" takes it from the image") == LINES
    assert f"of {3 * (LINES + 3)} tests, and {LINES + 3} of controls, p corrected" in out
    assert f"and {5 * (LINES + 3) - LINES} more, the single tests among them, in" in " ".join(out.split())
    assert out.index("colour: m00") < out.index("colour: m01") < out.index(f"colour: m{LINES - 1}")


def test_brackets_in_a_name_are_printed(tmp_path):
    planted = Planted(tmp_path).model(0.9, 0.25, "m[bold]x")
    table, findings = printed(planted).split("Findings")
    assert "m[bold]x" in table and "m[bold]x" in findings
    assert find(planted.results)
