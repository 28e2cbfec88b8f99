"""timm's and open_clip's models by name, with stand-ins: both would bring torchvision into the environment."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import stand_ins
import tiny_checkpoints as tiny
from test_encoders_conformance import (  # noqa: F401
    test_a_marked_square_moves_the_tokens_that_cover_it_and_no_others,
    test_boxes_belong_to_patches_and_regions_and_are_whole,
    test_damaged_images_are_bad_rows,
    test_every_layer_is_there_in_order_and_finite,
    test_neither_company_nor_order_changes_an_example,
    test_one_cls_at_most_and_it_is_the_first,
    test_one_modality_alone_works_or_is_refused,
    test_the_same_input_gives_the_same_numbers_to_the_bit,
    test_the_table_says_what_the_class_says,
    test_towers_do_not_see_each_other,
    test_towers_have_one_position_that_stands_for_all,
)
from vlprobe.encoders import load_model
from vlprobe.errors import CheckpointError, StudyError
from vlprobe.images import open_image
from vlprobe.types import ROLES

PATCH, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "word", "cls", ""))
IMAGE = tiny.png(tiny.noise(70, 50))
LOADED = [
    *("timm:tokens", "timm:grids", "timm:residuals"),
    *("open_clip:ViT/known", "open_clip:RN50/known", "open_clip:coca/known"),
]


@pytest.fixture(scope="module", params=LOADED)
def model(request):
    with installed(**stand_ins.timm(), **stand_ins.open_clip()):
        return load_model({"model": request.param, "weights": "random", "seed": 3}, device="cpu")


class installed:  # noqa: N801
    """Modules that can be imported for a while."""

    def __init__(self, **modules):
        self.modules = modules

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name, made in self.modules.items():
            self.patch.setitem(sys.modules, name, made)

    def __exit__(self, *_):
        self.patch.undo()


def refused(spec, match, error=CheckpointError, **modules):
    with installed(**(modules or stand_ins.timm() | stand_ins.open_clip())), pytest.raises(error, match=match):
        load_model(spec, device="cpu")


def near(ours, wanted):
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)


def test_states_of_timms_tokens_are_its_own():
    with installed(**stand_ins.timm()):
        model = load_model("timm:tokens", device="cpu")
    hidden = {one.layer: one for one in model.encode([tiny.example("0", image=IMAGE)])}
    net, pixels = model.model, model.reader.stack([tiny.example("0", image=IMAGE)])[0]
    with torch.inference_mode():
        state = torch.cat([net.cls_token, net.reg_token, net.patch_embed(pixels) + net.pos_embed], 1)
        for index in range(4):
            near(hidden[f"vision.{index}"].states, state)
            state = net.blocks[index](state) if index < 3 else net.norm(state)
    near(hidden["vision.norm"].states, state)
    near(hidden["vision.pooler"].states[:, 0], state[:, 0])
    assert hidden["vision.0"].role[0].tolist() == [CLS, NONE, NONE, *[PATCH] * 16]


def test_states_of_timms_grids_are_its_own():
    with installed(**stand_ins.timm()):
        model = load_model("timm:grids", device="cpu")
    hidden = {one.layer: one for one in model.encode([tiny.example("0", image=IMAGE)])}
    net, pixels = model.model, model.reader.stack([tiny.example("0", image=IMAGE)])[0]
    with torch.inference_mode():
        first = net.stem(pixels)
        last = net.stages(first)
    near(hidden["vision.0"].states, first.flatten(2).transpose(1, 2))
    near(hidden["vision.3"].states, last.flatten(2).transpose(1, 2))
    assert "vision.norm" not in hidden
    assert [one.states.shape[1] for one in hidden.values()] == [64, 64, 64, 16, 1]


def test_timm_images_are_resized_by_crop_pct_and_cropped():
    with installed(**stand_ins.timm()):
        model = load_model("timm:tokens", device="cpu")
    pixels, (frame,) = model.reader.stack([tiny.example("0", image=IMAGE)])
    image = open_image(IMAGE)  # 50 x 70; the shorter side becomes floor(32 / 0.9) = 35
    made = np.asarray(image.resize((35, 49), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    made = (made[8:40, 1:33] - stand_ins.READ["mean"]) / stand_ins.READ["std"]
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), made, atol=1e-5)
    assert (frame.resized, frame.origin) == ((49, 35), (8, 1))


def test_states_of_open_clip_are_its_own():
    with installed(**stand_ins.open_clip()):
        model = load_model("open_clip:ViT/known", device="cpu")
    assert (model.name, model.stage) == ("ViT-known", "pretrained")
    text, words = "two cats, dog", ((0, 3), (4, 8), (8, 9), (10, 13))
    hidden = {one.layer: one for one in model.encode([tiny.example("0", text, IMAGE, words)])}
    net, ids = model.model, stand_ins.Cutter()([text])[:, :40]
    with torch.inference_mode():
        near(hidden["language.projection"].states[:, 0], net.encode_text(ids))
        near(hidden["language.0"].states, net.token_embedding(ids) + net.positional_embedding)
        near(hidden["language.pooler"].states[:, 0] @ net.text_projection, net.encode_text(ids))
        near(hidden["vision.pooler"].states[:, 0] @ net.visual.proj, hidden["vision.projection"].states[:, 0])
        near(
            hidden["vision.projection"].states[:, 0],
            net.encode_image(model.grid([tiny.example("0", image=IMAGE)]).pixels),
        )
    end = int(ids.argmax())
    assert hidden["language.0"].role[0].tolist() == [NONE, *[WORD] * (end - 1), CLS, *[NONE] * (39 - end)]
    assert [sorted(set(np.flatnonzero(hidden["language.0"].word[0] == k))) != [] for k in range(4)] == [True] * 4


def rows(grid):
    return grid.flatten(2).transpose(1, 2)


def test_states_of_timms_resnet_are_its_own_and_no_random_block_is_idle():
    with installed(**stand_ins.timm()):
        model = load_model({"model": "timm:residuals", "weights": "random"}, device="cpu")
    hidden = {one.layer: one for one in model.encode([tiny.example("0", image=IMAGE)])}
    net, pixels = model.model, model.reader.stack([tiny.example("0", image=IMAGE)])[0]
    assert all(block.bn2.weight.all() for block in model.blocks)
    with torch.inference_mode():
        state = net.maxpool(net.act1(net.bn1(net.conv1(pixels))))
        for index, stage in enumerate((None, net.layer1, net.layer2, net.layer3)):
            state = state if stage is None else stage(state)
            near(hidden[f"vision.{index}"].states, rows(state))
    near(hidden["vision.pooler"].states[:, 0], state.mean((2, 3)))
    assert list(hidden) == ["vision.0", "vision.1", "vision.2", "vision.3", "vision.pooler"]
    assert [one.states.shape[1] for one in hidden.values()] == [64, 64, 16, 16, 1]
    np.testing.assert_allclose(hidden["vision.3"].box[0, 5], frame_box(model, 1, 1, 4), atol=1e-6)


def frame_box(model, row, column, side):
    """The even share of a cell in the part of the image that is read."""
    _, (frame,) = model.reader.stack([tiny.example("0", image=IMAGE)])
    return frame.boxes(side, side)[row * side + column]


def test_states_of_open_clips_resnet_are_its_own():
    with installed(**stand_ins.open_clip()):
        model = load_model({"model": "open_clip:RN50/known", "weights": "random"}, device="cpu")
    hidden = {one.layer: one for one in model.encode([tiny.example("0", "two cats", IMAGE)])}
    assert [layer for layer in hidden if layer.startswith("vision")] == [
        *(f"vision.{index}" for index in range(4)),
        "vision.projection",
    ]
    net, pixels = model.model.visual, model.grid([tiny.example("0", image=IMAGE)]).pixels
    with torch.inference_mode():
        state = net.stem(pixels)
        for index, stage in enumerate((None, net.layer1, net.layer2, net.layer3)):
            state = state if stage is None else stage(state)
            near(hidden[f"vision.{index}"].states, rows(state))
        near(hidden["vision.projection"].states[:, 0], net.attnpool(state))
    assert (hidden["vision.3"].role == PATCH).sum() == 16


def test_cocas_text_has_its_cls_behind_all_and_its_image_is_pooled_by_queries():
    with installed(**stand_ins.open_clip()):
        model = load_model("open_clip:coca/known", device="cpu")
    text, words = "two cats, dog", ((0, 3), (4, 8), (8, 9), (10, 13))
    hidden = {one.layer: one for one in model.encode([tiny.example("0", text, IMAGE, words)])}
    net, ids = model.model, stand_ins.Cutter()([text])[:, :40]
    pixels = model.grid([tiny.example("0", image=IMAGE)]).pixels
    assert "vision.norm" not in hidden
    with torch.inference_mode():
        first = torch.cat([net.text.token_embedding(ids), net.text.cls_emb[None, None]], 1)
        near(hidden["language.0"].states, first + net.text.positional_embedding)
        near(hidden["language.projection"].states[:, 0], net.encode_text(ids, normalize=False))
        near(hidden["language.pooler"].states[:, 0] @ net.text.text_projection, net.text(ids)[0])
        near(hidden["vision.projection"].states[:, 0], net.encode_image(pixels, normalize=False))
        near(hidden["vision.pooler"].states[:, 0] @ net.visual.proj, net.visual(pixels)[0])
    end = int(ids.argmax())
    wanted = [NONE, *[WORD] * (end - 1), *[NONE] * (40 - end), CLS]
    assert hidden["language.0"].role[0].tolist() == wanted
    assert hidden["language.0"].word[0, -1] == -1
    assert (hidden["vision.3"].role == PATCH).sum() == 16


def test_random_weights_are_those_of_the_seed_and_the_revision_is_the_weights():
    state = torch.random.get_rng_state()
    with installed(**stand_ins.timm()):
        specs = [{"model": "timm:tokens", "weights": "random", "seed": seed} for seed in (3, 3, 4)]
        models = [load_model(spec, device="cpu") for spec in specs]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert models[0].revision == models[1].revision != models[2].revision
    assert {one.stage for one in models} == {"random"}
    with installed(**stand_ins.timm(stand_ins.READ | {"crop_pct": 1.0})):
        assert load_model(specs[0], device="cpu").revision != models[0].revision


def test_what_is_not_known_is_refused_by_name(monkeypatch):
    refused("timm:vit_nonsense", r"vit_nonsense: timm cannot make it: RuntimeError: Unknown model \(vit_nonsense\)")
    refused("timm:strange", "timm's strange is a Strange, which keeps its blocks neither in `blocks`")
    refused("timm:tokens@v1", "timm has models by name, without revisions; leave 'v1' out", StudyError)
    refused({"model": "open_clip:ViT/known", "tokenizer": "."}, "open_clip brings its models' tokenizers", StudyError)
    refused("open_clip:ViT", "names no weights; give NAME/WEIGHTS")
    refused("open_clip:ViT/new", "'new' is not a known tag")
    border = stand_ins.timm(stand_ins.READ | {"crop_mode": "border"})
    refused("timm:tokens", "crop mode border, interpolation bicubic; known are 3, center or squash", **border)
    other = stand_ins.open_clip(cutter=lambda: stand_ins.Cutter(lower=False))
    refused("open_clip:ViT/known", "o'clock.* becomes .* in open_clip; this version of its tokenizer", **other)

    class Averaging(stand_ins.Dual):
        text_pool_type = "last"

    class Written(stand_ins.CoCa):
        def __init__(self):
            super().__init__()
            del self.text.ln_final

    class TwoPooled(stand_ins.CoCa):
        def __init__(self):
            super().__init__()
            self.visual.attn_pool_contrastive = self.visual.attn_pool

    refused(
        "open_clip:ViT/known", "texts that are pooled otherwise than at their end", **stand_ins.open_clip(Averaging)
    )
    refused("open_clip:ViT/known", "a text tower of its own kind", **stand_ins.open_clip(Written))
    refused("open_clip:ViT/known", "images that two attentions pool", **stand_ins.open_clip(TwoPooled))


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_a_library_that_is_not_installed_is_named_with_the_cure(library, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=rf"needs {library}, which is not installed: pip install 'vlprobe\[{library}\]'"
    ):
        load_model(f"{library}:x/y", device="cpu")
