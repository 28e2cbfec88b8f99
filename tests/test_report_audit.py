"""What the data set check found stands on the page, and whether it was of the data that the results are of."""

import json

import pytest
from test_findings import Planted
from test_report_page import SCRIPT, Reader
from test_report_tables import described

from vlprobe.audit import audit
from vlprobe.errors import DataError
from vlprobe.report.audited import read_audit
from vlprobe.report.contents import read_contents
from vlprobe.report.page import page
from vlprobe.types import Example, Source, Task

SOURCE = Source("/there/colours.csv", "a" * 64)


def colours(name="colour", **other):
    """Return a task whose test part shares a text with train."""
    texts = ["a red thing" if i in (3, 35) else f"thing {i}" for i in range(40)]
    rows = [Example(f"e{i}", f"g{i}", text, None, ("ab"[i % 2],), place=f"row {i}") for i, text in enumerate(texts)]
    splits = {"train": tuple(rows[:30]), "test": tuple(rows[30:])}
    values = {"source": (SOURCE,), "options": {"images": "none"}} | other
    return Task(name, "language", "input", ("a", "b"), splits, **values)


def checked(folder, *tasks, unread=(), **described_as):
    planted = Planted(folder).model(0.9, 0.25)
    described(planted)
    content = planted.results.description()
    content["tasks"][0] |= {"source": [{"path": "/here/colours.csv", "sha256": SOURCE.sha256}],
                            "options": {"images": "none"}} | described_as  # fmt: skip
    planted.results.describe(content)
    written = {"vlprobe": "9.9", "audits": [audit(task).plain() for task in tasks], "unread": list(unread)}
    (folder / "audit.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


def test_the_page_says_what_was_found(tmp_path):
    contents = read_contents(checked(tmp_path, colours(), colours("elsewhere")))
    found = contents["audit"]
    assert {fault["task"] for fault in found["faults"]} == {"colour"} and not found["other"] + found["unchecked"]
    order = [fault["severity"] for fault in found["faults"]]
    assert order == sorted(order, key=["error", "warning", "note"].index) and order[0] != "note"
    text = " ".join(" ".join(Reader(page(contents)).text).split())
    (shared,) = [fault for fault in found["faults"] if fault["check"] == "shared"]
    assert f"{shared['count']} of {shared['of']} {shared['statement']} {shared['cure']}" in text
    assert "version 9.9" in text and "not looked at" in text and "a red thing" not in text  # texts are not shown


def test_data_that_were_not_checked_are_said_not_to_be(tmp_path):
    contents = described(Planted(tmp_path).model(0.9, 0.25))
    text = page(contents)
    assert "The data were not checked." in text and f"--format json &gt; {tmp_path}/audit.json" in text
    (folder := tmp_path / "other").mkdir()
    contents = read_contents(
        checked(folder, colours("elsewhere"), unread=[{"task": "colour", "error": "no such file"}])
    )
    assert contents["audit"]["unchecked"] == ["colour"] and "could not be read: no such file" in page(contents)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"source": [{"path": "/here/colours.csv", "sha256": "b" * 64}]}, "colour: the files that were checked"),
        ({"options": {"images": "some"}}, "colour: it was checked with another 'images'"),
        ({"options": {}}, "colour: it was checked with another 'images'"),
    ],
)
def test_an_audit_of_other_data_is_told(tmp_path, other, told):
    contents = read_contents(checked(tmp_path, colours(), **other))
    (line,) = contents["audit"]["other"]
    assert line.startswith(told) and "Not the same data." in page(contents)


def test_another_revision_is_told(tmp_path):
    folder = checked(tmp_path, colours(source=(), revision="old"), source=[], revision="new")
    (line,) = read_contents(folder)["audit"]["other"]
    assert line == "colour: revision old was checked, and the results are of new"


@pytest.mark.parametrize("content", ["{", "[]", '{"audits": [{}]}', '{"vlprobe": 1, "audits": 3, "unread": []}'])
def test_what_is_no_audit_is_refused(tmp_path, content):
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(DataError, match=r"audit.json: is no audit of this version .* --format json"):
        read_audit(tmp_path, [{"name": "colour", "source": [], "options": {}, "revision": ""}])


def test_a_severity_that_is_none_is_refused(tmp_path):
    folder = checked(tmp_path, colours())
    (folder / "audit.json").write_text((folder / "audit.json").read_text().replace('"warning"', '"grave"'))
    with pytest.raises(DataError, match="grave"):
        read_contents(folder)


def test_what_it_says_is_text(tmp_path):
    folder = checked(tmp_path, colours())
    content = json.loads((folder / "audit.json").read_text())
    for fault in content["audits"][0]["faults"]:
        fault |= {"statement": SCRIPT, "cure": SCRIPT, "check": SCRIPT}
    (folder / "audit.json").write_text(json.dumps(content | {"vlprobe": SCRIPT}))
    read = Reader(page(read_contents(folder)))
    assert "script" not in read.tags and "img" not in read.tags and SCRIPT in " ".join(read.text)
