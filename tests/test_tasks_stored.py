"""Images inside tar shards and Parquet tables: the same as image files."""

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from test_engines import OWN
from toys import COLOURS, png
from vlprobe.digest import file_digest
from vlprobe.engines import Processes
from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.images import image_size, open_image
from vlprobe.pairing import derange, pair
from vlprobe.study import Study
from vlprobe.tasks import load_task
from vlprobe.tasks.arrow import places
from vlprobe.tasks.spool import folder as spool

TASK = {"name": "t", "level": "multimodal"}


def add(archive, name, content, **more):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in more.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def tar(path, *members, **how):
    with tarfile.open(path, "w", **how) as archive:
        for name, content in members:
            add(archive, name, content)
    return path


@pytest.fixture
def load(tmp_path):
    def of(bad_rows="error", **spec):
        return load_task({**TASK, **spec}, folder=tmp_path, bad_rows=bad_rows)

    return of


def rows(count=90, seed=0):
    """Yield (fields, bytes of an image of the row's own): the colour is told by the image, never by the text."""
    draw = np.random.default_rng(seed)
    for k in range(count):
        colour = list(COLOURS)[int(draw.integers(4))]
        pixel = tuple(int(v) for v in np.clip(np.array(COLOURS[colour]) + draw.normal(0, 10, 3), 0, 255))
        more = {"id": f"e{k}", "group": f"g{k}", "colour": colour}
        yield {"caption": f"thing number {k}", **more}, png(pixel, (8, 8 + k % 3))


COLUMNS = {"text": "caption", "label": "colour"}


def as_files(folder):
    (folder / "files").mkdir(parents=True)
    with (folder / "files.jsonl").open("w") as table:
        for k, (fields, image) in enumerate(rows()):
            (folder / "files" / f"{k}.png").write_bytes(image)
            table.write(json.dumps(fields | {"image": f"{k}.png"}) + "\n")
    return {"table": "files.jsonl", "images": "files"}


def as_shards(folder):
    made = list(enumerate(rows()))
    for shard in range(3):
        members = []
        for k, (fields, image) in made[shard * 30 : shard * 30 + 30]:
            rest = {name: value for name, value in fields.items() if name != "caption"}
            members += [(f"x/{k:03}.png", image), (f"x/{k:03}.json", json.dumps(rest).encode())]
            members += [(f"x/{k:03}.txt", fields["caption"].encode() + b"\n"), (f"x/{k:03}.npy", b"not read")]
        tar(folder / f"part-{shard:02}.tar", *members, format=tarfile.PAX_FORMAT if shard else tarfile.GNU_FORMAT)
    return {"shards": "part-{00..02}.tar", "columns": {"label": "colour"}}


def as_parquet(folder):
    held = [fields | {"image": {"bytes": image, "path": f"a/{k}.png"}} for k, (fields, image) in enumerate(rows())]
    parquet.write_table(pa.Table.from_pylist(held), folder / "t.parquet", row_group_size=7)
    return {"table": "t.parquet"}


def as_plain_bytes(folder):
    held = [fields | {"image": image} for fields, image in rows()]
    parquet.write_table(pa.Table.from_pylist(held), folder / "b.parquet", compression="zstd")
    return {"table": "b.parquet"}


FORMS = {"files": as_files, "shards": as_shards, "parquet": as_parquet, "bytes": as_plain_bytes}


@pytest.fixture
def opened(tmp_path):
    """Return a study of one form of the same ninety rows, its model loaded anew wherever it runs."""
    (tmp_path / "own.py").write_text(OWN.format(tests=str(Path(__file__).parent)))

    def of(form, output, **settings):
        folder = tmp_path / form
        if not folder.exists():
            folder.mkdir()
            (folder / "spec.json").write_text(json.dumps(FORMS[form](folder)))
            (folder / "own.py").write_text((tmp_path / "own.py").read_text())
        spec = {**TASK, "columns": COLUMNS, **json.loads((folder / "spec.json").read_text())}
        return Study.from_settings(
            folder,
            name="s",
            models=[{"file": "own.py", "class": "Mine"}],
            tasks=[spec],
            conditions=["matched", "mismatched"],
            controls=["pixels"],
            layers=["joint.1"],
            output=str(folder / output),
            store=str(folder / f"store-{output}"),
            **settings,
        )

    return of


