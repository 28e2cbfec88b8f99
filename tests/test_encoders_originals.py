"""Released files: read without running anything, sorted by name, complete or refused; base sizes as published."""

import argparse
import collections
import contextlib
import json
import pickle
import shutil
import types
import zipfile
from pathlib import Path
from random import Random

import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import Checkpoint, quiet
from vlprobe.encoders.originals import read_released
from vlprobe.encoders.torch_files import read_tensors
from vlprobe.errors import CheckpointError


@pytest.fixture(autouse=True)
def regions(monkeypatch):
    source = tiny.ColourRegions()
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: source, raising=False)
    return source


@pytest.fixture
def folder(tmp_path):
    return tiny.make("uniter", tmp_path / "tiny")


def model_at(family, place, **more):
    return load_model({"model": f"{family}:{place}", "regions": "x", **more}, device="cpu")


def refused(family, place, *parts):
    with pytest.raises(CheckpointError) as caught:
        model_at(family, place)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


# --- reading files


STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4).T,  # not contiguous
    "b.bias": torch.arange(20)[5:9],  # in the middle of a storage
    "half": torch.tensor([1.5, -2.0]).half(),
    "empty": torch.zeros(0, 3),
    "number": torch.tensor(7.0),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def equal(found, wanted=STATE):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach()), name


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model_state_dict", "model"])
def test_tensors_are_found_however_they_were_saved(tmp_path, zipped, wrapped):
    saved = STATE if wrapped is None else {"epoch": 3, wrapped: STATE, "optimizer": {"state": {0: STATE}}}
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    equal(read_tensors(tmp_path / "x.pt", "x"))


class Watched:
    """Counts how often one was made."""

    made = 0

    def __new__(cls):
        cls.made += 1
        return super().__new__(cls)


def foreign_objects(**more):
    """What Lightning keeps beside the weights: settings, counters, callbacks, optimizers, functions."""
    return {
        "epoch": 3,
        "hyper_parameters": argparse.Namespace(rate=0.1, folder=Path("/data")),
        "callbacks": {Watched: collections.Counter("ab"), "best": collections.defaultdict(list, a=[Watched()])},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "loss": torch.nn.functional.relu,
        "version": types.SimpleNamespace(a=1),
        **more,
    }


