"""Layers of two streams that have not yet met run once for a text, and once for an image, of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from vlprobe.encoders import load_model
from vlprobe.encoders.distinct import distinct
from vlprobe.encoders.encoder import side_of, sides_of
from vlprobe.encoders.volta import Volta
from vlprobe.errors import BadRow
from vlprobe.extraction import ImageDigests, compute, features, forwards, layers_of, left_out, request
from vlprobe.extraction.questions import Heading
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


def test_a_study_runs_each_image_once_until_it_meets_texts_and_keeps_rows_of_one_side_once(model, rows, tmp_path):
    """Of ViLBERT no block is the image's alone, and its pairs come by the length of their texts."""
    texts = [f"{TEXTS[k % 3]} by a mat"[: 5 + 2 * k] for k in range(8)]
    examples = [replace(tiny.example(str(k), text, IMAGES[k // 2]), target=("x",)) for k, text in enumerate(texts)]
    digests, store = ImageDigests(), Store(tmp_path)
    paired = (pair(examples, condition, "multimodal", seed, "test") for condition, seed in SHOWN)
    extractions = [request(model, each, "input", "auto", digests) for each in paired]
    compute(model, extractions, store)
    distinct_pairs = {(one.text, one.image) for each in extractions for one in each.examples}
    counts = {("text",): len(texts), ("image",): len(IMAGES), ("text", "image"): len(distinct_pairs)}
    kept = {}
    for shard in store._shards(extractions[0].home):
        for section in shard.sections:
            side = Heading.named(section).side
            assert [x for x in model.layers if x in shard.layers(section)] == [
                x for x in model.layers if side_of(model, x) == side
            ]
            kept[side] = kept.get(side, 0) + len(shard.rows(section)[1])
    assert kept == {side: counts[needed] for side, needed in sides_of(model).items()}
    assert len(forwards(extractions)) == len(distinct_pairs)
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


def test_an_image_without_regions_leaves_the_text_of_its_pair(model, tmp_path, monkeypatch):
    """And a text that is too long its image: what reads one side alone is then run on that side alone."""
    read = type(model.images).read

    def lacking(self, batch):
        for one in batch:
            if one.image == IMAGES[3]:
                raise BadRow(one.place, "no regions")
        return read(self, batch)

    monkeypatch.setattr(type(model.images), "read", lacking)
    held = [("a dog", IMAGES[3]), ("cats", IMAGES[0]), ("dog " * 90, IMAGES[1])]
    examples = [replace(tiny.example(str(k), *one), target=("x",)) for k, one in enumerate(held)]
    extraction, store = request(model, examples, "input", "auto", ImageDigests()), Store(tmp_path)
    compute(model, [extraction], store, bad_rows="skip")
    wanted = {("text",): ["0", "1"], ("image",): ["1", "2"], ("text", "image"): ["1"]}
    for layer in model.layers:
        found = features(extraction, store, layer)
        assert found.id.tolist() == wanted[sides_of(model)[side_of(model, layer)]]
        if layer == "language.1":
            (whole,) = (one for one in model.encode([examples[1]]) if one.layer == layer)
            np.testing.assert_allclose(found.X[1], whole.states[0, 0], atol=1e-5)
    assert len(left_out(model, extraction, store, "skip")) == len(set(left_out(model, extraction, store, "skip"))) > 0


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