def shards_of(study):
    folder = Path(study.file.store)
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*.safetensors"))}


def test_files_shards_and_parquet_give_the_same_bit_for_bit(opened):
    found = {}
    for form in FORMS:
        study = opened(form, "output")
        results = study.run()
        found[form] = shards_of(study), results
    representations, results = found.pop("files")
    assert representations and len(results) == 6
    assert {result.condition for result in results} == {"matched", "mismatched"}
    assert max(result.score for result in results if result.condition == "matched") > 0.9
    for form, (others, again) in found.items():
        assert others == representations, form
        assert again == results, form


def test_several_processes_and_parts_of_a_job_array_take_references(opened):
    for form in ("shards", "parquet"):
        here = opened(form, "here")
        results = here.run()
        several = opened(form, "several")
        engine = Processes(2)
        try:
            assert several.run(engine=engine) == results
        finally:
            engine.close()
        assert shards_of(several) == shards_of(here)
        for part in (1, 2):
            opened(form, "parts").represent((part, 2))
        assert shards_of(opened(form, "parts")) == shards_of(here)
        assert opened(form, "parts").run() == results


def test_a_reference_is_small_and_equal_by_content(tmp_path, load):
    one, other = png((1, 2, 3)), png((9, 9, 9))
    tar(tmp_path / "a.tar", ("1.png", one), ("1.cls", b"x"), ("2.jpg", other), ("2.cls", b"y"))
    tar(tmp_path / "b.tar", ("3.webp", one), ("3.cls", b"7"))
    task = load(level="vision", shards="[ab].tar")
    first, second, third = (example.image for example in task.splits["all"])
    assert first == third != second
    assert len({first, second, third}) == 2
    assert (first.read(), second.read(), third.read()) == (one, other, one)
    assert (first.name, str(third)) == ("1.png", f"the image 3.webp in {tmp_path / 'b.tar'}")
    assert pickle.loads(pickle.dumps(first)).read() == one
    assert len(pickle.dumps(first)) < 1000
    groups = [example.group for example in task.splits["all"]]
    assert groups[0] == groups[2] != groups[1]
    assert [(example.target, example.place) for example in task.splits["all"]] == [
        (("x",), "a.tar, sample 1"),
        (("y",), "a.tar, sample 2"),
        (("7",), "b.tar, sample 3"),
    ]
    assert [source.sha256 for source in task.source] == [file_digest(tmp_path / name) for name in ("a.tar", "b.tar")]


