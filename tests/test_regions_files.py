"""Feature files: equal to the original readers', looked up by the right name, and clear about what is wrong."""

import base64
import pickle
from pathlib import Path

import numpy as np
import pytest

from parity_files import file_lines
from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.regions import open_regions
from vlprobe.regions.names import plain_name
from vlprobe.regions.tables import tsv_line
from vlprobe.types import Example, Regions

REFERENCE = Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "feature_files"


def made(seed=0, count=5, width=6):
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2)) * 0.5
    boxes = np.concatenate([corner, corner + 0.1 + rng.random((count, 2)) * 0.4], 1).astype(np.float32)
    features = rng.random((count, width)).astype(np.float32)
    confidence = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    return Regions(boxes, features, (200, 100), confidence, np.arange(count), np.arange(count), confidence)


def example(image):
    return Example("e", "g", "text", image, ("x",), place="t.csv, row 2")


def write_tsv(path, *named):
    path.write_bytes(b"".join(tsv_line(name, regions) for name, regions in named))


def write_npz(folder, name, regions, **changed):
    x1, y1, x2, y2 = regions.boxes.T
    norm = np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], 1)
    arrays = {"norm_bb": norm, "features": regions.features, "conf": regions.confidence} | changed
    np.savez_compressed(folder / name, **arrays)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference files: {REFERENCE} is not there")
def test_every_reference_file_is_read_as_the_original_reads_it():
    pytest.importorskip("h5py")
    lines = list(file_lines(REFERENCE))
    assert len(lines) >= 14
    assert [line for line in lines if line[1] > line[2]] == []


def test_tsv_comes_back_as_it_was_written(tmp_path):
    write_tsv(tmp_path / "a.tsv", ("COCO_val2014_000000000042", made(1)), ("COCO_val2014_000000000007", made(2)))
    source = open_regions("a.tsv", folder=tmp_path)
    found, second = source.regions([example(Path("x/COCO_val2014_000000000007.jpg")), example(Path("42.jpg"))])
    assert source.width == 6
    for ours, theirs in ((found, made(2)), (second, made(1))):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-6)
        for name in ("features", "confidence", "objects", "attributes", "attribute_confidence"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.size == (200, 100)


def test_lines_may_end_as_csv_ends_them(tmp_path):
    (tmp_path / "a.tsv").write_bytes(tsv_line("1", made(1)).replace(b"\n", b"\r\n"))
    (found,) = open_regions("a.tsv", folder=tmp_path).regions([example(Path("1.jpg"))])
    np.testing.assert_array_equal(found.features, made(1).features)


def test_an_independent_reading_of_a_line_agrees():
    cells = tsv_line("im", made(3)).rstrip(b"\n").split(b"\t")
    assert [cells[0], cells[1], cells[2], cells[7]] == [b"im", b"100", b"200", b"5"]
    boxes = np.frombuffer(base64.b64decode(cells[8]), np.float32).reshape(5, 4)
    np.testing.assert_allclose(boxes, made(3).boxes * [200, 100, 200, 100], rtol=1e-6)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(cells[9]), np.float32).reshape(5, 6), made(3).features)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(cells[3]), np.int64), np.arange(5))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("coco_val2014_000000000042.npz", "COCO_val2014_000000000042.jpg"),
        ("flickr30k_001000092795.npz", "1000092795.jpg"),
        ("42", "000000000042.jpg"),
        ("nlvr2_dev-850-0-img0.npz", "dev-850-0-img0.png"),
        ("dev-10-0-0", "dev-10-0-0.png"),
    ],
)
def test_names_of_one_image(one, other):
    assert plain_name(one) == plain_name(other)


def test_names_of_two_images():
    assert plain_name("dev-10-0-0.png") != plain_name("dev-10-0-1.png")
    assert plain_name("142.jpg") != plain_name("42.jpg")


def test_adaptive_number_of_boxes_is_uniters(tmp_path):
    for name, confident, expected in (("1.npz", 3, 10), ("2.npz", 14, 14), ("3.npz", 40, 20)):
        regions = made(count=40)
        confidence = np.where(np.arange(40) < confident, 0.9, 0.2).astype(np.float32)  # 0.2 itself does not count
        write_npz(tmp_path, name, regions, conf=confidence)
        source = open_regions({"features": ".", "boxes": [10, 20]}, folder=tmp_path)
        (found,) = source.regions([example(Path(name.replace("npz", "jpg")))])
        assert len(found.boxes) == len(found.features) == len(found.confidence) == expected
        np.testing.assert_allclose(found.boxes, regions.boxes[:expected], atol=1e-6)


def test_the_revision_is_of_content_and_settings(tmp_path):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)))
    write_tsv(tmp_path / "b.tsv", ("1", made(2)))
    one, two = (open_regions(name, folder=tmp_path).revision for name in ("a.tsv", "b.tsv"))
    cut = open_regions({"features": "a.tsv", "boxes": 3}, folder=tmp_path)
    assert len({one, two, cut.revision}) == 3
    assert open_regions("a.tsv", folder=tmp_path).revision == one
    assert len(cut.regions([example(Path("1.jpg"))])[0].boxes) == 3


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Path("99.jpg"), "t.csv, row 2: .*a.tsv has no features for image 99.jpg .*named like '1'"),
        (b"png", "is looked up by the image's file name, and it has none"),
    ],
)
def test_an_image_without_features_is_named(tmp_path, image, said):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)))
    with pytest.raises(BadRow, match=said):
        open_regions("a.tsv", folder=tmp_path).regions([example(image)])


def outside():
    regions = made(1)
    regions.boxes[2] = (0.5, 0.5, 1.4, 0.9)
    return regions


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-50]), "line 2: it is cut off"),
        (lambda p: p.write_bytes(b"a\tb\n"), "line 1: 2 columns; LXMERT's files have 10"),
        (lambda p: p.write_bytes(b""), "holds no image"),
        (lambda p: write_tsv(p, ("1", made(1)), ("1", made(2))), "image 1 stands in the file twice"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", made(2, width=7))), "have width 7, the others 6"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", outside())), "lies outside it"),
        (lambda p: write_tsv(p, ("1", made(1)), ("2", made(2, count=2))), "2 boxes, and at least 3 were asked for"),
        (lambda p: write_tsv(p, ("1", made(1)), ("001", made(2))), "would be the same image"),
    ],
)
def test_a_damaged_tsv_is_told(tmp_path, spoil, said):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    spoil(tmp_path / "a.tsv")
    with pytest.raises(DataError, match=said):
        source = open_regions({"features": "a.tsv", "boxes": 3}, folder=tmp_path)
        source.regions([example(Path("2.jpg"))])


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_pickles_in_archives_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "1.npz", norm_bb=np.array([Evil()], dtype=object), features=np.zeros((1, 2)))
    with pytest.raises(DataError, match="plain arrays"):
        open_regions(".", folder=tmp_path)
    (tmp_path / "1.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="cannot be read as an npz"):
        open_regions(".", folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_what_is_no_feature_file(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(DataError, match="no feature file that vlprobe knows; it reads .tsv"):
        open_regions("x.bin", folder=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_regions("nowhere.tsv", folder=tmp_path)
    with pytest.raises(StudyError, match="did you mean 'features'"):
        open_regions({"featurs": "x"}, folder=tmp_path)
    with pytest.raises(StudyError, match="boxes must be"):
        open_regions({"features": "x", "boxes": [5, 3]}, folder=tmp_path)
