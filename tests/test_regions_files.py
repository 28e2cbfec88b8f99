"""Feature files: equal to the original readers', looked up by the right name, and clear about what is wrong."""

import base64
import hashlib
import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity_files import file_lines
from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.regions import open_regions
from vlprobe.regions.formats import FORMATS
from vlprobe.regions.image_names import NameIndex
from vlprobe.types import Example, Regions

REFERENCE = Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "feature_files"
OUTPUTS = {
    "lxmert-tsv": "a.tsv",
    "butd-tsv": "a.tsv",
    "uniter-npz": "a",
    "uniter-lmdb": "feat_th0.2_max100_min10",
    "uniter-lmdb-compressed": "feat_th0.2_max100_min10_compressed",
    "volta-h5": "a.h5",
}


def made(seed=0, count=5, width=6):
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2)) * 0.5
    boxes = np.concatenate([corner, corner + 0.1 + rng.random((count, 2)) * 0.4], 1).astype(np.float32)
    features = rng.random((count, width)).astype(np.float32)
    confidence = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    ids = np.arange(count) + seed
    probabilities = rng.random((count, 4)).astype(np.float32)
    return Regions(boxes, features, (200, 100), confidence, ids, ids + 1, confidence / 2, probabilities)


def example(image):
    return Example("e", "g", "text", image, ("x",), place="t.csv, row 2")


def write(form, path, *named):
    if "lmdb" in form:
        pytest.importorskip("lmdb")
        pytest.importorskip("msgpack")
    if form == "volta-h5":
        pytest.importorskip("h5py")
    with FORMATS[form].writer(path) as writer:
        for name, regions in named:
            writer.write(name, regions)
    return path


def write_tsv(path, *named):
    path.unlink(missing_ok=True)
    return write("lxmert-tsv", path, *named)


def write_npz(folder, name, regions, **changed):
    x1, y1, x2, y2 = regions.boxes.T
    norm = np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], 1)
    arrays = {"norm_bb": norm, "features": regions.features, "conf": regions.confidence} | changed
    np.savez_compressed(folder / name, **arrays)


def read(path, image="1.jpg", **settings):
    return open_regions({"features": str(path), **settings}, folder=Path()).regions([example(Path(image))])[0]


def test_every_reference_file_is_read_as_the_original_reads_it():
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference files: {REFERENCE} is not there")
    for package in ("h5py", "lmdb", "msgpack"):
        pytest.importorskip(package)
    lines = list(file_lines(REFERENCE))
    assert len(lines) == 34
    assert {tolerance for _, _, tolerance in lines} == {0.0}
    assert [line for line in lines if line[1] > line[2]] == []


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read(form, tmp_path):
    path = write(form, tmp_path / OUTPUTS[form], *((f"{seed}", made(seed, count=3 + seed)) for seed in (1, 2, 3)))
    source = open_regions(str(path), folder=tmp_path)
    for seed, found in zip((3, 1), source.regions([example(Path("3.jpg")), example(Path("x/1.png"))]), strict=True):
        wanted = made(seed, count=3 + seed)
        # A fraction of a side cannot always be had back from the pixels nearest to it: one step of float32.
        np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=2e-7, atol=0)
        assert found.features.dtype == np.float32
        held = {"features": True, "size": "uniter" not in form}
        held |= dict.fromkeys(("objects", "attributes", "attribute_confidence"), form in ("lxmert-tsv", "volta-h5"))
        held |= {"confidence": form != "butd-tsv", "probabilities": "uniter" in form}
        for name, there in held.items():
            if there:
                np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
            else:
                assert getattr(found, name) in (None, (0, 0))


# Slow readers that follow the formats' descriptions and share no code with vlprobe.


def slow_tsv(path, names):
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


