"""Tab separated feature files: line by line, by an index that is kept and not believed."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_regions import example, made, read, write, write_tsv

from vlprobe.errors import BadRow, DataError
from vlprobe.regions import open_regions
from vlprobe.regions.formats import FORMATS


def slow_tsv(path, names):
    """Follow the format's description; no code is shared with vlprobe."""
    rows = [dict(zip(names, line.rstrip("\n").split("\t"), strict=True)) for line in path.read_text().splitlines()]
    kinds = {"objects_id": np.int64, "attrs_id": np.int64}
    arrays = {"objects_id", "objects_conf", "attrs_id", "attrs_conf", "boxes", "features"}
    return [
        {
            name: np.frombuffer(base64.b64decode(cell), kinds.get(name, np.float32)) if name in arrays else cell
            for name, cell in row.items()
        }
        for row in rows
    ]


def test_an_independent_reading_of_a_tsv_agrees(tmp_path):
    lxmert = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()
    butd = "image_id image_w image_h num_boxes boxes features".split()
    wanted = made(3)
    for form, names in (("lxmert-tsv", lxmert), ("butd-tsv", butd)):
        (row,) = slow_tsv(write(form, tmp_path / f"{form}.tsv", ("im", wanted)), names)
        assert (row[names[0]], row["num_boxes"]) == ("im", "5")
        assert [row[name] for name in names if name.endswith("_w")] == ["200"]
        assert [row[name] for name in names if name.endswith("_h")] == ["100"]
        np.testing.assert_allclose(row["boxes"].reshape(5, 4), wanted.boxes * [200, 100, 200, 100], rtol=1e-6)
        np.testing.assert_array_equal(row["features"].reshape(5, 6), wanted.features)
    row = slow_tsv(tmp_path / "lxmert-tsv.tsv", lxmert)[0]
    np.testing.assert_array_equal(row["objects_id"], wanted.objects)
    np.testing.assert_array_equal(row["objects_conf"], wanted.confidence)
    np.testing.assert_array_equal(row["attrs_id"], wanted.attributes)
    np.testing.assert_array_equal(row["attrs_conf"], wanted.attribute_confidence)


def test_lines_may_end_as_csv_ends_them(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read(path, "2.jpg").features, made(2).features)


def test_the_index_is_kept_and_is_not_believed_when_the_file_changed(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    read(path)
    index = tmp_path / "a.tsv.vlprobe-index.json"
    kept = json.loads(index.read_text())
    assert [name for name, _ in kept["facts"]["lines"]] == ["1", "2"]
    kept["facts"]["lines"].reverse()
    index.write_text(json.dumps(kept))
    entries = open_regions(str(path), folder=tmp_path).entries
    assert entries.names == ["2", "1"]  # it was read, not the file
    write_tsv(path, ("2", made(2, count=7)), ("1", made(1, count=8)))
    assert len(read(path).boxes) == 8
    for nonsense in (b"", b"[]", b'{"stamp": 1}', b"\xff", b"[" * 100_000):
        index.write_bytes(nonsense)
        assert len(read(path).boxes) == 8
    for lines in (3, [["1"]], [[1, 2]], [["1", -1]], [["1", True]]):
        kept = json.loads(index.read_text())
        kept["facts"]["lines"] = lines
        index.write_text(json.dumps(kept))
        assert len(read(path).boxes) == 8


def test_a_file_that_changes_while_it_is_in_use_is_told(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    source = open_regions(str(path), folder=tmp_path)
    write_tsv(path, ("2", made(2)), ("1", made(1)))
    with pytest.raises(BadRow, match="entry '1': the file was changed while it was in use"):
        source.regions([example(Path("1.jpg"))])


def test_a_folder_that_cannot_be_written_to_needs_no_index(tmp_path, monkeypatch):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)))

    def refuse(*_args, **_kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    source = open_regions(str(path), folder=tmp_path)
    assert len(source.revision) == 64
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tsv"]


def spoilt(**changed):
    regions = made(1)
    for name, (row, value) in changed.items():
        getattr(regions, name)[row] = value
    return regions


def cells_of(path, change):
    """Change the cells of the second line."""
    lines = path.read_bytes().splitlines()
    cells = lines[1].split(b"\t")
    change(cells)
    path.write_bytes(b"\n".join([lines[0], b"\t".join(cells)]) + b"\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-50]), "entry '2': .*(do not divide|not base64).*cut off"),
        (lambda p: p.write_bytes(p.read_bytes()[:-330]), "entry '2': 6 columns, expected 10"),
        (lambda p: p.write_bytes(p.read_bytes() + b"3"), "line 3: no tab in it"),
        (lambda p: p.write_bytes(b"a\tb\n"), r"line 1: 2 tab separated columns; expected 10 \(img_id"),
        (lambda p: p.write_bytes(b"\t".join(b"abcdefghij"[i : i + 1] for i in range(10))), "have no header line"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", made(1)), ("2", made(2))), "may be any of 2 entries"),
        (lambda p: write_tsv(p, ("1", made(1)), ("02", made(1)), ("002", made(2))), "may be any of 2 entries"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", made(2, width=7))), "have 7 numbers; expected 6"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", made(2, count=2))), "2 boxes, fewer than the 3 asked for"),
        (
            lambda p: write_tsv(p, ("1", made(1)), ("2", spoilt(boxes=(2, (0.5, 0.5, 1.4, 0.9))))),
            "box 2 of an image of 200 x 100 pixels leaves the image: .0.5, 0.5, 1.4, 0.9",
        ),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", spoilt(boxes=(1, (0.5, 0.5, 0.4, 0.9))))), "box 1 .*ends before"),
        (
            lambda p: write_tsv(p, ("1", made(1)), ("2", spoilt(features=(3, np.nan)))),
            "features of region 3 are not fi",
        ),
        (lambda p: cells_of(p, lambda c: c.__setitem__(7, b"6")), "num_boxes is 6, and boxes hold 20 numbers"),
        (lambda p: cells_of(p, lambda c: c.__setitem__(7, b"0")), "num_boxes is 0"),
        (lambda p: cells_of(p, lambda c: c.__setitem__(1, b"x")), "img_h is 'x'"),
        (lambda p: cells_of(p, lambda c: c.__setitem__(1, b"0")), "said to be 200 x 0 pixels"),
        (lambda p: cells_of(p, lambda c: c.__setitem__(3, c[3][:16])), "objects_id is not base64|lengths differ"),
        (lambda p: cells_of(p, lambda c: c.__setitem__(8, b"!" * 80)), "boxes is not base64"),
    ],
)
def test_a_damaged_tsv_is_told(tmp_path, spoil, said):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    spoil(path)
    with pytest.raises((DataError, BadRow), match=rf"a.tsv[^\n]*({said})"):
        read(path, "2.jpg", boxes=3)


@pytest.mark.parametrize("left", [1, 10, 100, -1])
@pytest.mark.parametrize("form", ["lxmert-tsv", "butd-tsv"])
def test_a_torn_last_line_is_cut_off(form, tmp_path, left):
    path = write(form, tmp_path / "a.tsv", ("1", made(1)))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b"1", b"2", 1)[:left])
    with FORMATS[form].writer(path) as writer:
        assert not writer.holds("2")
        assert path.read_bytes() == whole
        writer.write("2", made(2))
    np.testing.assert_array_equal(read(path, "2.jpg").features, made(2).features)
