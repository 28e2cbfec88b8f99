"""volta's five architectures: what positions are, what each architecture knows of the image, what is a bad row."""

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from tiny_volta import FEATURES, KINDS, ONE, SMALL, STATES, close
from vlprobe.encoders import load_model
from vlprobe.encoders.encoder import side_of, sides_of
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.pooling import pool
from vlprobe.regions.source import RegionSource
from vlprobe.types import ROLES, Example, Regions

REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("region", "word", "cls", ""))
PAIR = tiny.example("0", "A dog sits", tiny.png(tiny.noise(60, 90)), words=((2, 5), (6, 10)))


class Listed(RegionSource):
    """The same regions for every image."""

    width, revision = FEATURES, "listed"

    def __init__(self, boxes, features):
        self.found = Regions(np.float32(boxes), np.float32(features), (90, 60))

    def regions(self, batch):
        return [self.found] * len(batch)


BOXES = [[0.1, 0.2, 0.5, 0.9], [0.0, 0.3, 0.7, 0.6], [0.5, 0.1, 0.9, 0.4]]
SEEN = np.random.RandomState(3).random_sample((3, FEATURES))


regions, prototypes = tiny_volta.regions, tiny_volta.prototypes


def model_at(place):
    return load_model({"model": f"volta:{place}", "regions": "x"}, device="cpu")


def states_of(model, example=PAIR):
    return {one.layer: one.states for one in model.encode([example])}