def test_an_independent_reading_of_uniters_databases_agrees(tmp_path):
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    wanted = made(3, count=12)
    for form in ("uniter-lmdb", "uniter-lmdb-compressed"):
        path = write(form, tmp_path / OUTPUTS[form], ("COCO_val2014_000000000042", wanted))
        with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as values:
            assert json.loads(values.get(b"__keys__")) == ["coco_val2014_000000000042.npz"]
            value = values.get(b"coco_val2014_000000000042.npz")
        if form == "uniter-lmdb":
            packed = msgpack.unpackb(value)
            arrays = {
                name: np.frombuffer(held[b"data"], held[b"type"]).reshape(held[b"shape"])
                for name, held in packed.items()
            }
        else:
            arrays = dict(np.load(io.BytesIO(value)))
        sides = wanted.boxes[:, 2:] - wanted.boxes[:, :2]
        np.testing.assert_array_equal(arrays["norm_bb"], np.concatenate([wanted.boxes, sides], 1))
        np.testing.assert_array_equal(arrays["features"], wanted.features)
        np.testing.assert_array_equal(arrays["conf"], wanted.confidence)
        np.testing.assert_array_equal(arrays["soft_labels"], wanted.probabilities)
        assert json.loads((tmp_path / "nbb_th0.2_max100_min10.json").read_text()) == {
            "coco_val2014_000000000042.npz": 12
        }


def test_an_independent_reading_of_volta_agrees(tmp_path):
    h5py = pytest.importorskip("h5py")
    wanted = made(3)
    with h5py.File(write("volta-h5", tmp_path / "a.h5", ("im", wanted)), "r") as file:
        assert list(file) == ["im"]
        group = file["im"]
        np.testing.assert_allclose(group["boxes"][:], wanted.boxes * [200, 100, 200, 100], rtol=1e-6)
        np.testing.assert_array_equal(group["features"][:], wanted.features)
        np.testing.assert_array_equal(group["obj_id"][:], wanted.objects)
        np.testing.assert_array_equal(group["attr_conf"][:], wanted.attribute_confidence)
        assert (group["img_w"][()], group["img_h"][()]) == (200, 100)


def test_lines_may_end_as_csv_ends_them(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read(path, "2.jpg").features, made(2).features)


def test_float16_is_widened(tmp_path):
    half = made(1).features.astype(np.float16)
    write_npz(tmp_path, "1.npz", made(1), features=half)
    found = read(tmp_path).features
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.astype(np.float64))


@pytest.mark.parametrize(
    ("entry", "image"),
    [
        ("coco_val2014_000000000042.npz", "COCO_val2014_000000000042.jpg"),
        ("coco_val2014_000000000042.npz", "000000000042.jpg"),
        ("COCO_val2014_000000000042", "coco_val2014_000000000042.png"),
        ("42", "COCO_val2014_000000000042.jpg"),
        ("42", "000000000042.jpg"),
        ("flickr30k_001000092795.npz", "1000092795.jpg"),
        ("vg_2315353.npz", "2315353.jpg"),
        ("nlvr2_dev-850-0-img0.npz", "dev-850-0-img0.png"),
        ("dev-10-0-0", "dev-10-0-0.png"),
        ("a.b.c.jpg", "a.b.c.jpg"),
    ],
)
def test_names_of_one_image(entry, image):
    others = ["coco_val2014_000000000142.npz", "dev-10-0-1", "nlvr2_dev-850-0-img1.npz", "flickr30k_000000000001.npz"]
    assert NameIndex([*others, entry]).find(image) == [entry]


@pytest.mark.parametrize(
    ("entries", "image", "found"),
    [
        (["coco_train2014_000000000042.npz"], "COCO_val2014_000000000042.jpg", 0),
        (["vg_42.npz", "flickr30k_000000000042.npz"], "COCO_val2014_000000000042.jpg", 0),
        (["142", "4"], "42.jpg", 0),
        (["dev-10-0-1"], "dev-10-0-0.png", 0),
        (["Dog"], "dog.jpg", 0),
        (["vg_42.npz", "coco_val2014_000000000042.npz"], "42.jpg", 2),
        (["42", "vg_42.npz"], "42.jpg", 1),  # spelt as the image is
    ],
)
def test_names_of_other_images(entries, image, found):
    assert len(NameIndex(entries).find(image)) == found


