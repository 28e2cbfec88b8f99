"""LXMERT: the original's own numbers, transformers' layout, and two streams that are not confused."""

import shutil

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from parity_models import load, model_lines
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.types import ROLES

REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("region", "word", "cls", ""))
LINES = {
    "model_LXRT.pth": 15,  # 1 + 5 language, 1 + 4 vision, the pooler, 3 with a mask over regions
    "model_LXRT_legacy.pth": 15,
    "vqa_BEST.pth": 1,
    "vqa_BEST_multigpu.pth": 1,
    "nlvr2_BEST.pth": 1,
    "nlvr2_BEST_multigpu.pth": 1,
}
PAIR = tiny.example("0", "A dog sits", tiny.png(tiny.noise(60, 90)), words=((2, 5), (6, 10)))


@pytest.fixture(autouse=True)
def regions(monkeypatch):
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(), raising=False)


@pytest.fixture(scope="module")
def prototype(tmp_path_factory):
    return tiny.make("lxmert", tmp_path_factory.mktemp("lxmert") / "tiny")


@pytest.fixture
def folder(prototype, tmp_path):
    return shutil.copytree(prototype, tmp_path / "tiny")


def model_at(folder, **more):
    return load_model({"model": f"lxmert:{folder}", "regions": "x", **more}, device="cpu")


def release(folder, prefix="module.bert", **heads):
    """Turn a folder of transformers into one with a released file."""
    state = hf.LxmertModel.from_pretrained(folder).state_dict()
    tiny.save_released(prefix, state, folder / "model_LXRT.pth", **heads)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def compared():
    return list(model_lines(tiny.shared("reference", "lxmert")))


@pytest.mark.parametrize("name", LINES)
def test_every_state_of_both_streams_equals_the_originals(compared, name):
    lines = [line for line in compared if line[0].startswith(f"lxmert/{name} ")]
    print(name, max(gap for _, gap, _ in lines))
    assert len(lines) == LINES[name]
    assert [line for line in lines if not line[1] < line[2]] == []


@pytest.mark.parametrize(
    ("name", "stage", "heads"),
    [
        ("model_LXRT.pth", "pretrained", ["answer_head", "cls", "obj_predict_head"]),
        ("vqa_BEST.pth", "vqa", ["logit_fc"]),
        ("vqa_BEST_multigpu.pth", "vqa", ["logit_fc"]),
        ("nlvr2_BEST.pth", "nlvr2", ["logit_fc"]),
        ("nlvr2_BEST_multigpu.pth", "nlvr2", ["logit_fc"]),
    ],
)
def test_heads_are_named_and_say_the_stage(name, stage, heads):
    model = load(tiny.shared("reference", "lxmert"), name)
    assert model.stage == stage
    assert [line.split()[1].rstrip(":") for line in model.left_out] == heads


def test_the_streams_are_transformers_own_with_the_embeddings_before(prototype):
    model = model_at(prototype)
    with quiet():
        referee = hf.LxmertModel.from_pretrained(prototype).eval()
    found = tiny.ColourRegions().regions([PAIR])[0]
    ids = torch.tensor([model.text.tokenizer(PAIR.text)["input_ids"]])
    features, boxes = torch.from_numpy(found.features)[None], torch.from_numpy(found.boxes)[None]
    with torch.inference_mode():
        output = referee(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            visual_feats=features,
            visual_pos=boxes,
            output_hidden_states=True,
        )
        wanted = {
            "regions.0": features,
            "language.0": referee.embeddings(ids, torch.zeros_like(ids)),
            "vision.0": referee.encoder.visn_fc(features, boxes),
            "language.pooler": output.pooled_output[:, None],
        }
    wanted |= {f"language.{k}": state for k, state in enumerate(output.language_hidden_states, 1)}
    wanted |= {f"vision.{k}": state for k, state in enumerate(output.vision_hidden_states, 1)}
    hidden = model.encode([PAIR])
    assert sorted(wanted) == sorted(model.layers)
    for one in hidden:
        torch.testing.assert_close(one.states, wanted[one.layer], atol=1e-5, rtol=0)


