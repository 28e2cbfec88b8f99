"""The demo tells who takes what from where, and the README is right about it."""

from pathlib import Path

import pytest

from vlprobe.encoders.zoo import zoo_names
from vlprobe.report.summary import summarise
from vlprobe.settings import read_yaml
from vlprobe.study import Study

DEMO = Path(__file__).resolve().parents[1] / "studies" / "demo.yaml"


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    values = read_yaml(DEMO)
    tasks = [task for task in values["tasks"] if task["name"] in ("color", "size", "object-count")]
    layers = ["language.3", "vision.4", "joint.3", "joint.4", "language.4"]
    study = Study.from_file(DEMO, output=str(folder), tasks=tasks, layers=layers, limit=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLPROBE_CACHE", str(folder))
        return summarise(study.run())


def cell(summary, task, model, condition):
    rows = summary[task]["rows"]
    return next(cells[condition] for name, cells in rows.items() if name.startswith(f"{model} ("))


def test_every_model_of_the_demo_is_bundled():
    wanted = {m.removeprefix("zoo:") if isinstance(m, str) else "uniter" for m in read_yaml(DEMO)["models"]}
    assert wanted <= set(zoo_names())


def test_the_demo_tells_who_takes_what_from_where(summary):
    for model in ("uniter", "lxmert", "vilt"):  # trained on pairs: they see the colour, and lose it with the image
        assert cell(summary, "color", model, "matched")["low"] > 0.7
        assert cell(summary, "color", model, "mismatched")["high"] < 0.35
    assert cell(summary, "color", "uniter-shuffled", "matched")["high"] < 0.45
    blind = cell(summary, "color", "bert", "matched")
    assert blind["high"] < 0.35 and blind["score"] == cell(summary, "color", "bert", "mismatched")["score"]
    assert cell(summary, "size", "uniter", "matched")["low"] > cell(summary, "size", "uniter", "mismatched")["high"]
    seen = cell(summary, "object-count", "vit", "matched")
    assert seen["low"] > 0.4
    assert seen["score"] == cell(summary, "object-count", "vit", "mismatched")["score"]
    assert cell(summary, "object-count", "bert", "matched")["high"] < 0.2
