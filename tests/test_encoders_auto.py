"""Models that are not in the table: what the generic adapter makes of them is what they are, or it refuses."""

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import FAMILIES, load_model
from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES

PICTURE = tiny.png(tiny.noise(48, 48, 3))
PATCH, CLS, WORD = (ROLES.index(role) for role in ("patch", "cls", "word"))

CONFIGS = {
    "ernie": lambda: hf.ErnieConfig(**tiny.BERT),
    "arcee": lambda: hf.ArceeConfig(**tiny.BERT, num_key_value_heads=2),
    "internvl_vision": lambda: hf.InternVLVisionConfig(**tiny.IMAGE, use_mean_pooling=False),
    "siglip_vision_model": lambda: hf.SiglipVisionConfig(**tiny.IMAGE),
    "t5": lambda: hf.T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
    "owlvit": lambda: hf.OwlViTConfig(
        text_config={**tiny.TEXT, "vocab_size": len(tiny.VOCABULARY) + 2}, vision_config=tiny.IMAGE, projection_dim=8
    ),
    "poolformer": lambda: hf.PoolFormerConfig(hidden_sizes=[8, 8, 12, 12], depths=[1, 1, 1, 1], num_encoder_blocks=4),
}


@pytest.fixture
def made(tmp_path):
    """Model type -> folder of a tiny checkpoint with a tokenizer, or with an image processor."""

    def make(model_type):
        folder = tmp_path / model_type
        torch.manual_seed(0)
        hf.AutoModel.from_config(CONFIGS[model_type]()).save_pretrained(folder)
        if model_type in ("ernie", "arcee", "t5"):
            tiny.save_wordpieces(folder)
        else:
            hf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
        return folder

    return make


def test_none_of_these_is_in_the_table():
    assert not {name for row in FAMILIES.values() for name in row.types} & set(CONFIGS)


@pytest.mark.parametrize("model_type", ["ernie", "arcee"])
def test_a_text_model_has_the_states_that_its_class_returns(made, model_type):
    folder = made(model_type)
    encoder = load_model(f"auto:{folder}", device="cpu")
    example = tiny.example("0", "two red chairs")
    hidden = encoder.encode([example])
    pieces = encoder.text.read([example])
    with torch.inference_mode():
        known = encoder.model(input_ids=pieces.ids, attention_mask=pieces.mask.long(), output_hidden_states=True)
    named = {one.layer: one.states for one in hidden}
    for index, states in enumerate(known.hidden_states[:-1]):
        torch.testing.assert_close(named[f"language.{index}"], states)
    last = named.get("language.norm", named["language.3"])
    torch.testing.assert_close(last, known.last_hidden_state)
    assert (hidden[0].role == WORD).any()
    assert ("language.norm" in named) == (model_type == "arcee")


@pytest.mark.parametrize(("model_type", "before"), [("internvl_vision", 1), ("siglip_vision_model", 0)])
def test_a_vision_model_has_its_states_and_places(made, model_type, before):
    encoder = load_model(f"auto:{made(model_type)}", device="cpu")
    hidden = encoder.encode([tiny.example("0", image=PICTURE)])
    pixels, _ = encoder.images.stack([tiny.example("0", image=PICTURE)])
    with torch.inference_mode():
        known = encoder.model(pixel_values=pixels, output_hidden_states=True)
    for one, states in zip(hidden, [*known.hidden_states, known.last_hidden_state], strict=True):
        torch.testing.assert_close(one.states, states)
    assert (hidden[0].role[0] == PATCH).sum() == 16
    assert (hidden[0].role[0, :before] == CLS).all()
    np.testing.assert_allclose(hidden[0].box[0, before + 1], [0.25, 0, 0.5, 0.25])


def test_what_is_assumed_is_said(made):
    assert load_model(f"auto:{made('internvl_vision')}", device="cpu").usage == {
        "assumed": "the residual stream is what the 3 InternVLVisionLayer in encoder.layer pass on; vision.norm is "
        "the last hidden state, which is not that of block 3; the first position is the [CLS]; patches stand row by row"
    }


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("t5", r"T5Model encodes and decodes.*docs/add-a-model\.md"),
        ("owlvit", r"OwlViTModel takes input_ids and pixel_values.*cannot be guessed.*docs/add-a-model\.md"),
        ("poolformer", r"PoolFormerModel .*docs/add-a-model\.md"),
    ],
)
def test_what_is_not_understood_is_refused(made, model_type, said):
    with pytest.raises(CheckpointError, match=said):
        load_model(f"auto:{made(model_type)}", device="cpu")


def test_a_type_of_the_table_is_sent_there_and_others_to_auto(made, tmp_path):
    folder = tiny.make("bert", tmp_path / "bert")
    with pytest.raises(CheckpointError, match=f"family auto reads what no other family does; load it as bert:{folder}"):
        load_model(f"auto:{folder}", device="cpu")
    with pytest.raises(CheckpointError, match=f"family bert reads bert, .*; try auto:{made('ernie')}, which says"):
        load_model(f"bert:{made('ernie')}", device="cpu")


def test_patches_in_another_order_than_was_assumed_fail_the_check_at_load(made, monkeypatch):
    folder = made("siglip_vision_model")
    plain = hf.SiglipVisionModel.forward

    def turned(self, pixel_values, **more):
        return plain(self, pixel_values.transpose(2, 3), **more)

    monkeypatch.setattr(hf.SiglipVisionModel, "forward", turned)
    with pytest.raises(CheckpointError, match=r"failed the check at load, .*:\n  vision\.0: \d+ of 16 patches "):
        load_model(f"auto:{folder}", device="cpu")
