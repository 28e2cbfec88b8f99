"""The store: nothing half-written is read, nothing damaged is believed, nothing is computed twice."""

import errno
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_regions import example, made

from test_study import study
from toys import Toy, colour_task
from vlprobe.cli import app
from vlprobe.engines import Processes
from vlprobe.errors import DataError
from vlprobe.extraction import ImageDigests, compute, features, forwards, missing, request
from vlprobe.extraction.jobs import Shelf
from vlprobe.regions.cache import CachedRegions, default_folder
from vlprobe.store import Damaged, Section, Shard, Store
from vlprobe.store import shard as one_shard
from vlprobe.store.shard import PIECE, checksum
from vlprobe.tasks.spool import keep
from vlprobe.types import FULL, Numbers

TASK = colour_task(60)
EXAMPLES = TASK.splits["all"]
NAMES = tuple(f"{number:032x}" for number in range(3))


def section(dtype=np.float32):
    X = np.arange(20, dtype=dtype).reshape(5, 4)
    start, unit = np.array([0, 2, 2, 5]), np.array([0, 1, 0, 1, 2], np.int32)
    return Section(NAMES, start, unit, {"joint.0": X}, {"joint.0": "cls"}, {NAMES[1]: "too long"})


def addresses(names):
    return np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 16)