def test_adaptive_number_of_boxes_is_uniters(tmp_path):
    for name, confident, expected in (("1.npz", 3, 10), ("2.npz", 14, 14), ("3.npz", 40, 20)):
        regions = made(count=40)
        confidence = np.where(np.arange(40) < confident, 0.9, 0.2).astype(np.float32)  # 0.2 itself does not count
        write_npz(tmp_path, name, regions, conf=confidence)
        for dtype in (np.float32, np.float16):
            write_npz(tmp_path, name, regions, conf=confidence.astype(dtype))
            found = read(tmp_path, name.replace("npz", "jpg"), boxes=[10, 20])
            assert len(found.boxes) == len(found.features) == len(found.confidence) == expected
            np.testing.assert_array_equal(found.boxes, regions.boxes[:expected])
        assert len(read(tmp_path, name.replace("npz", "jpg"), boxes=36).boxes) == 36
        assert len(read(tmp_path, name.replace("npz", "jpg")).boxes) == 40


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "butd-tsv"])
def test_a_cut_keeps_the_most_confident_wherever_they_stand(form, tmp_path):
    confidence = np.array([0.3, 0.9, 0.1, 0.5, 0.5, 0.05, 0.6, 0.15], np.float32)  # in the order of the proposals
    regions = replace(made(1, count=8), confidence=confidence)
    path = write(form, tmp_path / OUTPUTS[form], ("1", regions))
    for boxes, kept in (
        (1, [1]),
        (3, [1, 3, 6]),  # of equals the first
        (7, [0, 1, 2, 3, 4, 6, 7]),
        (8, [*range(8)]),
        ([2, 8], [0, 1, 3, 4, 6]),  # above 0.2
        ([6, 8], [0, 1, 3, 4, 6, 7]),
        ([1, 2], [1, 6]),
    ):
        found = read(path, boxes=boxes)
        for name in ("features", "confidence", "objects", "attributes", "attribute_confidence", "probabilities"):
            if getattr(found, name) is not None:
                np.testing.assert_array_equal(getattr(found, name), getattr(regions, name)[kept])
        np.testing.assert_allclose(found.boxes, regions.boxes[kept], rtol=2e-7, atol=0)


def test_rows_without_confidences_are_not_guessed_at(tmp_path):
    path = write("butd-tsv", tmp_path / "a.tsv", ("1", made(1, count=12)))
    assert len(read(path, boxes=[10, 20]).boxes) == len(read(path, boxes=12).boxes) == 12
    for boxes in (8, [4, 8]):
        with pytest.raises(BadRow, match="entry '1': 12 boxes without confidences, of which the best 8 cannot be told"):
            read(path, boxes=boxes)


def test_box_counts_beside_a_database_cut_it(tmp_path):
    path = write("uniter-lmdb", tmp_path / OUTPUTS["uniter-lmdb"], ("1", made(1, count=12)))
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"1.npz": 10}')
    assert len(read(path).boxes) == 10
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"1.npz": 13}')
    with pytest.raises(DataError, match="says 13 boxes, and the entry holds 12"):
        read(path)
    turned = made(2, count=12)
    turned = replace(turned, confidence=turned.confidence[::-1].copy())
    write("uniter-lmdb", path, ("2", turned), ("3", replace(turned, confidence=None)))
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"2.npz": 10, "3.npz": 10}')
    np.testing.assert_array_equal(read(path, "2.jpg").features, turned.features[2:])
    with pytest.raises(BadRow, match="entry '3.npz': 12 boxes without confidences"):
        read(path, "3.jpg")


def test_the_revision_is_of_content_and_settings(tmp_path):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)))
    write_tsv(tmp_path / "b.tsv", ("1", made(2)))
    one, two = (open_regions(name, folder=tmp_path).revision for name in ("a.tsv", "b.tsv"))
    cut = open_regions({"features": "a.tsv", "boxes": 3}, folder=tmp_path)
    assert len({one, two, cut.revision}) == 3
    assert one == hashlib.sha256((tmp_path / "a.tsv").read_bytes()).hexdigest()
    assert len(cut.regions([example(Path("1.jpg"))])[0].boxes) == 3