def test_foreign_objects_beside_the_weights_are_passed_over(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(foreign_objects(state_dict=collections.OrderedDict(STATE)), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    before = Watched.made
    equal(read_tensors(path, "x"))
    assert Watched.made == before


class Runs:
    """A pickle that calls a function of its choosing."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["hyper_parameters", "state_dict", "top"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_something_is_refused_by_name(tmp_path, where, zipped):
    import os

    mark, path = tmp_path / "it_ran", tmp_path / "x.ckpt"
    evil = Runs(os.system, f"touch {mark}")
    saved = {
        "hyper_parameters": {"state_dict": STATE, "hyper_parameters": evil},
        "state_dict": {"state_dict": {**STATE, "b": evil}},
        "top": evil,
    }[where]
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path, "x")
    assert str(path) in str(caught.value)
    assert ("wants to run posix.system" if zipped else "which are never run") in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("function", [eval, exec, __import__])
def test_running_builtins_are_refused(tmp_path, function):
    torch.save({"state_dict": STATE, "x": Runs(function, "print(1)")}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=rf"wants to run \w+.{function.__name__}"):
        read_tensors(tmp_path / "x.ckpt", "x")


def test_a_harmless_looking_call_in_place_of_a_weight_is_refused_and_not_made(tmp_path):
    mark = tmp_path / "it_ran"
    torch.save({"state_dict": {"a": torch.ones(1), "b": Runs(Path.touch, mark)}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x.ckpt holds 1 entries that are no tensors .b, "):
        read_tensors(tmp_path / "x.ckpt", "x")
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 900, -1])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("foreign", [True, False])
def test_a_file_that_was_cut_short_is_named(tmp_path, keep, zipped, foreign):
    path = tmp_path / "x.pt"
    saved = foreign_objects(state_dict=STATE) if foreign else STATE
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path, "x")
    assert f"{path} cannot be read" in str(caught.value)
    assert "cut short" in str(caught.value)


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(foreign_objects(state_dict={"a": torch.arange(64.0)}), path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record[:16] if len(record) == 256 and "/data/" in name else record)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(path, "x")


@pytest.mark.parametrize("saved", [[1, 2], {}, {"epoch": 3}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_what_is_no_checkpoint_says_so(tmp_path, saved):
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt (holds|is empty)"):
        read_tensors(tmp_path / "x.pt", "x")


def test_what_is_no_pytorch_file_says_so(tmp_path):
    (tmp_path / "x.pt").write_text("<html>404 not found</html>")
    with pytest.raises(CheckpointError, match="x.pt cannot be read: .*no PyTorch checkpoint"):
        read_tensors(tmp_path / "x.pt", "x")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="y.pt cannot be read: .*no PyTorch checkpoint"):
        read_tensors(tmp_path / "y.pt", "x")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_damaged_is_an_error_of_the_checkpoint(tmp_path, seed):
    path, random = tmp_path / "x.pt", Random(seed)
    for zipped in (True, False):
        torch.save(
            foreign_objects(state_dict=STATE) if seed % 2 else STATE, path, _use_new_zipfile_serialization=zipped
        )
        whole = path.read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            for _ in range(3):
                broken[random.randrange(len(broken))] = random.randrange(256)
            path.write_bytes(broken)
            with contextlib.suppress(CheckpointError):  # or only the numbers are damaged
                read_tensors(path, "x")


def test_names_and_precision_are_put_right(tmp_path):
    state = {"img_embeddings.LayerNorm.gamma": torch.ones(2).half(), "img_embeddings.LayerNorm.beta": torch.ones(2)}
    head = {"attn_pool.fc.0.weight": torch.ones(1, 2)}
    state = {f"module.uniter.{name}": value for name, value in state.items()}
    torch.save({**state, **head, "module.cls.bias": torch.ones(3)}, tmp_path / "x.pt")
    checkpoint = Checkpoint("x", tmp_path, tmp_path, "uniter", "", file=tmp_path / "x.pt")
    released = read_released(checkpoint, "uniter")
    assert list(released.encoder) == ["img_embeddings.LayerNorm.weight", "img_embeddings.LayerNorm.bias"]
    assert {value.dtype for value in released.encoder.values()} == {torch.float32}
    assert released.heads == {"attn_pool.fc.0.weight": (1, 2), "cls.bias": (3,)}


# --- the right model, the whole model


def change(folder, **edit):
    """Rewrite the tiny UNITER's file: new=tensor adds, name=None takes away (a__b for a.b)."""
    state = torch.load(folder / "uniter.pt")
    for name, value in edit.items():
        key = name.replace("__", ".")
        if value is None:
            state.pop(key)
        else:
            state[key] = value
    torch.save(state, folder / "uniter.pt")


def test_missing_weights_are_listed_and_counted(folder):
    change(folder, uniter__encoder__layer__1__output__dense__bias=None)
    refused("uniter", folder, "lacks 1 weights that the probed layers use: encoder.layer.1.output.dense.bias")
    names = [name for name in torch.load(folder / "uniter.pt") if "img_embeddings.img_l" in name]
    change(folder, **{name.replace(".", "__"): None for name in names})
    refused("uniter", folder, "lacks 5 weights", "encoder.layer.1.output.dense.bias", " and 2 more. ")


def test_half_a_pooler_is_refused_and_none_is_a_layer_less(folder):
    change(folder, uniter__pooler__dense__bias=None)
    refused("uniter", folder, "lacks 1 weights", "pooler.dense.bias")
    change(folder, uniter__pooler__dense__weight=None)
    model = model_at("uniter", folder)
    assert "joint.pooler" not in model.layers
    assert model.left_out == ("joint.pooler is not offered: the checkpoint has no weights for it",)
    image = tiny.png(tiny.noise(60, 90))
    assert [one.layer for one in model.encode([tiny.example("0", "a dog", image)])] == list(model.layers)


@pytest.mark.parametrize("name", ["encoder.layer.1.gate.weight", "extra.weight", "embeddings.scale"])
def test_unknown_weights_inside_the_encoder_are_refused(folder, name):
    change(folder, **{f"uniter__{name.replace('.', '__')}": torch.ones(2)})
    refused("uniter", folder, "has 1 weights inside the encoder", name)


def test_another_shape_is_refused(folder):
    change(folder, uniter__img_embeddings__LayerNorm__bias=torch.ones(12))
    refused("uniter", folder, "1 weights of another shape", "img_embeddings.LayerNorm.bias is (12,)", "wants (16,)")


def test_another_model_is_named_with_the_cure(tmp_path):
    reference = tiny.shared("reference")
    files = {
        "uniter": reference / "uniter" / "pretrain.pt",
        "lxmert": reference / "lxmert" / "vqa_BEST_multigpu.pth",
        "vilt": reference / "vilt" / "vilt_vqa.ckpt",
    }
    titles = {"uniter": "UNITER", "lxmert": "LXMERT", "vilt": "ViLT"}
    for family, suffix in (("uniter", ".pt"), ("lxmert", ".pth"), ("vilt", ".ckpt")):
        for other, file in files.items():
            if other != family:
                place = tmp_path / f"x{suffix}"
                shutil.copy(file, place)
                spec = {"model": f"{family}:{place}"} | ({"regions": "x"} if family != "vilt" else {})
                with pytest.raises(CheckpointError) as caught:
                    load_model(spec, device="cpu")
                said = f"is a checkpoint of {titles[other]}, and {titles[family]} was asked for; load it as {other}:"
                assert said in str(caught.value)


def test_a_model_of_no_family_is_described(folder):
    with quiet():
        torch.save(hf.BertModel(tiny.CONFIGS["bert"]()).state_dict(), folder / "uniter.pt")
    refused("uniter", folder, "is no checkpoint of UNITER", "they are named embeddings.word_embeddings.weight")


def test_a_configuration_of_another_model_beside_the_file(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 2}))
    refused("uniter", folder, "model type 'bert', and family uniter reads uniter")
    (folder / "config.json").write_text("{")
    refused("uniter", folder, "config.json cannot be read")


