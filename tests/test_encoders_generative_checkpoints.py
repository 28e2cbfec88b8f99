"""Generative checkpoints: of other parts, in the layouts of the hub, without training."""

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
import tiny_generative as generative
from test_encoders_generative import IMAGES, NONE, PATCH, TEXTS, compare
from vlprobe.encoders import load_model
from vlprobe.encoders.vlms import ROWS


def variant(monkeypatch, kind, folder, **changed):
    """Make a checkpoint of another configuration: the parts that are named are others."""
    before = generative.CONFIGS[kind]()
    known = {name: value for name, value in before.to_dict().items() if name not in ("model_type", "dtype")}
    monkeypatch.setitem(tiny.CONFIGS, kind, lambda: type(before)(**{**known, **changed}))
    return load_model(tiny.spec(kind, tiny.make(kind, folder)), device="cpu")


@pytest.mark.parametrize("image", [IMAGES[0], None], ids=["image", "no image"])
def test_paligemma_2_has_layers_with_a_window(tmp_path, monkeypatch, image):
    text = hf.Gemma2Config(**generative.sizes("paligemma"), head_dim=8, sliding_window=6)
    compare("paligemma", tmp_path, variant(monkeypatch, "paligemma", tmp_path, text_config=text), image)


def test_a_llava_that_keeps_the_cls_of_its_tower_has_a_token_of_no_place(tmp_path, monkeypatch):
    model = variant(monkeypatch, "llava", tmp_path, vision_feature_select_strategy="full")
    mine = {one.layer: one for one in model.encode([tiny.example("0", TEXTS[0], IMAGES[0])])}
    assert np.isnan(mine["vision.connector"].box[0]).all(1).tolist() == [True] + [False] * 16
    first = int(np.flatnonzero(mine["joint.0"].role[0] == PATCH)[0])
    assert torch.equal(mine["joint.0"].states[0, first - 1 : first + 16], mine["vision.connector"].states[0])
    assert mine["joint.0"].role[0, first - 1] == NONE


@pytest.mark.parametrize("kind", list(ROWS))
def test_an_untrained_model_sees_its_image(kind, tmp_path):
    folder = tiny.make(kind, tmp_path)
    models = [load_model({"model": tiny.spec(kind, folder), "weights": "random"}, device="cpu") for _ in range(2)]
    one, again = (each.encode([tiny.example("0", "a dog", IMAGES[0])]) for each in models)
    other = models[0].encode([tiny.example("0", "a dog", tiny.png(255 - tiny.noise(60, 90)))])
    for mine, same, changed in zip(one, again, other, strict=True):
        assert torch.equal(mine.states, same.states)
        patches = mine.role == PATCH
        assert (mine.states[patches] - changed.states[patches]).abs().amax() > 1e-5


def older(name):
    """As transformers 4.52 to 4.57 called weights; what stands on the hub was written by these and by earlier ones."""
    name = name.replace("vision_tower.", "vision_tower.vision_model.")
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return f"model.language_model.{name.removeprefix('language_model.model.')}"
    return f"model.{name}"


@pytest.mark.parametrize("kind", ["llava", "llava_next", "llava_onevision", "paligemma", "gemma3"])
def test_the_layouts_that_stand_on_the_hub_are_read(kind, tmp_path):
    folder = tiny.make(kind, tmp_path)
    batch = [tiny.example("0", TEXTS[0], IMAGES[0])]
    mine = load_model(tiny.spec(kind, folder), device="cpu").encode(batch)
    weights = load_file(folder / "model.safetensors")
    assert not any(name.startswith("model.") for name in weights)  # as transformers 4.51 wrote it, but for one prefix
    for layout in (lambda name: name.replace("vision_tower.", "vision_tower.vision_model."), older):
        renamed = {layout(name): value for name, value in weights.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        for one, other in zip(mine, load_model(tiny.spec(kind, folder), device="cpu").encode(batch), strict=True):
            assert torch.equal(one.states, other.states)
