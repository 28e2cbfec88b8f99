"""Examples of a report: what is shown is what the probes answered, and the filters leave what they say."""

import base64
import html
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from test_report_page import SCRIPT, browser, opened
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.errors import DataError
from vlprobe.images import open_image
from vlprobe.report.contents import read_contents
from vlprobe.report.examples import MOST, read_examples
from vlprobe.report.page import page
from vlprobe.results import Results
from vlprobe.study_file import StudyFile
from vlprobe.tasks import load_task
from vlprobe.types import Predictions, Result

SPEC = {"name": "color", "scenes": {"train": 60, "test": 24}}
CLASSES = ("blue", "red")


def answer(results, model, condition, rows, predicted, **other):
    """Put what a probe answered: rows are (example's id, unit, target)."""
    ids, units, targets = zip(*rows, strict=True)
    names = {"task": "color", "level": "multimodal", "metric": "accuracy"} | other
    result = Result(
        model=model, stage="pretrained", revision="r", condition=condition, layer="joint.1", unit="word: first",
        probe="logistic", seed=0, control="", score=0.5, interval=(0.4, 0.6), validation=0.5, l2=1.0, n_train=60,
        n_test=24, key=f"{model}{condition}{names['task']}", **names,
    )  # fmt: skip
    asked = Predictions(np.array(ids), np.array(units, np.int32), np.array(ids), np.array(targets), np.array(predicted))
    results.add(result, asked)


@pytest.fixture
def planted(tmp_path):
    """Plant a reader of both, who flips on 4 to 15 and is wrong on 0 to 3, and one that reads no text and is right."""
    test = load_task(SPEC).load("test")
    units = [next(k for k, target in enumerate(example.target) if target) for example in test]
    targets = [example.target[unit] for example, unit in zip(test, units, strict=True)]
    other = ["red" if target != "red" else "blue" for target in targets]
    results = Results(tmp_path / "results")
    rows = [(example.id, unit, target) for example, unit, target in zip(test, units, targets, strict=True)]
    whole = [(example.id, 0, target) for example, target in zip(test, targets, strict=True)]
    answer(results, "reader", "matched", rows, other[:4] + targets[4:])
    answer(results, "reader", "mismatched", rows, other[:16] + targets[16:])
    answer(results, "a-looker", "matched", whole, targets)
    study = StudyFile(
        name="examples", models=["zoo:uniter", "zoo:vit"], tasks=[SPEC], conditions=["matched", "mismatched"]
    )
    models = [{"name": name, "family": "Toy", "stage": "pretrained", "revision": "r", "layers": {}, "left_out": []}
              for name in ("reader", "a-looker")]  # fmt: skip
    task = {"name": "color", "level": "multimodal", "unit": "word", "classes": [], "examples": {}, "options": {},
            "source": [], "revision": "", "licence": "", "citation": ""}  # fmt: skip
    results.describe(
        {"study": study.model_dump(mode="json"), "command": ["vlprobe", "run"], "python": "", "platform": "",
         "packages": {}, "models": models, "untrained": [], "tasks": [task], "images": {}, "not_done": [],
         "skipped_rows": []}
    )  # fmt: skip
    return results.folder, test, targets, other


def test_what_is_shown_is_what_was_answered(planted, tmp_path):
    folder, test, targets, other = planted
    found = read_examples(read_contents(folder), tmp_path)
    assert len(found) == 24 <= MOST
    assert Counter(each["kind"] for each in found) == {"wrong": 4, "flipped": 12, "right": 8}
    by_text = {example.text: place for place, example in enumerate(test)}
    for each in found:
        place = by_text["".join(each["parts"])]
        assert each["parts"][1] == "[MASK]" and each["label"] == targets[place]
        reader, looker = each["models"]
        assert (reader["model"], looker["model"]) == ("reader (pretrained)", "a-looker (pretrained)")
        assert reader["said"]["matched"]["answer"] == (other if place < 4 else targets)[place]
        assert reader["said"]["mismatched"]["answer"] == (other if place < 16 else targets)[place]
        assert (reader["right"], reader["wrong"], reader["flipped"]) == (place >= 4, place < 4, 4 <= place < 16)
        assert looker["said"] == {"matched": {"answer": targets[place], "right": True}}


