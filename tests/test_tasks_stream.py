"""Data sets in streaming mode: the same task as without it, from one pass, with images in the cache by content."""

import errno
import hashlib
import json
import sys
import tracemalloc
import types
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from test_tasks_own import FakeImage, FakeList, FakeNames
from test_tasks_stored import COLUMNS, rows, shards_of

from test_engines import OWN
from toys import png
from vlprobe.digest import image_digest
from vlprobe.errors import DataError
from vlprobe.study import Study
from vlprobe.tasks import load_task
from vlprobe.tasks.hub import open_dataset
from vlprobe.tasks.parquet_stream import ParquetStream
from vlprobe.tasks.spool import folder, keep

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Streamed:
    """As much of a `datasets` data set as is asked for, prepared or as a stream; it counts how often it is read."""

    def __init__(self, features, held, info=None, breaks=None):
        self.features, self.held, self.breaks = features, held, breaks
        self.info = info or types.SimpleNamespace(download_checksums=None)
        self.passes = []

    @property
    def column_names(self):
        return None if self.features is None else list(self.features)

    def _like(self, features, held):
        made = Streamed(features, held, self.info, self.breaks)
        made.passes = self.passes
        return made

    def select_columns(self, names):
        kept = [{name: row[name] for name in names} for row in self.held]
        return self._like({name: self.features[name] for name in names}, kept)

    def cast_column(self, name, feature):
        return self._like({**self.features, name: feature}, self.held)

    def __iter__(self):
        if any(isinstance(feature, FakeImage) and feature.decode for feature in (self.features or {}).values()):
            raise AssertionError("images would be decoded")
        self.passes.append(1)
        for number, row in enumerate(self.held):
            if number == self.breaks:
                raise ConnectionError("the other side hung up")
            yield row


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A `datasets` whose data sets are the entries of `sets`; what they say of their sizes is in `told`."""
    fake = types.SimpleNamespace(__version__="4.1.0", Image=FakeImage, ClassLabel=FakeNames, List=FakeList)
    fake.LargeList = FakeList
    fake.config = types.SimpleNamespace(HF_CACHE_HOME=str(tmp_path), HF_DATASETS_CACHE=str(tmp_path))
    fake.sets, fake.told = {}, None

    def builder(name, config, revision):
        files = {"train": [f"hf://datasets/{name}@{COMMIT}/a.parquet"]}
        return types.SimpleNamespace(
            as_streaming_dataset=lambda: fake.sets[name],
            info=types.SimpleNamespace(splits=fake.told),
            config=types.SimpleNamespace(data_files=files),
        )

    fake.load_dataset_builder = builder
    fake.load_dataset = lambda name, config, revision: fake.sets[name]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


@pytest.fixture
def real(monkeypatch, tmp_path):
    """The library itself, without a connection and with a cache of the test's own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    return datasets


@pytest.fixture
def load(tmp_path):
    def of(bad_rows="error", **spec):
        return load_task({"name": "t", "level": "multimodal", **spec}, folder=tmp_path, bad_rows=bad_rows)

    return of


def table(count=90):
    """Rows of which every third shares its image, and two their text, with another."""
    held = [
        {**fields, "image": {"bytes": image, "path": f"a/{k}.png"}} for k, (fields, image) in enumerate(rows(count))
    ]
    for k in range(3, count, 3):
        held[k]["image"] = {"bytes": held[k - 3]["image"]["bytes"], "path": f"b/{k}.png"} if k % 2 else held[k]["image"]
    held[7]["caption"] = held[50 % count]["caption"]
    return [{name: value for name, value in row.items() if name != "group"} for row in held]


def said(task):
    return [
        (part, e.id, e.group, e.text, image_digest(e.image), e.target, e.place, e.ties)
        for part, examples in task.splits.items()
        for e in examples
    ]


def spool():
    return sorted(path for path in folder().rglob("*") if path.is_file())


def put_parquet(path, held, **how):
    path.mkdir()
    parquet.write_table(pa.Table.from_pylist(held), path / "train.parquet", row_group_size=13, **how)


def put_pets(datasets, path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "colour": datasets.ClassLabel(names=["a", "b"]),
            "more": datasets.Image(),
        }
    )
    held = [
        {
            "image": row["image"],
            "caption": row["caption"],
            "colour": k % 2,
            "more": {"bytes": b"no image", "path": None},
        }
        for k, row in enumerate(table(20))
    ]
    path.mkdir()
    for part in ("train", "test"):
        datasets.Dataset.from_list(held if part == "train" else held[:1] * 3, features=features).to_parquet(
            path / f"{part}.parquet"
        )


