"""Extraction: the store, resume, bad rows; the batch changes nothing."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import vlprobe
from toys import Toy, colour_task, png
from vlprobe.errors import BadRow, StudyError, VlprobeError
from vlprobe.extraction import Forward, ImageDigests, compute, features, layers_of, left_out, missing, request
from vlprobe.extraction.batches import FEW, batches, cut
from vlprobe.pairing import pair
from vlprobe.store import Store

TASK = colour_task()
EXAMPLES = TASK.splits["all"]


def asked(model, examples=EXAMPLES, unit="word", how="first"):
    return request(model, examples, unit, how, ImageDigests())


def shards(store):
    return sorted(store.folder.rglob("*.safetensors"))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_rows_follow_the_examples_whatever_the_batch(tmp_path, batch_size, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 50)
    extraction = asked(Toy())
    compute(Toy(), [extraction], Store(tmp_path), batch_size)
    for layer in ("joint.0", "joint.1"):
        found = features(extraction, Store(tmp_path), layer)
        assert found.id.tolist() == [e.id for e in EXAMPLES]
        assert found.group.tolist() == [e.group for e in EXAMPLES]
        assert found.index.tolist() == [4] * len(EXAMPLES)
        assert found.y.tolist() == [next(t for t in e.target if t) for e in EXAMPLES]
        alone = [hidden for e in EXAMPLES[:20] for hidden in Toy().encode([e]) if hidden.layer == layer]
        rows = [h.states[0, np.flatnonzero(h.word[0] == 4)[0]].numpy() for h in alone]
        np.testing.assert_allclose(found.X[:20], np.array(rows), atol=1e-6)


def test_the_same_input_is_encoded_once_and_never_again(tmp_path):
    doubled = [*EXAMPLES, *(replace(e, id=e.id + "b", group="other") for e in EXAMPLES)]
    model, store = Toy(), Store(tmp_path)
    extraction = asked(model, doubled)
    assert missing([extraction], store) == len(EXAMPLES)
    compute(model, [extraction], store)
    assert len(model.seen) == len(EXAMPLES)
    assert missing([extraction], store) == 0
    compute(model, [extraction], store)
    assert len(model.seen) == len(EXAMPLES)
    found = features(extraction, store, "joint.0")
    np.testing.assert_array_equal(found.X[: len(EXAMPLES)], found.X[len(EXAMPLES) :])
    assert found.group[-1] == "other"


def test_what_a_model_does_not_read_does_not_count():
    text_model = Toy(modalities=("text",))
    mismatched = pair(EXAMPLES, "mismatched", "multimodal", 0, "test")
    assert asked(text_model).key == asked(text_model, mismatched).key
    assert asked(Toy()).key != asked(Toy(), mismatched).key
    assert asked(Toy()).key != asked(Toy(), how="mean").key


def test_a_killed_run_goes_on_at_the_missing_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 50)
    model, store = Toy(), Store(tmp_path)
    extraction = asked(model)
    compute(model, [extraction], store)
    shards(store)[2].unlink()
    again = Toy()
    compute(again, [extraction], store)
    assert len(again.seen) == 50


def test_a_torn_shard_is_computed_again(tmp_path):
    model, store = Toy(), Store(tmp_path)
    extraction = asked(model)
    compute(model, [extraction], store)
    whole = features(extraction, store, "joint.1").X
    (path,) = shards(store)
    path.write_bytes(path.read_bytes()[:-100])
    store = Store(tmp_path)
    compute(model, [extraction], store)
    np.testing.assert_array_equal(features(extraction, store, "joint.1").X, whole)


class Choosy(Toy):
    """Refuses texts that hold the digit 7."""

    def encode(self, batch):
        for example in batch:
            if "7" in example.text:
                raise BadRow(example.place, "a seven")
        return super().encode(batch)


def test_inputs_that_a_model_refuses_are_told_or_counted(tmp_path):
    extraction = asked(Choosy(name="choosy"))
    with pytest.raises(BadRow, match="row 9: a seven\n  with bad_rows: skip in the study, such rows are left out"):
        compute(Choosy(), [extraction], Store(tmp_path / "a"))
    store, model = Store(tmp_path / "b"), Choosy(name="choosy")
    compute(model, [extraction], store, bad_rows="skip")
    lines = left_out(model, extraction, store, "skip")
    sevens = [e for e in EXAMPLES if "7" in e.text]
    assert len(lines) == len(sevens)
    assert lines[0] == "toy.csv, row 9: a seven (left out for choosy)"
    found = features(extraction, store, "joint.1")
    assert found.id.tolist() == [e.id for e in EXAMPLES if "7" not in e.text]
    with pytest.raises(BadRow, match="a seven"):  # what was skipped once is not silently missing later
        left_out(model, extraction, store, "error")


class Broken(Toy):
    def encode(self, batch):
        hidden = super().encode(batch)
        hidden[1].states[-1] = float("nan")
        return hidden


def test_nan_states_are_refused(tmp_path):
    with pytest.raises(VlprobeError, match=r"layer joint.1: the states of example e\d+ .* NaN"):
        compute(Broken(name="broken"), [asked(Broken())], Store(tmp_path))


def test_a_damaged_image_is_found_before_the_model_runs():
    broken = replace(EXAMPLES[3], image=png((9, 9, 9), (300, 300))[:-40])
    with pytest.raises(BadRow, match="toy.csv, row 5: the embedded image cannot be decoded"):
        asked(Toy(), [*EXAMPLES[:3], broken])


def test_from_a_notebook():
    found = vlprobe.extract(Toy(), TASK, "all")
    assert list(found) == ["joint.0", "joint.1"]
    assert found["joint.1"].X.shape == (240, 16)
    moved = vlprobe.extract(Toy(), TASK, "all", condition="mismatched")
    assert moved["joint.1"].key != found["joint.1"].key
    with pytest.raises(StudyError, match="cannot be put to toy under condition text-only: .*without image"):
        vlprobe.extract(Toy(needs=("image",)), TASK, "all", condition="text-only")


def test_layers_say_how_they_were_pooled(tmp_path):
    inputs = [replace(e, target=("x",), words=()) for e in EXAMPLES]
    extraction = asked(Toy(), inputs, "input", "auto")
    compute(Toy(), [extraction], Store(tmp_path))
    assert layers_of(extraction, Store(tmp_path)) == {"joint.0": "cls", "joint.1": "cls", "joint.pooler": "cls"}


def test_batches_hold_neighbours_and_not_too_many_positions():
    """The longest times their number stays within what the model likes; nothing is lost, one alone may be longer."""
    model = Toy()
    model.most = 60
    texts = ["x" * n for n in (4, 400, 80, 8, 84, 44, 12, 4, 88)]
    passes = [Forward(replace(EXAMPLES[0], text=text, image=None), f"{n}", ()) for n, text in enumerate(texts)]
    found = [[len(each.example.text) for each in batch] for batch in batches(model, passes, 3)]
    assert found == [[4, 4, 8], [12, 44, 80], [84, 88], [400]]
    model.most = 2048
    assert len(next(batches(model, [*passes] * 9, None))) > FEW


def every_cut(count):
    """Yield all ways to cut a row."""
    for inside in itertools.product((False, True), repeat=count - 1):
        edges = [0, *(place for place, here in enumerate(inside, 1) if here), count]
        yield list(itertools.pairwise(edges))


@pytest.mark.parametrize(
    ("size", "most", "fixed"), [(9, math.inf, 5), (3, math.inf, 0), (9, 30, 5), (4, 1, 2), (9, 60, 64)]
)
def test_no_other_cut_takes_fewer_positions(size, most, fixed):
    draw = np.random.default_rng(size)
    for _ in range(20):
        lengths = np.sort(draw.integers(0, 30, 9)).astype(float)
        allowed = [
            cuts
            for cuts in every_cut(9)
            if all(b - a == 1 or (b - a <= size and lengths[b - 1] * (b - a) <= most) for a, b in cuts)
        ]
        takes = {tuple(cuts): sum((b - a) * lengths[b - 1] + fixed for a, b in cuts) for cuts in allowed}
        assert takes[tuple(cut(lengths, size, most, fixed))] == min(takes.values())
