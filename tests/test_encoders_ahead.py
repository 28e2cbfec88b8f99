"""Images are read ahead of the model by other processes: the same pixels, the same errors, whatever becomes of them."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from toys import Toy, colour_task
from vlprobe.encoders import ahead as reading
from vlprobe.encoders import load_model
from vlprobe.encoders.ahead import DEATHS, ENOUGH, HELD, Ahead, readers
from vlprobe.encoders.pixels import ImageReader
from vlprobe.errors import BadRow
from vlprobe.extraction import ImageDigests, compute, features, request
from vlprobe.store import Store

EXAMPLES = [tiny.example(str(n), None, tiny.png(tiny.noise(40 + n, 60, n))) for n in range(5)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Processes are started for however few images."""
    monkeypatch.setattr(reading, "ENOUGH", 1)


def double(example):
    if example.id == "deadly" and os.environ.get("VLPROBE_TEST_CHILD"):
        os.kill(os.getpid(), signal.SIGKILL)
    return example.id * 2


def named(*names):
    return [tiny.example(name, None, name.encode()) for name in names]


class Told(Toy):
    """Remembers the order of things."""

    def __init__(self, fails=()):
        super().__init__()
        self.order, self.fails = [], list(fails)

    def ahead(self, coming):
        self.order.append(("ahead", len(coming)))

    def encode(self, batch):
        self.order.append(("encode", len(batch)))
        if len(batch) in self.fails:
            self.fails.remove(len(batch))
            raise torch.OutOfMemoryError
        return super().encode(batch)


def test_pixels_and_errors_are_those_of_one_process(tmp_path):
    plain = load_model(tiny.spec("vit", tiny.make("vit", tmp_path / "vit")), device="cpu").reader
    reader = ImageReader(plain.processor, plain.place, workers=1)
    broken = tiny.example("b", None, EXAMPLES[0].image[:60])
    reader.reading.begin([*EXAMPLES[:3], broken])
    reader.reading.wait()
    assert len(reader.reading._begun) == 4
    for found, wanted in zip(reader.read(EXAMPLES), plain.read(EXAMPLES), strict=True):
        assert torch.equal(found.pixels, wanted.pixels) and found.frame == wanted.frame
    with pytest.raises(BadRow, match="file, row b: the embedded image cannot be decoded"):
        reader.read([broken])


def test_a_reader_that_dies_loses_nothing_and_one_that_always_does_is_done_without(monkeypatch):
    monkeypatch.setenv("VLPROBE_TEST_CHILD", "1")
    ahead, batch = Ahead(double, 1), named("a", "deadly", "b")

    def read():
        monkeypatch.setenv("VLPROBE_TEST_CHILD", "1")
        ahead.begin(batch)
        ahead.wait()
        monkeypatch.delenv("VLPROBE_TEST_CHILD")
        return [ahead.take(example) for example in batch]

    for _ in range(DEATHS - 1):
        assert read() == ["aa", "deadlydeadly", "bb"]
    with pytest.warns(UserWarning, match="died 3 times"):
        assert read() == ["aa", "deadlydeadly", "bb"]
    assert read() == ["aa", "deadlydeadly", "bb"]
    assert not ahead._pool


class Pool:
    """Reads when it is told to."""

    def __init__(self, *_):
        self.asked = []

    def submit(self, task, *given):
        future = reading.Future()
        if not given:
            future.set_result(0)
            return future
        self.asked.append((given[0].id, future))
        return future

    def shutdown(self, **settings):
        pass


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(reading, "ProcessPoolExecutor", Pool)
    return Ahead(double, 1)


def test_images_are_read_in_their_order_and_only_so_many_are_held(pool, monkeypatch):
    monkeypatch.setattr(reading, "HELD", 3)
    batch = named(*"abcdef")
    pool.begin([*batch, batch[0]])
    asked = pool._pool.asked
    assert [name for name, _ in asked] == list("abc")
    asked[0][1].set_result("from afar")
    assert pool.take(batch[0]) == "from afar"
    assert [name for name, _ in asked] == list("abcd")
    assert pool.take(batch[1]) == "bb" and asked[1][1].cancelled()  # nobody had got to it
    assert pool.take(batch[5]) == "ff"  # before its turn
    assert [name for name, _ in asked] == list("abcde")
    pool.begin(batch[3:5])  # c is not asked for any more
    assert asked[2][1].cancelled() and not asked[3][1].cancelled()
    assert [name for name, _ in asked] == list("abcde")


def test_a_few_images_start_no_process_and_what_waits_is_not_waited_for(pool, monkeypatch):
    monkeypatch.setattr(reading, "ENOUGH", 3)
    pool.begin(named("a", "b", "b"))
    assert pool._pool is None
    monkeypatch.setattr(Pool, "submit", lambda self, task, *given: reading.Future())  # never up
    pool.begin(named("a", "b", "c"))
    assert not pool._begun and pool.take(named("a")[0]) == "aa"


def test_all_that_comes_is_begun_at_once_and_again_when_a_batch_has_failed(tmp_path):
    for fails, order in (
        ((), [("ahead", 10), ("encode", 2), ("encode", 4), ("encode", 4)]),
        ((4,), [("ahead", 10), ("encode", 2), ("encode", 4), ("ahead", 8)] + 4 * [("encode", 2)]),
    ):
        model = Told(fails)
        asked = request(model, colour_task(10).splits["all"], "word", "first", ImageDigests())
        compute(model, [asked], Store(tmp_path / str(len(fails))), 4)
        assert model.order == order


SCRIPT = """
import sys
print("begun")
sys.path.insert(0, sys.argv[1])
import test_encoders_ahead as tests
from vlprobe.encoders import ahead
ahead.ENOUGH = 1
reader = ahead.Ahead(tests.double, 1)
reader.begin(tests.named("a"))
reader.wait()
print(len(reader._begun), reader.take(tests.named("a")[0]), __name__)
kept = reader._pool
"""


def test_a_script_that_does_not_expect_to_be_run_again_is_not(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    tests = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, str(tmp_path / "script.py"), tests]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["begun", "1", "aa", "__main__"], done.stderr
    assert not done.stderr


def test_a_study_with_readers_has_the_rows_of_one_without(tmp_path):
    model = load_model(tiny.spec("vit", tiny.make("vit", tmp_path / "vit")), device="cpu")
    examples = [replace(example, target=("x",)) for example in EXAMPLES]
    asked, found = request(model, examples, "input", "auto", ImageDigests()), []
    for workers in (0, 1):
        model.reader.reading.workers = workers
        store = Store(tmp_path / str(workers))
        compute(model, [asked], store)
        found.append(features(asked, store, "vision.2").X)
    np.testing.assert_array_equal(*found)
    assert model.reader.reading._pool is not None


def test_readers_have_the_cores_that_the_model_leaves(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for cores, threads, beside_cpu, beside_gpu in (
        (1, 1, 0, 0),
        (2, 2, 0, 1),
        (2, 1, 1, 1),
        (16, 16, 2, 8),
        (64, 4, 8, 8),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: range(cores), raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.delenv("VLPROBE_WORKER", raising=False)
        assert (readers(cpu), readers(gpu)) == (beside_cpu, beside_gpu)
        monkeypatch.setenv("VLPROBE_WORKER", "3")  # of eight
        monkeypatch.setenv("OMP_NUM_THREADS", str(max(cores // 8, 1)))
        assert readers(gpu) == max(cores // 8 - 1, 0)
    assert ENOUGH < HELD
