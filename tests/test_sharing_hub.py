"""Results and features on the hub: the hub's own client, and a hub on this machine that it talks to."""

import json
import shutil

import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fake_hub import TOKEN, FakeHub
from typer.testing import CliRunner

from vlprobe import Study, read_results
from vlprobe.cli import app
from vlprobe.errors import DataError, StudyError, VlprobeError
from vlprobe.extraction import features
from vlprobe.pairing import read_condition
from vlprobe.report.contents import read_contents
from vlprobe.results import Results

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the hub's client's own

SETTINGS = {
    "name": "pushed",
    "models": ["zoo:bert", "zoo:uniter"],
    "tasks": [{"name": "color", "scenes": {"train": 60, "test": 30}}],
    "conditions": ["matched", "matched>mismatched"],
    "layers": ["language.2", "joint.0"],
    "controls": ["majority"],
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache_of_the_file):
    """Return a folder with a study file, and in `results` what it found."""
    folder = tmp_path_factory.mktemp("world")
    settings = SETTINGS | {"store": str(folder / "store"), "output": str(folder / "results")}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    Study.from_file(folder / "study.yaml").run()
    return folder


@pytest.fixture
def results(world, tmp_path):
    """Return results of a user whose home the study lay in, with a report and a note that quotes a caption."""
    shutil.copytree(world / "results", tmp_path / "results")
    (tmp_path / "results" / "report").mkdir()
    (tmp_path / "results" / "report" / "index.html").write_text("a caption")
    (tmp_path / "results" / "image.jpg").write_bytes(b"pixels")
    path = tmp_path / "results" / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"skipped_rows": ["x.csv, row 3: the text 'a caption' holds no [MASK]"]}))
    return tmp_path / "results"


@pytest.fixture
def hub(monkeypatch, world):
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", fake.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(world))
    yield fake
    fake.close()


def push(*arguments):
    return CliRunner().invoke(app, ["push", *map(str, arguments)], catch_exceptions=False).output


def test_what_is_pushed_is_a_results_folder(results, hub, tmp_path):
    said = push(results, "me/probes")
    assert f"Pushed: {hub.url}/datasets/me/probes" in said
    repository = hub.repositories["me/probes"]
    assert repository["private"]
    mine = read_results(results)
    assert "predictions.zip: 1 files" in said
    told = {"results.jsonl", "study.json", "findings.json", "reliance.json", "similarity.json"}
    assert set(repository["files"]) == told | {"README.md", "predictions.zip"}
    for name, held in repository["files"].items():
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
    assert repr(read_results(tmp_path / "there")) == repr(mine)
    assert str(read_contents(tmp_path / "there")["tasks"]) == str(read_contents(results)["tasks"])
    there = Results(tmp_path / "there")
    for key in {result.key for result in mine}:
        assert there.files.packed(key) == (results / "predictions" / f"{key}.npz").read_bytes()
        assert (there.predictions(key).predicted == Results(results).predictions(key).predicted).all()
    assert push(tmp_path / "there", "me/again") and hub.repositories["me/again"]["files"] == repository["files"]


def test_no_texts_and_no_folder_of_the_users_are_pushed(results, hub, world):
    push(results, "me/probes")
    texts = {name: held for name, held in hub.repositories["me/probes"]["files"].items() if ".zip" not in name}
    for name, held in texts.items():
        assert b"a caption" not in held and str(world).encode() not in held and TOKEN.encode() not in held, name
    content = json.loads(texts["study.json"])
    assert content["skipped_rows"] == ["1 rows were left out; which ones is not told here"]
    assert content["study"]["store"] == "~/store"


def test_only_results_of_the_study_are_pushed(results, hub):
    path = results / "study.json"
    content = json.loads(path.read_text())
    content["models"] = [model for model in content["models"] if model["name"] == "uniter"]
    path.write_text(json.dumps(content))
    push(results, "me/probes")
    lines = hub.repositories["me/probes"]["files"]["results.jsonl"].decode().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {"uniter"}
    assert len(lines) < len((results / "results.jsonl").read_text().splitlines())


def test_the_card_says_what_it_is(results, hub, tmp_path):
    push(results, "me/probes")
    (tmp_path / "README.md").write_bytes(hub.repositories["me/probes"]["files"]["README.md"])
    card = huggingface_hub.DatasetCard.load(tmp_path / "README.md")
    assert card.data.to_dict()["configs"] == [
        {"config_name": "results", "data_files": "results.jsonl", "default": True}
    ]
    described = json.loads((results / "study.json").read_text())
    for model in described["models"]:
        assert model["revision"] in card.text
    for said in ("drawn scenes", "CC0-1.0", "name: pushed", "vlprobe run study.yaml", f"Python {described['python']}"):
        assert said in card.text


def test_a_public_repository_is_not_taken_for_a_private_one(results, hub):
    hub.repositories["me/open"] = {"private": False, "files": {}}
    with pytest.raises(StudyError, match="me/open is there, and everybody can see it: say --public"):
        push(results, "me/open")
    assert not hub.repositories["me/open"]["files"] and not hub.sent()
    push(results, "me/open", "--public")
    push(results, "me/made", "--public")
    assert not hub.repositories["me/made"]["private"]
    assert hub.repositories["me/open"]["files"].keys() == hub.repositories["me/made"]["files"].keys()
    hub.repositories["me/closed"] = {"private": True, "files": {}}
    assert "stays private" in push(results, "me/closed", "--public")
    assert hub.repositories["me/closed"]["private"] and hub.repositories["me/closed"]["files"]