def shards(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_rows_come_back_in_the_order_asked_for(tmp_path):
    store = Store(tmp_path)
    store.write("a" * 64, "b" * 64, {"input:auto:text": section()})
    X, owner, unit = Store(tmp_path).read("a" * 64, "input:auto:text", "joint.0", addresses([NAMES[2], NAMES[0]]))
    np.testing.assert_array_equal(X[:, 0], [8, 12, 16, 0, 4])
    assert (owner.tolist(), unit.tolist()) == ([0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
    assert Store(tmp_path).skipped("a" * 64, "input:auto:text") == {NAMES[1]: "too long"}
    assert Store(tmp_path).held("c" * 64, "input:auto:text") == {}


def test_a_question_that_two_shards_answer_is_read_once(tmp_path):
    store = Store(tmp_path)
    for shard in ("2" * 64, "1" * 64):
        other = replace(section(), layers={"joint.0": section().layers["joint.0"] + int(shard[0])})
        store.write("a" * 64, shard, {"s": other})
    X, owner, _ = store.read("a" * 64, "s", "joint.0", addresses(NAMES))
    assert len(X) == 5
    np.testing.assert_array_equal(X, section().layers["joint.0"] + 1)


def test_a_question_may_be_asked_twice_and_a_layer_that_is_not_there_is_named(tmp_path):
    store = Store(tmp_path)
    store.write("a" * 64, "b" * 64, {"s": section()})
    X, owner, unit = store.read("a" * 64, "s", "joint.0", addresses([NAMES[0], NAMES[1], NAMES[2], NAMES[0]]))
    np.testing.assert_array_equal(X[:, 0], [0, 4, 8, 12, 16, 0, 4])
    assert (owner.tolist(), unit.tolist()) == ([0, 0, 2, 2, 2, 3, 3], [0, 1, 0, 1, 2, 0, 1])
    with pytest.raises(DataError, match=r"holds no layer joint.o of s; did you mean 'joint.0'\?"):
        store.read("a" * 64, "s", "joint.o", addresses(NAMES))
    assert len(shards(tmp_path)) == 1


def at_half(data, changed):
    half = len(data) // 2
    return data[:half] + changed + data[half + len(changed) :]


def test_what_is_written_later_is_answered_as_if_it_had_been_there(tmp_path):
    """An index that was made grows with the shards; it is the one that a store makes that sees them all at once."""
    store, later = Store(tmp_path), tuple(f"{number:032x}" for number in (2, 7, 8))
    store.write("a" * 64, "2" * 64, {"s": section()})
    assert set(store.held("a" * 64, "s")) == set(NAMES)
    store.write("a" * 64, "1" * 64, {"s": replace(section(), questions=later), "t": section()})
    for name in ("s", "t"):
        seen, anew = (each.held("a" * 64, name) for each in (store, Store(tmp_path)))
        assert {q: (shard.path, place) for q, (shard, place) in seen.items()} == {
            q: (shard.path, place) for q, (shard, place) in anew.items()
        }
    assert store.held("a" * 64, "s")[later[0]][0].path.name.startswith("1")
    shards(tmp_path)[0].unlink()
    store.refresh("a" * 64)
    assert set(store.held("a" * 64, "s")) == set(NAMES)


@pytest.fixture(scope="module")
def listed():
    """Every folder that this process lists, however it does it."""
    seen, on = [], [True]

    def hear(event, arguments):
        if on and event in ("os.scandir", "os.listdir"):
            seen.append(str(arguments[0]))

    sys.addaudithook(hear)  # it cannot be taken away, but it can be told to sleep
    yield seen
    on.clear()


def test_the_folder_is_listed_once_however_many_shards_it_has(tmp_path, monkeypatch, listed):
    counts = []
    for chunk in (20, 2):
        monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", chunk)
        store = Store(tmp_path / str(chunk))
        asked = request(Toy(), EXAMPLES, "word", "first", ImageDigests())
        del listed[:]
        compute(Toy(), [asked], store)
        features(asked, store, "joint.0")
        counts.append(len([folder for folder in listed if folder.startswith(str(tmp_path))]))
        assert len(shards(tmp_path / str(chunk))) == len(EXAMPLES) // chunk
    assert counts[0] == counts[1] <= 1


def test_what_others_write_and_remove_is_seen_before_it_is_computed(tmp_path):
    """A store that was opened before: a shard that another one wrote is read, one that is gone is made again."""
    asked = request(Toy(), EXAMPLES, "word", "first", ImageDigests())
    model, store = Toy(), Store(tmp_path)
    assert missing([asked], store) == len(EXAMPLES)
    compute(Toy(), [asked], Store(tmp_path))
    compute(model, [asked], store)
    assert not model.seen and missing([asked], store) == 0
    (path,) = shards(tmp_path)
    path.unlink()
    compute(model, [asked], store)
    assert len(model.seen) == len(EXAMPLES) and shards(tmp_path) == [path]


DAMAGE = {
    "cut short": lambda data: data[:-10],
    "longer": lambda data: data + b"0",
    "empty": lambda data: b"",
    "no safetensors": lambda data: b"\x89PNG" + data,
    "a flipped bit in the addresses": lambda data: data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
    "a flipped bit": lambda data: at_half(data, bytes([data[len(data) // 2] ^ 4])),
    "zeroes": lambda data: at_half(data, bytes(512)),
    "another version": lambda data: data.replace(b'\\"format\\": 4', b'\\"format\\": 3'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed_and_computed_again(tmp_path, kind):
    whole = study(tmp_path / "a").run()
    path = shards(tmp_path / "a")[0]
    before = path.read_bytes()
    path.write_bytes(DAMAGE[kind](before))
    (tmp_path / "a" / "results.jsonl").unlink()
    assert study(tmp_path / "a").run() == whole
    assert path.read_bytes() == before
    said = json.loads((tmp_path / "a" / "study.json").read_text())["computed_again"]
    assert said == [f"{path}: it was damaged"]


@pytest.mark.parametrize("number, kind", [(errno.EMFILE, DataError), (errno.EIO, Damaged)])
def test_the_same_where_a_layer_of_a_known_shard_cannot_be_read(tmp_path, monkeypatch, number, kind):
    store = Store(tmp_path)
    store.write("a" * 64, "b" * 64, {"s": section()})
    names = addresses(NAMES)
    assert store.holds("a" * 64, "s", names).all()
    (path,) = shards(tmp_path)

    def closed(self, *given, **settings):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", closed)
        with pytest.raises(DataError, match=os.strerror(number)) as caught:
            store.read("a" * 64, "s", "joint.0", names)
    assert type(caught.value) is kind and path.exists() == (kind is DataError)


def test_a_plan_says_which_shards_were_damaged(tmp_path):
    study(tmp_path).run()
    (path,) = shards(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert study(tmp_path).plan().damaged == (f"{path}: it was damaged",)
    path.write_bytes(whole[:-10])
    study(tmp_path).run()  # all results are there
    assert json.loads((tmp_path / "study.json").read_text())["computed_again"] == []


def test_a_damaged_shard_that_cannot_be_removed_is_a_clear_error(tmp_path, monkeypatch):
    study(tmp_path).run()
    (path,) = shards(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])

    def closed(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", closed)
    with pytest.raises(DataError, match=r"longer or shorter.*remove it.*could not be done for you: Read-only file"):
        study(tmp_path).plan()


def test_a_store_that_is_only_read_need_not_be_written_to(tmp_path, monkeypatch):
    whole = study(tmp_path).run()
    (tmp_path / "results.jsonl").unlink()
    real = tempfile.TemporaryFile

    def closed(dir):
        if Path(dir) == tmp_path / "features":
            raise OSError(errno.EROFS, "Read-only file system")
        return real(dir=dir)

    monkeypatch.setattr("vlprobe.estimate.tempfile.TemporaryFile", closed)
    assert study(tmp_path).run() == whole
    shards(tmp_path)[0].unlink()
    (tmp_path / "results.jsonl").unlink()
    with pytest.raises(DataError, match="the store .*features cannot be written to .Read-only file system."):
        study(tmp_path).run()


def test_others_read_a_shard_with_the_library_and_another_user_may(tmp_path):
    import safetensors.numpy

    Store(tmp_path).write("a" * 64, "b" * 64, {"s": section(), "t": section(np.float16)})
    (path,) = shards(tmp_path)
    tensors = safetensors.numpy.load_file(path)
    for name in ("s", "t"):
        for key in ("joint.0", "start", "unit"):
            there = Shard(path).read(name, key)
            np.testing.assert_array_equal(tensors[f"{name}/{key}"], there)
            assert tensors[f"{name}/{key}"].dtype == there.dtype
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_shard_of_another_model_answers_nothing(tmp_path):
    """Both are asked the same, so that what one answered would be taken for the other's."""
    whole = study(tmp_path, [Toy(), Toy("twin")]).run()
    one, other = shards(tmp_path)
    before = one.read_bytes()
    one.write_bytes(other.read_bytes())
    (tmp_path / "results.jsonl").unlink()
    with pytest.raises(Damaged, match=f"another model answered, whose folder is {other.parent.name}; remove"):
        Shard(one)
    assert study(tmp_path, [Toy(), Toy("twin")]).run() == whole
    assert one.read_bytes() == before


@pytest.mark.parametrize("number, lost", [(errno.EACCES, False), (errno.EMFILE, False), (errno.EIO, True)])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch, capsys, number, lost):
    """Another user's file, too many open files: it is whole, and days of work. A disk that fails has lost it."""
    study(tmp_path).run()
    (tmp_path / "results.jsonl").unlink()
    (path,) = shards(tmp_path)
    opened = Path.open

    def closed(self, *given, **settings):
        if self == path and path.exists():
            raise OSError(number, os.strerror(number))
        return opened(self, *given, **settings)

    monkeypatch.setattr(Path, "open", closed)
    if lost:
        assert call("verify", tmp_path / "features") == 1 and "1 shards read, 1 damaged" in capsys.readouterr().out
        return
    for command in (["verify"], ["list"], ["prune", "--yes"]):
        call(command[0], tmp_path / "features", *command[1:])
        assert "cannot be read" in capsys.readouterr().out and path.exists()
    with pytest.raises(DataError, match=f"cannot be read .{os.strerror(number)}.; nothing says that it is damaged"):
        study(tmp_path).run()
    assert path.exists()


def test_what_another_version_wrote_is_not_found_and_said_to_be_of_no_use(tmp_path, capsys, monkeypatch):
    asked = request(Toy(), EXAMPLES, "word", "first", ImageDigests())
    for module in ("vlprobe.store", "vlprobe.store.shard"):
        monkeypatch.setattr(f"{module}.FORMAT", 2)
    compute(Toy(), [asked], Store(tmp_path))
    (old,) = shards(tmp_path)
    monkeypatch.undo()
    store = Store(tmp_path)
    assert missing([asked], store) == len(EXAMPLES)
    compute(Toy(), [asked], store)
    assert missing([asked], store) == 0 and len(shards(tmp_path)) == 2 and old.exists()
    with pytest.raises(Damaged, match="written by another version of vlprobe; remove it"):
        Shard(old)
    assert call("list", tmp_path) == 0
    assert "1 shards of another version of vlprobe, of no use" in capsys.readouterr().out
    assert call("prune", tmp_path, "--yes") == 0
    assert not old.exists() and len(shards(tmp_path)) == 1


def test_rows_of_many_shards_are_those_of_one(tmp_path, monkeypatch):
    """Whole shards and parts of them, in any order of the examples, whichever shard holds what; one reader and more."""
    asked = request(Toy(), EXAMPLES, "word", "first", ImageDigests())
    some = request(Toy(), EXAMPLES[40:3:-2], "word", "first", ImageDigests())
    whole, told = Store(tmp_path / "whole"), []
    compute(Toy(), [asked], whole)
    for name, numbers, readers in (("a", FULL, 1), ("b", FULL, 3), ("c", Numbers(kept="float16"), 3)):
        monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 7)
        monkeypatch.setattr("vlprobe.store.rows.READERS", readers)
        monkeypatch.setattr("vlprobe.store.rows.os.cpu_count", lambda: 8)
        real = Shard.ahead
        monkeypatch.setattr(Shard, "ahead", lambda shard, *names, real=real: (told.append(shard), real(shard, *names)))
        store = Store(tmp_path / name)
        each = request(Toy(), EXAMPLES, "word", "first", ImageDigests(), numbers)
        compute(Toy(), [each], store, numbers=numbers)
        for here, there in (
            (asked, each),
            (some, request(Toy(), EXAMPLES[40:3:-2], "word", "first", ImageDigests(), numbers)),
        ):
            rows, known = features(there, store, "joint.1"), features(here, whole, "joint.1")
            np.testing.assert_allclose(rows.X, known.X, atol=0 if numbers is FULL else 1e-3)
            assert rows.id.tolist() == known.id.tolist() and rows.index.tolist() == known.index.tolist()
    assert told and rows.id.tolist() == [e.id for e in EXAMPLES[40:3:-2]]


@pytest.mark.parametrize("piece", [1, 48, 2**20])
@pytest.mark.parametrize("kept", [np.float32, np.float16])
def test_rows_come_piece_by_piece(tmp_path, monkeypatch, piece, kept):
    """Against a look-up: some shards, inputs of no, one and many rows, in any order, some of them twice."""
    monkeypatch.setattr("vlprobe.store.rows.PIECE", piece)
    draw, slow = np.random.default_rng(0), {}
    for number in range(4):
        names = [f"{8 * number + k:032x}" for k in range(8)]
        counts = draw.integers(0, 6, 8)
        X = draw.normal(size=(counts.sum(), 4)).astype(kept)
        start, unit = np.concatenate([[0], np.cumsum(counts)]), np.arange(counts.sum(), dtype=np.int32)
        here, last = Section(tuple(names), start, unit, {"joint.0": X}, {"joint.0": "first"}), X
        Store(tmp_path).write("home", f"{number:032x}", {"word": here})
        slow |= {name: X[a:b].astype(np.float32) for name, a, b in zip(names, start, start[1:], strict=False)}
    every = np.array(sorted(slow))
    for asked in (every, every[::-1], draw.permutation(every), draw.choice(every, 50), every[8:16], every[3:5]):
        X, owner, unit = Store(tmp_path).read("home", "word", "joint.0", addresses(asked))
        np.testing.assert_array_equal(X, np.concatenate([slow[name] for name in asked]))
        assert owner.tolist() == [at for at, name in enumerate(asked) for _ in slow[name]]
    path = Store(tmp_path).path("home", f"{3:032x}")
    content, rows = path.read_bytes(), last.tobytes()
    for place in (0, len(rows) // 2, len(rows) - 1):
        at = content.index(rows) + place
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Damaged, match="tensor word/joint.0 has changed since it was written"):
            Store(tmp_path).read("home", "word", "joint.0", addresses(every))


def test_a_checksum_covers_every_byte_and_its_place():
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 256, 3 * PIECE + 5, dtype=np.uint8)
    known = {checksum(whole)}
    places = [*range(0, len(whole), 9973), len(whole) - 1, 3 * PIECE, PIECE]
    for place in places:
        changed = whole.copy()
        changed[place] ^= 16
        known.add(checksum(changed))
    swapped = whole.copy()
    swapped[:4096], swapped[8192:12288] = whole[8192:12288], whole[:4096]
    known.add(checksum(swapped))
    assert len(known) == 1 + len(places) + 1


def test_what_is_being_written_is_not_read(tmp_path):
    """Readers that list the store while a writer is at work see whole shards or none."""
    store, stop, seen = Store(tmp_path), threading.Event(), []

    def read():
        while not stop.is_set():
            for path in shards(tmp_path):
                Shard(path).verify()
                seen.append(path)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            big = replace(section(), layers={"joint.0": np.full((5, 20000), number, np.float32)})
            store.write("a" * 64, f"{number % 30:032x}", {"s": big})
    finally:
        stop.set()
        reader.join()
    assert seen and not list(tmp_path.rglob("*.tmp"))


def test_two_processes_of_one_number_write_one_shard_at_once(tmp_path, monkeypatch):
    """As on two machines that share a folder: the second writes all of it while the first is half through."""
    begun, real = [], one_shard._save
    layer = np.arange(20, dtype=np.float32).reshape(5, 4)

    def slowly(path, tensors, notes):
        begun.append(path)
        real(path, tensors, notes)
        if len(begun) == 2:
            return
        whole = path.read_bytes()
        with path.open("wb") as file:
            file.write(whole[: len(whole) - 60])
            file.flush()
            Store(tmp_path).write("a" * 64, "b" * 64, {"s": replace(section(), layers={"joint.0": layer + 1})})
            reader.refresh("a" * 64)
            file.write(whole[len(whole) - 60 :])

    reader = Store(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(one_shard, "_save", slowly)
    Store(tmp_path).write("a" * 64, "b" * 64, {"s": replace(section(), layers={"joint.0": layer})})
    assert len(set(begun)) == 2
    (path,) = shards(tmp_path)
    Shard(path).verify()
    # Who looked in between reads what was there then: numbers of two machines may differ in their last digits.
    np.testing.assert_array_equal(reader.read("a" * 64, "s", "joint.0", addresses(NAMES))[0], layer + 1)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 20)
    written = []

    def full(path, tensors, notes):
        if len(written) == 2:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, tensors, notes)

    real = one_shard._save
    monkeypatch.setattr(one_shard, "_save", full)
    model, store = Toy(), Store(tmp_path)
    asked = request(model, EXAMPLES, "word", "first", ImageDigests())
    with pytest.raises(DataError, match=r"No space left.*what is finished is kept.*VLPROBE_CACHE"):
        compute(model, [asked], store)
    assert len(shards(tmp_path)) == 2 and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    again = Toy()
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 20)
    compute(again, [asked], Store(tmp_path))
    assert len(again.seen) == 20


def test_tasks_that_share_inputs_share_forward_passes(tmp_path):
    """Another unit, another pooling, other words asked about: one pass each input, and each its own rows."""
    other = tuple(replace(e, target=("x",), words=()) for e in EXAMPLES)
    third = tuple(replace(e, target=("dt", *(None for _ in e.words[1:]))) for e in EXAMPLES)
    model, store = Toy(), Store(tmp_path)
    pairs = [(EXAMPLES, "word", "first"), (other, "input", "auto"), (third, "word", "first"), (other, "input", "words")]
    asked = [request(model, examples, unit, how, ImageDigests()) for examples, unit, how in pairs]
    assert len(forwards(asked)) == len(EXAMPLES)
    compute(model, asked, store)
    assert len(model.seen) == len(EXAMPLES)
    for number, (examples, unit, how) in enumerate(pairs):
        alone = Store(tmp_path / str(number))
        single = request(model, examples, unit, how, ImageDigests())
        compute(Toy(), [single], alone)
        for layer in ("joint.0", "joint.1"):
            together = features(asked[number], store, layer)
            np.testing.assert_allclose(together.X, features(single, alone, layer).X, atol=1e-6)
            assert together.y.tolist() == features(single, alone, layer).y.tolist()


def test_other_words_of_the_same_text_need_their_own_pass():
    coarse = tuple(replace(e, words=e.words[:2], target=("x", None)) for e in EXAMPLES)
    model = Toy()
    asked = [request(model, examples, "word", "first", ImageDigests()) for examples in (EXAMPLES, coarse)]
    passes = forwards(asked)
    assert len(passes) == 2 * len(EXAMPLES)
    assert all(question.example.words == each.example.words for each in passes for question in each.questions)


def test_a_second_study_computes_nothing_that_the_first_one_did(tmp_path):
    task = colour_task(60)
    study(tmp_path / "a", tasks=[task], store=str(tmp_path / "store")).run()
    model = Toy()
    again = study(tmp_path / "b", [model], [replace(task, name="again")], store=str(tmp_path / "store"), seeds=[1])
    assert again.plan().forward_passes == 0
    again.run()
    assert not model.seen


@pytest.mark.parametrize("workers", [None, 2])
def test_no_model_is_loaded_to_find_that_the_store_has_all(tmp_path, workers):
    """Once to be planned, and no second time; no worker is started. What says whose shards they are is made again."""
    models = [Toy(), Toy("reader", ("text",))]
    study(tmp_path, models).run()
    (tmp_path / "results.jsonl").unlink()
    manifests = sorted((tmp_path / "features").rglob("manifest.json"))
    manifests[0].unlink()
    manifests[1].write_bytes(manifests[1].read_bytes()[:40])
    again, loaded = study(tmp_path, models), []
    load = again._shelf._load
    again._shelf = Shelf(lambda asked: loaded.append(asked.spec) or load(asked))
    engine = None if workers is None else Processes(workers)
    again.run(engine=engine)
    assert loaded == ["toy:0", "toy:1"] and (engine is None or engine._pool is None)
    assert {json.loads(path.read_text())["model"] for path in manifests} == {"toy", "reader"}


def test_a_chunk_that_is_there_loads_no_model(tmp_path, monkeypatch):
    """As for a task of a job array whose part is done, where that of another is not."""
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 60)
    studies = [study(tmp_path, [Toy(), Toy("reader", ("text",))]) for _ in range(2)]
    inputs = studies[0].represent((1, 2)).inputs
    loaded, load = [], studies[1]._shelf._load
    studies[1]._shelf = Shelf(lambda asked: loaded.append(asked.spec) or load(asked))
    assert inputs and studies[1].represent((1, 2)).inputs == 0
    assert loaded == ["toy:0", "toy:1"]


def test_half_precision_is_kept_where_it_holds_the_numbers(tmp_path):
    class Large(Toy):
        def encode(self, batch):
            hidden = super().encode(batch)
            hidden[1].states[...] *= 1e5
            return hidden

    for model, halves in ((Toy("small"), {"joint.0", "joint.1"}), (Large("large"), {"joint.0"})):
        store = Store(tmp_path / model.name)
        asked = request(model, EXAMPLES, "word", "first", ImageDigests(), Numbers(kept="float16"))
        assert asked.home != request(model, EXAMPLES, "word", "first", ImageDigests()).home
        compute(model, [asked], store, numbers=Numbers(kept="float16"))
        (path,) = shards(tmp_path / model.name)
        (name,) = Shard(path).sections
        assert {layer for layer in Shard(path).layers(name) if Shard(path).read(name, layer).dtype == "f2"} == halves
        found = features(asked, store, "joint.1").X
        assert found.dtype == np.float32 and np.isfinite(found).all()


def test_what_a_person_reads(tmp_path, capsys):
    study(tmp_path / "a", conditions=["matched", "text-only"]).run()
    place = tmp_path / "a" / "features"
    assert call("list", place) == 0
    said = capsys.readouterr().out
    assert "toy (pretrained, Toy, float32, toy-toy)" in said
    assert "240 inputs: word, first, text+image" in said and "240 inputs: word, first, text" in said
    assert call("verify", place) == 0
    assert "2 shards read, 0 damaged" not in capsys.readouterr().err
    path = shards(place)[0]
    path.write_bytes(path.read_bytes()[:-3])
    old = path.with_name("x.1.tmp")
    old.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert call("verify", place) == 1
    assert f"{path}: it is longer or shorter than its header says; remove it" in capsys.readouterr().out
    assert call("prune", place) == 0
    assert path.exists() and "2 files" in capsys.readouterr().out
    assert call("prune", place, "--yes") == 0
    assert not path.exists() and not old.exists()
    assert call("prune", place, "--model", "tou", "--yes") == 1
    assert call("prune", place, "--model", "toy", "--yes") == 0
    assert not list(place.iterdir())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_several_shards_the_first_by_name_answers_in_whatever_order_they_are_opened(tmp_path, order):
    """Shard 0 answers all; 1 all but the first question, 2 all but the second: 2 comes first, then 1."""
    store, names = Store(tmp_path), ["c" * 32, "b" * 32, "a" * 32]
    for number in order:
        asked = [name for place, name in enumerate(NAMES) if not number or place != number - 1]
        X = np.full((len(asked), 4), number, np.float32)
        rows = np.arange(len(asked) + 1), np.zeros(len(asked), np.int32)
        store.write("home", names[number], {"s": Section(tuple(asked), *rows, {"joint.0": X}, {"joint.0": "cls"})})
        store.held("home", "s")
    answers = store.read("home", "s", "joint.0", addresses(NAMES))[0][:, 0]
    assert answers.tolist() == [2, 1, 2]
    assert Store(tmp_path).read("home", "s", "joint.0", addresses(NAMES))[0][:, 0].tolist() == [2, 1, 2]


def test_what_killed_runs_left_among_images_and_regions_goes_with_the_default_store(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("VLPROBE_CACHE", str(tmp_path))
    kept = keep(b"an image").file
    source = SimpleNamespace(width=6, revision="r", regions=lambda batch: [made() for _ in batch])
    CachedRegions(source, default_folder()).regions([example(b"an image")])
    (whole,) = default_folder().rglob("*.npz")
    old, young = ([path.with_name(f"{name}.tmp") for path in (kept, whole)] for name in ("old", "young"))
    for path in (*old, *young):
        path.write_bytes(b"half")
    for path in (*old, kept, whole):
        os.utime(path, (time.time() - 7200,) * 2)
    (tmp_path / "other").mkdir()
    assert call("prune", tmp_path / "other", "--yes") == 0 and all(path.exists() for path in old)
    said = CliRunner().invoke(app, ["store", "prune"])
    assert said.exit_code == 0 and f"{old[0]}\n{old[1]}\n2 files, " in said.output and old[0].exists()
    assert CliRunner().invoke(app, ["store", "prune", "--yes"]).exit_code == 0
    left = {path for place in ("images", "regions") for path in (tmp_path / place).rglob("*") if path.is_file()}
    assert left == {kept, whole, *young}


@pytest.mark.parametrize("command", [("list",), ("verify",), ("prune", "--yes"), ("prune", "--model", "toy", "--yes")])
def test_files_that_a_run_finishes_or_removes_meanwhile_are_no_trouble(begun, monkeypatch, command):
    place, files = begun
    Store(place).write("a" * 64, "b" * 64, {"s": section()})
    half = shards(place)[0].with_name("x.tmp")
    half.write_bytes(b"half")
    real = Path.stat

    def gone(path, **given):
        if path.suffix in (".tmp", ".npz", ".safetensors"):
            path.unlink(missing_ok=True)
        return real(path, **given)

    monkeypatch.setattr(Path, "stat", gone)
    assert call(command[0], place, *command[1:]) == 0


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Return the store of a streaming study of which one task of two has run, and its files of statistics."""
    monkeypatch.setattr("vlprobe.streams.BUCKET", 60)
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 10**6)
    monkeypatch.setattr("vlprobe.plan.Plan.feature_bytes", 10**9)
    study(tmp_path, [Toy(), Toy("viewer", ("image",))], conditions=["matched"]).represent((1, 2))
    place = tmp_path / "features"
    return place, sorted((place / "streams").rglob("*.npz"))


def test_statistics_are_listed_and_verified(begun, capsys):
    place, files = begun
    for path in files[:2]:
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    assert call("list", place) == 0
    said = capsys.readouterr().out
    assert "statistics: toy (pretrained), colour, matched, seed 0" in said
    assert f" GB in 2 files, last written 3 days ago: {files[0].parent}" in said
    assert call("verify", place) == 0
    assert f"{len(files)} files of statistics read, 0 damaged" in capsys.readouterr().out
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(content)
    assert call("verify", place) == 1
    assert f"{files[1]}: the checksum of " in capsys.readouterr().out
    assert call("prune", place) == 0 and files[1].exists()
    assert "1 files" in capsys.readouterr().out
    assert call("prune", place, "--yes") == 0
    assert sorted((place / "streams").rglob("*.npz")) == [files[0], *files[2:]]


def test_statistics_that_nobody_goes_on_with_are_removed(begun, capsys):
    place, files = begun
    folders = sorted({path.parent for path in files})
    half = folders[0] / "train-1-4.x.tmp"
    half.write_bytes(b"half")
    assert call("prune", place, "--yes") == 0 and half.exists()  # another process may be at work
    os.utime(half, (time.time() - 7200,) * 2)
    assert call("prune", place, "--yes") == 0 and not half.exists()
    assert sorted((place / "streams").rglob("*.npz")) == files
    for path in folders[0].iterdir():
        os.utime(path, (time.time() - 31 * 86400,) * 2)
    assert call("prune", place, "--yes") == 0
    assert sorted((place / "streams").iterdir()) == folders[1:]
    (left,) = (json.loads((folder / "about.json").read_text())["model"] for folder in folders[1:])
    assert call("prune", place, "--model", left, "--yes") == 0
    assert not (place / "streams").exists()


def call(command, place, *arguments):
    from typer.testing import CliRunner

    found = CliRunner().invoke(app, ["store", command, "--store", str(place), *arguments])
    print(found.output)
    return found.exit_code


def test_a_header_of_nonsense_is_damage(tmp_path):
    for number, content in enumerate((b"\xff" * 100, (20).to_bytes(8, "little") + b'{"a": [1, 2, 3]}    ')):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(Damaged, match="it is longer|does not start|cannot be read"):
            Shard(path)