def test_words_are_in_one_stream_and_boxes_in_the_other(prototype):
    found = tiny.ColourRegions().regions([PAIR])[0]
    for one in model_at(prototype).encode([PAIR]):
        if one.layer.startswith("language.") and one.layer != "language.pooler":
            assert one.role[0].tolist() == [CLS, WORD, WORD, WORD, NONE]
            assert one.word[0].tolist() == [-1, -1, 0, 1, -1]
            assert np.isnan(one.box).all()
        elif one.layer != "language.pooler":
            assert (one.role == REGION).all()
            assert (one.word == -1).all()
            np.testing.assert_array_equal(one.box[0], found.boxes)


def test_a_released_file_and_a_folder_give_the_same_states(folder):
    whole = model_at(folder).encode([PAIR])
    release(folder, cls__predictions__bias=torch.zeros(3))
    for source in (folder, folder / "model_LXRT.pth"):
        for one, other in zip(whole, model_at(source).encode([PAIR]), strict=True):
            assert torch.equal(one.states, other.states)


@pytest.mark.parametrize(("answers", "stage"), [(3129, "vqa"), (1842, "gqa")])
def test_answers_tell_vqa_from_gqa(folder, tmp_path, answers, stage):
    head = {"logit_fc__0__weight": torch.zeros(32, 16), "logit_fc__3__bias": torch.zeros(answers)}
    assert model_at(release(folder, "lxrt_encoder.model.bert", **head)).stage == stage
    config = tiny.CONFIGS["lxmert"]()
    config.num_qa_labels = answers
    other = tiny.make("lxmert", tmp_path / "hf")
    with quiet():
        hf.LxmertForQuestionAnswering(config).save_pretrained(other)
    assert model_at(other).stage == stage


def test_pretraining_in_transformers_layout_is_pretrained(tmp_path):
    folder = tiny.make("lxmert", tmp_path / "hf", head="LxmertForPreTraining")
    model = model_at(folder)
    assert model.stage == "pretrained"
    assert [line.split()[1].rstrip(":") for line in model.left_out] == ["answer_head", "cls", "obj_predict_head"]


def test_both_inputs_are_needed(prototype):
    model = model_at(prototype)
    with pytest.raises(BadRow, match="file, row 8: example 8 has no text"):
        model.encode([PAIR, tiny.example("8", None, PAIR.image)])
    with pytest.raises(BadRow, match="file, row 8: example 8 has no image"):
        model.encode([PAIR, tiny.example("8", "a dog")])


def test_capitals_must_be_made_small(folder):
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    with pytest.raises(CheckpointError, match="keeps capitals, and the model's is that of bert-base-uncased"):
        model_at(folder)


@pytest.mark.parametrize("released", [True, False])
def test_random_weights(folder, released):
    trained = model_at(release(folder)) if released else model_at(folder)
    one, same, other = (model_at(folder, weights="random", seed=seed).encode([PAIR])[3].states for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, trained.encode([PAIR])[3].states)


def test_a_network_without_object_layers(tmp_path):
    """The original's own default is 12 language, 5 cross and no object layers."""
    config = tiny.CONFIGS["lxmert"]()
    config.r_layers, config.num_hidden_layers = 0, {"vision": 0, "cross_encoder": 1, "language": 2}
    folder = tiny.make("lxmert", tmp_path / "tiny")
    with quiet():
        hf.LxmertModel(config).save_pretrained(folder)
    hidden = model_at(release(folder)).encode([PAIR])
    assert [one.layer for one in hidden if one.layer.startswith("vision.")] == ["vision.0", "vision.1"]
    regions = next(one for one in hidden if one.layer == "vision.0").states.shape[1]
    assert {one.states.shape[1] for one in hidden if one.layer.startswith("vision.")} == {regions}