def test_paths_of_released_files(folder, tmp_path):
    refused("uniter", tmp_path / "absent.pt", "absent.pt does not exist")
    shutil.copy(folder / "uniter.pt", folder / "uniter.bin")
    refused("uniter", folder / "uniter.bin", "is a file", "or a released .pt or .safetensors file")
    with pytest.raises(CheckpointError, match="ckpts/absent.pth does not exist"):  # like no hub id
        model_at("lxmert", "ckpts/absent.pth")
    model = load_model({"model": "uniter:tiny/uniter.pt", "regions": "x"}, folder=tmp_path, device="cpu")
    assert model.name == "uniter"


# --- base sizes: the names and shapes of the published files, numbers left out


def of(shape):
    """One number, stretched: as large as the real tensor to all who look, a few bytes in a file."""
    return torch.zeros(1).expand(shape)


def linear(name, out, into):
    return {f"{name}.weight": of((out, into)), f"{name}.bias": of((out,))}


def norm(name, width):
    return {f"{name}.weight": of((width,)), f"{name}.bias": of((width,))}


def text(name, vocabulary, positions, types, width=768):
    shapes = {"word": (vocabulary, width), "position": (positions, width), "token_type": (types, width)}
    tables = {f"{name}.{table}_embeddings.weight": of(shape) for table, shape in shapes.items()}
    return tables | norm(f"{name}.LayerNorm", width)


def block(name, width=768, inner=3072):
    attention = {}
    for role in ("query", "key", "value"):
        attention |= linear(f"{name}.attention.self.{role}", width, width)
    attention |= linear(f"{name}.attention.output.dense", width, width) | norm(
        f"{name}.attention.output.LayerNorm", width
    )
    feed = linear(f"{name}.intermediate.dense", inner, width) | linear(f"{name}.output.dense", width, inner)
    return attention | feed | norm(f"{name}.output.LayerNorm", width)


def uniter_base():
    state = text("embeddings", 28996, 512, 2) | linear("pooler.dense", 768, 768)
    for name, into in (("img", 2048), ("pos", 7)):
        state |= linear(f"img_embeddings.{name}_linear", 768, into) | norm(f"img_embeddings.{name}_layer_norm", 768)
    state |= {"img_embeddings.mask_embedding.weight": of((2, 2048))} | norm("img_embeddings.LayerNorm", 768)
    for k in range(12):
        state |= block(f"encoder.layer.{k}")
    assert len(state) == 210
    return {f"uniter.{name}": value for name, value in state.items()}