def test_equal_images_are_no_mismatch(tmp_path, load):
    members, given = [], []
    for k in range(40):
        image = png((k // 2, 0, 0))  # every image stands in two groups
        given.append(image)
        rest = json.dumps({"group": f"g{k}", "label": "a"}).encode()
        members += [(f"{k}.png", image), (f"{k}.txt", b"one"), (f"{k}.json", rest)]
    tar(tmp_path / "a.tar", *members)
    examples = load(shards="a.tar", columns={"text": "txt"}).splits["all"]
    for seed in range(20):
        received = [example.image.read() for example in pair(examples, "mismatched", "multimodal", seed, "train")]
        assert all(image != own for image, own in zip(received, given, strict=True))
        donors = derange([example.group for example in examples], given, seed, "train")
        assert received == [given[donor] for donor in donors]  # as with the bytes themselves


def test_what_a_sample_says_may_be_a_member_or_a_field(tmp_path, load):
    image, fields = png((1, 2, 3)), {"text": "of json", "label": "field"}
    members = [("s.left.png", image), ("s.txt", "of txt é\n".encode()), ("s.json", json.dumps(fields).encode())]
    tar(tmp_path / "a.tar", *members, ("._s.png", b""), ("s.cls", b"3\n"))
    with pytest.raises(StudyError, match=r"both .txt and the field 'text' of .json; say which: columns: {text: txt}"):
        load(level="language", shards="a.tar")
    spec = {"level": "vision", "shards": "a.tar"}
    columns = {"image": "left.png", "text": "txt", "label": "cls", "id": "__key__"}
    (example,) = load(**spec, columns=columns).splits["all"]
    assert (example.id, example.text, example.target) == ("s", "of txt é", ("3",))
    assert example.image.read() == image
    (example,) = load(**spec, columns=columns | {"text": "text", "label": "label"}).splits["all"]
    assert (example.text, example.target) == ("of json", ("field",))
    with pytest.raises(DataError, match="a.tar has no column 'right.png'"):
        load(**spec, columns={**columns, "image": "right.png"})


def test_parts_and_patterns(tmp_path, load):
    (tmp_path / "d[1]").mkdir()
    for k in range(8, 12):
        tar(tmp_path / "d[1]" / f"x-{k:03}.tar", ("s.txt", f"text {k}".encode()), ("s.cls", b"abc"[k % 2 :][:1]))
    spec = {"level": "language"}
    task = load(**spec, shards={"train": "d[[]1]/x-{008..010}.tar", "test": "d[[]1]/x-01[1].tar"})
    assert [example.text for example in task.splits["train"]] == ["text 8", "text 9", "text 10"]
    assert [example.id for example in task.splits["test"]] == ["test/d[1]/x-011.tar#1"]
    assert len(load(**spec, shards=f"{tmp_path}/d*/*.tar").splits["all"]) == 4
    for pattern, message in {
        "x-{a,b}.tar": "braces hold a range of numbers",
        "x-{3..1}.tar": "stands for 0 files",
        "x-{0..9999999}.tar": "stands for 10,000,000 files",
    }.items():
        with pytest.raises(StudyError, match=message):
            load(**spec, shards=pattern)
    with pytest.raises(DataError, match=r"there is no file x-1.tar"):
        load(**spec, shards="x-{1..2}.tar")
    with pytest.raises(DataError, match=r"shards: no file is called \*.tar"):
        load(**spec, shards="*.tar")


def whole(tmp_path, name="a.tar"):
    members = [(f"{k}.{kind}", content) for k in range(3) for kind, content in (("png", png((k, 0, 0))), ("cls", b"x"))]
    return tar(tmp_path / name, *members).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[: 512 + 40], r"member '0.png' is to have \d+ bytes, and the file ends before that: it is cut"),
        (lambda raw: raw[: raw.index(b"2.cls")], "is cut off: its end mark is missing, after member '2.png'"),
        (lambda raw: raw[: raw.index(b"2.cls") + 100], "after member '2.png'"),
        (lambda raw: raw.replace(b"1.png", b"1.pnq"), "has a damaged header after member '0.cls'"),
        (lambda raw: raw + raw, "goes on behind the end mark"),
        (lambda raw: b"", "is no whole tar archive, before its first member: empty file"),
        (lambda raw: b"not a tar archive" * 99, "is no whole tar archive, before its first member"),
        (lambda raw: __import__("gzip").compress(raw), r"is compressed, .*: unpack it \(gunzip a.tar\)"),
        (lambda raw: __import__("lzma").compress(raw), r"is compressed, .*\(unxz a.tar\)"),
    ],
)
def test_archives_that_are_damaged_or_compressed_are_errors(tmp_path, load, change, message):
    (tmp_path / "a.tar").write_bytes(change(whole(tmp_path)))
    for bad_rows in ("error", "skip"):
        with pytest.raises(DataError, match=f"a.tar.*{message}"):
            load(bad_rows, level="vision", shards="a.tar")


