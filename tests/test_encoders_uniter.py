"""UNITER: the original's own numbers, its released layouts, what its positions are, and what is refused."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from parity_models import load, model_lines
from vlprobe.encoders import load_model
from vlprobe.encoders.uniter import PADDING, RegionTensors, UniterNetwork, alike, locations
from vlprobe.errors import BadRow, CheckpointError, StudyError
from vlprobe.pooling import pool
from vlprobe.regions.source import RegionSource
from vlprobe.types import ROLES, Regions

REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("region", "word", "cls", ""))
LINES = {
    "pretrain.pt": 17,  # 5 joint, 4 with regions hidden, 4 of text alone, 4 of regions alone
    "pretrain_wrapped.pt": 17,
    "vqa.pt": 2,
    "nlvr2_paired.pt": 3,
    "nlvr2_paired_attn.pt": 3,
}


class Listed(RegionSource):
    """Regions by example id."""

    width, revision = tiny.REGION_WIDTH, "listed"

    def __init__(self, **known):
        self.known = known

    def regions(self, batch):
        return [self.known[example.id] for example in batch]


@pytest.fixture
def source(monkeypatch):
    """What `open_regions` gives, and what it was asked."""
    asked = {"source": tiny.ColourRegions(), "calls": []}

    def open_regions(settings, **options):
        asked["calls"].append((settings, options))
        return asked["source"]

    monkeypatch.setattr("vlprobe.regions.open_regions", open_regions, raising=False)
    return asked


@pytest.fixture(scope="module")
def prototype(tmp_path_factory):
    return tiny.make("uniter", tmp_path_factory.mktemp("uniter") / "tiny")


@pytest.fixture
def folder(prototype, tmp_path):
    return shutil.copytree(prototype, tmp_path / "tiny")


def model_at(folder, **more):
    return load_model({"model": f"uniter:{folder}", "regions": "x", **more}, device="cpu")


def state_of(folder):
    state = torch.load(folder / "uniter.pt")
    return {name.removeprefix("uniter."): value for name, value in state.items() if name.startswith("uniter.")}


PAIR = tiny.example("0", "a dog sits", tiny.png(tiny.noise(60, 90)), words=((2, 5), (6, 10)))


def same(one, other):
    return all(torch.equal(a.states, b.states) for a, b in zip(one.encode([PAIR]), other.encode([PAIR]), strict=True))


# --- the original's numbers


@pytest.fixture(scope="module")
def compared():
    return list(model_lines(tiny.shared("reference", "uniter")))


@pytest.mark.parametrize("name", LINES)
def test_every_state_equals_the_originals(compared, name):
    lines = [line for line in compared if line[0].startswith(f"uniter/{name} ")]
    print(name, max(gap for _, gap, _ in lines))
    assert len(lines) == LINES[name]
    assert [line for line in lines if not line[1] < line[2]] == []
    assert {tolerance for *_, tolerance in lines} == {1e-5}


def test_half_precision_and_the_old_file_format_are_read():
    reference = tiny.shared("reference", "uniter")
    whole, half = load(reference, "pretrain.pt"), load(reference, "pretrain_legacy_fp16.pt")
    for (name, one), other in zip(whole.model.named_parameters(), half.model.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one.half().float(), other), name


@pytest.mark.parametrize(
    ("name", "stage", "heads"),
    [
        ("pretrain.pt", "pretrained", ("cls", "feat_regress", "itm_output", "region_classifier")),
        ("vqa.pt", "vqa", ("vqa_output",)),
        ("nlvr2_paired.pt", "nlvr2", ("nlvr2_output",)),
        ("nlvr2_paired_attn.pt", "nlvr2", ("attn1", "attn2", "attn_pool", "fc", "nlvr2_output")),
    ],
)
def test_heads_are_named_and_say_the_stage(name, stage, heads):
    model = load(tiny.shared("reference", "uniter"), name)
    assert model.stage == stage
    assert tuple(line.split()[1].rstrip(":") for line in model.left_out if line.startswith("head ")) == heads
    untrained = [line for line in model.left_out if "pooler" in line]
    assert len(untrained) == (name == "nlvr2_paired_attn.pt")
    assert all("those of pretraining" in line for line in untrained)


def test_the_initialisation_from_bert_is_no_uniter():
    with pytest.raises(CheckpointError, match="init_gamma_beta.pt lacks all weights of img_embeddings: it is BERT"):
        load(tiny.shared("reference", "uniter"), "init_gamma_beta.pt")


def test_gamma_and_beta_are_weight_and_bias(folder, source):
    plain = model_at(folder)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state_of(folder).items()
    }
    assert sum(name.endswith(".gamma") for name in old) == 8
    tiny.save_released("bert", old, folder / "uniter.pt")
    assert same(plain, model_at(folder))


@pytest.mark.parametrize("prefix", ["", "bert", "module.uniter", "module", "model.module.uniter"])
def test_prefixes_of_training_code(folder, source, prefix):
    plain, head = model_at(folder), {"vqa_output__3__bias": torch.zeros(9)}
    tiny.save_released(prefix, state_of(folder), folder / "uniter.pt", **head)
    model = model_at(folder)
    assert same(plain, model)
    assert (model.stage, model.left_out) == ("vqa", ("head vqa_output: its 1 weights are not used",))


def test_norms_have_the_originals_epsilon(prototype, source):
    norms = {module.eps for module in model_at(prototype).model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms == {1e-12}


# --- what its positions are


def test_the_seven_numbers_of_a_region():
    found = locations(torch.tensor([[[0.1, 0.2, 0.5, 0.9]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.1, 0.2, 0.5, 0.9, 0.4, 0.7, 0.28]]]))


def test_encode_feeds_the_network_words_then_regions(prototype, source):
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0.0, 0.3, 0.7, 0.6]], np.float32)
    features = np.random.default_rng(0).random((2, tiny.REGION_WIDTH), dtype=np.float32)
    source["source"] = Listed(**{"0": Regions(boxes, features, (90, 60))})
    model = model_at(prototype)
    ids = torch.tensor([model.text.tokenizer(PAIR.text)["input_ids"]])
    sides = boxes[:, 2:] - boxes[:, :2]
    seven = np.concatenate([boxes, sides, sides[:, :1] * sides[:, 1:]], axis=1)
    tensors = RegionTensors(torch.from_numpy(features)[None], torch.from_numpy(seven)[None], torch.ones(1, 2))
    wanted = model.states((ids, torch.ones(1, 5)), tensors).layers
    hidden = model.encode([PAIR])
    assert [one.layer for one in hidden] == ["regions.0", *(f"joint.{k}" for k in range(4)), "joint.pooler"]
    np.testing.assert_array_equal(hidden[0].states[0].numpy(), features)
    np.testing.assert_array_equal(hidden[0].box[0], boxes)
    assert (hidden[0].role == REGION).all()
    for one in hidden[1:-1]:
        torch.testing.assert_close(one.states, wanted[one.layer], atol=1e-6, rtol=0)
        assert one.role[0].tolist() == [CLS, WORD, WORD, WORD, NONE, REGION, REGION]
        assert one.word[0].tolist() == [-1, -1, 0, 1, -1, -1, -1]
        np.testing.assert_array_equal(one.box[0, 5:], boxes)
    torch.testing.assert_close(hidden[-1].states[:, 0], wanted["joint.pooler"], atol=1e-6, rtol=0)


def test_padding_hides_regions_as_well_as_words(prototype, source):
    """A row's regions stand where its longest neighbour's text ends; its states are those it has alone."""
    model = model_at(prototype)
    batch = [PAIR, tiny.example("1", "two cats sit by the red chairs", tiny.png(tiny.noise(48, 48, 2)))]
    together, alone = model.encode(batch)[3], model.encode(batch[:1])[3]
    assert together.states.shape[1] > alone.states.shape[1]
    seen = together.role[0] != NONE
    torch.testing.assert_close(together.states[0][seen], alone.states[0][alone.role[0] != NONE], atol=1e-5, rtol=0)


def test_rows_of_very_different_length_share_a_batch(prototype, source):
    """Rows run in groups of about one length; every state is the one that its row has alone, and padding is 0."""
    model, draw = model_at(prototype), np.random.default_rng(0)
    texts, regions = (3, 9, 4, 3, 8), (20, 2, 10, 19, 1)
    ids = torch.from_numpy(draw.integers(5, model.model.config.vocab_size, (5, 9)))
    words = torch.arange(9)[None] < torch.tensor(texts)[:, None]
    places = torch.from_numpy(draw.random((5, 20, 7), dtype=np.float32))
    features = torch.from_numpy(draw.random((5, 20, tiny.REGION_WIDTH), dtype=np.float32))
    there = torch.arange(20)[None] < torch.tensor(regions)[:, None]
    assert len(alike(np.add(texts, regions))) > 1
    together = model.states((ids, words), RegionTensors(features, places, there))
    seen = torch.cat([words, there], dim=1)
    assert torch.equal(together.mask, seen)
    for row, (pieces, boxes) in enumerate(zip(texts, regions, strict=True)):
        own = RegionTensors(features[row : row + 1, :boxes], places[row : row + 1, :boxes], torch.ones(1, boxes))
        alone = model.states((ids[row : row + 1, :pieces], torch.ones(1, pieces)), own).layers
        for layer, state in alone.items():
            found = together.layers[layer][row]
            if layer != "joint.pooler":
                assert not found[~seen[row]].any()
                found = found[seen[row]]
            torch.testing.assert_close(found, state[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 100, 2, 99, 50], list(range(1, 60))])
def test_groups_hold_every_row_once_and_little_padding(lengths):
    groups = alike(np.array(lengths))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for rows in groups:
        taken = np.array(lengths)[rows]
        assert taken.max() * len(rows) - taken.sum() <= taken.max() * len(rows) / PADDING
    assert len(alike(np.array([5, 5, 5]))) == 1


def test_text_alone_has_no_regions(prototype, source):
    model = model_at(prototype)
    hidden = model.encode([tiny.example("0", "a dog sits")])
    assert hidden[0].states.shape == (1, 0, tiny.REGION_WIDTH)
    assert all(one.states.shape[1] == 5 for one in hidden[1:-1])
    row = tiny.example("0", "a dog sits")
    assert [one.layer for one in pool(hidden, [_asked(row)], "input", "auto")] == list(model.layers)[1:]


def test_an_image_alone_has_no_pooler(prototype, source):
    model = model_at(prototype)
    row = tiny.example("0", None, PAIR.image)
    hidden = model.encode([row])
    assert (hidden[1].role == REGION).all()
    assert hidden[-1].states.shape == (1, 0, 16)
    pooled = pool(hidden, [_asked(row)], "input", "auto")
    assert [one.layer for one in pooled] == list(model.layers)[:-1]
    assert {one.how for one in pooled} == {"regions"}


def _asked(example):
    from dataclasses import replace

    return replace(example, target=("yes",))


# --- what is refused


def test_what_is_not_there_is_a_bad_row(prototype, source):
    model = model_at(prototype)
    with pytest.raises(BadRow, match="file, row 8: example 8 has neither text nor image"):
        model.encode([tiny.example("8")])
    with pytest.raises(BadRow, match="file, row 8: example 8 has no image"):
        model.encode([tiny.example("8", "a dog"), PAIR])
    with pytest.raises(BadRow, match="file, row 8: example 8 has no text"):
        model.encode([PAIR, tiny.example("8", None, PAIR.image)])


@pytest.mark.parametrize(
    ("count", "width", "value", "message"),
    [
        (0, tiny.REGION_WIDTH, 0.0, "example 0 has 0 regions"),
        (2, 3, 0.0, r"features of shape \(2, 3\)"),
        (2, tiny.REGION_WIDTH, math.nan, "hold NaN"),
    ],
)
def test_regions_that_cannot_be_used_are_bad_rows(prototype, source, count, width, value, message):
    found = Regions(np.zeros((count, 4), np.float32), np.full((count, width), value, np.float32), (9, 9))
    source["source"] = Listed(**{"0": found})
    with pytest.raises(BadRow, match=f"file, row 0: .*{message}"):
        model_at(prototype).encode([PAIR])


def test_regions_of_another_width(prototype, source):
    source["source"].width = 2048
    with pytest.raises(CheckpointError, match="region features of width 10, and its `regions` give .* width 2048"):
        model_at(prototype)


def test_regions_must_be_named_and_only_where_they_are_read(prototype, source):
    with pytest.raises(StudyError, match="family uniter reads region features .* no `regions`: name a file"):
        load_model(f"uniter:{prototype}")
    with pytest.raises(StudyError, match="family bert reads no region features; .* uniter, visual_bert, lxmert"):
        load_model({"model": "bert:./x", "regions": "x.tsv"})
    assert source["calls"] == []
    model_at(prototype)
    load_model({"model": f"uniter:{prototype}", "regions": {"file": "x.tsv"}}, folder=prototype, device="cpu")
    assert [settings for settings, _ in source["calls"]] == ["x", {"file": "x.tsv"}]
    assert source["calls"][1][1]["folder"] == prototype


def test_a_tokenizer_is_needed_and_must_keep_capitals(folder, source, tmp_path):
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    with pytest.raises(CheckpointError, match="makes capitals small, and the model's is that of bert-base-cased"):
        model_at(folder)
    config.unlink()  # a vocabulary alone, as Google published it, is read as the model needs it
    assert model_at(folder).text.tokenizer.tokenize("A dog") == ["[UNK]", "dog"]
    (folder / "vocab.txt").rename(tmp_path / "vocab.txt")
    with pytest.raises(CheckpointError, match="holds no tokenizer .* `tokenizer`: that of bert-base-cased"):
        model_at(folder)
    assert model_at(folder, tokenizer=str(tmp_path)).encode([PAIR])


def test_pieces_of_words_are_the_originals(prototype, source):
    """The original cuts `text.strip().split()` word by word; cut as a whole the text gives the same pieces."""
    tokenizer = model_at(prototype).text.tokenizer
    for text in ("  a dog sits on\tthe mat. ", "two-red chairs, a [cat]!", "dog's  mat"):
        words = [piece for word in text.strip().split() for piece in tokenizer.tokenize(word)]
        assert tokenizer.tokenize(text) == words


# --- sizes, stages, revisions, random weights


def test_heads_come_from_the_configuration_or_the_width(folder, source, tmp_path):
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="number of attention heads cannot be known .width 16"):
        model_at(folder)
    (folder / "log").mkdir()
    (folder / "ckpt").mkdir()
    (folder / "log" / "model.json").write_text(json.dumps({"num_attention_heads": 4}))
    (folder / "uniter.pt").rename(folder / "ckpt" / "step.pt")
    model = model_at(folder / "ckpt" / "step.pt", tokenizer=str(folder))
    assert (model.model.config.num_attention_heads, model.name) == (4, "step")
    (folder / "log" / "model.json").write_text(json.dumps(stated | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match="num_hidden_layers 4, the weights have 3"):
        model_at(folder / "ckpt" / "step.pt", tokenizer=str(folder))
    wide = UniterNetwork(_wide(tiny.CONFIGS["uniter"]()))
    tiny.save_released("uniter", wide.state_dict(), tmp_path / "wide.pt")
    model = model_at(tmp_path / "wide.pt", tokenizer=str(folder))
    assert model.model.config.num_attention_heads == 2
    assert model.left_out == ("number of attention heads: 2, from the width 128, as no config.json states it",)


def _wide(config):
    config.hidden_size = 128
    return config


def test_the_stage_is_the_studys_where_it_says_one(folder, source):
    tiny.save_released("uniter", state_of(folder), folder / "uniter.pt", vqa_output__3__bias=torch.zeros(3))
    assert model_at(folder).stage == "visual-entailment"
    assert model_at(folder, stage="pretrained").stage == "pretrained"
    tiny.save_released("uniter", state_of(folder), folder / "uniter.pt", rank_output__bias=torch.zeros(1))
    assert model_at(folder).stage == "retrieval"


def test_the_revision_stands_for_weights_configuration_and_regions(folder, source):
    seen = {model_at(folder).revision}
    assert seen == {model_at(folder).revision}
    source["source"].revision = "another"
    seen.add(model_at(folder).revision)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    seen.add(model_at(folder).revision)
    state = state_of(folder)
    state["pooler.dense.bias"] += 1
    tiny.save_released("uniter", state, folder / "uniter.pt")
    seen.add(model_at(folder).revision)
    assert len(seen) == 4


@pytest.mark.parametrize("absent", ["uniter.pt", "nothing"])
def test_random_weights_need_a_configuration_or_a_file(folder, source, absent):
    trained = model_at(folder)
    (folder / absent).unlink(missing_ok=True)
    models = [model_at(folder, weights="random", seed=seed) for seed in (3, 3, 4)]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    assert not same(models[0], trained)
    assert {model.stage for model in models} == {"random"}
    assert len({model.revision for model in (*models, trained)}) == 3
    assert list(models[0].layers) == list(trained.layers)


def test_random_weights_without_sizes(folder, source):
    (folder / "uniter.pt").unlink()
    (folder / "config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(CheckpointError, match="neither a .pt or .safetensors file nor a config.json with vocab_size"):
        model_at(folder, weights="random")
    with pytest.raises(CheckpointError, match="holds no .pt or .safetensors file"):
        model_at(folder)


def test_several_files_must_be_told_apart(folder, source):
    shutil.copy(folder / "uniter.pt", folder / "second.pt")
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints .second.pt, uniter.pt.; name the file"):
        model_at(folder)
    assert model_at(folder / "second.pt").name == "second"
    with pytest.raises(CheckpointError, match="was not published on the hub; name the released"):
        model_at("acme/uniter")
