"""volta's released files: told apart, held against their configuration, complete or refused; random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from tiny_volta import FEATURES, KINDS, ONE, close
from vlprobe.encoders import load_model
from vlprobe.encoders.gated_embeddings import Inputs
from vlprobe.encoders.gated_layouts import CONTROLLED
from vlprobe.errors import CheckpointError

PAIR = tiny.example("0", "A dog sits", tiny.png(tiny.noise(60, 90)))


regions, prototypes = tiny_volta.regions, tiny_volta.prototypes


@pytest.fixture
def folder_of(prototypes, tmp_path):
    return lambda kind: shutil.copytree(prototypes[kind], tmp_path / kind)


def model_at(place, **more):
    return load_model({"model": f"volta:{place}", "regions": "x", **more}, device="cpu")


def states_of(model):
    return {one.layer: one.states for one in model.encode([PAIR])}


def rewrite(folder, change):
    """Change the released weights of a folder in place."""
    file = folder / "pytorch_model_9.bin"
    state = torch.load(file)
    change(state)
    torch.save(state, file)
    return folder


@pytest.mark.parametrize("prefix", ["", "bert.", "module.", "module.bert."])
def test_prefixes_of_training_code_and_heads(prototypes, regions, tmp_path, prefix):
    plain = states_of(model_at(prototypes["lxmert"]))
    head = "module." * prefix.startswith("module.") + "clfs_dict.TASK12.logit_fc.0.weight"
    folder = tiny_volta.make("lxmert", tmp_path / "x", prefix=prefix, heads=[head])
    tiny.save_wordpieces(folder)
    model = model_at(folder)
    for layer, state in states_of(model).items():
        assert torch.equal(state, plain[layer])
    assert model.stage == "nlvr2"
    assert model.left_out == ("architecture: LXMERT", "head clfs_dict: its 1 weights are not used")


@pytest.mark.parametrize(
    ("head", "stage"),
    [
        ("cls.predictions.bias", "pretrained"),
        ("clfs_dict.TASK1.logit_fc.0.weight", "vqa"),
        ("clfs_dict.TASK8.weight", "retrieval"),
        ("clfs_dict.TASK15.logit_fc.0.weight", "gqa"),
        ("clfs_dict.TASK99.weight", "task99"),
    ],
)
def test_heads_say_what_it_was_trained_for(regions, tmp_path, head, stage):
    folder = tiny_volta.make("uniter", tmp_path / "x", heads=[head])
    tiny.save_wordpieces(folder)
    assert model_at(folder / "pytorch_model_9.bin").stage == stage


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_is_told_from_the_weights_alone(regions, tmp_path, kind):
    """With the sub-layers that were published; a configuration that says nothing of them leaves it at that."""
    folder = tiny_volta.make(kind, tmp_path / "x", CONTROLLED[kind], config=False)
    tiny.save_wordpieces(folder)
    with pytest.raises(CheckpointError, match="number of attention heads cannot be known .width 16"):
        model_at(folder)
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    model = model_at(folder)
    assert (model.kind, model.one_stream) == (kind, kind in ONE)
    deepest = {"lxmert": ("language.14", "vision.10"), "vilbert": ("language.18", "vision.12")}.get(kind, ("joint.12",))
    stream = [layer for layer in model.layers if layer.partition(".")[2].isdigit()]
    assert {layer.partition(".")[0]: layer for layer in stream[1:]} == {x.partition(".")[0]: x for x in deepest}
    (folder / "config.json").write_text(json.dumps(tiny_volta.stated(kind, CONTROLLED[kind])))
    for layer, state in states_of(model_at(folder)).items():
        assert torch.equal(state, states_of(model)[layer])


def test_another_depth_needs_its_configuration(folder_of, regions):
    folder = folder_of("lxmert")
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    with pytest.raises(CheckpointError, match="lacks .* weights that the probed layers use"):
        model_at(folder)


def shared(state, name="bert.encoder.layer.4.attention_self.v_key.weight"):
    assert name in state
    state[name] += 1


def test_shared_weights_that_differ_are_refused(folder_of, regions):
    folder = rewrite(folder_of("lxmert"), shared)
    message = "attention_self.v_key.weight and .*attention_self.key.weight are one weight .* LXMERT, and hold different"
    with pytest.raises(CheckpointError, match=message):
        model_at(folder)
    folder = rewrite(folder_of("uniter"), lambda state: shared(state, "bert.encoder.layer.3.output.v_LayerNorm.bias"))
    with pytest.raises(CheckpointError, match="v_LayerNorm.bias and .*LayerNorm.bias are one weight .* UNITER"):
        model_at(folder)


def test_a_configuration_may_say_that_nothing_is_shared(folder_of, prototypes, regions):
    """Then equal weights give what shared ones give, and others may be other."""
    plain, folder = states_of(model_at(prototypes["lxmert"])), folder_of("lxmert")
    stated = json.loads((folder / "config.json").read_text()) | {"shared_sublayers": []}
    (folder / "config.json").write_text(json.dumps(stated))
    for layer, one in states_of(model_at(folder)).items():
        assert torch.equal(one, plain[layer])
    value = "bert.encoder.layer.4.attention_self.v_value.bias"
    other = states_of(model_at(rewrite(folder, lambda state: shared(state, value))))
    assert torch.equal(other["language.2"], plain["language.2"])
    assert not torch.equal(other["language.3"], plain["language.3"])  # whose text looks at the image's values


def test_the_second_name_of_a_shared_weight_may_be_missing(folder_of, prototypes, regions):
    def drop(state):
        for name in [name for name in state if ".v_" in name and name.startswith("bert.encoder")]:
            del state[name]

    plain = states_of(model_at(prototypes["visualbert"]))
    for layer, one in states_of(model_at(rewrite(folder_of("visualbert"), drop))).items():
        assert torch.equal(one, plain[layer])


def test_uniters_table_of_types_may_stand_there_twice(folder_of, regions):
    twice, once = "bert.embeddings.image_token_type_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"
    folder = rewrite(folder_of("uniter"), lambda state: state.update({twice: state[once].clone()}))
    assert states_of(model_at(folder))
    rewrite(folder, lambda state: state.update({twice: state[once] + 1}))
    with pytest.raises(CheckpointError, match="image_token_type_embeddings.weight and .* hold different values"):
        model_at(folder)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("vilbert", lambda state: state.pop("bert.v_pooler.dense.bias"), "lacks 1 weights .*v_pooler.dense.bias"),
        ("vilbert", lambda state: state.pop("bert.encoder.layer.2.attention_self.v_key.bias"), "lacks 1 .*v_key.bias"),
        (
            "lxmert",
            lambda state: state.update({"bert.encoder.layer.0.attention_self.extra.bias": torch.zeros(3)}),
            "has 1 weights inside the encoder .*extra.bias",
        ),
        ("lxmert", lambda state: state.update({"bert.pooler.dense.bias": torch.zeros(3)}), "has 1 weights inside"),
        (
            "vl-bert",
            lambda state: state.update({"bert.embeddings.end_embedding.weight": torch.zeros(1, 3)}),
            "has 1 weights of another shape: embeddings.end_embedding.weight",
        ),
        (
            "uniter",
            lambda state: state.update({"bert.embeddings.projection.weight": torch.zeros(16, FEATURES)}),
            "which of volta's architectures it is cannot be told: .* it has the image embeddings of uniter, visualbert",
        ),
        (
            "uniter",
            lambda state: [state.pop(name) for name in [*state] if "image_location" in name],
            "it has the image embeddings of none, and config.json says 'uniter'",
        ),
    ],
)
def test_every_weight_is_accounted_for(folder_of, regions, kind, change, message):
    with pytest.raises(CheckpointError, match=message):
        model_at(rewrite(folder_of(kind), change))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"image_embeddings": "vilbert"}, "image_embeddings 'vilbert', and the weights are those of LXMERT"),
        ({"hidden_size": 32, "v_hidden_size": 32}, "hidden_size 32, the weights have 16"),
        ({"pooler_size": 16, "v_pooler_size": 16}, "pooler_size 16, the weights have 12"),
        ({"v_hidden_size": 32}, "v_hidden_size 32; of volta's models, vlprobe reads those for which it is 16"),
        ({"add_global_imgfeat": "last"}, "add_global_imgfeat 'last'; .* it is 'first'"),
        ({"add_global_imgfeat": None}, "add_global_imgfeat None; .* it is 'first'"),
        ({"fusion_method": "sum"}, "fusion_method 'sum'; .* it is 'mul'"),
        ({"num_locs": 7}, "num_locs 7; .* it is 5"),
        ({"bert_model": "xlm-roberta-base"}, "bert_model 'xlm-roberta-base'; .* it is 'bert-base-uncased'"),
        ({"sublayer2attn_hidden_size": {"2": 32}}, "sublayer2attn_hidden_size .* it is {}"),
        ({"tt_attn_sublayers": "all"}, "tt_attn_sublayers is 'all'; expected a list"),
        ({"vv_attn_sublayers": [5], "v_ff_sublayers": [6]}, "has 16 weights inside the encoder .*v_LayerNorm.bias"),
        ({"vv_attn_sublayers": [0, 2, 5]}, "lacks 10 weights that the probed layers use: .*v_LayerNorm.bias"),
        ({"t_ff_sublayers": [0, 1, 3, 6]}, "sub-layers 0 attend and feed forward at once"),
        ({"t_ff_sublayers": [3, 6], "v_ff_sublayers": [6]}, "sub-layers 1 do nothing"),
        ({"shared_sublayers": [4, 10**12]}, "sub-layers 7 do nothing"),
        ({"single_ln_sublayers": 4}, "single_ln_sublayers is 4; expected a list"),
        ({"pooler_size": "large"}, "pooler_size 'large'; not a size"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; not a size"),
        ({"v_ff_sublayers": [1]}, "sub-layers 6 end the network, and do not feed both"),
        ({"single_ln_sublayers": [0]}, "sub-layers 0 have one LayerNorm, but two sets of weights"),
        ({"tv_attn_sublayers": [2, 4]}, "sub-layers 2 let a side be looked at that does not attend"),
    ],
)
def test_a_configuration_is_held_against_the_weights(folder_of, regions, said, message):
    folder = folder_of("lxmert")
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | said))
    with pytest.raises(CheckpointError, match=message):
        model_at(folder)


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("vl-bert", {"v_coordinate_embeddings_dim": 2}, "width 24; in VL-BERT that is 8 times .*, which is 2"),
        ("vl-bert", {"type_vocab_size": 2}, "has 2 token types, and VL-BERT has 3"),
        ("uniter", {"type_vocab_size": 1}, "has 1 token types, and UNITER has 2"),
    ],
)
def test_sizes_that_cannot_run_are_refused_without_a_file_too(folder_of, regions, kind, said, message):
    folder = folder_of(kind)
    (folder / "pytorch_model_9.bin").unlink()
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | said))
    with pytest.raises(CheckpointError, match=message):
        model_at(folder, weights="random")


def test_files_of_other_models_are_told_apart(prototypes, regions, tmp_path):
    other = tiny.make("uniter", tmp_path / "uniter")
    (other / "uniter.pt").rename(other / "uniter.bin")
    with pytest.raises(CheckpointError, match="is a checkpoint of UNITER, and volta was asked for; load it as uniter:"):
        model_at(other)
    shutil.copy(prototypes["uniter"] / "pytorch_model_9.bin", other / "volta.pt")
    with pytest.raises(CheckpointError, match="is a checkpoint of volta, and UNITER was asked for; load it as volta:"):
        load_model({"model": f"uniter:{other / 'volta.pt'}", "regions": "x"}, device="cpu")


def test_the_tokenizer_is_that_of_the_uncased_bert(folder_of, regions):
    folder = folder_of("vilbert")
    tiny.save_wordpieces(folder, lower=False)
    with pytest.raises(CheckpointError, match="keeps capitals, and the model's is that of bert-base-uncased"):
        model_at(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer .*: that of bert-base-uncased is the model's"):
        model_at(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_need_a_configuration_or_a_file(folder_of, regions, kind):
    folder = folder_of(kind)
    trained = model_at(folder)
    models = [model_at(folder, weights="random", seed=seed) for seed in (3, 3, 4)]
    (folder / "pytorch_model_9.bin").unlink()
    models.append(model_at(folder, weights="random", seed=3))
    first, again, other, sizes = map(states_of, models)
    assert {model.stage for model in models} == {"random"}
    assert len({model.revision for model in (*models, trained)}) == 4
    for layer, state in first.items():
        assert list(model_at(folder, weights="random").layers) == list(trained.layers)
        assert torch.equal(state, again[layer])
        assert torch.equal(state, sizes[layer])
        assert torch.equal(state, other[layer]) == (layer == "regions.0")
    (folder / "config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(CheckpointError, match="neither a .bin file nor volta's configuration"):
        model_at(folder, weights="random")


def test_the_revision_stands_for_weights_configuration_and_regions(folder_of, regions):
    folder = folder_of("vilbert")
    seen = {model_at(folder).revision}
    assert seen == {model_at(folder).revision}
    regions["source"].revision = "another"
    seen.add(model_at(folder).revision)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    seen.add(model_at(folder).revision)
    rewrite(folder, lambda state: state["bert.t_pooler.dense.bias"].add_(1))
    seen.add(model_at(folder).revision)
    assert len(seen) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_reads_voltas_own_features(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    path = tiny.shared("reference", "feature_files", "volta_obj36.h5")
    folder = tiny_volta.make(kind, tmp_path / kind, features=128)
    tiny.save_wordpieces(folder)
    model = load_model({"model": f"volta:{folder}", "regions": str(path)}, device="cpu")
    name = "COCO_val2014_000000000007"
    found = {one.layer: one.states for one in model.encode([tiny.example("0", "A dog sits", Path(f"{name}.jpg"))])}
    with h5py.File(path) as file:
        features, boxes = file[name]["features"][:], file[name]["boxes"][:]
        wide, high = float(file[name]["img_w"][()]), float(file[name]["img_h"][()])
    # As volta's reader: the mean first, corners over the sizes, the area as a share of the image.
    places = [[0, 0, 1, 1, 1]]
    for left, top, right, bottom in boxes:
        area = (right - left) * (bottom - top) / (wide * high)
        places.append([left / wide, top / high, right / wide, bottom / high, area])
    given = np.concatenate([features.mean(0, keepdims=True), features])
    pieces = model.text.read([tiny.example("0", "A dog sits", None)])
    floats = (torch.tensor(np.asarray(array, np.float32))[None] for array in (given, places))
    wanted = model.states(Inputs(pieces.ids, pieces.mask, *floats, torch.ones(1, 37).bool()))
    for layer, states in wanted.items():
        close(found[layer].reshape(states.shape), states)