@pytest.mark.parametrize("form", FORMATS)
def test_the_revision_follows_the_content(form, tmp_path):
    path = write(form, tmp_path / OUTPUTS[form], ("1", made(1)), ("2", made(2)))
    before = open_regions(str(path), folder=tmp_path).revision
    assert open_regions(str(path), folder=tmp_path).revision == before
    write(form, path, ("3", made(3)))
    assert open_regions(str(path), folder=tmp_path).revision != before


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


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Path("99.jpg"), "t.csv, row 2: .*a.tsv has no features for image 99.jpg; its 2 entries look like '1', '2'"),
        (b"png", "the image has no file name, and .*a.tsv is looked up by name"),
        (None, "no image, and so no entry"),
    ],
)
def test_an_image_without_features_is_named(tmp_path, image, said):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    with pytest.raises(BadRow, match=said):
        open_regions("a.tsv", folder=tmp_path).regions([example(image)])


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


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_pickles_in_archives_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "1.npz", norm_bb=np.array([Evil()], dtype=object), features=np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"1.npz holds Python objects \(a pickle\)"):
        open_regions(".", folder=tmp_path)
    (tmp_path / "1.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"1.npz holds Python objects \(a pickle\)"):
        open_regions(".", folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-40], "is not a whole npz archive"),
        (lambda data: data[:200] + bytes(60) + data[260:], "is not a whole npz archive"),
        (lambda _: b"", "is not a whole npz archive"),
    ],
)
def test_a_damaged_npz_is_told(tmp_path, spoil, said):
    for name in ("1.npz", "2.npz"):
        write_npz(tmp_path, name, made(1))
    (tmp_path / "2.npz").write_bytes(spoil((tmp_path / "2.npz").read_bytes()))
    with pytest.raises(BadRow, match=rf"t.csv, row 2: .*2.npz {said}"):
        read(tmp_path, "2.jpg")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"norm_bb": np.zeros((4, 6))}, "lengths differ: 4 boxes and 5 features"),
        ({"norm_bb": np.zeros(5)}, "norm_bb has shape"),
        ({"norm_bb": np.zeros((0, 6)), "features": np.zeros((0, 6))}, "at least one"),
        ({"features": np.array(["a"] * 5)[:, None]}, "features are <U1; expected numbers"),
        ({"features": np.zeros((5, 6), complex)}, "features are complex128"),
        ({"conf": np.zeros((5, 2))}, "confidence have shape"),
        ({"soft_labels": np.zeros((3, 2))}, "lengths differ: 5 boxes and 3 probabilities"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, changed, said):
    write_npz(tmp_path, "1.npz", made(1))
    write_npz(tmp_path, "2.npz", made(1), **changed)
    with pytest.raises(BadRow, match=said):
        read(tmp_path, "2.jpg")


def test_other_archives_are_told_from_uniters(tmp_path):
    np.savez(tmp_path / "1.npz", x=np.zeros((2, 3)), bbox=np.zeros((2, 4)))
    with pytest.raises(DataError, match="no array 'norm_bb'.*this one none of them"):
        open_regions(".", folder=tmp_path)