def test_what_is_there_is_not_sent_again(results, hub):
    push(results, "me/probes")
    assert len([each for each in hub.requests if each[0] == "PUT"]) == 1
    push(results, "me/probes")
    assert len([each for each in hub.requests if each[0] == "PUT"]) == 1


def test_a_dry_run_sends_nothing(results, hub):
    said = push(results, "me/probes", "--dry-run")
    assert "study.json: 1 files" in said and "nothing was sent" in said
    assert not hub.requests


def test_a_token_is_never_pushed(results, hub):
    path = results / "study.json"
    content = json.loads(path.read_text())
    for token in ("hf_" + "a1" * 17, TOKEN):
        path.write_text(json.dumps(content | {"command": ["vlprobe", "run", token]}))
        with pytest.raises(DataError, match=r"study\.json holds what looks like a token.*nothing was sent"):
            push(results, "me/probes")
    assert not hub.requests


def test_what_the_hub_says_is_told_with_the_cure(results, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "another" * 4)
    with pytest.raises(VlprobeError, match=r"(?s)me/probes: the hub could not take.*401.*hf auth login"):
        push(results, "me/probes")
    with pytest.raises(VlprobeError, match=r"(?s)a/b/c: the hub could not take.*OWNER/NAME"):
        push(results, "a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(VlprobeError, match=r"(?s)me/probes: the hub could not take.*push again"):
        push(results, "me/probes")


def test_no_commit_is_larger_than_the_hub_recommends(results, hub, monkeypatch):
    monkeypatch.setattr("vlprobe.sharing.hub.COMMIT", 4)
    push(results, "me/probes")
    assert [path for _, path in hub.sent()].count("/api/datasets/me/probes/commit/main") == 2
    assert list(hub.repositories["me/probes"]["files"])[-1] == "README.md"
    assert len(hub.repositories["me/probes"]["files"]) == 7


@pytest.mark.parametrize("damage", [b"hello", b""])
def test_packed_predictions_that_are_damaged_are_an_error(results, tmp_path, damage):
    shutil.rmtree(results / "predictions")
    (results / "predictions.zip").write_bytes(damage)
    with pytest.raises(DataError, match=r"predictions\.zip: cannot be read"):
        read_results(results)


def test_features_are_those_of_the_store(results, hub, world, tmp_path):
    said = push(results, "me/probes", "--features", world / "study.yaml")
    files = hub.repositories["me/probes"]["files"]
    lines = [json.loads(line) for line in files["features/index.jsonl"].decode().splitlines()]
    assert {line["file"] for line in lines} == {name for name in files if name.endswith(".parquet")}
    assert f"features/*.parquet: {len({line['file'] for line in lines})} files" in said
    study = Study.from_file(world / "study.yaml")
    asked = [
        (cell, condition, extraction, layer)
        for cell in study.plan().cells
        for condition, extraction in zip(read_condition(cell.condition), (cell.trained, cell.tested), strict=False)
        for layer in SETTINGS["layers"]
        if layer in cell.model.layers
    ]
    for cell, condition, extraction, layer in asked:
        own = (cell.model.name, condition, cell.seed, layer)
        (line,) = [each for each in lines if (each["model"], each["condition"], each["seed"], each["layer"]) == own]
        (tmp_path / "one.parquet").write_bytes(files[line["file"]])
        table, kept = pq.read_table(tmp_path / "one.parquet"), features(extraction, study.store(), layer)
        assert np.array_equal(np.stack(table["features"].to_numpy()), kept.X)
        assert (line["rows"], line["width"], line["key"]) == (*kept.X.shape, kept.key)
        assert table["id"].to_pylist() == kept.id.tolist() and table["target"].to_pylist() == kept.y.tolist()
        assert table[f"part_{cell.seed}"].to_pylist() == [cell.part[name] for name in kept.id]
        assert set(table[f"part_{cell.seed}"].to_pylist()) == {"train", "validation", "test"}
    assert len(lines) == len({(cell.model.name, condition, cell.seed, layer) for cell, condition, _, layer in asked})
    # A text model sees one input under both conditions and seeds; a joint one, one when matched and a pairing a seed.
    assert {name: len({each["file"] for each in lines if each["model"] == name}) for name in ("bert", "uniter")} == {
        "bert": 1, "uniter": 3,
    }  # fmt: skip


def test_features_of_another_study_are_refused(results, hub, world, tmp_path):
    lines = (results / "results.jsonl").read_text().splitlines()
    (results / "results.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(DataError, match=r"lacks \d+ results of this study: run it to its end"):
        push(results, "me/probes", "--features", world / "study.yaml")
    (results / "results.jsonl").write_text("\n".join(lines) + "\n")
    path = results / "study.json"
    content = json.loads(path.read_text())
    content["study"]["store"] = str(tmp_path / "empty")
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="empty lacks representations of bert on color: run the study again"):
        push(results, "me/probes", "--features", world / "study.yaml")
    assert not hub.sent()