def header(name, size, kind=b"0"):
    member = tarfile.TarInfo(name)
    member.type = kind
    raw = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw))[0]
    return bytes(raw)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (header("a.png", 2**50), "is to have 1,125,899,906,842,624 bytes, and the file ends before that"),
        (header("a.png", -1024), "is to have -1,024 bytes"),
        (header("a.png", -512, tarfile.XHDTYPE), "a header of -"),
        (header("a.png", 2**40, tarfile.GNUTYPE_LONGNAME), "a header of 1,099,511,627,776 bytes"),
        (header("a.png", 2**40, tarfile.XGLTYPE), "a header of 1,099,511,627,776 bytes"),
    ],
)
def test_sizes_that_an_archive_claims_are_checked(tmp_path, load, first, message):
    (tmp_path / "a.tar").write_bytes(first + whole(tmp_path, "b.tar"))
    with pytest.raises(DataError, match=f"a.tar.*{message}"):
        load(level="vision", shards="a.tar")


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("bad.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is no plain file: links"),
        ("bad.png", b"", {"type": tarfile.LNKTYPE, "linkname": "0.png"}, "is no plain file: links"),
        ("bad.png", b"", {"type": tarfile.CHRTYPE}, "is no plain file"),
        ("../bad.png", b"x", {}, "has a name that leaves the archive"),
        ("/bad.png", b"x", {}, "has a name that leaves the archive"),
        ("bad\x1b[31m\n.png", b"x", {}, r"'bad\\x1b\[31m\\n.png' has a name with characters that cannot be printed"),
        ("bad\udcff.png", b"x", {}, "cannot be printed"),
        ("bad.png", b"", {}, "has 0 bytes"),
        ("bad", b"x", {}, "has no ending"),
        ("bad.json", b"[1]", {}, "is no JSON object"),
        ("bad.json", b"{", {}, "Expecting"),
        ("bad.txt", b"\xff", {}, "codec can't decode"),
    ],
)
def test_members_that_cannot_be_used_are_bad_rows(tmp_path, load, name, content, more, message):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "0.png", png((1, 1, 1)))
        add(archive, "0.cls", b"x")
        add(archive, name, content, **more)
    with pytest.raises(DataError, match=f"1 of 2 rows .*\n  a.tar, sample [^\n]*bad[^\n]*: .*{message}") as caught:
        load(level="vision", shards="a.tar")
    assert "\x1b" not in str(caught.value)
    task = load("skip", level="vision", shards="a.tar")
    assert (len(task.splits["all"]), len(task.skipped)) == (1, 1)


def test_two_images_of_one_sample_and_a_second_sample_of_its_name(tmp_path, load):
    image = png((1, 1, 1))
    tar(tmp_path / "a.tar", ("0.png", image), ("0.jpg", image), ("0.cls", b"x"), ("1.png", image), ("1.cls", b"x"))
    with pytest.raises(DataError, match="sample 0: its member '0.jpg' is the second 'image' of its sample"):
        load(level="vision", shards="a.tar")
    tar(
        tmp_path / "b.tar",
        *[(f"{k}.{kind}", image if kind == "png" else b"x") for k in (0, 1, 0) for kind in ("png", "cls")],
    )
    with pytest.raises(DataError, match="the id '0' is already that of b.tar, sample 0; ids must be unique"):
        load(level="vision", shards="b.tar", columns={"id": "__key__"})


def test_what_changed_since_it_was_read_is_an_error(tmp_path, load):
    tar(tmp_path / "a.tar", ("0.png", png((1, 1, 1))), ("0.cls", b"x"))
    (example,) = load(level="vision", shards="a.tar").splits["all"]
    assert open_image(example.image).getpixel((0, 0)) == (1, 1, 1)
    tar(tmp_path / "a.tar", ("0.png", png((2, 1, 1))), ("0.cls", b"x"))
    with pytest.raises(DataError, match=r"0.png in .*a.tar is not what it was when the task was read"):
        open_image(example.image)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(DataError, match=r"0.png in .*a.tar cannot be read"):
        image_size(example.image)
    parquet.write_table(pa.table({"image": [png((1, 0, 0))], "label": ["a"]}), tmp_path / "t.parquet")
    (example,) = load(level="vision", table="t.parquet").splits["all"]
    example.image.file.write_bytes(b"another")
    with pytest.raises(DataError, match=r"embedded in .* is not what it was.*run again from the start"):
        open_image(example.image)
    (example,) = load(level="vision", table="t.parquet").splits["all"]  # as the message says
    assert open_image(example.image).getpixel((0, 0)) == (1, 0, 0)


