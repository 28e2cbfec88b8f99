"""Files that are written aside: whoever else writes the same one, and whoever is killed meanwhile."""

import os
import time
from pathlib import Path

import pytest

from vlprobe.aside import UNFINISHED, aside, leftovers, sweep


def test_two_processes_of_one_number_do_not_write_into_each_others_file(tmp_path, monkeypatch):
    """As on two machines that share a folder: one writes all of its file while the other is half through."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "new" / "file"
    with aside(path) as one, one.open("wb") as file:
        file.write(b"one")
        file.flush()
        with aside(path) as other:
            other.write_bytes(b"other, and longer")
        assert path.read_bytes() == b"other, and longer"
        file.write(b" whole")
    assert path.read_bytes() == b"one whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_who_is_second_leaves_the_file_of_the_first_alone(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    path = tmp_path / "file"
    for content in ("first", "second"):
        with aside(path, first=True) as temporary:
            temporary.write_text(content)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_could_not_be_written_leaves_nothing(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(type(error)), aside(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_only_what_is_old_was_left_by_somebody_killed(tmp_path):
    old, young = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (old, young, tmp_path / "whole"):
        path.write_text("half")
        os.utime(path, (time.time() - UNFINISHED - 60,) * 2)
    with young.open("a") as file:
        file.write(", and more")
    assert list(leftovers(tmp_path)) == [old]
    assert list(leftovers(tmp_path.parent, deep=True)) == [old] and not list(leftovers(tmp_path / "none", deep=True))


@pytest.mark.parametrize("flushed", [True, False])
def test_a_file_is_there_once_the_disk_has_it_unless_nobody_waits(tmp_path, monkeypatch, flushed):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    with aside(path, flushed=flushed) as temporary:
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole" and seen == [False] * flushed


def test_what_is_old_is_said_by_the_clock_of_the_files(tmp_path, monkeypatch):
    """That of this machine may be hours ahead of a file server; and what is of tomorrow, nobody writes today."""
    young, tomorrow = tmp_path / "young.tmp", tmp_path / "tomorrow.tmp"
    for path in (young, tomorrow):
        path.write_text("half")
    os.utime(tomorrow, (time.time() + 86400,) * 2)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86400)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [young]