def test_a_stream_gives_the_task_that_the_prepared_data_give(stand_in, load):
    features = {"image": FakeImage(), "caption": None, "colour": None, "id": None, "other": FakeImage()}
    held = [{**row, "other": 0} for row in table()]
    stand_in.sets["me/x"] = {"train": Streamed(features, held)}
    task = load(dataset="me/x", columns=COLUMNS, streaming=True, licence="CC0")
    assert stand_in.sets["me/x"]["train"].passes == [1]
    assert said(task) == said(load(dataset="me/x", columns=COLUMNS))
    assert len({e.group for e in task.splits["all"]}) < 80
    assert (task.revision, task.licence) == (COMMIT, "CC0")
    assert {path.name for path in spool()} == {hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in held}
    for example, row in zip(task.splits["all"], held, strict=True):
        assert (example.image.read(), example.image.name) == (row["image"]["bytes"], Path(row["image"]["path"]).name)
    written = {path: path.stat().st_mtime_ns for path in spool()}
    load(dataset="me/x", columns=COLUMNS, streaming=True)
    assert {path: path.stat().st_mtime_ns for path in spool()} == written


def test_a_study_on_a_stream_gives_the_same_bit_for_bit_and_reads_it_once(stand_in, tmp_path):
    features = {"image": FakeImage(), "caption": None, "colour": None, "id": None}
    found = []
    for name, streaming in (("prepared", False), ("streamed", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(OWN.format(tests=str(Path(__file__).parent)))
        stand_in.sets["me/x"] = {"train": Streamed(features, table())}
        study = Study.from_settings(
            tmp_path / name,
            name="s",
            models=[{"file": "own.py", "class": "Mine"}],
            tasks=[{"name": "t", "level": "multimodal", "dataset": "me/x", "columns": COLUMNS, "streaming": streaming}],
            conditions=["matched", "mismatched"],
            layers=["joint.1"],
            output=str(tmp_path / name / "output"),
            store=str(tmp_path / name / "store"),
        )
        results = study.run()
        found.append((results, shards_of(study)))
        assert stand_in.sets["me/x"]["train"].passes == [1]
    assert found[0] == found[1] and found[0][1]
    assert {result.condition for result in found[0][0]} == {"matched", "mismatched"}


def test_a_stream_that_knows_no_features(stand_in, load):
    held = [{"text": "one", "label": "x", "sound": 0}, {"text": "two", "label": "y"}, {"label": "y"}]
    stand_in.sets["me/x"] = {"train": Streamed(None, held)}
    task = load(level="language", dataset="me/x", streaming=True, bad_rows="skip")
    assert [(e.text, e.target) for e in task.splits["all"]] == [("one", ("x",)), ("two", ("y",))]
    assert len(task.skipped) == 1 and "me/x (train), row 3: the cell 'text' is empty" in task.skipped[0]


def test_a_stream_that_breaks_off_says_where(stand_in, load):
    features = {"text": None, "label": None}
    held = [{"text": f"t{k}", "label": "ab"[k % 2]} for k in range(9)]
    stand_in.sets["me/x"] = {"train": Streamed(features, held, breaks=5)}
    with pytest.raises(
        DataError, match=r"me/x \(train\): the stream broke off after row 5: ConnectionError: the other"
    ):
        load(level="language", dataset="me/x", streaming=True, bad_rows="skip")
    stand_in.sets["me/x"] = {"train": Streamed(features, held)}
    stand_in.told = {"train": types.SimpleNamespace(num_examples=10)}
    with pytest.raises(DataError, match=r"ended after row 9, and the data set says that it has 10 rows; run again"):
        load(level="language", dataset="me/x", streaming=True)
    stand_in.told["train"].num_examples = 9
    assert len(load(level="language", dataset="me/x", streaming=True).splits["all"]) == 9


def test_ten_times_the_rows_take_the_same_memory(stand_in, load):
    class Endless(Streamed):
        def select_columns(self, names):
            return self

        def cast_column(self, name, feature):
            return self

        def __iter__(self):
            for k in range(self.held):
                yield {"image": {"bytes": k.to_bytes(4, "big") * 5000, "path": None}, "label": "ab"[k % 2]}

    peaks = []
    for count in (200, 2000):
        stand_in.sets["me/x"] = {"train": Endless({"image": FakeImage(), "label": None}, count)}
        tracemalloc.start()
        task = load(level="vision", dataset="me/x", streaming=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(task.splits["all"]) == count
    # 40 MB of images; the records of 1,800 rows, of which no more than a megabyte waits in memory.
    assert peaks[1] - peaks[0] < 2.5e6


def test_an_image_that_is_only_an_address_is_a_bad_row(stand_in, load):
    image, address = png((1, 2, 3)), "zip://a.png::hf://datasets/me/x@main/a.zip"
    held = [{"image": {"bytes": image, "path": None}, "label": "a"}, {"image": {"bytes": None, "path": address}}]
    held[1]["label"] = "b"
    stand_in.sets["me/x"] = {"train": Streamed({"image": FakeImage(), "label": None}, held)}
    with pytest.raises(DataError, match=r"row 2: the image 'zip://.*' is an address.*streaming: true, leave that out"):
        load(level="vision", dataset="me/x", streaming=True)
    task = load(level="vision", dataset="me/x", streaming=True, bad_rows="skip")
    assert len(task.splits["all"]) == len(task.skipped) == 1


def test_a_full_disk_leaves_nothing_half_written(monkeypatch):
    kept = keep(b"first")

    def half(path, data):
        path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(
            DataError, match="with the rows cannot be kept in .*No space left.*make room, or set .*CACHE"
        ):
            keep(b"second")
        assert keep(b"first") == kept
    assert spool() == [kept.file]
    kept.file.write_bytes(b"fir")  # as it was when the machine lost its power
    assert keep(b"first").read() == b"first"


def test_the_library_itself_streams_parquet(real, load, tmp_path):
    put_pets(real, tmp_path / "pets")
    spec = {"dataset": "./pets", "columns": COLUMNS}
    opened = open_dataset("./pets", None, "", None, tmp_path, streaming=True)
    assert {type(part.held) for part in opened.parts.values()} == {ParquetStream}
    streamed = load(**spec, streaming=True)
    assert not list((tmp_path / "prepared").rglob("*.arrow"))  # nothing was prepared
    assert said(streamed) == said(load(**spec))
    assert sorted(streamed.splits) == ["test", "train"] and streamed.classes == ("a", "b")
    assert spool() and all(example.image.file in spool() for example in streamed.splits["train"])
    put_parquet(tmp_path / "plain", table())  # {bytes, path} that nobody calls an image
    spec = {"dataset": "./plain", "columns": COLUMNS}
    assert said(load(**spec, streaming=True)) == said(load(**spec))


def test_the_library_itself_streams_folders_and_json(real, load, tmp_path):
    for k in range(6):
        place = tmp_path / "pets" / "train" / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{k}.png").write_bytes(png((k, 0, 0)))
    spec = {"level": "vision", "dataset": "./pets"}
    assert said(load(**spec, streaming=True)) == said(load(**spec))
    assert not spool()  # they are files already
    (tmp_path / "said").mkdir()
    lines = [json.dumps({"text": f"t{k // 2}", "label": "ab"[k % 2]} | ({"late": 1} if k else {})) for k in range(8)]
    (tmp_path / "said" / "train.jsonl").write_text("\n".join(lines) + "\n")
    spec = {"level": "language", "dataset": "./said", "columns": {"text": "text"}}
    streamed, prepared = load(**spec, streaming=True), load(**spec)
    assert list(streamed.splits["all"]) == list(prepared.splits["all"]) and len(streamed.splits["all"]) == 8


def test_the_library_itself_tells_of_a_damaged_file_and_of_missing_rows(real, load, tmp_path):
    put_parquet(tmp_path / "x", table())
    note = "---\ndataset_info:\n  features:\n  - {name: caption, dtype: string}\n  - {name: colour, dtype: string}\n"
    note += "  splits:\n  - {name: train, num_examples: 91, num_bytes: 1}\n---\n"
    (tmp_path / "y").mkdir()
    lines = [json.dumps({"caption": f"t{k}", "colour": "ab"[k % 2]}) for k in range(90)]
    (tmp_path / "y" / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "y" / "README.md").write_text(note)
    spec = {"level": "language", "columns": COLUMNS, "streaming": True}
    with pytest.raises(DataError, match=r"./y \(train\): the stream ended after row 90, and .* 91 rows"):
        load(dataset="./y", **spec)
    (tmp_path / "x" / "train.parquet").rename(tmp_path / "x" / "train-0.parquet")
    (tmp_path / "x" / "train-1.parquet").write_bytes(b"PAR1" + bytes(500))
    with pytest.raises(DataError, match=r"./x \(train\): the stream broke off after row 90: "):
        load(dataset="./x", **spec)
