"""Trackers are told what the results say: the real libraries, offline; trackio by a stand-in, too."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec

import pytest
from test_findings import Planted
from test_report_tables import described
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.errors import DataError, VlprobeError
from vlprobe.report.contents import read_contents
from vlprobe.sharing.tracked import tracked
from vlprobe.sharing.trackers import _plain_names, log


@pytest.fixture
def folder(tmp_path):
    """Return results of two models with layers that have an index, and one that has none, under three conditions."""
    planted = Planted(tmp_path / "results").model(0.9, 0.25, "looker").model(0.8, 0.8, "reader", stage="vqa")
    planted.put(0.75, "looker", layer="joint.0", validation=0.1).put(0.7, "looker", layer="joint.norm", validation=0.1)
    planted.put(0.5, "looker", "matched>mismatched").put(0.4, "looker", layer="vision.0", validation=0.1)
    described(planted)
    return tmp_path / "results"


CURVES = {
    0: {"colour/matched/joint": 0.75, "colour/matched/vision": 0.4},
    1: {"colour/matched/joint": 0.9, "colour/mismatched/joint": 0.25, "colour/matched>mismatched/joint": 0.5},
}


QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false", "DO_NOT_TRACK": "true"}
"""Nothing is told to anybody about the tests."""


def run(folder, tmp_path, to, **environment):
    command = [sys.executable, "-m", "vlprobe", "log", str(folder), "--to", to, "--project", "probes"]
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    environment = inherited | QUIET | {"HOME": str(tmp_path)} | environment
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"2 runs in {to}, project probes: one for every model"


def test_what_is_told_is_what_the_results_say(folder):
    looker, reader = tracked(read_contents(folder))
    assert (looker.name, looker.study, reader.name) == ("looker (pretrained)", "planted", "reader (vqa)")
    assert looker.curves == CURVES
    summary = {f"colour/matched/{name}": value for name, value in (("best_score", 0.9), ("majority", 0.25))}
    assert summary.items() <= looker.summary.items()
    assert (looker.summary["colour/matched/best_low"], looker.summary["colour/matched/best_high"]) == (0.0, 1.0)
    assert looker.config["colour/matched/layer"] == "joint.1" and looker.config["revision"] == "abc123"
    assert looker.config["numpy"] == "2.4" and looker.config["command"] == "vlprobe run planted.yaml"
    scores = [dict(zip(looker.columns, row, strict=True)) for row in looker.rows]
    (norm,) = [row for row in scores if row["layer"] == "joint.norm"]
    assert (norm["score"], norm["control"], norm["selectivity"]) == (0.7, "", None)
    assert {row["model"] for row in scores} == {"looker"}


def test_a_streaming_probe_has_names_of_its_own(folder):
    """Beside a linear one of another task: no chart lays the two over one another."""
    (before, _) = tracked(read_contents(folder))
    planted, there = Planted(folder), {"task": "more", "probe": "streaming-lda"}
    planted.put(0.6, "looker", layer="joint.0", validation=0.1, **there).put(0.7, "looker", **there)
    planted.put(0.65, "looker", layer="joint.norm", validation=0.1, **there)
    planted.put(0.25, "looker", control="majority", **there | {"layer": "", "probe": ""})
    described(planted)
    looker, reader = tracked(read_contents(folder))
    added = {
        index: {n: s for n, s in scores.items() if n not in CURVES[index]} for index, scores in looker.curves.items()
    }
    assert added == {0: {"more/matched/streaming-lda/joint": 0.6}, 1: {"more/matched/streaming-lda/joint": 0.7}}
    best = {"best_score": 0.7, "best_low": 0.0, "best_high": 1.0}
    mine = {f"more/matched/streaming-lda/{name}": value for name, value in best.items()}
    assert dict(looker.summary) == dict(before.summary) | mine | {"more/matched/majority": 0.25}
    assert looker.config == before.config | {"more/matched/streaming-lda/layer": "joint.1"}
    scores = [dict(zip(looker.columns, row, strict=True)) for row in looker.rows]
    assert {row["probe"] for row in scores if row["task"] == "more" and row["layer"]} == {"streaming-lda"}
    assert not any("streaming" in name for scores in reader.curves.values() for name in scores)


def wandb_records(path):
    """Yield the records of an offline run: a log in blocks of 32 KiB, whose entries may go over several."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, held = path.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def test_wandb(folder, tmp_path):
    pytest.importorskip("wandb.proto", reason="wandb is not installed")
    run(folder, tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    told = {}
    for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb"):
        records = list(wandb_records(path))
        (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        history, summary = {}, {}
        for record in records:
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            if items:
                history[items["_step"]] = {name: each for name, each in items.items() if name.startswith("colour/")}
            updates = record.summary.update
            summary |= {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}
        (table,) = path.parent.glob("files/media/table/*.json")
        config = {item.key: json.loads(item.value_json) for item in begun.config.update}
        told[begun.display_name] = (begun, config, history, summary, json.loads(table.read_text()))
    for model in tracked(read_contents(folder)):
        begun, config, history, summary, table = told.pop(model.name)
        assert (begun.project, begun.run_group) == ("probes", "planted")
        assert model.config.items() <= config.items() and model.summary.items() <= summary.items()
        assert history == model.curves
        assert (table["columns"], table["data"]) == (list(model.columns), [list(row) for row in model.rows])
    assert not told


def test_mlflow(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow.store", reason="mlflow is not installed")
    from mlflow.store.tracking.file_store import FileStore

    where = {"MLFLOW_TRACKING_URI": (tmp_path / "runs").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    run(folder, tmp_path, "mlflow", **where)
    store = FileStore(str(tmp_path / "runs"))
    experiment = store.get_experiment_by_name("probes").experiment_id
    runs = {each.info.run_name: each for each in store.search_runs([experiment], "", 1)}
    models = list(tracked(read_contents(folder)))
    assert set(runs) == {model.name for model in models}
    for model in models:
        made = runs[model.name]
        assert made.info.status == "FINISHED" and made.data.tags["vlprobe.study"] == "planted"
        assert made.data.params == _plain_names(model.config)
        history = {}
        for name in made.data.metrics:
            for each in store.get_metric_history(made.info.run_id, name):
                history.setdefault(each.step, {})[name] = each.value
        expected = {index: _plain_names(scores) for index, scores in model.curves.items()}
        expected[0] = expected.get(0, {}) | _plain_names(model.summary)  # what has no layer is at MLflow's step 0
        assert history == expected
        artifact = next((tmp_path / "runs").rglob(f"{made.info.run_id}/artifacts/scores.csv"))
        columns, *rows = csv.reader(artifact.read_text(encoding="utf-8").splitlines())
        assert columns == list(model.columns)
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in model.rows]


STAND_IN = """
import json, pathlib
told = pathlib.Path("told.jsonl").open("a")
class Table:
    def __init__(self, columns=None, data=None):
        self.content = {"columns": columns, "data": data}
def say(**what):
    print(json.dumps(what, default=lambda table: table.content), file=told, flush=True)
def init(project, name=None, group=None, config=None, embed=True):
    say(init=[project, name, group, config, embed])
def log(metrics, step=None):
    say(log=metrics, step=step)
def finish():
    say(finish=True)
"""


def test_trackio(folder, tmp_path):
    """trackio wants an older pillow than the demo's pictures are drawn with, so it is no part of `dev`."""
    (tmp_path / "trackio.py").write_text(STAND_IN)  # where the command is run: it comes before a package of that name
    run(folder, tmp_path, "trackio")
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    for model in tracked(read_contents(folder)):
        assert lines.pop(0) == {"init": ["probes", model.name, "planted", dict(model.config), False]}
        for index, scores in model.curves.items():
            assert lines.pop(0) == {"log": scores, "step": index}
        table = {"columns": list(model.columns), "data": [list(row) for row in model.rows]}
        assert lines.pop(0) == {"log": {**model.summary, "scores": table}, "step": max(model.curves)}
        assert lines.pop(0) == {"finish": True}
    assert not lines


def test_trackio_itself(folder, tmp_path):
    if find_spec("trackio") is None:
        pytest.skip("trackio is not installed; the stand-in is tested above")
    run(folder, tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "kept"))
    with sqlite3.connect(tmp_path / "kept" / "probes.db") as kept:
        rows = kept.execute("select run_name, step, metrics from metrics order by id").fetchall()
    kept.close()
    for model in tracked(read_contents(folder)):
        mine = [(step, json.loads(metrics)) for name, step, metrics in rows if name == model.name]
        assert mine[:-1] == list(model.curves.items())
        assert mine[-1][0] == max(model.curves) and model.summary.items() <= mine[-1][1].items()
        assert len(mine[-1][1]["scores"]["_value"]) == len(model.rows)


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_its_cure(folder, tracker, monkeypatch, tmp_path):
    monkeypatch.setattr("vlprobe.sharing.trackers.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["log", str(folder), "--to", tracker])
    assert isinstance(done.exception, VlprobeError)
    assert f"{tracker} is not installed: pip install 'vlprobe[{tracker}]'" in str(done.exception)


def test_a_folder_that_wandb_left_is_not_taken_for_wandb(folder, tmp_path):
    (tmp_path / "nothing_of_the_kind").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(VlprobeError, match="is not installed"):
            log([], "nothing_of_the_kind", "p")


def test_names_that_mlflow_cannot_tell_apart_are_refused():
    assert _plain_names({"a/matched>mismatched": 1}) == {"a/matched to mismatched": 1}
    with pytest.raises(DataError, match="rename one"):
        _plain_names({"a?": 1, "a!": 2})
