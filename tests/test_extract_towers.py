"""A model whose towers never meet is run on each text and each image once, however they are paired."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from vlprobe import Study
from vlprobe.encoders import load_model
from vlprobe.extraction import ImageDigests, compute, features, forwards, layers_of, left_out, missing, request
from vlprobe.pairing import pair
from vlprobe.store import Store
from vlprobe.types import ROLES, Hidden

TEXTS = ["a dog", "two red chairs", "cats", "a dog sits on the mat"]
EXAMPLES = tuple(
    replace(
        tiny.example(str(k), TEXTS[k % 4], tiny.png(tiny.noise(40, 40, k // 2)), words=((0, 1), (0, 3))),
        target=("x",),
    )
    for k in range(12)
)
"""Four texts and six images in twelve pairs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make("clip", tmp_path_factory.mktemp("towers") / "clip")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(f"clip:{folder}", device="cpu")


def asked(model, examples=EXAMPLES, unit="input", how="auto"):
    return request(model, examples, unit, how, ImageDigests())


def test_a_mismatch_costs_no_forward_pass(model, tmp_path):
    store = Store(tmp_path)
    matched = asked(model)
    mismatched = asked(model, pair(EXAMPLES, "mismatched", "multimodal", 0, "test"))
    assert missing([matched], store) == 4 + 6
    compute(model, [matched], store)
    assert missing([mismatched], store) == 0
    assert matched.key == mismatched.key
    assert matched.pairs != mismatched.pairs
    assert list(layers_of(matched, store)) == list(model.layers)


@pytest.mark.parametrize("condition", ["matched", "mismatched"])
def test_rows_are_those_of_the_pairs(model, condition, tmp_path):
    """The referee is the encoder on each pair, at the position that stands for the whole."""
    examples, store = pair(EXAMPLES, condition, "multimodal", 3, "test"), Store(tmp_path)
    extraction = asked(model, examples)
    compute(model, [extraction], store, batch_size=3)
    for place, layer in enumerate(model.layers):
        found = features(extraction, store, layer)
        assert found.id.tolist() == [example.id for example in examples]
        rows = [_row(model.encode([example])[place]) for example in examples]
        np.testing.assert_allclose(found.X, torch.stack(rows).numpy(), atol=1e-5)


def _row(hidden: Hidden) -> torch.Tensor:
    return hidden.states[0, int(np.flatnonzero(hidden.role[0] == ROLES.index("cls"))[0])]


def test_a_tower_is_asked_what_it_can_answer(model, tmp_path):
    asking = [replace(example, target=(None, "y")) for example in EXAMPLES]
    words = asked(model, asking, "word", "first")
    assert list(words.sides) == ["language"]
    moved = asked(model, pair(asking, "mismatched", "language", 0, "test"), "word", "first")
    assert words.pairs == moved.pairs  # one result, computed once
    assert list(asked(model, how="patches").sides) == ["vision"]
    assert list(asked(model, how="words").sides) == ["language"]
    lone = [EXAMPLES[0], replace(EXAMPLES[1], image=None)]
    assert list(asked(model, lone).sides) == ["language"]
    store = Store(tmp_path)
    compute(model, [words], store)
    assert list(layers_of(words, store)) == [f"language.{name}" for name in (0, 1, 2, 3, "norm")]


def test_a_row_with_a_bad_text_keeps_its_image(model, tmp_path):
    examples = [replace(EXAMPLES[0], text="dog " * 90), *EXAMPLES[1:]]
    extraction, store = asked(model, examples), Store(tmp_path)
    compute(model, [extraction], store, bad_rows="skip")
    (line,) = left_out(model, extraction, store, "skip")
    assert line.startswith("file, row 0: the text of example 0 has 92 tokens")
    assert line.endswith("(left out for clip, layers of language)")
    assert features(extraction, store, "language.1").id.tolist() == [example.id for example in EXAMPLES[1:]]
    assert features(extraction, store, "vision.1").id.tolist() == [example.id for example in EXAMPLES]


def test_numbers_are_counted_as_they_are_kept(model):
    width = {
        stream: sum(size for layer, size in model.layers.items() if layer.startswith(stream))
        for stream in ("language", "vision")
    }
    assert forwards([asked(model)]).numbers(model) == 4 * width["language"] + 6 * width["vision"]


def test_a_part_of_the_store_does_not_pass_for_all_of_it(model, tmp_path):
    store = Store(tmp_path)
    compute(model, [asked(model, pair(EXAMPLES, "text-only", "multimodal", 0, "test"))], store)
    assert layers_of(asked(model), store) == {}
    assert missing([asked(model)], store) == 6


def test_a_study_of_towers(folder, tmp_path):
    """Every condition asks the towers that it gives something, also where training and test differ."""
    study = {
        "name": "towers",
        "models": [{"model": f"clip:{folder}", "name": "clip"}],
        "tasks": [{"name": "position", "scenes": {"train": 60, "test": 30}}],
        "conditions": ["matched", "mismatched", "text-only", "matched>image-only", "text-only>image-only"],
        "bad_rows": "skip",
        "store": str(tmp_path / "store"),
        "output": str(tmp_path / "results"),
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    results = Study.from_file(tmp_path / "study.yaml").run()
    streams = {}
    for result in results:
        if result.layer:
            streams.setdefault(result.condition, set()).add(result.layer.partition(".")[0])
    assert streams == {
        "matched": {"language", "vision"},
        "mismatched": {"language", "vision"},
        "text-only": {"language"},
        "matched>image-only": {"vision"},
    }
    score = {(r.condition, r.layer): r.score for r in results if r.layer and not r.control and r.probe == "logistic"}
    for layer in ("language.2", "language.projection"):
        assert score["matched", layer] == score["text-only", layer]
    assert score["matched", "vision.2"] == score["matched>image-only", "vision.2"]
