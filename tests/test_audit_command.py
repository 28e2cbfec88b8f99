"""`vlprobe audit` as a user meets it: what it reads, what it prints, what it says of wrong input."""

import json
from pathlib import Path

import pytest
from test_audit import encoded, photo
from typer.testing import CliRunner

from vlprobe.audit.fault import SEVERITIES
from vlprobe.cli import app
from vlprobe.errors import StudyError
from vlprobe.tasks import PLACES


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    for place in PLACES.values():
        monkeypatch.delenv(place.variable, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, ["audit", *arguments], env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})


def read(*arguments):
    """Return what JSON says."""
    done = run(*arguments, "--format", "json")
    return json.loads(done.stdout)


def table(path, rows=80, image="{}.jpg", header="image,text,label,split"):
    lines = [header]
    for i in range(rows):
        lines.append(f"{image.format(i)},word{i} and{i} more{i},{'ab'[i % 2]},{'test' if i % 2 else 'train'}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_table_is_read_by_the_names_of_its_columns():
    table("t.csv")
    (said,) = read("t.csv")["audits"]
    assert (said["task"], said["level"], said["unit"], said["rows"]) == (
        "t",
        "multimodal",
        "input",
        {"train": 40, "test": 40},
    )
    assert said["read"] == [
        "level multimodal, unit input, target classes; columns: text 'text', image 'image', split 'split', "
        "label 'label'; a study file can say otherwise"
    ]
    reasons = {each["check"]: each["why"] for each in said["not_run"]}
    assert "not one of the 80 that t.csv names is in .; say --images FOLDER" in reasons["near images"]


def test_columns_can_be_named_and_images_lie_elsewhere(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        (tmp_path / "photos" / f"{i}.png").write_bytes(encoded(photo(i)))
    table("t.csv", rows=4, image="{}.png", header="file,caption,colour,part")
    options = ["--image", "file", "--text", "caption", "--label", "colour", "--split", "part", "--images", "photos"]
    (said,) = read("t.csv", *options)["audits"]
    assert (said["level"], sum(said["rows"].values())) == ("multimodal", 4)
    assert "near images" not in {each["check"] for each in said["not_run"]}
    (said,) = read("t.csv", "--text", "caption", "--label", "colour")["audits"]
    assert said["level"] == "language"


def test_words_and_numbers_of_a_table():
    Path("w.jsonl").write_text('{"words": ["a", "cat"], "labels": ["D", "N"]}\n{"words": ["cats"], "labels": ["N"]}\n')
    (said,) = read("w.jsonl")["audits"]
    assert (said["unit"], said["level"]) == ("word", "language")
    Path("n.csv").write_text("text,label\n" + "".join(f"t{i} u{i},{i}\n" for i in range(9)))
    (said,) = read("n.csv", "--target", "number")["audits"]
    assert any(fault["statement"].startswith("numbers: train") for fault in said["faults"])


def test_the_tasks_of_a_study_are_read_and_no_model_is():
    Path("t.csv").write_text(
        "text,label,split\n"
        + "".join(f"t{i} u{i},{'ab'[i % 2]},{'test' if i % 4 > 1 else 'train'}\n" for i in range(20))
    )
    Path("study.yaml").write_text(
        "name: s\nmodels: [nowhere:at-all]\ntasks:\n"
        "  - {name: one, level: language, table: t.csv}\n  - {name: color, scenes: {train: 30, test: 20}}\n"
    )
    said = read("study.yaml")["audits"]
    assert [(each["task"], each["rows"]) for each in said] == [
        ("one", {"train": 10, "test": 10}),
        ("color", {"train": 30, "test": 20}),
    ]


def test_json_is_what_is_documented():
    table("t.csv")
    with Path("t.csv").open("a") as file:
        file.write("0.jpg,word1 and1 more1,a,test\n")
    content = read("t.csv")
    assert set(content) == {"vlprobe", "audits", "unread"}
    page = (Path(__file__).resolve().parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    (said,) = content["audits"]
    held = [said, *said["faults"], *(case for fault in said["faults"] for case in fault["cases"]), *said["not_run"]]
    assert {key for each in held for key in each if f"`{key}`" not in page} == set()
    severities = [fault["severity"] for fault in said["faults"]]
    assert severities == sorted(severities, key=SEVERITIES.index) and severities[0] == "error"
    shared = next(fault for fault in said["faults"] if fault["check"] == "shared")
    assert (shared["count"], shared["of"]) == (1, 41)
    assert shared["cases"][0]["place"].endswith("t.csv, row 82")


def test_what_a_person_reads():
    table("t.csv")
    with Path("t.csv").open("a") as file:
        file.write("0.jpg,[bold]markup[/bold] [/] stays,b,test\n1.jpg,[MASK] [MASK] \x1b[31mred\x07\u202e,a,train\n")
    done = run("t.csv")
    assert done.exit_code == 0
    told = " ".join(done.stdout.split())
    assert "[bold]markup[/bold] [/] stays" in told
    assert r"\x1b[31mred\x07\u202e" in told.replace("\\\\", "\\")
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
    assert "set bad_rows: skip" in told
    assert "not looked at: damaged images, near images: no image is read" in told
    assert done.stdout.splitlines()[-1].startswith("1 task: ")


def test_one_unreadable_task_does_not_stop_the_others():
    table("t.csv")
    Path("empty.csv").write_text("text,label\n")
    done = run("empty.csv", "t.csv")
    assert done.exit_code == 1
    assert "Error: task empty: " in done.stderr and "holds no usable row" in done.stderr
    assert "1 task: " in done.stdout
    content = json.loads(run("empty.csv", "t.csv", "--format", "json").stdout)
    assert [each["task"] for each in content["audits"]] == ["t"]
    assert content["unread"][0]["task"] == "empty.csv"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["colr"], None, "there is no task 'colr'; did you mean 'color'"),
        (["gone.csv"], None, "gone.csv: there is no such file"),
        (["bare.csv"], None, "bare.csv has no column 'text' and no column 'image'; name the right ones"),
        (["bare.csv", "--text", "y"], None, "has no column 'label'"),
        (["bare.csv", "--text", "z"], None, "has no column 'z'"),
        (["gone.yaml"], StudyError, "study file gone.yaml does not exist"),
        (["color", "--text", "x"], StudyError, "are for a table, and none is named"),
        (["color", "--data", "coco"], StudyError, "--data 'coco': expected NAME=FOLDER"),
        (["color", "--data", "cocoa=x"], StudyError, "unknown key 'cocoa'; did you mean 'coco'"),
        (["color"], None, "clone https://github.com/ejsalin/vlm-probing"),
        (["t.csv", "--images", "nowhere"], None, "nowhere is not a folder"),
    ],
)
def test_wrong_input_is_explained(arguments, kind, message):
    Path("bare.csv").write_text("x,y\n1,2\n")
    table("t.csv", rows=4)
    done = run(*arguments)
    if kind is None:
        assert done.exit_code == 1
        assert message in done.stderr
    else:
        assert isinstance(done.exception, kind)
        assert message in str(done.exception)
