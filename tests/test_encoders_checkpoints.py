"""Checkpoints: complete or refused by name; the same revision is the same content; nothing is run, printed or drawn."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from vlprobe.encoders import FAMILIES, load_model
from vlprobe.errors import CheckpointError, StudyError


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory):
    root = tmp_path_factory.mktemp("prototypes")
    return {kind: tiny.make(kind, root / kind) for kind in ("bert", "vit", "resnet", "vilt")}


@pytest.fixture
def copy(prototypes, tmp_path):
    def copied(kind):
        return Path(shutil.copytree(prototypes[kind], tmp_path / kind))

    return copied


def edit(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refused(spec, *parts, **options):
    with pytest.raises(CheckpointError) as caught:
        load_model(spec, device="cpu", **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


EXAMPLE = tiny.example("0", "a dog sits", tiny.png(tiny.noise(50, 70)))


# --- what is missing, foreign or damaged


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("bert", "encoder.layer.1.output.dense.bias"),
        ("bert", "embeddings.LayerNorm.weight"),
        ("vit", "embeddings.cls_token"),
        ("resnet", "encoder.stages.1.layers.0.layer.0.normalization.running_var"),
        ("vilt", "embeddings.position_embeddings"),
        ("vilt", "layernorm.bias"),
    ],
)
def test_a_missing_weight_is_refused_by_name(copy, kind, key):
    folder = copy(kind)
    edit(folder, lambda state: state.pop(key))
    refused(f"{kind}:{folder}", "lacks 1 weights that the probed layers use", key, str(folder))


def test_many_missing_weights_are_counted(copy):
    folder = copy("bert")
    edit(folder, lambda state: [state.pop(key) for key in list(state) if ".layer.2." in key])
    refused(f"bert:{folder}", "lacks 16 weights", "encoder.layer.2.attention.output.LayerNorm.bias", " and 13 more. ")


@pytest.mark.parametrize("kind", ["bert", "vit", "vilt"])
def test_a_missing_pooler_is_a_layer_less(copy, kind):
    folder = copy(kind)
    whole = load_model(f"{kind}:{folder}", device="cpu")
    edit(folder, lambda state: [state.pop(key) for key in list(state) if key.startswith("pooler.")])
    model = load_model(f"{kind}:{folder}", device="cpu")
    pooler = list(whole.layers)[-1]
    assert pooler.endswith(".pooler")
    assert list(model.layers) == list(whole.layers)[:-1]
    assert model.left_out == (f"{pooler} is not offered: the checkpoint has no weights for it",)
    assert [one.layer for one in model.encode([EXAMPLE])] == list(model.layers)


def test_half_a_pooler_is_refused(copy):
    folder = copy("bert")
    edit(folder, lambda state: state.pop("pooler.dense.bias"))
    refused(f"bert:{folder}", "lacks 1 weights", "pooler.dense.bias")


def test_another_shape_is_refused(copy):
    folder = copy("vilt")
    edit(folder, lambda state: state.update({"embeddings.cls_token": torch.zeros(1, 1, 12)}))
    refused(f"vilt:{folder}", "1 weights of another shape", "embeddings.cls_token is (1, 1, 12)", "wants (1, 1, 16)")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_more_blocks_than_the_configuration_says_are_refused(copy, prefix):
    folder = copy("bert")

    def change(state):
        names = list(state)
        for key in names:
            state[prefix + key] = state.pop(key)

    edit(folder, change)
    assert load_model(f"bert:{folder}", device="cpu").left_out == ()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(f"bert:{folder}", "16 weights inside the encoder that its configuration knows nothing of", "layer.2.")


def test_heads_are_left_out_and_said(tmp_path):
    model = load_model(f"bert:{tiny.make('bert', tmp_path / 'a', head='BertForMaskedLM')}", device="cpu")
    assert model.left_out[0].startswith("head cls: its 5 weights")
    assert "language.pooler is not offered" in model.left_out[1]
    model = load_model(
        f"resnet:{tiny.make('resnet', tmp_path / 'b', head='ResNetForImageClassification')}", device="cpu"
    )
    assert model.left_out == ("head classifier: its 2 weights are not used",)


def test_another_family_is_named(copy):
    folder = copy("vit")
    refused(f"bert:{folder}", "model type 'vit', and family bert reads bert, roberta, xlm", f"load it as vit:{folder}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    refused(f"vit:{folder}", "model type 't5'", "try auto:")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 16}))
    refused(f"vit:{folder}", "states no model_type", "vit, deit")


@pytest.mark.parametrize("keep", [0, 5, 3000, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_named(copy, keep, name):
    folder = copy("bert")
    if name.endswith(".bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
        assert load_model(f"bert:{folder}", device="cpu").layers
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:keep])
    refused(f"bert:{folder}", str(folder / name), "cannot be read")


def test_pickles_are_never_run(copy, tmp_path):
    folder, mark = copy("bert"), tmp_path / "it_ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (mark,))

    (folder / "model.safetensors").unlink()
    torch.save({"pooler.dense.bias": Evil()}, folder / "pytorch_model.bin")
    refused(f"bert:{folder}", "pytorch_model.bin", "Python objects besides tensors, which are never run")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "vocab.txt", "model.safetensors"])
def test_an_absent_file_is_named_with_the_cure(copy, name):
    folder = copy("vilt")
    (folder / name).unlink()
    what = {"vocab.txt": "holds no tokenizer", "model.safetensors": "weights: random"}.get(name, name)
    refused(f"vilt:{folder}", what)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_an_unreadable_file_is_named(copy, name):
    folder = copy("vilt")
    (folder / name).write_text('{"hidden_')
    refused(f"vilt:{folder}", "tokenizer" if name.startswith("tokenizer") else name, "cannot be read")


def test_a_configuration_of_wrong_values_is_not_blamed_on_the_weights(copy):
    folder = copy("bert")
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": "wide"}')
    refused(f"bert:{folder}", "config.json cannot be read", "hidden_size", "wide")


def test_a_tokenizer_of_another_model(copy):
    folder = copy("bert")
    (folder / "vocab.txt").write_text("\n".join([*tiny.VOCABULARY, "one", "two", "three"]))
    refused(f"bert:{folder}", "is not the model's")


def test_a_vocabulary_of_sentencepiece_alone_names_what_reads_it(copy, monkeypatch):
    folder = copy("bert")
    (folder / "vocab.txt").unlink()
    (folder / "spm.model").write_text("x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(f"bert:{folder}", "is spm.model, which takes sentencepiece to read: pip install 'vlprobe[sentencepiece]'")


def test_a_shard_that_is_absent(copy):
    folder = copy("bert")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    refused(f"bert:{folder}", "model-00002-of-00002.safetensors", "fetch it again")


def test_places_that_are_not_there(tmp_path):
    refused("bert:./nowhere", str(tmp_path / "nowhere"), "does not exist", folder=tmp_path)
    refused("bert:nobody/nothing-here", "nobody/nothing-here", "hf download", folder=tmp_path)
    refused("bert:nobody/nothing-here@v1", "at revision 'v1'", folder=tmp_path)
    (tmp_path / "file").write_text("x")
    refused("bert:./file", "is a file", folder=tmp_path)


# --- what a revision stands for


def test_the_revision_is_the_content(copy):
    folder = copy("vilt")
    first = load_model(f"vilt:{folder}", device="cpu").revision
    (folder / "README.md").write_text("notes")
    moved = folder.rename(folder.parent / "moved")
    assert load_model(f"vilt:{moved}", device="cpu").revision == first
    seen = {first}
    for name in ("config.json", "preprocessor_config.json", "vocab.txt", "tokenizer_config.json"):
        path = moved / name
        path.write_text(path.read_text() + "\n")
        seen.add(load_model(f"vilt:{moved}", device="cpu").revision)
    edit(moved, lambda state: state["layernorm.bias"].add_(1e-3))
    seen.add(load_model(f"vilt:{moved}", device="cpu").revision)
    assert len(seen) == 6


def test_a_hub_snapshot_is_named_by_its_commit(copy, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "v2").write_text(commit)
    (repository / "snapshots").mkdir()
    shutil.copytree(copy("bert"), repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for spec in ("bert:acme/tiny", "bert:acme/tiny@v2", {"model": "bert:acme/tiny", "revision": commit}):
        model = load_model(spec, folder=tmp_path, device="cpu")
        assert (model.revision, model.name, model.stage) == (commit, "tiny", "pretrained")
    refused("bert:acme/tiny@v3", "at revision 'v3'", folder=tmp_path)


def test_random_weights_are_drawn_from_the_seed_and_nothing_else(copy):
    folder = copy("vilt")
    trained = load_model(f"vilt:{folder}", device="cpu")
    (folder / "model.safetensors").unlink()
    state = torch.random.get_rng_state()
    models = [
        load_model({"model": f"vilt:{folder}", "weights": "random", "seed": seed}, device="cpu") for seed in (3, 3, 4)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = (model.encode([EXAMPLE])[2].states for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert models[0].revision == models[1].revision
    assert len({model.revision for model in (*models, trained)}) == 3
    assert {model.stage for model in models} == {"random"}
    assert list(models[0].layers) == list(trained.layers)


def test_loading_with_a_missing_pooler_draws_nothing_from_the_callers_stream(copy):
    folder = copy("bert")
    edit(folder, lambda state: [state.pop(key) for key in list(state) if key.startswith("pooler.")])
    state = torch.random.get_rng_state()
    load_model(f"bert:{folder}", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_tokenizer_from_elsewhere_counts_in_the_revision(copy, tmp_path):
    folder, words = copy("bert"), tmp_path / "words"
    words.mkdir()
    shutil.move(folder / "vocab.txt", words / "vocab.txt")
    shutil.move(folder / "tokenizer_config.json", words / "tokenizer_config.json")
    refused(f"bert:{folder}", "holds no tokenizer", "`tokenizer`")
    spec = {"model": "bert:./bert", "tokenizer": "./words"}
    first = load_model(spec, folder=tmp_path, device="cpu")
    assert first.encode([EXAMPLE])[0].states.shape[1] == 5
    (words / "vocab.txt").write_text((words / "vocab.txt").read_text() + "\nnew")
    assert load_model(spec, folder=tmp_path, device="cpu").revision != first.revision
    refused({"model": "bert:./bert", "tokenizer": "./nothing"}, "nothing does not exist", folder=tmp_path)


def test_half_precision_is_computed_in_full(copy):
    folder = copy("bert")
    edit(folder, lambda state: state.update({key: value.half() for key, value in state.items()}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    for weights in ("checkpoint", "random"):
        model = load_model({"model": f"bert:{folder}", "weights": weights}, device="cpu")
        assert {one.states.dtype for one in model.encode([EXAMPLE])} == {torch.float32}


def test_nothing_is_printed(tmp_path):
    folder = tiny.make("bert", tmp_path, head="BertForMaskedLM")  # transformers would report on head and pooler
    code = (
        "import sys, transformers; from vlprobe.encoders import load_model; log = transformers.utils.logging;"
        "before = log.get_verbosity(), log.is_progress_bar_enabled(); load_model('bert:' + sys.argv[1], device='cpu');"
        "assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_is_fetched_from_the_hub(copy, monkeypatch):
    """Safetensors first, PyTorch files only where there are none, never code unless the study says so."""
    folder, calls = copy("bert"), []

    def fetch(source, revision, allow_patterns, ignore_patterns):
        calls.append((source, revision, allow_patterns))
        assert ignore_patterns == ["*/*"]
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    load_model("bert:acme/tiny@v1", device="cpu")
    assert calls == [("acme/tiny", "v1", ["*.json", "*.txt", "*.model", "*.safetensors"])]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    load_model("bert:acme/tiny", device="cpu")
    assert [call[2] for call in calls[1:]] == [["*.json", "*.txt", "*.model", "*.safetensors"], ["pytorch_model*"]]
    load_model({"model": "bert:acme/tiny", "weights": "random", "trust_remote_code": True}, device="cpu")
    assert calls[-1][2] == ["*.json", "*.txt", "*.model", "*.py"]


# --- what a study may say


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("brt:x", "no family 'brt'; did you mean 'bert'?"),
        ("bert", "FAMILY:SOURCE"),
        ({"model": "bert:x", "sead": 1}, "unknown key 'sead'; did you mean"),
        ({"model": "bert:x", "weights": "randon"}, "weights"),
        ({"name": "x"}, "give either"),
        ({"file": "x.py"}, "`class`"),
        ({"file": "x.py", "class": "X", "seed": 3}, "`seed` does not go with `file`"),
        ({"model": "bert:x", "options": {"a": 1}}, "go with `file`"),
        ({"model": "bert:x/y@a", "revision": "b"}, "keep one"),
    ],
)
def test_wrong_entries(spec, message):
    with pytest.raises(StudyError) as caught:
        load_model(spec)
    assert message in str(caught.value)


def test_a_local_folder_has_no_revisions(copy):
    with pytest.raises(StudyError, match="has no revision 'main'"):
        load_model({"model": f"bert:{copy('bert')}", "revision": "main"})


def test_an_at_sign_in_a_folders_name(copy):
    folder = copy("bert").rename(copy("vit").parent / "bert@home")
    model = load_model("bert:./bert@home", folder=folder.parent, device="cpu")
    assert model.name == "bert@home"


@pytest.mark.parametrize(("device", "message"), [("gpu", "unknown"), ("cuda:x", "unknown"), ("cuda:99", "asked for")])
def test_devices_that_are_not_there(copy, device, message):
    with pytest.raises(StudyError, match=message):
        load_model(f"bert:{copy('bert')}", device=device)


def test_every_type_of_every_family_is_tested():
    assert {kind for row in FAMILIES.values() for kind in row.types} == set(tiny.CLASSES)