def streams(kind):
    return [f"{stream}.{k}" for stream, count in STATES[kind].items() for k in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_encode_reads_the_network_block_by_block(prototypes, regions, kind):
    """Against the network itself, given by hand what volta's own reader of features makes of three boxes."""
    regions["source"] = Listed(BOXES, SEEN)
    model = model_at(prototypes[kind])
    corners = np.array(BOXES)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in BOXES]
    places = np.vstack([[0, 0, 1, 1, 1], np.column_stack([corners, areas])])
    features = np.vstack([SEEN.mean(axis=0), SEEN])
    ids = torch.tensor([model.text.tokenizer(PAIR.text)["input_ids"]])
    given = tiny_volta.Inputs(
        *(ids, torch.ones(1, 5, dtype=torch.bool)),
        *(torch.from_numpy(np.float32(one))[None] for one in (features, places)),
        torch.ones(1, 4, dtype=torch.bool),
    )
    with torch.inference_mode():
        found = model.model(given)
    hidden = model.encode([PAIR])
    assert [one.layer for one in hidden] == list(model.layers)
    assert list(model.layers) == ["regions.0", *streams(kind), "language.pooler", "vision.pooler", "joint.pooler"]
    np.testing.assert_array_equal(hidden[0].states[0].numpy(), np.float32(SEEN))
    np.testing.assert_array_equal(hidden[0].box[0], np.float32(BOXES))
    words, boxes = [CLS, WORD, WORD, WORD, NONE], [REGION] * 3
    for one in hidden[1:-3]:
        stream, index = one.layer.split(".")
        side = "vision" if stream == "vision" else "text"
        ends = [0, *(number + 1 for number in SMALL[kind].blocks(side))]
        state = found[ends[int(index)]]
        if stream == "joint":
            close(one.states[0], torch.cat([state["text"], state["vision"]], dim=1)[0])
            assert one.role[0].tolist() == [*words, NONE, *boxes]
            assert one.word[0].tolist() == [-1, -1, 0, 1, -1, -1, -1, -1, -1]
        else:
            close(one.states[0], state[side][0])
            assert one.role[0].tolist() == (words if side == "text" else [CLS, *boxes])
            assert one.word[0].tolist() == ([-1, -1, 0, 1, -1] if side == "text" else [-1] * 4)
        placed = [] if stream == "language" else BOXES
        np.testing.assert_array_equal(one.box[0][one.role[0] == REGION], np.float32(placed).reshape(-1, 4))
        assert np.isnan(one.box[0][one.role[0] != REGION]).all()
    text, image, both = (one.states[0, 0] for one in hidden[-3:])
    state = model.model.state_dict()
    for pooled, side, name in ((text, "text", "t_pooler"), (image, "vision", "v_pooler")):
        made = state[f"{name}.dense.weight"] @ found[-1][side][0, 0] + state[f"{name}.dense.bias"]
        close(pooled, made.clamp(min=0), 1e-5)
    close(both, text * image, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_feature_is_taken_for_no_region(prototypes, regions, kind):
    """The box that covers the whole image best is a region's, and the mean over regions is over three positions."""
    regions["source"] = Listed(BOXES, SEEN)
    hidden = model_at(prototypes[kind]).encode([PAIR])
    whole = Example("0", "0", PAIR.text, PAIR.image, ("x",), boxes=((0.0, 0.0, 1.0, 1.0),), place="p")
    seen = {one.layer: one for one in hidden}
    by_box = {one.layer: one.rows[0] for one in pool(hidden, [whole], "region", "box")}
    means = {one.layer: one.rows[0] for one in pool(hidden, [whole], "input", "regions")}
    assert list(by_box) == list(means) == ["regions.0", *(x for x in streams(kind) if not x.startswith("language."))]
    for layer, row in by_box.items():
        states = seen[layer].states[0, -3:]
        close(row, states[0], 1e-6)  # 0.4 x 0.7 is the largest of the three
        close(means[layer], states.mean(dim=0), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pooled_by_itself(prototypes, regions, kind):
    model = model_at(prototypes[kind])
    asked = Example("0", "0", PAIR.text, PAIR.image, ("x",), place="p")
    how = {one.layer: one.how for one in pool(model.encode([asked]), [asked], "input", "auto")}
    assert how == {layer: "regions" if layer == "regions.0" else "cls" for layer in model.layers}


def test_visual_bert_is_not_told_where_its_regions_are_and_the_others_are(prototypes, regions):
    for kind in KINDS:
        first = []
        for boxes in (BOXES, np.array(BOXES)[:, [1, 0, 3, 2]]):
            regions["source"] = Listed(boxes, SEEN)
            states = states_of(model_at(prototypes[kind]))
            first.append(states["joint.0" if kind in ONE else "vision.0"][0, -3:])
        assert torch.equal(*first) == (kind == "visualbert")


def test_the_words_of_vl_bert_know_the_last_box_and_no_other(prototypes, regions):
    """Not the global feature either, but as far as the last box is part of the mean; it alone is [END]."""

    def first(features):
        regions["source"] = Listed(BOXES, features)
        return states_of(model_at(prototypes["vl-bert"]))["joint.0"][0]

    plain = first(SEEN)
    for box in range(3):
        changed = SEEN.copy()
        changed[box] += 1
        moved = (first(changed) - plain).abs().amax(dim=1) > 1e-4
        words, globe, boxes = moved[:5], moved[5], moved[6:]
        assert bool(words.all()) == bool(words.any()) == (box == 2)
        assert bool(globe)
        assert boxes.tolist() == [box == k for k in range(3)]


def test_a_box_without_features_is_one_that_vl_berts_pretraining_hides(prototypes, regions):
    hidden = SEEN.copy()
    hidden[0] = 0
    model = model_at(prototypes["vl-bert"])
    shown = SEEN.copy()
    shown[0] = model.model.embeddings.object_mask_visual_embedding.weight[0].detach().numpy()
    found = []
    for features in (hidden, shown):
        regions["source"] = Listed(BOXES, features)
        found.append(states_of(model_at(prototypes["vl-bert"]))["joint.0"][0])
    close(found[0][6:], found[1][6:], 1e-6)


def test_texts_of_vl_bert_leave_room_for_the_positions_of_boxes(prototypes, regions):
    long = tiny.example("7", "dog " * 21, PAIR.image)
    assert states_of(model_at(prototypes["uniter"]), long)
    with pytest.raises(BadRow, match="23 tokens .* at most 22"):
        model_at(prototypes["vl-bert"]).encode([long])


@pytest.mark.parametrize("kind", ["uniter", "visualbert"])
def test_one_modality_alone(prototypes, regions, kind):
    model = model_at(prototypes[kind])
    asked = Example("0", "0", PAIR.text, PAIR.image, ("x",), place="p")
    text = Example("0", "0", PAIR.text, None, ("x",), place="p")
    image = Example("0", "0", None, PAIR.image, ("x",), place="p")
    both = {one.layer: one for one in model.encode([asked])}
    for lone, there, missing in ((text, slice(0, 5), "vision.pooler"), (image, slice(5, None), "language.pooler")):
        hidden = {one.layer: one for one in model.encode([lone])}
        close(hidden["joint.0"].states, both["joint.0"].states[:, there], 1e-6)
        assert (hidden["joint.2"].states - both["joint.2"].states[:, there]).abs().max() > 1e-2
        gone = {missing, "joint.pooler"} | ({"regions.0"} if lone is text else set())
        assert {layer for layer, one in hidden.items() if not one.states.shape[1]} == gone
        pooled = {one.layer for one in pool(list(hidden.values()), [lone], "input", "auto")}
        assert pooled == set(model.layers) - gone


@pytest.mark.parametrize("kind", ["vilbert", "lxmert", "vl-bert"])
def test_architectures_that_need_both_bring_of_one_what_reads_it_alone(prototypes, regions, kind):
    model = model_at(prototypes[kind])
    assert model.needs == ("text", "image")
    both = {one.layer: one for one in model.encode([PAIR])}
    for lone in (tiny.example("8", None, PAIR.image), tiny.example("8", PAIR.text)):
        side = "image" if lone.text is None else "text"
        if kind == "vl-bert" and side == "text":  # no layer reads that alone
            with pytest.raises(BadRow, match="file, row 8: example 8 has no image, and controlled VL-BERT needs one"):
                model.encode([lone])
            continue
        for one in model.encode([lone]):
            alone = sides_of(model)[side_of(model, one.layer)] == (side,)
            assert alone == bool(one.states.shape[1])
            if alone:
                close(one.states, both[one.layer].states, 1e-6)
    wanted = {"vilbert": {"text": 2, "image": 2}, "lxmert": {"text": 3, "image": 3}, "vl-bert": {"text": 0, "image": 1}}
    found = [sides_of(model)[side_of(model, layer)] for layer in model.layers]
    assert {side: found.count((side,)) for side in ("text", "image")} == wanted[kind]
    for batch in ([PAIR, tiny.example("8", None, PAIR.image)], [PAIR, tiny.example("8", "a dog")]):
        with pytest.raises(BadRow, match="file, row 8: example 8 has no (text|image)"):
            model.encode(batch)


def test_what_is_not_there_is_a_bad_row(prototypes, regions):
    model = model_at(prototypes["uniter"])
    for batch, message in (
        ([tiny.example("8")], "has neither text nor image"),
        ([tiny.example("8", "a dog"), PAIR], "has no image"),
        ([PAIR, tiny.example("8", None, PAIR.image)], "has no text, and others of its batch have one"),
    ):
        with pytest.raises(BadRow, match=f"file, row 8: example 8 {message}"):
            model.encode(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_are_not_where_they_are_said_to_be_are_seen_at_load(prototypes, regions, monkeypatch, kind):
    """Also in VL-BERT, whose words an image that is another moves."""
    from vlprobe.encoders import volta

    def astray(pieces):
        role, word, box = real(pieces)
        return role, np.where(word >= 0, word.max(axis=1, keepdims=True) - word, -1), box

    real = volta.of_text
    monkeypatch.setattr(volta, "of_text", astray)
    with pytest.raises(CheckpointError, match=r"\.0: the states said to be word 0 differ between"):
        model_at(prototypes[kind])
