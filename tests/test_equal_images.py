"""Image files of the same bytes are one image, whatever they are called: one group, and no mismatch of each other."""

import csv
import os
from pathlib import Path

import pytest

from vlprobe import digest
from vlprobe.extraction import ImageDigests
from vlprobe.pairing import derange, pair
from vlprobe.splits import cut
from vlprobe.tasks import load_task
from vlprobe.types import Example

TWINS = "11.png", "12.png"
MADE = [f"{i}.png" for i in range(13)]
PARTS = {"train": [2, 3, 5, 10, 11, 12], "validation": [7, 13], "test": [4, 6, 8, 9, 14]}
"""Rows of the parts of seed 3, where no two files are equal; drawn when files were compared by name."""
DONORS = [12, 10, 6, 5, 11, 1, 3, 4, 2, 0, 7, 9, 8]
"""So drawn, too: of every example the one whose image it is shown under seed 3."""


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """No file was read before."""
    monkeypatch.setattr(digest, "_FILES", digest._FileDigests())


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read for their digest, one after the other."""
    names = []
    before = digest.file_digest
    monkeypatch.setattr(digest, "file_digest", lambda path: names.append(path.name) or before(path))
    return names


def table(folder, twins=TWINS, sizes=lambda i: 4, **columns):
    """Write a table of thirteen images, and load it; two of them may hold the same bytes."""
    folder.mkdir(exist_ok=True)
    with (folder / "t.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text", "label", *columns])
        for i, name in enumerate(MADE):
            content = f"{i:0{sizes(i)}d}" if name not in twins else "same"
            (folder / name).write_text(content)
            rows.writerow([name, f"text {i}", "ab"[i % 2], *(column(i) for column in columns.values())])
    return load_task({"name": "t", "level": "multimodal", "table": "t.csv"}, folder=folder)


def names_of(examples):
    return [Path(str(example.image)).name for example in examples]


def mismatches(task):
    """Return (own image, the one shown) of every example, for many draws."""
    for seed in range(40):
        examples = task.load("all")
        shown = pair(examples, "mismatched", "multimodal", seed, "test")
        yield from zip(names_of(examples), names_of(shown), strict=True)


def test_they_are_one_group_and_on_one_side(tmp_path):
    task = table(tmp_path)
    group = dict(zip(names_of(task.load("all")), (e.group for e in task.load("all")), strict=True))
    assert group["11.png"] == group["12.png"] == "t#13"  # the smaller one's name
    assert len(set(group.values())) == len(MADE) - 1
    for seed in range(40):
        sides = [set(names_of(part)) for part in cut(task, seed).named().values()]
        assert sum(bool(side & set(TWINS)) for side in sides) == 1


@pytest.mark.parametrize("columns", [{}, {"group": lambda i: f"g{i}"}], ids=["by image", "a column of groups"])
def test_neither_is_the_mismatch_of_the_other(tmp_path, columns):
    task = table(tmp_path, **columns)
    assert len({e.group for e in task.load("all")}) == len(MADE) - (0 if columns else 1)
    assert not any({own, other} <= set(TWINS) for own, other in mismatches(task))


def test_examples_that_no_reader_made_are_compared_alike(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_text("same" if name in "ab" else name)
    held = [Example(name, name, "t", tmp_path / name, ("x",)) for name in "abc"]
    held.append(Example("e", "e", "t", b"same", ("x",)))
    held.append(Example("d", "d", "t", tmp_path / "d", ("x",)))
    held.append(Example("f", "f", "t", b"other", ("x",)))
    for seed in range(40):
        shown = pair(held, "mismatched", "multimodal", seed, "test")
        for own, other in zip(held, shown, strict=True):
            assert not {own.id, held[[e.image for e in held].index(other.image)].id} <= set("abe")


def test_a_folder_of_images_has_them_in_one_group(tmp_path):
    for name, content in {"cat/1.png": "same", "dog/9.png": "same", "cat/2.png": "else", "dog/3.png": "more"}.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_text(content)
    task = load_task({"name": "pets", "level": "vision", "image_folder": "pets"}, folder=tmp_path)
    assert {e.id: e.group for e in task.load("all")} == {
        "cat/1.png": "cat/1.png",
        "cat/2.png": "cat/2.png",
        "dog/3.png": "dog/3.png",
        "dog/9.png": "cat/1.png",
    }


def test_where_no_two_are_equal_groups_cuts_and_mismatches_are_those_of_their_names(tmp_path):
    task = table(tmp_path, twins=())
    examples = task.load("all")
    assert [e.group for e in examples] == [e.id for e in examples] == [f"t#{i + 2}" for i in range(13)]
    assert {name: [e.id for e in part] for name, part in cut(task, 3).named().items()} == {
        name: [f"t#{row}" for row in rows] for name, rows in PARTS.items()
    }
    donors = derange([e.group for e in examples], names_of(examples), 3, "test")
    shown = pair(examples, "mismatched", "multimodal", 3, "test")
    assert donors.tolist() == DONORS
    assert names_of(shown) == [MADE[i] for i in DONORS]


def test_only_files_of_one_size_are_read_and_none_twice(tmp_path, read, monkeypatch):
    task = table(tmp_path, sizes=lambda i: i + 5)  # the twins alone have one size
    assert sorted(read) == sorted(TWINS)
    list(mismatches(task))
    assert sorted(read) == sorted(TWINS)
    monkeypatch.setattr("vlprobe.extraction.asking.open_image", lambda image, place: None)
    images = ImageDigests()
    for example in task.load("all"):
        images(example)
    assert sorted(read) == sorted(MADE)


def test_a_file_that_changed_is_read_again(tmp_path):
    file = tmp_path / "a"
    file.write_text("1234")
    first = digest.image_digest(file)
    assert digest.image_digest(file) == first
    file.write_text("4321")
    os.utime(file, ns=(1, 1))
    assert digest.image_digest(file) != first


def test_a_file_that_is_gone_is_known_by_its_name(tmp_path):
    task = table(tmp_path)
    for name in MADE:
        (tmp_path / name).unlink()
    assert all(own != other for own, other in mismatches(task))


def test_groups_do_not_depend_on_where_the_files_are(tmp_path):
    groups = [[e.group for e in table(tmp_path / place).load("all")] for place in ("z", "a")]
    assert groups[0] == groups[1]
