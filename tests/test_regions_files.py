"""Feature files of every format: equal to the original readers', looked up by the right name, cut to the best boxes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_regions import OUTPUTS, example, made, read, write, write_npz, write_tsv

from parity_files import file_lines
from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.regions import open_regions
from vlprobe.regions.formats import FORMATS
from vlprobe.regions.image_names import NameIndex
from vlprobe.stored import Span, StoredImage

REFERENCE = Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "feature_files"


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


def test_an_image_in_an_archive_is_looked_up_by_the_name_it_has_there(tmp_path):
    write_tsv(tmp_path / "a.tsv", ("1", made(1)), ("2", made(2)))
    source = open_regions("a.tsv", folder=tmp_path)
    held = StoredImage("0" * 64, tmp_path / "x.tar", Span(512, 9), "2.jpg")
    (found,) = source.regions([example(held)])
    np.testing.assert_array_equal(found.features, made(2).features)
    with pytest.raises(BadRow, match="no features for image 99.jpg;"):
        source.regions([example(replace(held, name="99.jpg"))])
    with pytest.raises(BadRow, match="the image has no file name, and .*a.tsv is looked up by name"):
        source.regions([example(replace(held, name=""))])


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


def test_opening_the_room_loads_nothing_heavy():
    heavy = ("torch", "h5py", "lmdb", "msgpack", "numpy", "pydantic")
    code = f"import vlprobe.regions, vlprobe.commands.regions, sys; print([n for n in {heavy} if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


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
        "import os, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import tiny_regions as t\n"
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
