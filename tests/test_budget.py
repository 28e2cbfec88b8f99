"""On a GPU, batches have as many positions as make the model fastest: found by trial, written down, halved for memory.

The GPU is a stand-in: a clock that goes by what is run, and an error where that is too much.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from toys import Toy, colour_task
from vlprobe.encoders.encoder import LAUNCHED
from vlprobe.errors import BadRow, VlprobeError
from vlprobe.extraction import ImageDigests, compute, features, forwards, request
from vlprobe.extraction.budget import ENOUGH, FIRST, tried
from vlprobe.store import Store

LENGTH = 40
EXAMPLES = [replace(e, image=None, text=f"{e.text} {'x' * (k % 7)}") for k, e in enumerate(colour_task().splits["all"])]


class OnGpu(Toy):
    """Every input has `LENGTH` positions; up to `wide` positions take as long as `wide`, and all `launch` more."""

    accelerator = "stand-in, 1 GiB"

    def __init__(self, wide=6000, room=1 << 40, launch=0, **settings):
        super().__init__(modalities=("text",), **settings)
        self.wide, self.room, self.launch, self.now, self.batches = wide, room, launch, 0.0, []

    def lengths(self, batch):
        return [LENGTH] * len(batch)

    def encode(self, batch):
        positions = LENGTH * len(batch)
        self.batches.append(len(batch))
        if positions > self.room:
            raise torch.OutOfMemoryError("not enough memory")
        self.now += (max(positions, self.wide) + self.launch) / 1e6
        return super().encode(batch)


def asked(model, examples=EXAMPLES):
    return request(model, examples, "word", "first", ImageDigests())


def positions_of(model, passes=None):
    return found_by(model, passes).positions


def found_by(model, passes=None):
    return tried(model, passes or list(forwards([asked(model)])), lambda some: model.encode([p.example for p in some]),
                 clock=lambda: model.now)  # fmt: skip


@pytest.mark.parametrize(
    ("wide", "room", "found"),
    [
        (100, 1 << 40, FIRST),  # fast from the start
        (3 * FIRST, 1 << 40, 4 * FIRST),  # a third of what fits makes it as fast as it gets, 2 * FIRST does not
        (1 << 30, 1 << 40, 8 * FIRST),  # all inputs at once, 9600 positions, are what it likes best
        (1 << 30, 3 * FIRST, 2 * FIRST),  # for want of memory
        (1 << 30, FIRST // 3, FIRST // 4),
        (1 << 30, LENGTH, FIRST // 32),  # one at a time
    ],
)
def test_positions_grow_as_long_as_that_is_faster_and_fits(wide, room, found):
    assert positions_of(OnGpu(wide, room)) == found


@pytest.mark.parametrize("launch", [0, 500, 3000, 9000])
def test_what_a_batch_takes_whatever_is_in_it_is_measured(launch):
    found = found_by(OnGpu(wide=0, launch=launch))
    assert found.fixed == pytest.approx(min(launch, found.positions), abs=1)
    assert found_by(OnGpu(room=LENGTH)).fixed == LAUNCHED  # one size alone tells nothing


def test_an_input_that_the_model_does_not_take_is_not_tried(tmp_path, clock):
    class Choosy(OnGpu):
        def encode(self, batch):
            for example in batch:
                if example.id in ("e3", "e77"):
                    raise BadRow(example.place, "it is not taken")
            return super().encode(batch)

    model = clock(Choosy(wide=3 * FIRST))
    compute(model, [asked(model)], Store(tmp_path), bad_rows="skip")
    assert notes(tmp_path)[0]["positions"] == 4 * FIRST
    assert len(features(asked(model), Store(tmp_path), "joint.0").id) == len(EXAMPLES) - 2


def test_images_are_read_before_the_clock_starts(tmp_path):
    class Reads(OnGpu):
        def ahead(self, coming):
            self.waiting = True

        def await_images(self):
            self.now += 5 * self.waiting
            self.waiting = False

    assert found_by(Reads(wide=0, launch=500)).fixed == pytest.approx(500, abs=1)


def test_an_input_too_large_for_memory_ends_the_trial_and_is_told_by_the_run(tmp_path):
    model = OnGpu(room=LENGTH - 1)
    assert positions_of(model) // LENGTH == 1
    with pytest.raises(VlprobeError, match="alone does not fit"):
        compute(model, [asked(model)], Store(tmp_path))


def notes(folder):
    return [json.loads(path.read_text()) for path in folder.rglob("batch-*.json")]


@pytest.fixture
def clock(monkeypatch):
    def of(model):
        monkeypatch.setattr("vlprobe.extraction.budget.time.perf_counter", lambda: model.now)
        monkeypatch.setattr(tried, "__defaults__", (lambda: model.now,))
        return model

    return of


def test_what_was_found_is_written_down_and_everyones(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", ENOUGH)
    model = clock(OnGpu(wide=3 * FIRST))
    compute(model, [asked(model)], Store(tmp_path))
    assert notes(tmp_path) == [{"accelerator": "stand-in, 1 GiB", "positions": 4 * FIRST, "fixed": 4 * FIRST}]
    assert max(model.batches) == ENOUGH > 32
    other = OnGpu(wide=100)  # would find FIRST; and would be tried first
    shard = sorted(tmp_path.rglob("*.safetensors"))[0]
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    shard.unlink()
    compute(clock(other), [asked(other)], Store(tmp_path))
    assert len(other.batches) == 1 and (other.most, other.fixed) == (4 * FIRST, 4 * FIRST)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before


def test_the_budget_changes_no_number_beyond_rounding(tmp_path, clock):
    found = {}
    for name, wide, size in ("trial", 1 << 30, None), ("fixed", 100, 32), ("one", 100, 1):
        model = clock(OnGpu(wide))
        compute(model, [asked(model)], Store(tmp_path / name), batch_size=size)
        found[name] = features(asked(model), Store(tmp_path / name), "joint.1")
        assert bool(notes(tmp_path / name)) == (size is None)
    for name in ("fixed", "one"):
        np.testing.assert_allclose(found["trial"].X, found[name].X, atol=1e-6)
        assert found["trial"].id.tolist() == found[name].id.tolist()


def test_a_batch_that_no_longer_fits_halves_the_budget_for_good(tmp_path, clock):
    model = clock(OnGpu(wide=1 << 30))
    compute(model, [asked(model)], Store(tmp_path))
    (before,) = notes(tmp_path)
    for shard in tmp_path.rglob("*.safetensors"):
        shard.unlink()
    narrow = OnGpu(wide=1 << 30, room=LENGTH * len(EXAMPLES) // 3)  # somebody else has taken the rest
    compute(narrow, [asked(narrow)], Store(tmp_path))
    (after,) = notes(tmp_path)
    assert after["positions"] == narrow.most <= narrow.room < before["positions"]
    assert features(asked(narrow), Store(tmp_path), "joint.0").id.tolist() == [e.id for e in EXAMPLES]


def test_two_that_try_at_once_agree(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    assert first.note_first("a" * 64, "batch-x.json", {"positions": 1}) == {"positions": 1}
    assert second.note_first("a" * 64, "batch-x.json", {"positions": 2}) == {"positions": 1}
    assert second.noted("a" * 64, "batch-x.json") == {"positions": 1}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["batch-x.json"]


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"positions": -3}', '{"positions": "many"}'])
def test_a_note_that_says_nothing_is_no_note(tmp_path, clock, said):
    model = clock(OnGpu(wide=100))
    compute(model, [asked(model)], Store(tmp_path))
    (path,) = tmp_path.rglob("batch-*.json")
    path.write_text(said)
    for shard in tmp_path.rglob("*.safetensors"):
        shard.unlink()
    again = clock(OnGpu(wide=100))
    compute(again, [asked(again)], Store(tmp_path))
    assert again.most == FIRST


def test_a_few_inputs_are_not_tried_and_a_processor_never_is(tmp_path, clock):
    few = clock(OnGpu())
    compute(few, [asked(few, EXAMPLES[: ENOUGH - 1])], Store(tmp_path))
    assert max(few.batches) == 32 and not notes(tmp_path)
    cpu = OnGpu(name="cpu")
    cpu.accelerator = ""
    compute(cpu, [asked(cpu)], Store(tmp_path))
    assert max(cpu.batches) == 32 and not notes(tmp_path)
