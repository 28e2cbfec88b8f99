"""Fusion encoders: transformers' own models as referees; which position of which stream is what."""

import json

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES

PATCH, REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "region", "word", "cls", ""))
TEXTS = ["two cats sit on a mat", "a dog"]
IMAGES = [tiny.png(tiny.noise(70, 50)), tiny.png(tiny.noise(48, 60, 1))]
BATCH = [tiny.example(str(k), text, image) for k, (text, image) in enumerate(zip(TEXTS, IMAGES, strict=True))]


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=2e-6, rtol=1e-5)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions())

    def loaded(model_type, folder, **more):
        spec = tiny.spec(model_type, folder)
        return load_model((spec if isinstance(spec, dict) else {"model": spec}) | more, device="cpu")

    return loaded


def referee_of(folder, kind):
    with quiet():
        return getattr(hf, kind).from_pretrained(folder, attn_implementation="eager").eval()


# --- VisualBERT


def test_visual_bert(load, tmp_path):
    folder = tiny.make("visual_bert", tmp_path)
    hidden = load("visual_bert", folder).encode(BATCH)
    regions = tiny.ColourRegions().regions(BATCH)
    inputs = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    count = [len(one.boxes) for one in regions]
    assert count[0] != count[1]
    features = torch.zeros(2, max(count), tiny.REGION_WIDTH)
    seen = torch.arange(max(count)) < torch.tensor(count)[:, None]
    for row, one in enumerate(regions):
        features[row, : count[row]] = torch.from_numpy(one.features)
    with torch.inference_mode():
        referee = referee_of(folder, "VisualBertModel")
        output = referee(**inputs, visual_embeds=features, visual_attention_mask=seen, output_hidden_states=True)
    valid = torch.cat([inputs["attention_mask"].bool(), seen], 1)
    assert (torch.from_numpy(hidden[1].role != NONE) <= valid).all()
    for block, states in enumerate(output.hidden_states):
        near(hidden[block + 1].states[valid], states[valid])
    near(hidden[-1].states[:, 0], output.pooler_output)
    near(hidden[0].states, features)
    texts = inputs["input_ids"].shape[1]
    assert (hidden[1].role[:, :texts] != REGION).all()
    np.testing.assert_array_equal(hidden[1].role[:, texts:] == REGION, seen)
    np.testing.assert_allclose(hidden[1].box[1, texts : texts + count[1]], regions[1].boxes)


def test_visual_bert_of_another_task_says_so(load, tmp_path):
    folder = tiny.make("visual_bert", tmp_path, head="VisualBertForQuestionAnswering")
    model = load("visual_bert", folder)
    assert model.stage == "vqa"
    assert model.left_out == ("head cls: its 2 weights are not used",)
    config = json.loads((folder / "config.json").read_text()) | {"bypass_transformer": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="leads its regions past all blocks"):
        load("visual_bert", folder, weights="random")
