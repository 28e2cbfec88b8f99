"""Published scores stand beside the study's own; what could be taken for another number is refused."""

import csv
import io
import math
import re

import pytest
from test_findings import Planted
from test_report_tables import NASTY, described
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.errors import VlprobeError
from vlprobe.report.page import page
from vlprobe.report.published import read_published
from vlprobe.report.tables import comma_separated, latex, main_table, markdown


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    planted = Planted(tmp_path_factory.mktemp("results")).model(0.9, 0.25, "looker").model(0.9, 0.9, "reader")
    planted.put(0.8, "looker", task="count", metric="r2").put(0.5, task="shape", model="reader")
    return described(planted)


def read(contents, tmp_path, *lines, header="task,model,score,source"):
    path = tmp_path / "published.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read_published(path, contents)


@pytest.mark.parametrize(
    ("written", "score"),
    [("0.875", 0.875), ("87.5%", 0.875), ("87.5 %", 0.875), ("1", 1), ("0", 0), ("0%", 0), ("100%", 1), (".5", 0.5),
     ("8.75e-1", 0.875), ("5%", 0.05)],
)  # fmt: skip
def test_scores_are_read_as_fractions(contents, tmp_path, written, score):
    (row,) = read(contents, tmp_path, f"colour,looker,{written},Paper")
    assert row["score"] == pytest.approx(score) and row["difference"] == pytest.approx(0.9 - score)
    assert (row["model"], row["condition"]) == ("looker (pretrained)", "matched")


@pytest.mark.parametrize(("written", "scale", "score"), [("87.5", "percent", 0.875), ("0.9", "fraction", 0.9)])
def test_a_scale_says_what_a_score_is(contents, tmp_path, written, scale, score):
    (row,) = read(contents, tmp_path, f"colour,looker,{written},Paper,{scale}", header="task,model,score,source,scale")
    assert row["score"] == pytest.approx(score)


def test_numbers_may_be_negative(contents, tmp_path):
    rows = read(contents, tmp_path, "count,looker,-0.25,Paper", "count,looker,\u221225%,Other")
    assert [row["score"] for row in rows] == [-0.25, -0.25]


H = "task,model,score,source,condition,stage,metric,scale"


@pytest.mark.parametrize(
    ("lines", "header", "told"),
    [
        (["colour,looker,87.5,P"], None, r"row 2: its score is 87.5, .* write 87.5%, or the scale percent"),
        (["colour,looker,0.9,P,,,,percent"], H, r"row 2: its score of 0.9 percent is 0.009 as a fraction"),
        (["colour,looker,0.9%,P"], None, r"0.009 as a fraction"),
        (["colour,looker,87.5%,P,,,,fraction"], H, "scale fraction; one of them is wrong"),
        (["colour,looker,120%,P"], None, "'120%' is no accuracy"),
        (["colour,looker,-0.2,P"], None, "'-0.2' is no accuracy"),
        (["colour,looker,\"87,5%\",P"], None, "'87,5%' is no number"),
        (["colour,looker,nan,P"], None, "'nan' is no number"),
        (["colour,looker,,P"], None, "row 2: its score is empty"),
        (["colour,looker,0.5,"], None, "row 2: its source is empty"),
        (["colour,looker,0.5,P,,,,percents"], H, "scale is 'percents'; did you mean 'percent'"),
        (["colour,looker,0.9,P", "colour,reader,87.5%,P"], None, "row 2: its score is '0.9', and .*row 3, of the same"),
        (["coluor,looker,0.5,P"], None, "row 2: the study has no task 'coluor'; did you mean 'colour'"),
        (["colour,loker,0.5,P"], None, "has no model 'loker'; did you mean 'looker'"),
        (["colour,looker,0.5,P,mismached"], f"{H[:33]}", "has no condition 'mismached'; did you mean 'mismatched'"),
        (["a,b,0.5,P", "c,d,0.5,P"], None, r"(?s)task 'a'.*model 'b'.*task 'c'.*model 'd'"),
        (["colour,looker,0.5,P,,vqa"], H[:39], "its stage is 'vqa', and the study's looker is 'pretrained'"),
        (["count,looker,0.5,P,,,RMSE"], H[:46], "its metric is RMSE, and the study's count is scored by r2"),
        (["colour,looker,0.5,P", "colour,looker,0.6,P"], None, "row 3: .*row 2 has a score of colour, looker"),
        (["colour,looker,0.5,P,x"], "task,model,score,source,conditon", "'conditon'.*did you mean 'condition'"),
        (["colour,looker,P"], "task,model,source", "no column 'score'"),
        (["colour,looker,0.5,P,6"], None, "5 columns where the header has 4"),
    ],
)  # fmt: skip
def test_what_could_mislead_is_refused(contents, tmp_path, lines, header, told):
    lines = [line + "," * ((header or "a,b,c,d").count(",") - line.count(",")) if '"' not in line else line
             for line in lines]  # fmt: skip
    with pytest.raises(VlprobeError, match=told):
        read(contents, tmp_path, *lines, header=header or "task,model,score,source")