def test_images_are_the_examples_own(planted, tmp_path):
    folder, test, *_ = planted
    by_text = {example.text: example for example in test}
    for each in read_examples(read_contents(folder), tmp_path):
        own, moved = (
            np.asarray(
                Image.open(io.BytesIO(base64.b64decode(each[side].partition(",")[2]))).convert("RGB"), dtype=float
            )
            for side in ("image", "other_image")
        )
        whole = np.asarray(open_image(by_text["".join(each["parts"])].image), dtype=float)
        assert np.abs(own - whole).mean() < 8 < np.abs(moved - whole).mean()


def test_a_few_of_many_are_shown(planted, tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.report.examples.MOST", 9)
    found = read_examples(read_contents(planted[0]), tmp_path)
    assert Counter(each["kind"] for each in found) == {"wrong": 3, "flipped": 3, "right": 3}


def test_other_data_are_refused(planted, tmp_path):
    contents = read_contents(planted[0])
    contents["provenance"]["study"]["tasks"] = [{"name": "color", "scenes": {"train": 60, "test": 24, "seed": 5}}]
    with pytest.raises(DataError, match="are these data those of the study"):
        read_examples(contents, tmp_path)


def test_where_rows_were_left_out_no_partner_is_shown(planted, tmp_path):
    contents = read_contents(planted[0])
    contents["provenance"]["skipped_rows"] = ["row 3: its image is damaged"]
    assert not any(each["other_image"] for each in read_examples(contents, tmp_path))


def test_the_command_shows_examples_where_it_is_given_the_study(planted, tmp_path):
    asked = ["report", str(planted[0]), "--study", str(tmp_path / "study.yaml")]
    assert CliRunner().invoke(app, asked).exit_code == 2  # there is no such file
    (tmp_path / "study.yaml").write_text("name: examples")
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    text = (planted[0] / "report" / "index.html").read_text(encoding="utf-8")
    assert text.count("<article") == 24 and text.count('src="data:image/webp;base64,') == 48


@browser
def test_filters_leave_what_they_say(planted, tmp_path):
    contents = read_contents(planted[0])
    contents |= {"examples": read_examples(contents, tmp_path)}
    contents["examples"][0]["label"] = contents["examples"][0]["models"][0]["said"]["matched"]["answer"] = SCRIPT
    inside = html.escape(re.sub(r"<meta http-equiv.*?>", "", page(contents)))
    clicks = [["every-task"], ["wrong"], ["flipped"], ["m2"], ["right"], ["every-model"], ["m1"], ["every-kind", "t1"]]
    measure = f"""<script>addEventListener("load", () => {{
        const inside = document.querySelector("iframe").contentDocument, left = []
        for (const ids of {json.dumps(clicks)}) {{
            for (const id of ids) inside.getElementById(id).click()
            left.push([...inside.querySelectorAll(".card")].filter(card => card.getClientRects().length).length)
        }}
        document.title = JSON.stringify([left, inside.querySelectorAll("script").length]) }})</script>"""
    frame = f'<iframe srcdoc="{inside}" style="width:1200px;height:900px"></iframe>'
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>none</title>{frame}{measure}", encoding="utf-8")
    dom, said, asked = opened(tmp_path / "page.html")
    assert json.loads(re.search(r"<title>(.*?)</title>", dom).group(1)) == [[24, 4, 12, 0, 24, 24, 20, 24], 0]
    assert (said, asked) == ([], set())


@browser
def test_many_examples_scroll(planted, tmp_path):
    contents = read_contents(planted[0])
    contents |= {"examples": read_examples(contents, tmp_path) * 209}
    (tmp_path / "page.html").write_text(page(contents), encoding="utf-8")
    dom, said, _ = opened(tmp_path / "page.html")
    assert dom.count("<article") == 5016 and said == []