def test_a_damaged_image_is_named_by_its_archive(tmp_path, load):
    raw = png((1, 1, 1), (50, 50))[:-40]
    tar(tmp_path / "a.tar", ("0.png", raw), ("0.cls", b"x"))
    (example,) = load(level="vision", shards="a.tar").splits["all"]
    with pytest.raises(BadRow, match="a.tar, sample 0: the image 0.png in .*a.tar cannot be decoded"):
        open_image(example.image, example.place)


def test_what_is_no_image_is_told_in_the_same_words_every_time(tmp_path, load):
    tar(tmp_path / "a.tar", ("0.png", b"no image"), ("0.cls", b"x"))
    (example,) = load(level="vision", shards="a.tar").splits["all"]
    for look in open_image, image_size:
        for image in example.image, b"no image":
            with pytest.raises(BadRow, match=r"\(cannot identify image file\)"):
                look(image, example.place)


def test_images_of_a_table_are_written_once_and_read_one_by_one(tmp_path, load, monkeypatch):
    """Nothing of the table is read again for an image, however large its row groups; a column nobody uses is left."""
    images = [np.random.default_rng(k % 3).bytes(2**19) for k in range(6)]
    held = {"image": [{"bytes": image, "path": f"a/{k}.png"} for k, image in enumerate(images)], "label": [*"abaaba"]}
    parquet.write_table(pa.table(held | {"more": [b"a film"] * 6}), tmp_path / "t.parquet")
    task = load(level="vision", table="t.parquet")
    written = {path: path.stat().st_mtime_ns for path in spool().rglob("*") if path.is_file()}
    assert {path.name for path in written} == {hashlib.sha256(image).hexdigest() for image in images}
    (tmp_path / "t.parquet").rename(tmp_path / "again.parquet")
    for k, example in enumerate(task.splits["all"]):
        assert (example.image.read(), example.image.name) == (images[k], f"{k}.png")
    load(level="vision", table="again.parquet")
    assert {path: path.stat().st_mtime_ns for path in spool().rglob("*") if path.is_file()} == written


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})]
)
def test_cells_of_arrow_files_are_found_where_they_lie(tmp_path, kind):
    raw = [b"one", None, b"", b"\xff" * 1000, b"five", b"six"]
    cells = [None if one is None else {"bytes": one, "path": "p"} for one in raw] if pa.types.is_struct(kind) else raw
    column = pa.array(cells, kind)
    batches = pa.table({"other": ["x"] * 6, "image": column}).to_batches(max_chunksize=4)  # the second is a slice
    for name, how in ("plain", None), ("packed", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=how)
        with pa.ipc.new_stream(tmp_path / name, batches[0].schema, options=options) as file:
            for batch in batches:
                file.write_batch(batch)
    found = list(places([tmp_path / "plain", tmp_path / "plain"], "image"))
    assert len(found) == 12
    for place, one in zip(found, raw * 2, strict=True):
        assert place is None or place.file.read_bytes()[place.span.offset :][: place.span.size] == (one or b"")
        if one:
            assert place.holds(one)
            assert not place.holds(one[:-1])
            assert not place.holds(b"\x00" + one[1:])
    packed = list(places([tmp_path / "packed"], "image"))
    assert len(packed) == 6
    assert not any(place and one and place.holds(one) for place, one in zip(packed, raw, strict=True))