def test_two_sources_of_two_scales_are_no_mixture(contents, tmp_path):
    rows = read(contents, tmp_path, "colour,looker,0.9,P", "colour,looker,87.5%,Q")
    assert [row["score"] for row in rows] == [0.9, 0.875]


@pytest.fixture
def with_published(contents, tmp_path):
    lines = [
        "colour,looker,87.5%,P,,see <b>",
        "colour,looker,0.25,Q,mismatched,",
        "count,looker,50%,P,,",
        "shape,looker,50%,P,,",
    ]
    header = "task,model,score,source,condition,note"
    return dict(contents) | {"published": read(contents, tmp_path, *lines, header=header)}


def test_tables_have_them_beside_the_own_scores(with_published):
    table = main_table(with_published)
    assert table.columns[3:] == [
        "colour (accuracy)", "published: P", "difference", "published: Q", "difference", "count (R²)", "published: P",
        "difference", "shape (accuracy)", "published: P", "difference",
    ]  # fmt: skip
    rows = {(row[0], row[2]): row[3:] for row in table.rows}
    assert rows["looker", "matched"] == [
        "0.900* (joint.1)", "0.875", "+0.025", "-", "-", "0.800 (joint.1)", "0.500", "+0.300", "-", "0.500", "-",
    ]  # fmt: skip
    assert rows["looker", "mismatched"][:5] == ["0.250 (joint.1)", "-", "-", "0.250", "+0.000"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.bold == {(0, 3), (2, 3), (3, 3), (0, 8), (2, 11)}
    (first, *_) = csv.DictReader(io.StringIO(comma_separated(table)))
    assert first["published: Q"] == "-" and "Published: as the file" in table.caption
    for text in (latex(table), markdown(table)):
        assert "published: P" in text and "+0.025" in text


def test_the_page_has_them(with_published):
    text = page(with_published)
    assert re.search(r'<td class="published" title="see &lt;b&gt;">0.875<small>\+0.025</small></td>', text)
    assert len(re.findall(r"<small>[PQ]</small><small>difference</small>", text)) == 4
    assert "published.csv, sha256" in text and "another layer, probe or cut" in text


def test_without_them_nothing_is_said(contents):
    assert "ublished" not in "".join(main_table(contents).columns) + re.sub(
        r"<style>.*?</style>", "", page(contents), flags=re.DOTALL
    )


def test_names_of_sources_are_text(contents, tmp_path):
    quoted = NASTY.replace('"', '""')
    rows = read(contents, tmp_path, f'colour,looker,0.5,"{quoted}"')
    assert "<script" not in page(dict(contents) | {"published": rows})


def test_what_is_not_there_yet_has_no_difference(contents, tmp_path):
    (row,) = read(contents, tmp_path, "shape,looker,0.5,P")
    assert math.isnan(row["difference"])


def test_the_command_takes_a_file(contents, tmp_path):
    (tmp_path / "p.csv").write_text("task,model,score,source\ncolour,looker,87.5%,P\n")
    command = [
        "report",
        contents["folder"],
        "--output",
        str(tmp_path / "there"),
        "--published",
        str(tmp_path / "p.csv"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "published: P" in (tmp_path / "there" / "tables" / "main.tex").read_text(encoding="utf-8")
