"""The study of five architectures that docs/study-file.md shows, on checkpoints made on the spot."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

import tiny_checkpoints as tiny
import tiny_volta
from tiny_volta import FEATURES, KINDS
from vlprobe.encoders.zoo import ZOO
from vlprobe.study import Study

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study-file.md"
VOCABULARY = (ZOO / "bert" / "vocab.txt").read_text().split()


def block(name):
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study beside five architectures of two seeds each, and a tokenizer that knows the words of drawn scenes."""
    folder = tmp_path_factory.mktemp("five")
    shown = yaml.safe_load(block("volta"))
    for model in shown["models"]:
        kind, _, seed = model["name"].rpartition("-")
        sizes = {"vocabulary": len(VOCABULARY), "positions": 64}
        tiny_volta.make(kind, folder / model["model"].removeprefix("volta:"), seed=int(seed), **sizes)
    (folder / "bert-base-uncased").mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(ZOO / "bert" / name, folder / "bert-base-uncased")
    shown["tasks"] = [{"name": task, "scenes": {"train": 60, "test": 40}} for task in shown["tasks"]]
    (folder / "study.yaml").write_text(yaml.safe_dump(shown))
    return folder


def test_five_architectures_are_compared_over_seeds(folder, monkeypatch, capsys, one_thread):
    pytest.importorskip("pandas")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(FEATURES))
    results = Study.from_file("study.yaml", store="features").run()
    assert {result.model for result in results if result.model} == {
        f"{kind}-{seed}" for kind in KINDS for seed in (1, 2)
    }
    layers = {kind: {result.layer for result in results if result.model == f"{kind}-1"} - {""} for kind in KINDS}
    assert {"vision.2", "language.3", "joint.pooler"} <= layers["vilbert"] & layers["lxmert"]
    assert {"joint.2", "language.pooler", "vision.pooler"} <= layers["vl-bert"] & layers["uniter"] & layers[
        "visualbert"
    ]
    capsys.readouterr()
    exec(compile(block("seeds"), "docs/study-file.md", "exec"), {})
    table = capsys.readouterr().out
    for kind in KINDS:
        assert re.search(rf"{kind} +0\.\d+ +0\.\d+ +2\n", table), table
