"""Layers of two streams that have not yet met run once for a text, and once for an image, of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from vlprobe.encoders import load_model
from vlprobe.encoders.distinct import distinct
from vlprobe.encoders.volta import Volta
from vlprobe.extraction import ImageDigests, compute, features, layers_of, request
from vlprobe.pairing import pair
from vlprobe.store import Store
from vlprobe.types import ROLES

SIDES = ("text", "vision")
KINDS = ["lxmert", "volta-lxmert", "volta-vilbert"]
TEXTS = ["a dog", "two red chairs by a mat", "cats"]
IMAGES = [tiny.png(tiny.noise(40, width, width)) for width in (40, 52, 64, 76)]
"""Of three to six regions."""
BATCH = [
    tiny.example(str(k), TEXTS[text], IMAGES[image], words=words)
    for k, (text, image, words) in enumerate(
        [(0, 3, ()), (1, 0, ((0, 3),)), (0, 3, ((2, 5),)), (2, 1, ()), (1, 3, ((4, 7),)), (2, 0, ())]
    )
]
"""Three texts and three images in six examples; one text, and one pair, is cut into words in two ways."""


SHOWN = [("matched", 0), ("mismatched", 0), ("mismatched", 1)]


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    folder = tiny.make(request.param, tmp_path_factory.mktemp("apart") / request.param)
    width = tiny_volta.FEATURES if tiny.FAMILY[request.param] == "volta" else tiny.REGION_WIDTH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(width))
        return load_model(tiny.spec(request.param, folder), device="cpu")


@pytest.fixture
def rows(model):
    """What ran -> rows of each run of each of its blocks: the text and the image alone, and where they meet."""
    found = {"text": [], "vision": [], "meeting": []}

    def counted(name, states):
        return lambda block, given: found[name].append(len(states(given)))

    if isinstance(model, Volta):
        layers, alone = model.model.encoder.layer, model.model.sublayers.alone
        points = [(layer, side, lambda given, side=side: given[0][side]) for layer in layers[:alone] for side in SIDES]
        points += [
            (layer, "meeting", lambda given, side=side: given[0][side]) for layer in layers[alone:] for side in SIDES
        ]
    else:
        points = [(layer, "text", lambda given: given[0]) for layer in model.blocks["language"]]
        points += [(layer, "vision", lambda given: given[0]) for layer in model.blocks["vision"]]
        points += [
            (layer, "meeting", lambda given, at=at: given[at]) for layer in model.blocks["cross"] for at in (0, 2)
        ]
    hooks = [layer.register_forward_pre_hook(counted(name, states)) for layer, name, states in points]
    yield found
    for hook in hooks:
        hook.remove()


def test_a_batch_runs_each_text_and_each_image_once_until_they_meet(model, rows):
    together = model.encode(BATCH)
    assert {name: set(each) for name, each in rows.items()} == {"text": {3}, "vision": {3}, "meeting": {6}}
    for place, example in enumerate(BATCH):
        for alone, shared in zip(model.encode([example]), together, strict=True):
            count = alone.states.shape[1]
            torch.testing.assert_close(shared.states[place, :count], alone.states[0], atol=1e-5, rtol=1e-4)
            assert (shared.role[place, count:] == ROLES.index("")).all()
            for what in ("role", "word", "box"):
                np.testing.assert_array_equal(getattr(shared, what)[place, :count], getattr(alone, what)[0])


def test_a_study_runs_each_image_once_until_it_meets_texts(model, rows, tmp_path):
    """Of ViLBERT no block is the image's alone, and its pairs come by the length of their texts."""
    texts = [f"{TEXTS[k % 3]} by a mat"[: 5 + 2 * k] for k in range(8)]
    examples = [replace(tiny.example(str(k), text, IMAGES[k // 2]), target=("x",)) for k, text in enumerate(texts)]
    digests, store = ImageDigests(), Store(tmp_path)
    paired = (pair(examples, condition, "multimodal", seed, "test") for condition, seed in SHOWN)
    extractions = [request(model, each, "input", "auto", digests) for each in paired]
    compute(model, extractions, store)
    assert model.neighbours == (model.kind != "vilbert" if isinstance(model, Volta) else True)
    if model.neighbours:
        assert max(rows["vision"]) <= len(IMAGES) < max(rows["meeting"])
    for extraction in extractions:
        alone = Store(tmp_path / extraction.pairs)
        compute(model, [extraction], alone, batch_size=1)
        for layer in layers_of(extraction, store):
            np.testing.assert_allclose(
                features(extraction, store, layer).X, features(extraction, alone, layer).X, atol=1e-5
            )


@pytest.mark.parametrize("kind", ["vl-bert", "uniter"])
def test_where_both_are_embedded_as_one_every_pair_is_run(kind, tmp_path, monkeypatch):
    """VL-BERT's words hold a part of their image."""
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(tiny_volta.FEATURES))
    model = load_model(tiny.spec(f"volta-{kind}", tiny.make(f"volta-{kind}", tmp_path)), device="cpu")
    for place, one in enumerate(BATCH):
        (alone,) = (x for x in model.encode([one]) if x.layer == "joint.1")
        (shared,) = (x for x in model.encode(BATCH) if x.layer == "joint.1")
        for role in ("cls", "word", "region"):
            mine, there = alone.role[0] == ROLES.index(role), shared.role[place] == ROLES.index(role)
            torch.testing.assert_close(shared.states[place, there], alone.states[0, mine], atol=1e-5, rtol=1e-4)


def test_things_come_once_and_go_back_to_who_holds_them():
    found = distinct(["b", "a", "b", None, "a"])
    assert (found.first, found.shown) == ((0, 1, 3), (0, 1, 0, 2, 1))
    held = np.array([10, 20, 10, 30, 20])
    assert found.once(held).tolist() == [10, 20, 30]
    assert found.each(found.once(held)).tolist() == held.tolist()
    every = distinct(range(3))
    rows = torch.ones(3, 2)
    assert every.each(rows) is rows
    assert every.once(rows) is rows
