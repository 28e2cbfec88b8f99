"""The zoo that is bundled: small enough, whole, and its cards say what its files say."""

import json

import pytest

from vlprobe.encoders.zoo import ZOO
from vlprobe.zoo.cards import write_card
from vlprobe.zoo.recipes import RECIPES

LEARNT = {"uniter": ("color", "size"), "lxmert": ("color", "size"), "vilt": ("color", "size")}


def said(name):
    return json.loads((ZOO / name / "zoo.json").read_text(encoding="utf-8"))


def test_the_bundled_files_are_12_megabytes_at_most():
    files = [path for path in ZOO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".md", ".txt"}  # nothing that runs


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_is_there_with_a_card_that_says_how_it_was_made(tmp_path, name):
    write_card(tmp_path, name, RECIPES[name], said(name))
    card = (ZOO / name / "README.md").read_text(encoding="utf-8")
    assert card == (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        f"{12000 if name == 'detector' else 8000} scenes `zoo-train` of seed 0" in card
        and f"{RECIPES[name].steps} steps" in card
    )
    assert "Last losses" in card and "nan" not in card and "| on scenes `zoo-test` | |" in card


@pytest.mark.parametrize("name", LEARNT)
def test_joint_models_have_learnt_and_their_twins_have_not(name):
    figures, twin = said(name)["figures"], said(f"{name}-shuffled")["figures"]
    assert all(figures[fact] > 0.95 for fact in LEARNT[name])
    assert figures["matching"] > 0.75 and abs(twin["matching"] - 0.5) < 0.05
    assert twin["color"] < 0.2 and figures["color, another image"] < 0.2
