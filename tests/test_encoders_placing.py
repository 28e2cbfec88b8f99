"""Weights of fewer bits, and models over several GPUs: what transformers is told, with stand-ins for the hardware."""

import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
import vlprobe.encoders
from vlprobe.encoders import load_model, untrained_spec
from vlprobe.encoders.families import FAMILIES
from vlprobe.errors import StudyError

LARGE = ("accelerate", "bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make("llava", tmp_path_factory.mktemp("placing"))


@pytest.fixture
def machine(monkeypatch):
    """A machine with two GPUs and both libraries, as far as anyone asks; what transformers is told is returned."""
    told = {}
    find, load = importlib.util.find_spec, hf.LlavaModel.from_pretrained.__func__

    def from_pretrained(kind, *args, **kwargs):
        for name in ("device_map", "max_memory", "quantization_config"):
            told[name] = kwargs.pop(name, None)
        return load(kind, *args, **kwargs)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: find(name, *rest) or name in LARGE)
    monkeypatch.setattr(hf.LlavaModel, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    known = SimpleNamespace(name="a stand-in", total_memory=4 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: known)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (1000 * (gpu + 1), 4000))
    monkeypatch.delenv("VLPROBE_WORKER", raising=False)
    tried = vlprobe.encoders._refuse_unsound

    def try_here(encoder, place):
        encoder.device = torch.device("cpu")  # where the stand-in has put it
        tried(encoder, place)

    monkeypatch.setattr(vlprobe.encoders, "_refuse_unsound", try_here)
    return told


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [
        (4, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}),
        (8, {"load_in_8bit": True, "load_in_4bit": False}),
    ],
)
def test_rounded_weights_are_asked_for_and_recorded(machine, folder, bits, wanted):
    model = load_model({"model": f"llava:{folder}", "bits": bits}, device="cuda")
    assert (machine["device_map"], machine["max_memory"]) == ({"": torch.device("cuda")}, None)
    assert {name: getattr(machine["quantization_config"], name) for name in wanted} == wanted
    assert model.usage["weights"] == f"rounded to {bits} bits"
    assert "prompt" in model.usage
    assert len(model.encode([tiny.example("0", "a dog", tiny.png(tiny.noise(60, 90)))])) == len(model.layers)


def test_a_model_is_spread_over_what_the_gpus_have_free(machine, folder):
    model = load_model({"model": f"llava:{folder}", "spread": True}, device="cuda")
    assert machine == {"device_map": "auto", "max_memory": {0: 850, 1: 1700}, "quantization_config": None}
    assert "weights" not in model.usage


@pytest.mark.parametrize(
    ("asked", "missing", "message"),
    [
        ({"bits": 4}, "bitsandbytes", r"`bits: 4` takes bitsandbytes, .*pip install 'vlprobe\[large\]'"),
        ({"bits": 8}, "accelerate", "`bits: 8` takes accelerate"),
        ({"spread": True}, "accelerate", "`spread: true` takes accelerate"),
    ],
)
def test_what_is_not_installed_is_named(machine, folder, monkeypatch, asked, missing, message):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else there(name))
    with pytest.raises(StudyError, match=message):
        load_model({"model": f"llava:{folder}", **asked}, device="cuda")


def test_no_gpu_several_processes_and_random_weights_are_refused(machine, folder, monkeypatch):
    with pytest.raises(StudyError, match="`bits: 4` takes an NVIDIA GPU, and the model is to run on cpu"):
        load_model({"model": f"llava:{folder}", "bits": 4}, device="cpu")
    with pytest.raises(StudyError, match="`bits: 4` does not go with random weights"):
        load_model({"model": f"llava:{folder}", "bits": 4, "weights": "random"}, device="cuda")
    monkeypatch.setitem(os.environ, "VLPROBE_WORKER", "1")
    with pytest.raises(StudyError, match="several processes share them.*--workers 1"):
        load_model({"model": f"llava:{folder}", "spread": True}, device="cuda")


def test_only_large_models_are_rounded_or_spread():
    with pytest.raises(StudyError, match="family bert takes neither `bits` nor `spread`.*: decoder, llava, qwen-vl"):
        load_model({"model": "bert:./nowhere", "bits": 4})
    with pytest.raises(StudyError, match="bits"):
        load_model({"model": "llava:./nowhere", "bits": 5})
    with pytest.raises(StudyError, match="`bits` does not go with `file`"):
        load_model({"file": "a.py", "class": "A", "bits": 4})
    assert {row.kind for row in FAMILIES.values() if row.large} == {"Decoder", "Generative"}


def test_a_rounded_model_has_no_untrained_twin():
    for asked in ({"bits": 4}, {"spread": True}):
        spec, why = untrained_spec({"model": "llava:./nowhere", **asked})
        assert spec == {}
        assert "drawn in full" in why
