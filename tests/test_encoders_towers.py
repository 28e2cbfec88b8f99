"""Dual encoders: transformers' own towers as referees; which position stands for a text; what a text is cut into."""

import json
import string
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.images import open_image
from vlprobe.pooling import pool


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=1e-6, rtol=1e-5)


def towers_referee(folder, text, image):
    """transformers' own model: (text output, image output, projected text, projected image).

    Args:
        folder: checkpoint.
        text: what its text tower is run on.
        image: of the example.
    """
    with quiet(), torch.inference_mode():
        referee = hf.AutoModel.from_pretrained(folder).eval()
        pixels = hf.AutoImageProcessor.from_pretrained(folder)([open_image(image)], return_tensors="pt")["pixel_values"]
        language = referee.text_model(**text, output_hidden_states=True)
        vision = referee.vision_model(pixel_values=pixels, output_hidden_states=True)
        projected = referee.get_text_features(**text).pooler_output, referee.get_image_features(pixels).pooler_output
    assert len(language.hidden_states) == len(vision.hidden_states) == 4
    return language, vision, *projected


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
    inputs = hf.AutoTokenizer.from_pretrained(folder)([one.text for one in batch], padding=True, return_tensors="pt")
    text, image, language, vision = towers_referee(folder, inputs, example.image)
    ends = [int(np.flatnonzero(row == 1)[0]) for row in hidden["language.0"].role]
    assert ends[1] < ends[0] == hidden["language.0"].states.shape[1] - 1
    for row, last in enumerate(ends):
        for block, states in enumerate(text.hidden_states):
            near(hidden[f"language.{block}"].states[row, : last + 1], states[row, : last + 1])
        near(hidden["language.norm"].states[row, : last + 1], text.last_hidden_state[row, : last + 1])
        near(hidden["language.norm"].states[row, last], hidden["language.pooler"].states[row, 0])
        near(hidden["language.pooler"].states[row, 0], text.pooler_output[row])
        near(hidden["language.projection"].states[row, 0], language[row])
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


@pytest.mark.parametrize("version", [1, 2])
def test_siglip(version, tmp_path):
    """Of texts that are padded to the model's length, the padding seen."""
    folder, image = tiny.make("siglip", tmp_path), tiny.png(tiny.noise(70, 50))
    tiny.save_siglip_tokenizer(folder, version)
    batch = [tiny.example("0", "Two CATS sit on a mat.", image), tiny.example("1", "cats", image)]
    hidden = {one.layer: one.states for one in load_model(f"siglip:{folder}", device="cpu").encode(batch)}
    plain = ["two cats sit on a mat" + "." * (version - 1), "cats"]
    tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="right")
    inputs = tokenizer(plain, padding="max_length", max_length=40, return_tensors="pt")
    text, vision, language, pooler = towers_referee(folder, {"input_ids": inputs["input_ids"]}, image)
    for block, states in enumerate(text.hidden_states):
        near(hidden[f"language.{block}"], states)
    near(hidden["language.norm"], text.last_hidden_state)
    near(hidden["language.pooler"], text.last_hidden_state[:, -1:])
    near(hidden["language.projection"], language[:, None])
    for block, states in enumerate(vision.hidden_states):
        near(hidden[f"vision.{block}"][:1], states)
    near(hidden["vision.norm"][:1], vision.last_hidden_state)
    near(hidden["vision.pooler"][:1], pooler[:, None])
    # Padding that is masked, or too short, gives something else: the referee would not forgive either.
    near_enough = {"atol": 1e-3, "rtol": 0}
    with pytest.raises(AssertionError), torch.inference_mode():
        masked = hf.SiglipModel.from_pretrained(folder).eval().get_text_features(**inputs).pooler_output
        torch.testing.assert_close(hidden["language.projection"], masked[:, None], **near_enough)


