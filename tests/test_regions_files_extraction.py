"""From images to feature files and back: nothing is computed twice, nothing half written is believed."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from tiny_regions import OUTPUTS, made
from typer.testing import CliRunner

from vlprobe.commands.regions import box_limits, regions
from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.images import open_image
from vlprobe.regions import open_detector, open_regions
from vlprobe.regions.cache import CachedRegions, default_folder
from vlprobe.regions.extraction import extract_regions
from vlprobe.regions.formats import FORMATS, format_of
from vlprobe.regions.npz import read_arrays
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example

FORMS = ["lxmert-tsv", "uniter-npz"]  # which need no further package


class Fake(RegionSource):
    """A detector whose regions follow from the first pixel; it counts what it was shown."""

    width = 6

    def __init__(self, revision="r1"):
        self.revision = revision
        self.seen = []

    def regions(self, batch):
        return [self._look(example.image, example.place) for example in batch]

    def features_of(self, image, boxes, place=""):
        self.seen.append(boxes)
        return replace(self._look(image, place, len(boxes)), boxes=boxes.astype(np.float32))

    def _look(self, image, place, count=5):
        opened = open_image(image, place)
        self.seen.append(image)
        return replace(made(opened.getpixel((0, 0))[0], count), size=opened.size)


def example(image):
    return Example("e", "g", None, image, ("x",), place=f"row of {image}")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "COCO_val2014_000000000042.png", "more/c.png")):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def same(one, other):
    for name in ("features", "confidence", "objects", "attributes", "attribute_confidence", "probabilities"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert one.size == other.size


# The cache.


def test_an_image_is_looked_at_once(images, tmp_path):
    fake = Fake()
    cached = CachedRegions(fake, tmp_path / "cache")
    batch = [example(images / "a.png"), example(images / "more" / "c.png"), example((images / "a.png").read_bytes())]
    first = cached.regions(batch)
    assert len(fake.seen) == 2  # the third is the first, by content
    for found, wanted in zip(first, (0, 2, 0), strict=True):
        same(found, replace(made(wanted), size=(40, 30)))
    again = CachedRegions(Fake(), tmp_path / "cache")
    for found, before in zip(again.regions(batch), first, strict=True):
        same(found, before)
    assert again.source.seen == []
    assert (again.width, again.revision) == (6, "r1")


def test_the_cache_follows_the_image_and_the_revision(images, tmp_path):
    CachedRegions(Fake(), tmp_path / "cache").regions([example(images / "a.png")])
    other = Fake("r2")
    CachedRegions(other, tmp_path / "cache").regions([example(images / "a.png")])
    assert len(other.seen) == 1
    Image.new("RGB", (40, 30), (9, 0, 0)).save(images / "a.png")
    changed = Fake()
    (found,) = CachedRegions(changed, tmp_path / "cache").regions([example(images / "a.png")])
    same(found, replace(made(9), size=(40, 30)))


def test_what_was_read_is_held_in_memory_up_to_a_limit(images, tmp_path, monkeypatch):
    both = [example(images / "a.png"), example(images / "more" / "c.png")]
    CachedRegions(Fake(), tmp_path / "cache").regions(both)
    read = []
    monkeypatch.setattr(
        "vlprobe.regions.cache.read_arrays", lambda file, place: read.append(file) or read_arrays(file, place)
    )
    cached = CachedRegions(Fake(), tmp_path / "cache")
    for _ in range(3):
        for one in both:
            cached.regions([one])
    assert len(read) == 2
    monkeypatch.setattr("vlprobe.regions.cache.HELD", cached._held_bytes - 1)
    narrow = CachedRegions(Fake(), tmp_path / "cache")
    for _ in range(3):
        for wanted, example_of in zip((0, 2), both, strict=True):
            same(narrow.regions([example_of])[0], replace(made(wanted), size=(40, 30)))
    assert len(read) == 8  # of two images one is held, and each turn asks for the other
    assert len(narrow._held) == 1


@pytest.mark.parametrize("spoil", ["cut", "empty", "bytes", "other", "narrow"])
def test_what_is_torn_is_computed_again(images, tmp_path, spoil):
    cached = CachedRegions(Fake(), tmp_path / "cache")
    cached.regions([example(images / "a.png")])
    (file,) = (tmp_path / "cache").rglob("*.npz")
    data = file.read_bytes()
    assert file.stem == hashlib.sha256((images / "a.png").read_bytes()).hexdigest()
    if spoil == "other":
        np.savez(file, boxes=np.zeros((2, 4)))
    elif spoil == "narrow":
        np.savez(file, boxes=np.zeros((2, 4)), features=np.zeros((2, 3)), size=np.array([40, 30]))
    else:
        middle = data.index(made(0).features.tobytes())
        torn = {"cut": data[:middle], "empty": b"", "bytes": data[:middle] + b"xxxxxxxx" + data[middle + 8 :]}
        file.write_bytes(torn[spoil])
    (found,) = cached.regions([example(images / "a.png")])
    same(found, replace(made(0), size=(40, 30)))
    assert len(cached.source.seen) == 2
    assert file.read_bytes() == data
    assert list((tmp_path / "cache").rglob("*.tmp")) == []


def test_an_image_that_cannot_be_read_is_the_sources_to_tell(images, tmp_path):
    cached = CachedRegions(Fake(), tmp_path / "cache")
    for image in (images / "no.png", b"no image"):
        with pytest.raises(BadRow, match="row of"):
            cached.regions([example(images / "a.png"), example(image)])


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("VLPROBE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "regions"
    monkeypatch.delenv("VLPROBE_CACHE")
    assert default_folder() == Path.home() / ".cache" / "vlprobe" / "regions"


def test_a_cache_that_cannot_be_written_to_is_told(images, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="set the environment variable VLPROBE_CACHE"):
        CachedRegions(Fake(), tmp_path / "file").regions([example(images / "a.png")])


# What a study names.


@pytest.fixture
def opened(monkeypatch):
    """Stand in for `Detector.open`; return what it was called with."""
    calls = []

    def opening(path, **arguments):
        calls.append((path.name, {name: value for name, value in arguments.items() if value is not None}))
        return Fake()

    module = type(sys)("vlprobe.regions.detector")
    module.Detector = type("Detector", (), {"open": staticmethod(opening)})
    monkeypatch.setitem(sys.modules, "vlprobe.regions.detector", module)
    return calls


def test_a_detector_in_a_study_is_kept_on_disk(images, tmp_path, opened):
    (tmp_path / "w.caffemodel").write_bytes(b"")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "hf" / "config.yaml").write_bytes(b"")
    cache = tmp_path / "cache"
    source = open_regions("w.caffemodel", folder=tmp_path, cache=cache, device="cpu")
    assert isinstance(source, CachedRegions)
    source.regions([example(images / "a.png")])
    assert len(list(cache.rglob("*.npz"))) == 1
    open_regions("hf", folder=tmp_path, cache=cache)
    spec = {"detector": "hf", "conventions": "hf", "boxes": [10, 100]}
    open_regions(spec, folder=tmp_path, cache=cache)
    open_regions({"detector": "w.caffemodel", "boxes": 36}, folder=tmp_path, cache=cache)
    assert opened == [
        ("w.caffemodel", {"device": "cpu"}),
        ("pytorch_model.bin", {"device": "auto"}),
        ("pytorch_model.bin", {"device": "auto", "conventions": "hf", "boxes": (10, 100)}),
        ("w.caffemodel", {"device": "auto", "boxes": (36, 36)}),
    ]


def test_weights_that_are_not_there_are_told(tmp_path, opened):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="several weights; name one: a.pth, b.pth"):
        open_regions(".", folder=tmp_path)
    with pytest.raises(DataError, match="holds no detector weights"):
        open_regions({"detector": "empty"}, folder=tmp_path)
    with pytest.raises(DataError, match="do not exist"):
        open_regions("no.caffemodel", folder=tmp_path)
    assert opened == []


# Extraction.


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_becomes_a_feature_file(form, images, tmp_path):
    for package in {"volta-h5": ["h5py"], "uniter-lmdb": ["lmdb", "msgpack"], "uniter-lmdb-compressed": ["lmdb"]}.get(
        form, []
    ):
        pytest.importorskip(package)
    output = tmp_path / "out" / OUTPUTS[form]
    made_ = extract_regions(images, Fake(), output, form, 2)
    assert (made_.done, made_.skipped, made_.bad) == (3, 0, ())
    source = open_regions(str(output), folder=tmp_path)
    for number, name in enumerate(("a.png", "COCO_val2014_000000000042.png", "more/c.png")):
        (found,) = source.regions([example(images / name)])
        np.testing.assert_array_equal(found.features, made(number).features)
        np.testing.assert_allclose(found.boxes, made(number).boxes, rtol=2e-7)
    again = Fake()
    assert extract_regions(images, again, output, form).skipped == 3
    assert again.seen == []
    Image.new("RGB", (40, 30), (7, 0, 0)).save(images / "new.png")
    more = extract_regions(images, again, output, form)
    assert (more.done, more.skipped) == (1, 3)
    assert again.seen == [images / "new.png"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_damaged_images(form, batch_size, images, tmp_path):
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:40])
    output = tmp_path / OUTPUTS[form]
    with pytest.raises(BadRow, match="b.png"):
        extract_regions(images, Fake(), output, form, batch_size)
    done = extract_regions(images, Fake(), output, form, batch_size, skip_bad=True)
    assert done.done + done.skipped == 3
    assert len(done.bad) == 1
    assert "b.png cannot be decoded" in done.bad[0]


def test_a_killed_extraction_goes_on(images, tmp_path):
    output = tmp_path / "a.tsv"
    code = (
        "import os, sys; sys.path.insert(0, 'tests'); from pathlib import Path\n"
        "import test_regions_files_extraction as t\n"
        "class Dies(t.Fake):\n"
        "    def regions(self, batch):\n"
        "        return os._exit(9) if len(self.seen) == 2 else super().regions(batch)\n"
        f"t.extract_regions(Path({str(images)!r}), Dies(), Path({str(output)!r}), 'lxmert-tsv', 1)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    output.write_bytes(output.read_bytes() + b"torn\t1")
    done = extract_regions(images, Fake(), output, "lxmert-tsv", 1)
    assert (done.done, done.skipped) == (1, 2)
    whole = tmp_path / "whole.tsv"
    extract_regions(images, Fake(), whole, "lxmert-tsv")
    assert output.read_bytes() == whole.read_bytes()


def test_another_detector_does_not_add_to_a_file(images, tmp_path):
    extract_regions(images, Fake(), tmp_path / "a.tsv", "lxmert-tsv")
    with pytest.raises(DataError, match="was written with another detector"):
        extract_regions(images, Fake("r2"), tmp_path / "a.tsv", "lxmert-tsv")


def test_what_cannot_be_extracted(images, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        extract_regions(tmp_path / "no", Fake(), tmp_path / "a.tsv", "lxmert-tsv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        extract_regions(tmp_path / "empty", Fake(), tmp_path / "a.tsv", "lxmert-tsv")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written to"):
        extract_regions(images, Fake(), tmp_path / "file" / "a.tsv", "lxmert-tsv")
    os.link(images / "a.png", images / "more" / "a.png")
    with pytest.raises(DataError, match="would be one entry, 'a'"):
        extract_regions(images, Fake(), tmp_path / "a.tsv", "lxmert-tsv")


def test_one_image_is_enough(images, tmp_path):
    assert extract_regions(images / "a.png", Fake(), tmp_path / "a.tsv", "lxmert-tsv").done == 1


def test_given_boxes_are_looked_at(images, tmp_path):
    given = tmp_path / "boxes.jsonl"
    rows = [
        {"image": "more/c.png", "boxes": [[0, 0, 40, 30], [10, 15, 20, 30]]},
        {"image": "a.png", "boxes": [[1, 2, 3, 4]]},
    ]
    given.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    fake = Fake()
    assert extract_regions(images, fake, tmp_path / "a.tsv", "lxmert-tsv", given=given).done == 2
    found, other = open_regions("a.tsv", folder=tmp_path).regions([example(Path("c.png")), example(Path("a.png"))])
    np.testing.assert_allclose(found.boxes, [[0, 0, 1, 1], [0.25, 0.5, 0.5, 1]], rtol=2e-7)
    np.testing.assert_array_equal(found.features, made(2, 2).features)
    assert len(other.boxes) == 1
    with pytest.raises(DataError, match="other boxes"):
        extract_regions(images, Fake(), tmp_path / "a.tsv", "lxmert-tsv")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "row 1: not JSON"),
        ("[" * 100_000, "row 1: not JSON"),
        ("3", "row 1: no list of boxes"),
        ('{"image": "a.png", "boxes": []}', "no list of boxes"),
        ('{"image": "a.png", "boxes": [[1, 2, 3]]}', "no list of boxes"),
        ('{"image": "a.png", "boxes": [[1, 2, 3, NaN]]}', "no list of boxes"),
        ('{"image": "a.png", "boxes": [[1, 2, 3, true]]}', "no list of boxes"),
        ('{"boxes": [[1, 2, 3, 4]]}', "no image name"),
        ('{"image": "../a.png", "boxes": [[1, 2, 3, 4]]}', "leaves its folder"),
        ('{"image": "no.png", "boxes": [[1, 2, 3, 4]]}', "no.png does not exist"),
        ('{"image": "a.png", "boxes": [[1, 2, 3, 4], [0, 0, 41, 30]]}', "box 1 is .*a.png has 40 x 30 pixels"),
        ('{"image": "a.png", "boxes": [[5, 2, 3, 4]]}', "box 0 is"),
    ],
)
def test_given_boxes_that_cannot_be_used(images, tmp_path, line, said):
    (tmp_path / "boxes.jsonl").write_text(line)
    with pytest.raises(BadRow, match=rf"boxes.jsonl, row 1.*{said.removeprefix('row 1')}"):
        extract_regions(images, Fake(), tmp_path / "a.tsv", "lxmert-tsv", given=tmp_path / "boxes.jsonl")


# The command.


def call(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(regions)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command(images, tmp_path, opened):
    (tmp_path / "w.pth").write_bytes(b"")
    wanted = [images, "--detector", tmp_path / "w.pth", "--output", tmp_path / "a.tsv", "--boxes", "10:100"]
    first = call(*wanted, "--device", "cpu", "--conventions", "caffe")
    assert first.exit_code == 0, first.output
    assert "3 images written, 0 were there. Output: " in first.output
    assert opened == [("w.pth", {"device": "cpu", "conventions": "caffe", "boxes": (10, 100)})]
    assert "0 images written, 3 were there" in call(*wanted).output
    (images / "b.png").write_bytes(b"")
    assert isinstance(call(*wanted).exception, BadRow)
    bad = call(*wanted, "--skip-bad")
    assert "1 images left out:" in bad.output
    assert "b.png" in bad.output
    folder = call(*wanted[:3], "--output", tmp_path / "npz", "--format", "uniter-npz", "--skip-bad")
    assert "3 images written" in folder.output
    assert sorted(file.name for file in (tmp_path / "npz").iterdir()) == [
        "a.npz",
        "c.npz",
        "coco_val2014_000000000042.npz",
    ]


def test_formats_and_boxes_as_options():
    assert [format_of(Path(f"x{end}")) for end in (".tsv", ".TSV", "", ".lmdb", ".h5", ".hdf5")] == [
        *("lxmert-tsv", "lxmert-tsv", "uniter-npz", "uniter-lmdb", "volta-h5", "volta-h5")
    ]
    assert format_of(Path("x.tsv"), "butd-tsv") == "butd-tsv"
    with pytest.raises(StudyError, match="did you mean 'lxmert-tsv'"):
        format_of(Path("x"), "lxmert_tsv")
    with pytest.raises(StudyError, match="its ending means no format"):
        format_of(Path("x.csv"))
    assert (box_limits("36"), box_limits("10:100"), box_limits(None)) == ((36, 36), (10, 100), None)
    for text in ("x", "0", "5:3", "10:", "1:2:3", "-1", "١"):
        with pytest.raises(StudyError, match="expected a number, as 36"):
            box_limits(text)


def test_the_help_names_every_format():
    shown = " ".join(call("--help").output.split())
    assert all(form in regions.__annotations__["form"] for form in FORMATS)
    assert "--skip-bad" in shown


def test_the_real_detector_goes_in(images, tmp_path):
    tiny = pytest.importorskip("tiny_detector", reason="tests/tiny_detector.py is not there")
    torch = pytest.importorskip("torch")
    torch.save({name: torch.as_tensor(array) for name, array in tiny.tensors().items()}, tmp_path / "w.bin")
    for form in FORMS:  # one at a time, as below: the sums of a larger batch are rounded otherwise
        detector = open_detector(tmp_path / "w.bin", boxes=(1, 4))
        assert extract_regions(images, detector, tmp_path / "real" / OUTPUTS[form], form, 1).done == 3
    opened = open_regions({"detector": "w.bin", "boxes": [1, 4]}, folder=tmp_path, cache=tmp_path / "cache")
    (direct,) = opened.regions([example(images / "a.png")])
    (kept,) = opened.regions([example(images / "a.png")])
    same(direct, kept)
    (read,) = open_regions(str(tmp_path / "real" / "a.tsv"), folder=tmp_path).regions([example(images / "a.png")])
    np.testing.assert_allclose(read.boxes, direct.boxes, rtol=2e-7, atol=1e-9)
    np.testing.assert_array_equal(read.features, direct.features)