def lxmert_base():
    state = text("embeddings", 30522, 512, 2) | linear("pooler.dense", 768, 768)
    for name, norms, into in (("visn_fc", "visn", 2048), ("box_fc", "box", 4)):
        state |= linear(f"encoder.visn_fc.{name}", 768, into) | norm(f"encoder.visn_fc.{norms}_layer_norm", 768)
    for k in range(9):
        state |= block(f"encoder.layer.{k}")
    for k in range(5):
        state |= block(f"encoder.r_layers.{k}")
        name = f"encoder.x_layers.{k}"
        for inner, self in (("visual_attention", "att"), ("lang_self_att", "self"), ("visn_self_att", "self")):
            for role in ("query", "key", "value"):
                state |= linear(f"{name}.{inner}.{self}.{role}", 768, 768)
            state |= linear(f"{name}.{inner}.output.dense", 768, 768) | norm(f"{name}.{inner}.output.LayerNorm", 768)
        for side in ("lang", "visn"):
            state |= linear(f"{name}.{side}_inter.dense", 3072, 768) | linear(f"{name}.{side}_output.dense", 768, 3072)
            state |= norm(f"{name}.{side}_output.LayerNorm", 768)
    heads = {"cls.predictions.bias": of((30522,)), "cls.predictions.decoder.weight": of((30522, 768))}
    for head in ("cls.predictions.transform", "obj_predict_head.transform"):
        heads |= linear(f"{head}.dense", 768, 768) | norm(f"{head}.LayerNorm", 768)
    heads |= linear("cls.seq_relationship", 2, 768)
    for kind, size in (("obj", 1600), ("attr", 400), ("feat", 2048)):
        heads |= linear(f"obj_predict_head.decoder_dict.{kind}", size, 768)
    heads |= linear("answer_head.logit_fc.0", 1536, 768) | norm("answer_head.logit_fc.2", 1536)
    heads |= linear("answer_head.logit_fc.3", 9500, 1536)
    state = {f"bert.{name}": value for name, value in state.items()} | heads
    assert len(state) == 473
    return {f"module.{name}": value for name, value in state.items()}


def vilt_base():
    state = text("text_embeddings", 30522, 40, 2) | norm("transformer.norm", 768) | linear("pooler.dense", 768, 768)
    state |= {
        "text_embeddings.position_ids": torch.arange(40)[None],
        "token_type_embeddings.weight": of((2, 768)),
        "transformer.cls_token": of((1, 1, 768)),
        "transformer.pos_embed": of((1, 145, 768)),
        "transformer.patch_embed.proj.weight": of((768, 3, 32, 32)),
        "transformer.patch_embed.proj.bias": of((768,)),
    }
    for k in range(12):
        name = f"transformer.blocks.{k}"
        state |= norm(f"{name}.norm1", 768) | norm(f"{name}.norm2", 768)
        state |= linear(f"{name}.attn.qkv", 2304, 768) | linear(f"{name}.attn.proj", 768, 768)
        state |= linear(f"{name}.mlp.fc1", 3072, 768) | linear(f"{name}.mlp.fc2", 768, 3072)
    heads = {"mlm_score.bias": of((30522,)), "mlm_score.decoder.weight": of((30522, 768))}
    heads |= linear("mlm_score.transform.dense", 768, 768) | norm("mlm_score.transform.LayerNorm", 768)
    heads |= linear("itm_score.fc", 2, 768)
    assert len(state | heads) == 167
    return {"state_dict": state | heads}


BASE = {
    "uniter": (uniter_base, "uniter-base.pt", 28996, 12, ["joint.12", "joint.pooler"]),
    "lxmert": (lxmert_base, "Epoch20_LXRT.pth", 30522, 12, ["language.14", "vision.10", "language.pooler"]),
    "vilt": (vilt_base, "vilt_200k_mlm_itm.ckpt", 30522, 12, ["joint.12", "joint.norm", "joint.pooler"]),
}


@pytest.mark.parametrize("family", BASE)
def test_the_published_base_sizes_load_whole(tmp_path, regions, family, monkeypatch):
    monkeypatch.setattr("vlprobe.encoders.self_check.faults", lambda encoder: [])  # all weights are 0 here
    make, name, vocabulary, heads, layers = BASE[family]
    torch.save(make(), tmp_path / name)
    regions.width = 2048
    (tmp_path / "vocab.txt").write_text(
        "\n".join([*tiny.VOCABULARY, *(f"w{k}" for k in range(vocabulary - len(tiny.VOCABULARY)))])
    )
    spec = {"model": f"{family}:{tmp_path / name}"} | ({} if family == "vilt" else {"regions": "x"})
    model = load_model(spec, device="cpu")
    config = model.model.config
    assert config.num_attention_heads == heads
    assert config.hidden_size == model.layers[layers[0]] == 768
    assert config.intermediate_size == 3072
    assert [layer for layer in model.layers if layer in layers] == layers
    assert len(model.layers) == {"uniter": 15, "lxmert": 28, "vilt": 15}[family]
    assert sum("from the width 768" in line for line in model.left_out) == 1
    if family == "vilt":
        assert (config.patch_size, config.image_size, config.max_position_embeddings) == (32, 384, 40)
        assert model.images.processor.size.shortest_edge == 384
        assert model.images.processor.size_divisor == 32