def test_siglip2_of_any_image_size(tmp_path):
    """A wide and a tall image in one batch, which the processor pads to 16 patches each, and vlprobe to 15."""
    folder = tiny.make("siglip2", tmp_path)
    images = [tiny.png(tiny.noise(40, 90)), tiny.png(tiny.noise(100, 40, 1))]
    batch = [tiny.example(str(k), "two cats sit on a mat", image) for k, image in enumerate(images)]
    hidden = {one.layer: one for one in load_model(f"siglip2:{folder}", device="cpu").encode(batch)}
    with quiet(), torch.inference_mode():
        referee = hf.AutoModel.from_pretrained(folder).eval()
        inputs = hf.AutoImageProcessor.from_pretrained(folder)([open_image(i) for i in images], return_tensors="pt")
        vision = referee.vision_model(**inputs, output_hidden_states=True)
        tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="right")
        text = tokenizer([batch[0].text] * 2, padding="max_length", max_length=40, return_tensors="pt")
        text = referee.text_model(input_ids=text["input_ids"], output_hidden_states=True)
    shapes = inputs["spatial_shapes"].tolist()
    assert shapes[0][0] < shapes[0][1]
    assert shapes[1][0] > shapes[1][1]
    for row, (rows, columns) in enumerate(shapes):
        patches = rows * columns
        for block, states in enumerate(vision.hidden_states):
            near(hidden[f"vision.{block}"].states[row, :patches], states[row, :patches])
        near(hidden["vision.norm"].states[row, :patches], vision.last_hidden_state[row, :patches])
        box = hidden["vision.0"].box[row]
        np.testing.assert_allclose(box[0], [0, 0, 1 / columns, 1 / rows], atol=1e-6)
        np.testing.assert_allclose(box[columns], [0, 1 / rows, 1 / columns, 2 / rows], atol=1e-6)
        np.testing.assert_allclose(box[patches - 1, 2:], [1, 1])
        assert np.isnan(box[patches:]).all()
    near(hidden["vision.pooler"].states[:, 0], vision.pooler_output)
    for block, states in enumerate(text.hidden_states):
        near(hidden[f"language.{block}"].states, states)
    near(hidden["language.projection"].states[:, 0], text.pooler_output)


def test_siglip_without_attention_pooling_says_so(tmp_path):
    folder = tiny.make("siglip", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model({"model": f"siglip:{folder}", "weights": "random"}, device="cpu")
    assert "vision.pooler" not in model.layers
    assert any("vision.pooler is not offered" in line for line in model.left_out)
    assert [one.layer for one in model.encode([tiny.example("0", "a dog", tiny.png(tiny.noise(9, 9)))])] == list(
        model.layers
    )


@pytest.mark.parametrize("text", ["A Dog, on the MAT!", f"two{string.punctuation}cats", "  sit \t by-- it's ", "Ünder"])
def test_siglip_reads_texts_without_capitals_and_punctuation(text, tmp_path):
    """Whatever its tokenizer.json does; the referee is what big_vision does to a string."""
    folder = tiny.make("siglip", tmp_path)
    reader = load_model(f"siglip:{folder}", device="cpu").text
    bare = " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())
    raw = hf.PreTrainedTokenizerFast.from_pretrained(folder)(bare)["input_ids"]
    assert reader.read([tiny.example("0", text)]).ids[0, : len(raw)].tolist() == raw


def test_siglip_finds_words_in_the_text_as_it_stands(tmp_path):
    folder = tiny.make("siglip", tmp_path)
    text = "The DOG, two  Cats."
    words = tuple((text.index(word), text.index(word) + len(word)) for word in ("The", "DOG", "two", "Cats"))
    model = load_model(f"siglip:{folder}", device="cpu")
    pieces = model.text.read([tiny.example("0", text, words=words)])
    tokens = model.text.tokenizer.convert_ids_to_tokens(pieces.ids[0])
    firsts = [tokens[int(np.flatnonzero(pieces.word[0] == word)[0])] for word in range(4)]
    assert firsts == ["▁the", "▁dog", "▁two", "▁cats"]
    with pytest.raises(BadRow, match="has no piece for word 1 \\('.'\\)"):
        alone = replace(tiny.example("0", text, words=((len(text) - 1, len(text)),)), target=("x",))
        pool(model.encode([alone]), [alone], "word", "first")


@pytest.mark.parametrize("token", ["clip", "siglip 1", "siglip 2"])
def test_masked_words_are_refused_by_towers(token, tmp_path):
    family, _, version = token.partition(" ")
    folder = tiny.make(family, tmp_path)
    if version:
        tiny.save_siglip_tokenizer(folder, int(version))
    with pytest.raises(BadRow, match="has a masked word.*no mask token; probe it with a task that masks nothing"):
        load_model(f"{family}:{folder}", device="cpu").encode([tiny.example("0", "a [MASK] dog")])


def test_a_tokenizer_of_another_family_is_not_siglips(tmp_path):
    folder = tiny.make("siglip", tmp_path)
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | {"post_processor": None}))
    with pytest.raises(CheckpointError, match="of the text 'a', and SigLIP's texts have </s> at their end"):
        load_model(f"siglip:{folder}", device="cpu")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<unk>"}))
    with pytest.raises(CheckpointError, match="has <unk> for end and </s> for padding; SigLIP's has </s> for both"):
        load_model(f"siglip:{folder}", device="cpu")
