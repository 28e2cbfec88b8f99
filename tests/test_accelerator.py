"""The way of a batch through a GPU: nothing on the wrong side, nobody waiting, nothing left of a batch that failed.

The GPU is a stand-in, see `accelerator`.
"""

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
import tiny_volta
from accelerator import Accelerator, There
from vlprobe.device import out_of_memory
from vlprobe.encoders import FAMILIES, load_model
from vlprobe.errors import VlprobeError
from vlprobe.extraction import ImageDigests, compute, features, forwards, layers_of, request
from vlprobe.extraction.batches import batches
from vlprobe.extraction.encoding import Chunk
from vlprobe.store import Store
from vlprobe.types import FULL, Numbers

# Of these, networks ask the device for what the stand-in has not.
BEYOND = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "qwen3_vl_moe", "siglip", "siglip2", "bridgetower")
TYPES = [one for family in FAMILIES.values() for one in family.types if one != "volta" and one not in BEYOND]
TYPES += [f"volta-{kind}" for kind in tiny_volta.KINDS]
OWN = {"is_nonzero", "item", "look", "index by truth", "index by what is on the host"}
"""What transformers' own networks wait for: whether a mask masks anything, how large images are."""
UPLOADING = ("gpt_neo", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Those that make tensors on the host, too, and wait until they are on the device."""
OURS = ("vilt", "uniter", "visual_bert", "lxmert", "vit", "resnet", "volta-vilbert", "volta-uniter")
TEXTS = ("a dog", "two red chairs", "cats", "a dog sits on the mat")
LONG = [f"{'dog ' * (1 + k % 9)}number {k}" for k in range(48)]


def examples(model):
    return [
        replace(
            tiny.example(
                str(k),
                TEXTS[k % 4] if "text" in model.modalities else None,
                tiny.png(tiny.noise(40, 40 + k, k // 2)) if "image" in model.modalities else None,
            ),
            target=("x",),
        )
        for k in range(6)
    ]


@pytest.fixture(scope="module", params=TYPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, tmp_path_factory):
    folder = tiny.make(kind, tmp_path_factory.mktemp("there") / kind)
    width = tiny_volta.FEATURES if tiny.FAMILY[kind] == "volta" else tiny.REGION_WIDTH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions(width), raising=False)
        return load_model(tiny.spec(kind, folder), device="cpu")


def test_a_batch_is_on_the_device_and_its_rows_come_back_in_one_copy(kind, model):
    asked = request(model, examples(model), "input", "auto", ImageDigests())
    cut = list(batches(model, list(forwards([asked])), None))
    here = Chunk(model, forwards([asked]), FULL, "error").encode(None, lambda count: None)
    accelerator = Accelerator()
    accelerator.take(model)
    chunk = Chunk(model, [each for batch in cut for each in batch], FULL, "error")
    with accelerator:
        for batch in cut:
            hidden = model.encode([each.example for each in batch])
            assert all(isinstance(one.states, There) for one in hidden)
            waits = +accelerator.waits
            own = {*OWN, "upload"} if kind in UPLOADING else OWN
            assert waits.keys() <= (set() if kind in OURS else own), waits
            chunk._send(batch, hidden)
            assert accelerator.waits == waits
            del hidden
            accelerator.waits.clear()
        assert accelerator.downloads == len(cut)
        chunk.finish()
    there = chunk.gathered.sections()
    for name, section in here.items():
        for layer, rows in section.layers.items():
            np.testing.assert_allclose(there[name].layers[layer], rows, atol=1e-5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tiny.make("bert", tmp_path_factory.mktemp("there") / "bert")
    return lambda: load_model(tiny.spec("bert", folder), device="cpu")


def asked(model, texts=LONG):
    held = [replace(tiny.example(str(k), text), target=("x",)) for k, text in enumerate(texts)]
    return request(model, held, "input", "words", ImageDigests())


def rows(model, extraction, folder, **settings):
    store = Store(folder)
    compute(model, [extraction], store, **settings)
    return {layer: features(extraction, store, layer).X for layer in layers_of(extraction, store)}


def taken(bert, batch_size):
    """Return the bytes that the batches take, one after the other, and that they take alone."""
    model, accelerator = bert(), Accelerator()
    accelerator.take(model)
    passes, found = list(forwards([asked(model)])), []
    with accelerator:
        for batch in batches(model, passes, batch_size):
            before, accelerator.most = accelerator.taken, accelerator.taken
            chunk = Chunk(model, batch, FULL, "error")
            chunk.answer(batch)
            chunk.finish()
            found.append(accelerator.most - before)
    return found


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:24])
@pytest.mark.parametrize("which", ["first", "middle", "last", "all"])
def test_a_batch_that_memory_does_not_hold_is_run_by_halves_with_nothing_left_of_it(
    which, error, bert, tmp_path, monkeypatch
):
    """The first is the shortest: memory that others take meanwhile makes it fail, too."""
    sizes = taken(bert, 16)
    wanted = rows(bert(), asked(bert()), tmp_path / "wanted", batch_size=16)
    model, accelerator = bert(), Accelerator(error=error)
    accelerator.take(model)
    number = {"first": 0, "middle": len(sizes) // 2, "last": len(sizes) - 1}
    base, left, runs = [], [], []
    encode = model.encode

    def watched(batch):
        left.append(accelerator.taken - base[0])
        here = which == "all" or len(runs) == number[which]
        accelerator.room = base[0] + (sizes[min(len(runs), len(sizes) - 1)] * 3 // 4 if here else 1 << 40)
        runs.append(len(batch))
        if which == "all":
            accelerator.room = base[0] + max(sizes) * 3 // 4
        return encode(batch)

    model.encode = watched
    gc.collect()
    base.append(accelerator.taken)
    monkeypatch.setattr("vlprobe.extraction.encoding.free_memory", lambda: None)  # nothing is to wait for that
    gc.disable()
    try:
        with accelerator:
            found = rows(model, asked(model), tmp_path / "found", batch_size=16)
    finally:
        gc.enable()
    assert len(runs) > len(sizes)
    for layer, values in wanted.items():
        np.testing.assert_allclose(found[layer], values, atol=1e-6)
    rowed = max(x.nbytes for x in wanted.values()) * len(wanted)  # what was pooled of the batch before
    assert max(left) <= rowed < min(sizes), (left, sizes)


def test_a_trial_that_memory_ends_leaves_nothing_and_changes_no_row(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.budget.FIRST", 256)
    texts = [f"{'dog ' * (1 + k % 9)}number {k}" for k in range(160)]
    wanted = rows(bert(), asked(bert(), texts), tmp_path / "wanted")
    model, accelerator = bert(), Accelerator()
    accelerator.take(model)
    model.accelerator, encode, left = "stand-in, 1 GiB", model.encode, []
    base = accelerator.taken
    accelerator.room = base + 2 * max(taken(bert, 16))
    monkeypatch.setattr("vlprobe.extraction.budget.GAIN", 0)  # as long as memory holds it

    def watched(batch):
        left.append(accelerator.taken - base)
        return encode(batch)

    model.encode = watched
    gc.collect()
    gc.disable()
    try:
        with accelerator:
            found = rows(model, asked(model, texts), tmp_path / "found")
    finally:
        gc.enable()
    (path,) = (tmp_path / "found").rglob("batch-*.json")
    assert 256 <= json.loads(path.read_text())["positions"] == model.most < 160 * 8
    assert max(left) < max(taken(bert, 16)) / 4
    for layer, values in wanted.items():
        np.testing.assert_allclose(found[layer], values, atol=1e-6)


def test_other_errors_are_told_and_no_memory_for_one_input_too(bert, tmp_path):
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    model, accelerator = bert(), Accelerator(error=RuntimeError("something else"))
    accelerator.take(model)
    accelerator.room = 1000
    with accelerator, pytest.raises(RuntimeError, match="something else"):
        rows(model, asked(model), tmp_path / "a")
    accelerator.error = ERRORS[0]
    with accelerator, pytest.raises(VlprobeError, match=r"example \d+ .* alone does not fit"):
        rows(model, asked(model), tmp_path / "b")


def test_what_memory_held_is_what_the_next_batches_have(bert, tmp_path):
    model, sizes = bert(), taken(bert, 16)
    accelerator = Accelerator(room=max(sizes) * 2 // 3)
    accelerator.take(model)
    lengths, encode = [], model.encode
    model.encode = lambda batch: lengths.append(len(batch)) or encode(batch)
    with accelerator:
        rows(model, asked(model, ["dog " * 9 + str(k) for k in range(48)]), tmp_path, batch_size=16)
    first = lengths.index(8)
    assert 16 in lengths[:first] and 16 not in lengths[first:]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_float16_does_not_hold_are_float32_and_none_are_looked_at_too_early(dtype, bert, tmp_path):
    model = bert()
    with torch.no_grad():
        model.model.embeddings.LayerNorm.bias[0] = 1e5
    numbers = Numbers("float32", dtype)
    extraction = replace(asked(model))
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    compute(model, [extraction], here, 16, numbers=numbers)
    accelerator = Accelerator()
    accelerator.take(model)
    with accelerator:
        compute(model, [extraction], there, 16, numbers=numbers)
    assert accelerator.downloads == 3
    for layer in layers_of(extraction, here):
        one, other = (features(extraction, store, layer).X for store in (here, there))
        np.testing.assert_allclose(one, other, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-3)
    assert features(extraction, there, "language.0").X.max() > 9e4
