"""An encoder of images runs once for an image, however many texts of a batch are shown with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from toys import Toy
from vlprobe.encoders import load_model
from vlprobe.encoders.vlms import ROWS
from vlprobe.estimate import _stretches
from vlprobe.extraction import Forward, ImageDigests, compute, features, forwards, layers_of, request
from vlprobe.extraction.batches import batches as batches_of
from vlprobe.pairing import pair
from vlprobe.store import Store
from vlprobe.types import ROLES

KINDS = ["flava", "bridgetower", "blip", "blip-2", "llava"]
TEXTS = ["a dog", "two red chairs", "cats", "a dog sits on the mat"]
IMAGES = [tiny.png(tiny.noise(40, 40 + k, k)) for k in range(6)]
SHOWN = [("matched", 0), ("mismatched", 0), ("mismatched", 1)]
EXAMPLES = tuple(
    replace(tiny.example(str(k), f"{TEXTS[k % 4]} by a mat"[: 8 + k], IMAGES[k // 2]), target=("x",)) for k in range(12)
)
"""Six images of two texts each, of many lengths."""


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    folder = tiny.make(request.param, tmp_path_factory.mktemp("fusion") / request.param)
    return load_model(tiny.spec(request.param, folder), device="cpu")


@pytest.fixture
def seen(model):
    """Images that the encoder of images was run on, a number for each run."""
    counts = []
    blocks = {"Flava": lambda: model.blocks["vision"], "Generative": lambda: model.tower}.get(
        type(model).__name__, lambda: model.vision
    )()
    axis = 1 if type(model).__name__ == "BridgeTower" else 0  # whose positions are in front

    def count(module, positional, named):
        counts.append((positional[0] if positional else named["hidden_states"]).shape[axis])

    hook = blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    yield counts
    hook.remove()


def asked(model, condition, seed=0):
    paired = pair(EXAMPLES, condition, "multimodal", seed, "test")
    return request(model, paired, "input", "auto", ImageDigests())


def test_a_batch_runs_each_image_once_and_its_states_are_those_of_each_pair_alone(model, seen):
    batch = [replace(EXAMPLES[k], image=IMAGES[image]) for k, image in enumerate((3, 0, 3, 1, 0, 3))]
    together = model.encode(batch)
    assert seen == [3]
    for place, example in enumerate(batch):
        for alone, shared in zip(model.encode([example]), together, strict=True):
            for role in ("cls", "word", "patch"):
                mine, there = alone.role[0] == ROLES.index(role), shared.role[place] == ROLES.index(role)
                states = shared.states[place, there], alone.states[0, mine]
                torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4, msg=f"{alone.layer}, {role}")
                np.testing.assert_array_equal(shared.box[place, there], alone.box[0, mine])


@pytest.mark.parametrize("kind", list(ROWS))
def test_an_image_of_several_examples_goes_through_the_tower_once(kind, tmp_path):
    """Images of several shapes and numbers of tiles, the first of which is not the first to come back."""
    model = load_model(tiny.spec(kind, tiny.make(kind, tmp_path)), device="cpu")
    images = [tiny.png(tiny.noise(*size)) for size in ((60, 90), (100, 60), (40, 120))]
    batch = [tiny.example(str(k), TEXTS[k % 4], images[image]) for k, image in enumerate((2, 0, 2, 1, 0, 2))]
    positions = []

    def count(block, positional, named):
        given = positional[0] if positional else named["hidden_states"]
        positions.append(given.shape[:-1].numel())

    hook = model.tower[0].register_forward_pre_hook(count, with_kwargs=True)
    together = model.encode(batch)
    hook.remove()
    assert positions == [sum(len(model.sight(batch[place]).tower) for place in (0, 1, 3))]
    for row, example in enumerate(batch):
        for one, alone in zip(together, model.encode([example]), strict=True):
            length = alone.states.shape[1]
            torch.testing.assert_close(one.states[row, :length], alone.states[0], atol=1e-5, rtol=1e-4)
            for what in ("role", "word", "box"):
                np.testing.assert_array_equal(getattr(one, what)[row, :length], getattr(alone, what)[0])


def test_a_study_runs_each_image_once_for_all_that_it_is_shown_with(model, seen, tmp_path):
    extractions = [asked(model, condition, seed) for condition, seed in SHOWN]
    store = Store(tmp_path)
    compute(model, extractions, store)
    assert len(forwards(extractions)) > 24
    assert sum(seen) <= len(IMAGES) + 1  # one image may be on both sides of the end of a batch
    for extraction in extractions:
        alone = Store(tmp_path / extraction.pairs)
        compute(model, [extraction], alone, batch_size=1)
        for layer in layers_of(extraction, store):
            found = features(extraction, store, layer)
            np.testing.assert_allclose(found.X, features(extraction, alone, layer).X, atol=1e-5)


def test_pairs_of_one_image_are_neighbours_in_chunks_and_batches(model):
    passes = forwards([asked(model, "matched"), asked(model, "mismatched")])
    assert _runs([each.example.image for each in passes]) == len(IMAGES)
    batches = list(batches_of(model, list(passes), 5))
    assert sorted(each.name for batch in batches for each in batch) == sorted(each.name for each in passes)
    assert max(map(len, batches)) <= 5
    assert _runs([each.example.image for batch in batches for each in batch]) == len(IMAGES)


def test_no_batch_has_more_positions_than_it_may(monkeypatch):
    """Long and short texts of one image by turns, so that the last of a batch need not be its longest."""
    model = Toy()
    monkeypatch.setattr(Toy, "neighbours", True)
    monkeypatch.setattr(Toy, "most", 100.0)
    texts = ["a" * 4 * length for length in (1, 40, 2, 30, 3, 35, 1, 45)]
    held = [Forward(tiny.example(str(k), text, IMAGES[k // 2]), str(k), ()) for k, text in enumerate(texts)]
    found = list(batches_of(model, held, 32))
    assert sum(map(len, found)) == len(held)
    assert max(max(model.lengths([each.example for each in b])) * len(b) for b in found) <= 100


def test_what_a_run_takes_is_tried_on_neighbours_from_all_over():
    assert [list(batch) for batch in _stretches(range(100), 4, 16)] == [
        list(range(start, start + 4)) for start in (0, 25, 50, 75)
    ]
    assert [len(batch) for batch in _stretches(range(100), 5, 16)] == [5, 5, 5, 1]
    assert [list(batch) for batch in _stretches(range(5), 2, 16)] == [[0, 1], [2, 3], [4]]
    assert _stretches(range(0), 8, 16) == []


def test_a_model_of_one_stream_has_its_batches_by_length(tmp_path):
    model = load_model(f"vilt:{tiny.make('vilt', tmp_path)}", device="cpu")
    passes = list(forwards([asked(model, "matched"), asked(model, "mismatched")]))
    batches = list(batches_of(model, passes, 64))
    lengths = model.lengths([each.example for batch in batches for each in batch])
    assert lengths == sorted(lengths)


def _runs(values):
    return sum(a != b for a, b in zip(values, [None, *values], strict=False))
