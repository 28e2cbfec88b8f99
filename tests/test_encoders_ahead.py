"""Images are read ahead of the model by other processes: the same pixels, the same errors, whatever becomes of them."""

import os
import signal

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from toys import Toy, colour_task
from vlprobe.encoders import load_model
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.pixels import ImageReader
from vlprobe.errors import BadRow
from vlprobe.extraction import ImageDigests, compute, request
from vlprobe.store import Store

EXAMPLES = [tiny.example(str(n), None, tiny.png(tiny.noise(40 + n, 60, n))) for n in range(5)]


def double(example):
    if example.id == "deadly" and os.environ.get("VLPROBE_TEST_CHILD"):
        os.kill(os.getpid(), signal.SIGKILL)
    return example.id * 2


def test_pixels_and_errors_are_those_of_one_process(tmp_path):
    plain = load_model(tiny.spec("vit", tiny.make("vit", tmp_path / "vit")), device="cpu").reader
    reader = ImageReader(plain.processor, plain.place, workers=1)
    broken = tiny.example("b", None, EXAMPLES[0].image[:60])
    reader.ahead([*EXAMPLES[:3], broken])
    for found, wanted in zip(reader.read(EXAMPLES), plain.read(EXAMPLES), strict=True):
        assert torch.equal(found.pixels, wanted.pixels) and found.frame == wanted.frame
    with pytest.raises(BadRow, match="file, row b: the embedded image cannot be decoded"):
        reader.read([broken])


def test_a_reader_that_dies_loses_nothing(monkeypatch):
    monkeypatch.setenv("VLPROBE_TEST_CHILD", "1")
    ahead = Ahead(double, 1)
    batch = [tiny.example(name, None, name.encode()) for name in ("a", "deadly", "b")]
    ahead.begin(batch)
    monkeypatch.delenv("VLPROBE_TEST_CHILD")
    assert [ahead.take(example) for example in batch] == ["aa", "deadlydeadly", "bb"]
    ahead.begin(batch[:1])
    assert ahead.take(batch[0]) == "aa"


def test_batches_are_begun_before_their_turn(tmp_path):
    class Told(Toy):
        def __init__(self):
            super().__init__()
            self.order = []

        def ahead(self, batch):
            self.order.append(("ahead", len(batch)))

        def encode(self, batch):
            self.order.append(("encode", len(batch)))
            return super().encode(batch)

    model = Told()
    asked = request(model, colour_task(10).splits["all"], "word", "first", ImageDigests())
    compute(model, [asked], Store(tmp_path), 4)
    assert model.order == [
        ("ahead", 4), ("encode", 2), ("ahead", 4), ("encode", 4), ("ahead", 0), ("encode", 4)
    ]  # fmt: skip


def test_a_model_on_the_processor_keeps_its_cores():
    assert readers(torch.device("cpu")) == 0
    assert readers(torch.device("cuda")) == np.clip((os.cpu_count() or 1) - 1, 0, 8)