def put(path, **values):
    lmdb = pytest.importorskip("lmdb")
    path.mkdir(exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


def nd(**changed):
    msgpack = pytest.importorskip("msgpack")
    array = {b"nd": True, b"type": b"<f4", b"kind": b"", b"shape": [1, 6], b"data": bytes(24)} | changed
    return msgpack.packb({"norm_bb": array, "features": array})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: nd(**{}) + b"x", "is not whole msgpack"),
        (lambda: nd()[:-4], "is not whole msgpack"),
        (lambda: pickle.dumps(Evil()), "is a pickle"),
        (lambda: pytest.importorskip("msgpack").packb({"norm_bb": 3}), "expected a mapping of names to arrays"),
        (
            lambda: pytest.importorskip("msgpack").packb(pytest.importorskip("msgpack").ExtType(4, b"x")),
            "expected a map",
        ),
        (lambda: packed_nd(b"type", b"O"), "an array of type 'O'"),
        (lambda: packed_nd(b"type", b"|O8"), r"an array of type '\|O8'"),
        (lambda: packed_nd(b"type", b"<U4"), "an array of type '<U4'"),
        (lambda: packed_nd(b"type", [["a", "O"]]), "an array of type"),
        (lambda: packed_nd(b"type", b"<f1"), "an array of type '<f1'"),
        (lambda: packed_nd(b"kind", b"O"), "an array of type '<f4'"),
        (lambda: packed_nd(b"nd", False), "an array of type"),
        (lambda: packed_nd(b"shape", [2, 6]), "has 24 bytes, expected 48"),
        (lambda: packed_nd(b"shape", [-1, 6]), "an array of shape"),
        (lambda: packed_nd(b"shape", [2**62, 2**62]), "expected"),
    ],
)
def test_what_a_database_may_not_hold(tmp_path, monkeypatch, value, said):
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "db", **{"__keys__": b'["1.npz"]', "1.npz": value()})
    with pytest.raises(DataError, match=said):
        open_regions(str(path), folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


def packed_nd(key, value):
    msgpack = pytest.importorskip("msgpack")
    array = {b"nd": True, b"type": b"<f4", b"kind": b"", b"shape": [1, 6], b"data": bytes(24), key: value}
    return msgpack.packb({"norm_bb": array, "features": array})


def test_voltas_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "db", keys=pickle.dumps([b"1"]), **{"1": pickle.dumps(Evil())})
    with pytest.raises(DataError, match=r"volta LMDB, whose values are pickles.*Use volta.s .h5 file"):
        open_regions(str(path), folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_the_extra_array_of_old_archives_is_no_trouble(tmp_path):
    buffer = io.BytesIO()
    regions = made(1)
    norm = np.concatenate([regions.boxes, regions.boxes[:, :2]], 1)
    arrays = {"norm_bb": norm, "features": regions.features, "conf": regions.confidence}
    np.savez_compressed(buffer, **arrays, **{"allow_pickle2": np.array(False)})
    value = buffer.getvalue().replace(b"allow_pickle2", b"allow_pickle_")
    path = put(tmp_path / "db", **{"__keys__": b'["1.npz"]', "1.npz": value})
    np.testing.assert_array_equal(read(path).features, regions.features)


def test_a_database_that_was_cut_off_does_not_end_the_process(tmp_path):
    path = write("uniter-lmdb", tmp_path / "feat.lmdb", *((str(n), made(n, width=600)) for n in range(6)))
    whole = (path / "data.mdb").read_bytes()
    for length in (len(whole) // 2, 8192, 100):
        (path / "data.mdb").write_bytes(whole[:length])
        code = f"from pathlib import Path; import vlprobe.regions as r; r.open_regions({str(path)!r}, folder=Path())"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ended.returncode == 1
        assert "DataError" in ended.stderr
        assert "cut off" in ended.stderr or "cannot be opened as an LMDB" in ended.stderr


def test_a_database_without_its_list_of_names_is_read(tmp_path):
    path = put(tmp_path / "db", **{"1.npz": nd(), "2.npz": nd()})
    assert open_regions(str(path), folder=tmp_path).entries.names == ["1.npz", "2.npz"]


def test_one_database_may_be_open_twice(tmp_path):
    path = write("uniter-lmdb", tmp_path / "db", ("1", made(1)))
    one, two = (open_regions(str(path), folder=tmp_path) for _ in range(2))
    np.testing.assert_array_equal(
        one.regions([example(Path("1.jpg"))])[0].features, two.regions([example(Path("1.jpg"))])[0].features
    )


@pytest.mark.parametrize("what", ["missing", "strings", "size", "cut", "array"])
def test_a_damaged_h5_is_told(tmp_path, what):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    with h5py.File(path, "a") as file:
        group = file["2"]
        if what == "missing":
            del group["boxes"]
        elif what == "strings":
            del group["features"]
            group["features"] = np.array([b"a"] * 5, dtype=object)
        elif what == "size":
            del group["img_w"]
            group["img_w"] = np.zeros(3, int)
        elif what == "array":
            del file["2"]
            file["2"] = np.zeros(3)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    said = {
        "missing": "entry '2': no 'boxes'",
        "strings": "'features' is not an array of numbers",
        "size": "img_w is .*expected one whole number",
        "cut": "cannot be opened as HDF5",
        "array": "is a single array",
    }[what]
    with pytest.raises((BadRow, DataError), match=said):
        read(path, "2.jpg")


@pytest.mark.parametrize("what", ["external", "virtual", "link", "soft link", "dangling", "entry", "link inside"])
def test_an_h5_that_leads_out_of_itself_is_refused(tmp_path, what, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    secret = str(write("volta-h5", tmp_path / "secret.h5", ("2", made(3))))
    (tmp_path / "secret").write_bytes(bytes(120))
    with h5py.File(path, "a") as file:
        group = file["2"]
        kept = group["features"][:]
        del group["features"]
        if what == "external":
            group.create_dataset("features", (5, 6), "f4", external=[(str(tmp_path / "secret"), 0, 120)])
        elif what == "virtual":
            layout = h5py.VirtualLayout((5, 6), "f4")
            layout[:] = h5py.VirtualSource(secret, "2/features", (5, 6))
            group.create_virtual_dataset("features", layout)
        elif what == "link":
            group["features"] = h5py.ExternalLink(secret, "/2/features")
        elif what == "soft link":
            file["~out"] = h5py.ExternalLink(secret, "/2")
            group["features"] = h5py.SoftLink("/~out/features")
        elif what == "dangling":
            group["features"] = h5py.SoftLink("/nowhere")
        elif what == "entry":
            del file["2"]
            file["2"] = h5py.ExternalLink(secret, "/2")
        elif what == "link inside":  # it cannot be told from one that leads out without following it
            file["~in"] = kept
            group["features"] = h5py.SoftLink("/~in")
    (tmp_path / "secret.h5").unlink()  # nor is it looked for
    key, said = {
        "external": ("features", "lie outside of it .an external data set"),
        "virtual": ("features", "lie outside of it .a virtual data set"),
        "link": ("features", "is an external link, .* not followed"),
        "entry": ("2", "is an external link, .* not followed"),
    }.get(what, ("features", "is a soft link, .* not followed"))
    with pytest.raises(BadRow, match=rf"a.h5, entry '2': .*'{key}' {said}"):
        read(path, "2.jpg")
    np.testing.assert_array_equal(read(path, "1.jpg").features, made(1).features)


def test_an_optional_array_of_an_h5_may_not_lead_out_either(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    with h5py.File(path, "a") as file:
        del file["2"]["obj_conf"]
        file["2"]["obj_conf"] = h5py.ExternalLink("nowhere.h5", "/x")
    with pytest.raises(BadRow, match="'obj_conf' is an external link"):
        read(path, "2.jpg")


def test_what_is_no_feature_file(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "split" / "all").mkdir(parents=True)
    (tmp_path / "split" / "all" / "data.mdb").write_bytes(b"")
    (tmp_path / "one.npz").write_bytes(b"")
    for name, said in {
        "x.txt": "no feature file that vlprobe knows; it reads .tsv",
        "nowhere.tsv": "does not exist",
        "empty": "holds neither data.mdb nor .npz",
        "split": "holds several LMDBs; name one of them: all",
        "one.npz": "one image's features; name the folder",
    }.items():
        with pytest.raises(DataError, match=said):
            open_regions(name, folder=tmp_path)
    for spec, said in {
        ("featurs", "x"): "did you mean 'features'",
        ("boxes", 36): "give one of `features: FILE` and `detector: WEIGHTS`",
    }.items():
        with pytest.raises(StudyError, match=said):
            open_regions(dict([spec]), folder=tmp_path)
    for more, said in (
        ({"boxes": [5, 3]}, "boxes must be"),
        ({"boxes": 0}, "boxes must be"),
        ({"conventions": "hf"}, "a feature file has none"),
        ({"detector": "y"}, "give one of"),
    ):
        with pytest.raises(StudyError, match=said):
            open_regions({"features": "x", **more}, folder=tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write("volta-h5", tmp_path / "a.h5", ("1", made(1)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"'h5py' is not installed; pip install 'vlprobe\[regions\]'"):
        open_regions("a.h5", folder=tmp_path)


def test_opening_the_room_loads_nothing_heavy():
    heavy = ("torch", "h5py", "lmdb", "msgpack", "numpy", "pydantic")
    code = f"import vlprobe.regions, vlprobe.regions.command, sys; print([n for n in {heavy} if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Written by runs that were killed.


@pytest.mark.parametrize("form", FORMATS)
def test_a_second_run_adds_to_the_first(form, tmp_path):
    path = write(form, tmp_path / OUTPUTS[form], ("1", made(1)))
    with FORMATS[form].writer(path) as writer:
        assert (writer.holds("1"), writer.holds("2")) == (True, False)
        writer.write("2", made(2))
        assert writer.holds("2")
    for seed in (1, 2):
        np.testing.assert_array_equal(read(path, f"{seed}.jpg").features, made(seed).features)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "volta-h5"])
def test_a_killed_run_leaves_whole_entries(form, tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import test_regions_files as t\n"
        f"writer = t.FORMATS[{form!r}].writer(Path({str(tmp_path / OUTPUTS[form])!r}))\n"
        "writer.write('1', t.made(1)); writer.write('2', t.made(2)); os._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    path = write(form, tmp_path / OUTPUTS[form], ("3", made(3)))
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(read(path, f"{seed}.jpg").features, made(seed).features)
    if "lmdb" in form:
        counts = json.loads((tmp_path / "nbb_th0.2_max100_min10.json").read_text())
        assert counts == {"1.npz": 5, "2.npz": 5, "3.npz": 5}


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


def test_a_torn_h5_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)))
    code = f"import h5py, os; f = h5py.File({str(path)!r}, 'a', libver='v110'); f.create_group('~2'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    for again in (lambda: read(path), lambda: write("volta-h5", path, ("2", made(2)))):
        with pytest.raises(DataError, match="killed in the middle of an entry.*delete it"):
            again()
    path.unlink()
    write("volta-h5", path, ("1", made(1)))
    with h5py.File(path, "a") as file:
        file.create_group("~2")
    assert open_regions(str(path), folder=tmp_path).entries.names == ["1"]
    write("volta-h5", path, ("2", made(2)))
    with h5py.File(path) as file:
        assert sorted(file) == ["1", "2"]


@pytest.mark.parametrize(
    ("form", "name", "regions", "said"),
    [
        ("lxmert-tsv", "1", {"objects": None}, "holds objects_id, and the detector gave no objects.*butd-tsv"),
        ("lxmert-tsv", "1", {"size": (0, 0)}, "the size of the image is not known"),
        ("butd-tsv", "a\tb", {}, "the name holds a tab"),
        ("volta-h5", "~a", {}, "cannot have this name"),
        ("uniter-lmdb", "a" * 600, {}, "too long for an LMDB"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path, form, name, regions, said):
    with pytest.raises(DataError, match=said):
        write(form, tmp_path / OUTPUTS[form], (name, replace(made(1), **regions)))


def test_another_format_is_not_added_to(tmp_path):
    path = write("butd-tsv", tmp_path / "a.tsv", ("1", made(1)))
    with pytest.raises(DataError, match="is butd-tsv, not lxmert-tsv"):
        write("lxmert-tsv", path, ("2", made(2)))
    for form in ("uniter-npz", "uniter-lmdb"):
        with pytest.raises(DataError, match="is a file"):
            write(form, path, ("2", made(2)))


def test_a_database_grows_past_its_first_map(tmp_path, monkeypatch):
    pytest.importorskip("lmdb")
    writer = FORMATS["uniter-lmdb"].writer(tmp_path / "db")
    writer._size = 1 << 16
    with writer:
        for number in range(8):
            writer.write(str(number), made(number, width=2048))
    assert len(open_regions("db", folder=tmp_path).entries.names) == 8
