"""The command line as a user meets it: tables, nothing done twice, and one clear message for each kind of bad input."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest
import yaml

from toys import COLOURS, png
from vlprobe import cli
from vlprobe.store import default_folder

OWN = """
from toys import Toy


class Mine(Toy):
    pass


class Viewer(Toy):
    modalities = ("image",)

    def __init__(self):
        super().__init__(modalities=("image",))
"""


def rows(count=60):
    """Return rows of a table: colour words masked, the image tells."""
    names = list(COLOURS)
    return [
        [f"i{i}.png", f"thing {i} is [MASK] here", names[i % 4], f"g{i // 2}", ("train", "test")[i % 6 > 3]]
        for i in range(count)
    ]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Write a study with its table and images, and return a function that changes and runs it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "images").mkdir()
    for i, (name, _, colour, _, _) in enumerate(rows()):
        (tmp_path / "images" / name).write_bytes(png(COLOURS[colour], size=(8, 8 + i)))  # no two files are equal
    return World(tmp_path)


class World:
    def __init__(self, folder):
        self.folder = folder
        self.rows = rows()
        for i, row in enumerate(self.rows):
            row[3] = f"g{i}"
        self.header = ["image", "text", "label", "group", "split"]
        self.study = {
            "name": "s",
            "models": [{"name": "mine", "file": "own.py", "class": "Mine"}],
            "tasks": [{"name": "colour", "level": "multimodal", "unit": "mask", "table": "t.csv", "images": "images"}],
            "conditions": ["matched", "mismatched"],
        }

    def write(self):
        with (self.folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.header, *self.rows])
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.study))

    def __call__(self, *arguments, command="run"):
        self.write()
        return call(command, "study.yaml", *arguments)


def call(*arguments):
    """Return (exit status) of the command line, in this process."""
    before, sys.argv = sys.argv, ["vlprobe", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0


def test_run_prints_a_table_and_then_computes_nothing(world, capsys):
    assert world() == 0
    out = capsys.readouterr().out
    assert "colour (multimodal), accuracy" in out
    for said in ("mine", "pretrained", "takes it", "mismatched", "1.000 *", "[0.820, 1.000]", "joint.1", "majority"):
        assert said in out
    plain = " ".join(out.split())
    assert "Findings of 3 tests, and 4 of controls, p corrected for the number of each (Holm)" in plain
    assert "* colour: mine takes it from the image: accuracy 1.000, with a wrong image 0." in plain
    assert "6 more, the single tests among them, in results/s/findings.json" in plain
    assert "results computed. Results: results/s/results.jsonl" in out
    assert "\x1b" not in out
    assert world() == 0
    assert "nothing to compute: all results were there" in capsys.readouterr().out


def test_results_of_earlier_data_are_not_looked_at_and_it_is_said(world, capsys):
    assert world() == 0
    assert "more results" not in capsys.readouterr().out
    before = len((world.folder / "results" / "s" / "results.jsonl").read_text().splitlines())
    world.rows = world.rows[:-3]
    assert world() == 0
    assert f"results.jsonl holds {before} more results, of an earlier version of this study" in capsys.readouterr().out
    assert call("report", "results/s") == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_what_is_kept(world, capsys, monkeypatch, number, status):
    world()
    kept = (world.folder / "results" / "s" / "results.jsonl").read_text()
    monkeypatch.setattr("vlprobe.results.Results.describe", lambda *_: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is begun deaf to it
    try:
        assert world() == status
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second Ctrl-C ends it at once, without a traceback
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Stopped. What is finished is kept; the same command goes on from there." in capsys.readouterr().err
    assert (world.folder / "results" / "s" / "results.jsonl").read_text() == kept


def test_study_json_says_where_results_come_from(world, capsys):
    world()
    content = json.loads((world.folder / "results" / "s" / "study.json").read_text())
    assert content["packages"]["torch"]
    assert len(content["models"][0]["revision"]) > 0
    (source,) = content["tasks"][0]["source"]
    assert source["path"].endswith("t.csv")
    assert len(source["sha256"]) == 64
    assert len(content["images"]) == 60
    assert content["study"]["seeds"] == [0]


def test_options_override_the_file(world, capsys):
    assert world("--seed", "5", "--limit", "20", "--output", "elsewhere", "--batch-size", "3", "--device", "cpu") == 0
    lines = (world.folder / "elsewhere" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["seed"] for line in lines} == {5}
    assert {json.loads(line)["n_train"] for line in lines} == {20}


def test_plan_computes_nothing(world, capsys):
    assert world(command="plan") == 0
    out = capsys.readouterr().out
    assert "forward passes: 120" in out
    assert "probes: 13 to compute, 0 done" in out
    assert re.search(r"  mine: 120, about [\d.]+ s at [\d.e+]+ a second\ntime: about [\d.]+ s for the models, ", out)
    assert re.search(r"about [\d.e-]+ s for the probes, in one process\n", out)
    assert re.search(
        r"features: [\de.-]+ GB; [\d.e+]+ GB are free in \S+/features\nmemory: [\d.]+ GB in the trial", out
    )
    assert not list(default_folder().rglob("*.safetensors"))
    assert not (world.folder / "results").exists()


def test_plan_says_what_is_in_the_store(world, capsys):
    world.study["conditions"] = ["matched"]
    assert world() == 0
    world.study["conditions"] = ["matched", "mismatched"]
    capsys.readouterr()
    assert world("--output", "elsewhere", command="plan") == 0
    assert re.search(r"  mine: 60, about .* a second; 60 more are in the store\n", capsys.readouterr().out)


def test_what_is_done_has_no_memory_and_no_trial(world, capsys):
    world.study["conditions"] = ["matched"]
    assert world() == 0
    capsys.readouterr()
    assert world(command="plan") == 0
    said = capsys.readouterr().out
    assert said.startswith("forward passes: 0\nprobes: 0 to compute, ") and "memory" not in said and "GB" not in said


def test_a_shard_says_what_it_did_and_what_comes_next(world, capsys):
    world.study["conditions"] = ["matched"]
    for said in ("60 inputs run", "nothing was left to run"):
        assert world("--shard", "1/1") == 0
        assert capsys.readouterr().out == (
            f"shard 1/1: {said}; once all shards are done, run without --shard: it makes the results\n"
        )


def test_a_disk_that_is_too_small_is_said_before_anything_runs(world, capsys, monkeypatch):
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 10)
    assert world() == 1
    said = capsys.readouterr().err
    assert "holds neither" in said and "name a `store` on a larger disk, keep them as `dtype: float16`" in said
    assert not list(default_folder().rglob("*.safetensors"))


def test_plan_counts_what_is_left_out(world, capsys):
    for row in world.rows[8:20]:
        row[1] = ""
    world.study["bad_rows"] = "skip"
    assert world(command="plan") == 0
    out = capsys.readouterr().out
    assert "12 rows left out (bad_rows: skip)" in out
    assert out.count("t.csv, row") == 5


@pytest.mark.parametrize("what", ["models", "tasks", "probes", "conditions"])
def test_list(what, capsys):
    assert call("list", what) == 0
    expected = {"models": "vilt", "tasks": "bigram-shift", "probes": "ridge", "conditions": "A>B"}
    assert expected[what] in capsys.readouterr().out


def break_image(world, data):
    (world.folder / "images" / "i7.png").write_bytes(data)


def jpeg():
    import io

    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def set_row(world, column, value):
    world.rows[7][column] = value


ROW = "t.csv, row 9"
BAD = {
    "missing image": (lambda w: (w.folder / "images" / "i7.png").unlink(), [ROW, "i7.png"]),
    "truncated jpeg": (lambda w: break_image(w, jpeg()[:2000]), [ROW, "i7.png", "cannot be decoded"]),
    "not an image": (lambda w: break_image(w, b"hello"), [ROW, "i7.png", "not an image"]),
    "too few columns": (lambda w: w.rows.__setitem__(7, w.rows[7][:3]), [ROW, "column"]),
    "empty text": (lambda w: set_row(w, 1, "  "), [ROW, "empty"]),
    "empty label": (lambda w: set_row(w, 2, ""), [ROW, "label"]),
    "image climbs out": (lambda w: set_row(w, 0, "../t.csv"), [ROW, "'../t.csv' leaves its folder"]),
    "unseen label": (
        lambda w: w.rows[4].__setitem__(2, "mauve"),
        ["t.csv, row 6", "'mauve'", "does not occur in train"],
    ),
    "group on both sides": (lambda w: set_row(w, 3, "g4"), ["t.csv, row 9", "'g4'", "t.csv, row 6"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_one_clear_message(world, capsys, kind):
    spoil, said = BAD[kind]
    spoil(world)
    assert world() == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "Traceback" not in error
    for part in [*said, "bad_rows: skip"]:
        assert part in error


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_can_be_left_out_and_is_counted(world, capsys, kind):
    spoil, said = BAD[kind]
    spoil(world)
    world.study["bad_rows"] = "skip"
    assert world() == 0
    out = capsys.readouterr().out
    assert "1 row left out (bad_rows: skip)" in out
    (line,) = json.loads((world.folder / "results" / "s" / "study.json").read_text())["skipped_rows"]
    assert said[0] in line


def test_a_split_with_one_class(world, capsys):
    for row in world.rows:
        if row[4] == "test":
            row[2] = "red"
    assert world() == 1
    error = capsys.readouterr().err
    assert "task colour: its test part holds one class only ('red')" in error
    assert "Traceback" not in error


MISSPELT = {
    "key": (
        lambda s: s.update(conditons=["matched"]),
        "unknown key 'conditons'; did you mean 'conditions' or 'controls'?",
    ),
    "key of a task": (lambda s: s["tasks"][0].update(tabel="t.csv"), "'tabel'"),
    "column": (lambda s: s["tasks"][0].update(columns={"text": "txt"}), "did you mean 'text'"),
    "family": (lambda s: s.update(models=["brt:x"]), "did you mean 'bert'"),
    "model file": (lambda s: s["models"][0].update(file="onw.py"), "onw.py"),
    "model class": (lambda s: s["models"][0].update({"class": "Mien"}), "did you mean 'Mine'"),
    "task": (lambda s: s.update(tasks=["bigram-shfit"]), "did you mean 'bigram-shift'"),
    "layer": (lambda s: s.update(layers=["jiont.1"]), "did you mean 'joint.1'"),
    "condition": (lambda s: s.update(conditions=["mismatch"]), "did you mean 'mismatched'"),
    "pooling": (lambda s: s.update(pooling={"word": "frist"}), "did you mean 'first'"),
    "device": (lambda s: s.update(device="cdua"), "cdua"),
}


@pytest.mark.parametrize("kind", MISSPELT)
def test_a_misspelt_name_is_one_clear_message(world, capsys, kind):
    spoil, said = MISSPELT[kind]
    spoil(world.study)
    if kind == "device":  # encoders of one's own choose theirs
        world.study["models"] = ["bert:package:vlprobe/nowhere"]
    assert world() == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("Error: ")
    assert "Traceback" not in error


def test_no_such_study(capsys, tmp_path):
    assert call("run", str(tmp_path / "no.yaml")) == 1
    assert "no.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("- a\n", "must hold a mapping"),
        ("name: !!python/object/apply:os.system ['touch hacked']\n", "is not valid YAML"),
    ],
)
def test_a_study_that_is_no_mapping(tmp_path, capsys, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    assert call("run", "s.yaml") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "hacked").exists()


def test_a_link_out_of_the_image_folder_is_refused(world, capsys):
    (world.folder / "secret.png").write_bytes(png((1, 2, 3)))
    (world.folder / "images" / "i7.png").unlink()
    (world.folder / "images" / "i7.png").symlink_to(world.folder / "secret.png")
    assert world() == 1
    assert "leaves its folder" in capsys.readouterr().err


def test_an_image_of_too_many_pixels_is_refused(world, capsys, monkeypatch):
    monkeypatch.setattr("vlprobe.images.MAX_PIXELS", 7000)
    (world.folder / "images" / "i7.png").write_bytes(png((1, 2, 3), size=(84, 84)))
    assert world() == 1
    assert "84 x 84 pixels; the limit is 7,000" in capsys.readouterr().err


def test_results_of_another_version_are_not_overwritten(world, capsys):
    (world.folder / "results" / "s").mkdir(parents=True)
    (world.folder / "results" / "s" / "results.jsonl").write_text('{"task": "x"}\n')
    assert world() == 1
    assert "results.jsonl, line 1: not a result of this version" in capsys.readouterr().err


def test_help_is_there_in_half_a_second():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "vlprobe", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Of the processor, not of the clock: a busy machine is not vlprobe's slowness.
    assert min(seconds() for _ in range(4)) < 0.5
