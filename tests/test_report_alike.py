"""How alike layers are, in a report: every number is that of the file, and a name is shown as text."""

import csv
import io
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from test_findings import Planted
from test_report_page import SCRIPT, Reader, browser, opened
from test_report_tables import described

from vlprobe.report.alike import alike_table, moved, pairs, read_alike, thinned
from vlprobe.report.alike_figure import alike_figure
from vlprobe.report.figures import inline
from vlprobe.report.page import page
from vlprobe.report.tables import comma_separated
from vlprobe.report.writing import write_report
from vlprobe.similarity.alike import Alike, AllAlike, LayerOf, write_similarity

LAYERS = [
    ("looker", "pretrained", "joint.0"),
    ("looker", "pretrained", "joint.2"),
    ("looker", "pretrained", "joint.10"),
    ("tuned", "vqa", "joint.0"),
    ("tuned", "vqa", "joint.2"),
    ("gone", "pretrained", "joint.0"),
]


def value(i, k):
    return 1.0 if i == k else math.nan if 1 in (i, k) else round((i + k) / 20, 2)


def planted(folder, lacking=()):
    run = Planted(folder).model(0.9, 0.25, "looker").model(0.9, 0.9, "tuned", stage="vqa")
    layers = tuple(LayerOf(*each) for each in LAYERS)
    matrix = tuple(tuple(value(i, k) for k in range(6)) for i in range(6))
    biased = tuple(tuple(0.5 + x / 2 for x in row) for row in matrix)
    tasks = tuple(Alike(name, 0, 77, layers, matrix, biased) for name in ("colour", "forgotten"))
    write_similarity(run.results, AllAlike("x", tasks, tuple(lacking)))
    return described(run)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("results"), lacking=["colour, lost: the store no longer holds it"])


def test_layers_of_the_study_are_read(contents):
    assert list(contents["similarity"]["tasks"]) == ["colour"]
    task = contents["similarity"]["tasks"]["colour"]
    assert task["layers"] == [(f"{model} ({stage})", layer) for model, stage, layer in LAYERS[:5]]
    assert task["cka"][0][3] == value(0, 3) and task["biased"][0][3] == 0.5 + value(0, 3) / 2
    assert len(task["cka"]) == len(task["cka"][0]) == 5


def test_layers_follow_the_study(contents):
    models = ["tuned (vqa)", "looker (pretrained)"]
    task = read_alike(Path(contents["folder"]), models, ["colour"])["tasks"]["colour"]
    assert [model for model, _ in task["layers"]] == ["tuned (vqa)"] * 2 + ["looker (pretrained)"] * 3
    assert task["cka"][0][2] == value(3, 0) and task["cka"][1][4] == value(4, 2)


def test_a_folder_without_the_file_has_none(tmp_path):
    contents = described(Planted(tmp_path).model(0.9, 0.25))
    assert contents["similarity"] == {"tasks": {}, "lacking": []}
    assert 'id="similarity"' not in page(contents)


def test_the_pairs_that_matter(contents):
    task = contents["similarity"]["tasks"]["colour"]
    (pair,) = pairs(task)
    assert pair["models"] == ("looker (pretrained)", "tuned (vqa)")
    assert pair["most"] == {"layers": ("joint.10", "joint.2"), "cka": value(2, 4)}
    assert pair["last"] == {"layers": ["joint.10", "joint.2"], "cka": value(2, 4)}
    (row,) = moved(task, [("looker (pretrained)", "tuned (vqa)"), ("a", "b")])
    assert [layer for layer, _ in row["layers"]] == ["joint.0", "joint.2"]
    assert row["layers"][0][1] == value(0, 3) and math.isnan(row["layers"][1][1])


def test_the_table_has_every_pair(contents):
    rows = list(csv.DictReader(io.StringIO(comma_separated(alike_table(contents["similarity"])))))
    assert len(rows) == 10
    told = {(row["model_a"], row["layer_a"], row["model_b"], row["layer_b"]): row for row in rows}
    row = told["looker", "joint.10", "tuned", "joint.2"]
    assert (float(row["cka"]), float(row["biased"]), row["n"], row["stage_b"]) == (0.3, 0.65, "77", "vqa")
    assert told["looker", "joint.0", "looker", "joint.2"]["cka"] == ""


def test_the_figure_has_every_cell(contents):
    drawn = ET.fromstring(inline(alike_figure("colour", contents["similarity"]["tasks"]["colour"]), "told", 3))
    cells = {
        path.find("{*}title").text: (path.get("fill"), path.get("d"))
        for path in drawn.iter("{http://www.w3.org/2000/svg}path")
        if path.find("{*}title") is not None
    }
    bright = {
        told: sum(map(int, fill.removeprefix("rgb(").rstrip(")").split(", "))) for told, (fill, _) in cells.items()
    }
    assert bright["looker joint.0, looker joint.0: 1.000"] > bright["tuned (vqa) joint.2, looker joint.10: 0.300"]
    assert len(cells) == 15 - 4  # below the diagonal and on it, without those of a layer that is the same for all


def test_many_layers_are_thinned():
    layers = [(model, f"joint.{k}") for model in "abcd" for k in range(25)] + [("e", "vision.0"), ("e", "language.0")]
    kept = thinned(layers, 40)
    names = [layers[i] for i in kept]
    assert len(names) <= 40 and kept == sorted(kept)
    assert {("a", "joint.24"), ("d", "joint.24"), ("e", "vision.0"), ("e", "language.0")} <= set(names)
    assert thinned(layers[:30], 40) == list(range(30))
    assert (
        len(thinned([(str(k), "joint.0") for k in range(50)], 40)) == 50
    )  # a layer each: there is nothing to leave out


def test_the_page_shows_it(contents, tmp_path):
    text = page(contents)
    read = Reader(text)
    shown = " ".join(" ".join(read.text).split())
    assert "How alike layers are" in shown and "looker, tuned (vqa) joint.10, joint.2 0.300" in shown
    assert "colour, lost: the store no longer holds it" in shown and len(read.ids) == len(set(read.ids))
    write_report(contents, tmp_path)
    names = {path.name for path in tmp_path.rglob("*.*")}
    assert {"similarity.csv", "01-colour-alike.svg", "01-colour-alike.png"} <= names


@browser
def test_a_browser_shows_it(contents, tmp_path):
    changed = dict(contents)
    task = dict(contents["similarity"]["tasks"]["colour"])
    task["layers"] = [(SCRIPT if i == 4 else model, layer) for i, (model, layer) in enumerate(task["layers"])]
    changed["similarity"] = {"tasks": {"colour": task}, "lacking": [SCRIPT]}
    (tmp_path / "page.html").write_text(page(changed), encoding="utf-8")
    dom, said, asked = opened(tmp_path / "page.html")
    assert "<script" not in dom and 'id="similarity"' in dom and (said, asked) == ([], set())
