"""Every row of the table of families, and every model type that it reads, keeps the promises of `Encoder`."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from vlprobe.encoders import FAMILIES, load_model
from vlprobe.encoders.decoder import Decoder
from vlprobe.encoders.encoder import side_of, sides_of
from vlprobe.encoders.fusion import Fusion
from vlprobe.encoders.generative import Generative
from vlprobe.encoders.towers import VECTORS, Towers
from vlprobe.encoders.volta import Volta
from vlprobe.errors import BadRow
from vlprobe.types import ROLES

TYPES = [model_type for family in FAMILIES.values() for model_type in family.types if model_type != "volta"]
TYPES += [f"volta-{kind}" for kind in tiny_volta.KINDS]
IMAGES = [tiny.png(tiny.noise(60, 90)), tiny.png(tiny.noise(100, 60, 1)), tiny.png(tiny.noise(48, 48, 2))]
SENTENCES = ["A dog sits on the mat.", "cats", "two red chairs, a dog and a cat!"]
PATCH, REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "region", "word", "cls", ""))


@pytest.fixture(scope="module", params=TYPES)
def model(request, tmp_path_factory):
    folder = tiny.make(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)
    width = tiny_volta.FEATURES if tiny.FAMILY[request.param] == "volta" else tiny.REGION_WIDTH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(width), raising=False)
        return load_model(tiny.spec(request.param, folder), device="cpu")


def batch(model):
    return [
        tiny.example(
            str(k),
            SENTENCES[k] if "text" in model.modalities else None,
            IMAGES[k] if "image" in model.modalities else None,
        )
        for k in range(3)
    ]


def family(model):
    return next(row for row in FAMILIES.values() if row.kind == type(model).__name__)


def test_the_table_says_what_the_class_says(model):
    row = family(model)
    assert model.modalities == row.modalities
    streams = {layer.partition(".")[0] for layer in row.layers.split(", ")}
    assert {layer.partition(".")[0] for layer in model.layers} == streams
    named = {layer for layer in model.layers if not layer.partition(".")[2].isdigit() or layer == "regions.0"}
    assert named <= set(row.layers.split(", "))
    assert row.about


def test_every_layer_is_there_in_order_and_finite(model):
    hidden = model.encode(batch(model))
    assert [one.layer for one in hidden] == list(model.layers)
    for stream in {layer.partition(".")[0] for layer in model.layers}:
        numbers = [layer.partition(".")[2] for layer in model.layers if layer.startswith(f"{stream}.")]
        wanted = [0] if stream == "regions" else list(range(4))  # 3 blocks and their input
        if isinstance(model, Volta) and stream != "regions":
            wanted = list(range(tiny_volta.STATES[model.kind].get(stream, 0)))
        assert [int(number) for number in numbers if number.isdigit()] == wanted
    for one in hidden:
        shape = one.states.shape[:2]
        assert one.states.shape == (3, shape[1], model.layers[one.layer])
        assert one.states.dtype == torch.float32
        assert torch.isfinite(one.states).all()
        assert not one.states.requires_grad
        assert (one.role.shape, one.role.dtype) == (shape, np.int8)
        assert (one.word.shape, one.word.dtype) == (shape, np.int32)
        assert (one.box.shape, one.box.dtype) == ((*shape, 4), np.float32)
        if one.layer.endswith(VECTORS):
            assert (one.role == CLS).all()
            assert shape[1] == 1
    different = {round(float(one.states.double().abs().sum()), 6) for one in hidden}
    assert len(different) == len(hidden)


def test_boxes_belong_to_patches_and_regions_and_are_whole(model):
    for one in model.encode(batch(model)):
        placed = np.isin(one.role, (PATCH, REGION))
        assert (np.isnan(one.box).all(-1) == ~placed).all()
        box = one.box[placed]
        assert ((box >= 0) & (box <= 1)).all()
        assert (box[:, 2:] > box[:, :2]).all()


def test_one_cls_at_most_and_it_is_the_first(model):
    if isinstance(model, (Towers, Generative)):  # a text's stands at its end: below, and test_encoders_generative.py
        return
    for one in model.encode(batch(model)):
        assert not (one.role[:, 1:] == CLS).any()
        wordless = one.layer.startswith("regions.") or (one.layer.startswith("vision.") and "text" in model.modalities)
        if wordless:
            seen = PATCH if isinstance(model, Fusion) else REGION
            first = int(one.layer.startswith("vision.") and isinstance(model, (Fusion, Volta)))  # stands for the image
            assert np.isin(one.role[:, first:], (seen, NONE)).all()
            assert (one.role == seen).any(1).all() or one.layer.endswith(VECTORS)
        elif isinstance(model, Decoder):  # nothing was made to stand for the text
            assert np.isin(one.role, (WORD, NONE)).all()
            assert ((one.role == WORD).sum(1) > 0).all()
        elif "text" in model.modalities and not one.layer.endswith(VECTORS):
            assert (one.role[:, 0] == CLS).all()
            assert ((one.role == WORD).sum(1) > 0).all()


def test_towers_have_one_position_that_stands_for_all(model):
    if not isinstance(model, Towers):
        return
    hidden = model.encode(batch(model))
    states = {one.layer: one.states for one in hidden}
    if "language.pooler" in states:  # ALIGN's projection reads the last block itself
        pooled = states["language.norm"][torch.from_numpy(hidden[0].role == CLS)]
        torch.testing.assert_close(pooled, states["language.pooler"][:, 0], atol=1e-6, rtol=1e-5)
    for one in hidden:
        assert (one.word == -1).all()
        if one.layer.endswith(VECTORS):
            continue
        if one.layer.startswith("language."):
            assert ((one.role == CLS).sum(1) == 1).all()
            for row in one.role:  # after all words, and only padding behind it; of BERT, before them
                place, words = np.flatnonzero(row == CLS)[0], np.flatnonzero(row == WORD)
                assert place == 0 if family(model).kind == "Align" else place > words[-1]
        else:
            assert np.isin(one.role[:, model.before :], (PATCH, NONE)).all()
            assert (np.diff((one.role[:, model.before :] == NONE).astype(int)) >= 0).all()  # padding comes last
            assert (one.role[:, : model.before] == CLS).all()


def test_towers_do_not_see_each_other(model):
    if not isinstance(model, Towers):
        return
    text, image = tiny.example("0", SENTENCES[0]), tiny.example("0", image=IMAGES[0])
    apart = {one.layer: one.states for lone in (text, image) for one in model.encode([lone])}
    for picture in IMAGES:
        for one in model.encode([tiny.example("0", SENTENCES[0], picture)]):
            if one.layer.startswith("language.") or picture is IMAGES[0]:
                assert torch.equal(one.states, apart[one.layer])


def test_a_marked_square_moves_the_tokens_that_cover_it_and_no_others(model):
    """In layer 0, before positions have spoken to each other."""
    if "vision.0" not in model.layers or family(model).regions or family(model).kind in ("ResNet", "Align"):
        return
    if "Residual" in {type(module).__name__ for module in model.model.modules()}:  # of the stand-ins for ResNets
        return
    plain = np.full((32, 32, 3), 90, dtype=np.uint8)
    text = SENTENCES[0] if "text" in model.modalities else None
    for x1, y1 in ((0, 0), (8, 24), (16, 16)):
        marked = plain.copy()
        marked[y1 : y1 + 8, x1 : x1 + 8] = (250, 30, 30)
        pair = [tiny.example(str(k), text, tiny.png(image)) for k, image in enumerate((plain, marked))]
        first = next(one for one in model.encode(pair) if one.layer == "vision.0")
        moved = (first.states[0] - first.states[1]).abs().amax(1).numpy() > 1e-3
        square = np.array([x1, y1, x1 + 8, y1 + 8]) / 32

        def touched(margin, box=first.box[0], square=square):
            return ((box[:, :2] < square[2:] + margin) & (box[:, 2:] > square[:2] - margin)).all(1)

        assert touched(-0.03).any()
        assert moved[touched(-0.03)].all()
        assert not moved[~touched(0.03)].any()  # the resampling of a resized image reaches a pixel further


def test_neither_company_nor_order_changes_an_example(model):
    examples = batch(model)
    together, turned = model.encode(examples), model.encode(examples[::-1])
    for row, example in enumerate(examples):
        for layer, alone in enumerate(model.encode([example])):
            for other, place in ((together[layer], row), (turned[layer], 2 - row)):
                known = other.role[place] != NONE
                mine = alone.role[0] != NONE
                scale = max(1.0, float(alone.states.abs().max()))  # the tiny ResNet's states reach 30
                torch.testing.assert_close(
                    other.states[place, known] / scale, alone.states[0, mine] / scale, atol=1e-5, rtol=0
                )
                np.testing.assert_array_equal(other.box[place, known], alone.box[0, mine])


def test_the_same_input_gives_the_same_numbers_to_the_bit(model):
    state = torch.random.get_rng_state()
    first, second = model.encode(batch(model)), model.encode(batch(model))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.states, other.states)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_lengths_are_the_positions_that_texts_take(model):
    if "text" not in model.modalities:
        return
    image = IMAGES[0] if "image" in model.needs else None
    examples = [tiny.example(str(k), sentence, image) for k, sentence in enumerate(SENTENCES)]
    taken = []
    for example in examples:
        words = [x for x in model.encode([example]) if x.layer.startswith(("language.", "joint."))]
        taken.append(next(x.states.shape[1] for x in words if x.layer.endswith(".1")))
    regions = taken[0] - model.lengths(examples)[0]  # of the image, the same for all
    assert model.lengths(examples) == [length - regions for length in taken] and (regions == 0 or image)
    kept = model.encode(examples)
    for one, other in zip(kept, model.encode(examples[::-1]), strict=True):  # cut before, or cut anew: the same
        assert one.role.tolist() == other.role[::-1].tolist()


@pytest.mark.parametrize("given", ["text", "image"])
def test_one_modality_alone_works_or_is_refused(model, given):
    lone = tiny.example("5", SENTENCES[0] if given == "text" else None, IMAGES[0] if given == "image" else None)
    alone = [layer for layer in model.layers if sides_of(model)[side_of(model, layer)] == (given,)]
    if set(model.needs) - {given} and alone:  # layers that read the other side have no positions
        found = model.encode([lone])
        assert [one.layer for one in found] == list(model.layers)
        assert [one.layer for one in found if one.states.shape[1]] == alone
        for one, both in zip(found, model.encode([tiny.example("5", SENTENCES[0], IMAGES[0])]), strict=True):
            if one.layer in alone:
                torch.testing.assert_close(one.states, both.states, rtol=0, atol=1e-5)
                assert one.role.tolist() == both.role.tolist()
    elif set(model.needs) - {given}:
        with pytest.raises(BadRow, match="file, row 5: example 5 has no"):
            model.encode([lone])
    else:
        stream = {"text": "language.", "image": "vision."}[given] if isinstance(model, Towers) else ""
        assert [one.layer for one in model.encode([lone])] == [x for x in model.layers if x.startswith(stream)]


def test_damaged_images_are_bad_rows(model):
    if "image" not in model.modalities:
        return
    text = SENTENCES[0] if "text" in model.modalities else None
    with pytest.raises(BadRow, match="file, row 9"):
        model.encode([*batch(model), tiny.example("9", text, IMAGES[0][:200])])


def test_importing_the_families_loads_no_torch():
    code = "import sys, vlprobe.encoders; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", out.stdout
