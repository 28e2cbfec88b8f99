"""bfloat16: where it is asked for, states are a little off, under an address of their own; a detector stays exact."""

from dataclasses import replace

import torch

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.exact import as_asked, exact, precision
from vlprobe.extraction import ImageDigests, compute, features, request
from vlprobe.store import Store
from vlprobe.types import FULL, Numbers


def product():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.rand(64, 64, generator=draw), torch.rand(64, 64, generator=draw)
    return (a @ b).float(), a.double() @ b.double()


def test_only_what_is_run_as_asked_is_lowered():
    off = {}
    for name in ("float32", "bfloat16"):
        for running in (exact(), as_asked(torch.device("cpu"))):
            with precision(name), running:
                found, true = product()
            off.setdefault(name, []).append(float((found - true).abs().max() / true.abs().max()))
    assert max(off["float32"]) < 1e-6 and off["bfloat16"][0] < 1e-6
    assert 1e-4 < off["bfloat16"][1] < 1e-2
    with as_asked(torch.device("cpu")):
        assert float((product()[0] - true).abs().max()) < 1e-4


def test_representations_in_bfloat16_are_near_and_kept_apart(tmp_path):
    model = load_model(tiny.spec("bert", tiny.make("bert", tmp_path / "bert")), device="cpu")
    texts = ("a dog sits", "two cats sit by the red chairs")
    examples = [replace(tiny.example(str(n), text), target=("a",)) for n, text in enumerate(texts)]
    store, rows = Store(tmp_path / "store"), {}
    for numbers in (FULL, Numbers("bfloat16")):
        asked = request(model, examples, "input", "auto", ImageDigests(), numbers)
        compute(model, [asked], store, numbers=numbers)
        rows[numbers.run] = features(asked, store, "language.2").X
    away = abs(rows["bfloat16"] - rows["float32"]).max()
    assert 1e-5 < away < 0.1
    assert len(store.homes()) == 2
