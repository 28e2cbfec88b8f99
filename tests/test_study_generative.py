"""A study of a generative model from its checkpoint to the report's page."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import tiny_checkpoints as tiny
from vlprobe.cli import app

SCENES = {"train": 80, "test": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("generative")
    tiny.make("qwen2_5_vl", place / "qwen")
    study = {
        "name": "asked",
        "models": [{"model": "qwen-vl:./qwen", "name": "qwen"}],
        "tasks": [
            {"name": "thing-color", "scenes": SCENES},
            {"name": "pos-tagging", "scenes": SCENES},
            {"name": "object-count", "scenes": SCENES},
        ],
        "conditions": ["matched", "mismatched"],
        "controls": ["majority"],
        "layers": ["vision.0", "vision.connector", "joint.0", "joint.3"],
        "store": str(place / "store"),
        "output": str(place / "results"),
    }
    (place / "study.yaml").write_text(yaml.safe_dump(study))
    done = CliRunner().invoke(app, ["run", str(place / "study.yaml")])
    assert done.exit_code == 0, done.output
    return place


@pytest.fixture(scope="module")
def results(folder):
    lines = (folder / "results" / "results.jsonl").read_text().splitlines()
    return [result for line in lines if not (result := json.loads(line))["control"]]


def scores(results, task, condition):
    return {r["layer"]: r["score"] for r in results if (r["task"], r["condition"]) == (task, condition)}


def test_colours_are_found_where_the_image_says_they_are(results):
    """Random weights keep them: at the tokens of the box, and in the decoder, too."""
    matched = scores(results, "thing-color", "matched")
    assert list(matched) == ["vision.0", "vision.connector", "joint.0", "joint.3"]
    assert min(matched.values()) > 0.4  # the commonest of eight colours has a sixth
    assert matched["vision.0"] > 0.7
    assert scores(results, "thing-color", "mismatched") == matched  # the image stands before the text


def test_words_are_asked_in_the_decoder_alone(results):
    assert list(scores(results, "pos-tagging", "matched")) == ["joint.0", "joint.3"]
    assert min(scores(results, "pos-tagging", "matched").values()) > 0.45  # the commonest tag has a quarter
    how = {r["layer"]: r["unit"] for r in results if r["task"] == "object-count"}
    assert how == {
        "vision.0": "input: patches",
        "vision.connector": "input: patches",
        "joint.0": "input: cls",
        "joint.3": "input: cls",
    }


def test_the_prompt_is_in_study_json_and_the_report_is_written(folder):
    described = json.loads((folder / "results" / "study.json").read_text())
    assert described["models"][0]["usage"]["prompt"].endswith("{text}<|im_end|>\n<|im_start|>assistant\n")
    done = CliRunner().invoke(app, ["report", str(folder / "results")])
    assert done.exit_code == 0, done.output
    page = (folder / "results" / "report" / "index.html").read_text()
    assert "qwen" in page
    assert "joint.3" in page
    assert "qwen was used with prompt: <code>&lt;|im_start|&gt;system⏎You are a helpful assistant." in page
