"""Where two encoders meet, layers of one of them are kept once for a text or image, and asked on the way of a pair."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import tiny_checkpoints as tiny
from vlprobe import Study
from vlprobe.encoders import load_model
from vlprobe.extraction import ImageDigests, compute, features, forwards, layers_of, left_out, missing, request
from vlprobe.extraction.jobs import Asked, jobs
from vlprobe.extraction.questions import Heading
from vlprobe.pairing import pair
from vlprobe.pooling import pool
from vlprobe.store import Store
from vlprobe.types import FULL

FUSION = ["flava", "bridgetower", "blip", "blip-2"]
GENERATIVE = ["llava", "qwen2_vl"]
ALONE = {"language": "text", "vision": "image"}
TEXTS = ["a dog", "two red chairs", "my cats", "a dog sits on the mat", "a cat"]
IMAGES = [tiny.png(tiny.noise(40, 40 + k, k)) for k in range(6)]
EXAMPLES = tuple(
    replace(
        tiny.example(
            str(k), TEXTS[k % 5], IMAGES[k // 2], words=tuple(m.span() for m in re.finditer(r"\w+", TEXTS[k % 5]))
        ),
        target=("x",),
        boxes=((0.1, 0.1, 0.8, 0.9),),
    )
    for k in range(12)
)
"""Five texts and six images in twelve pairs."""
SHOWN = [("matched", 0), ("mismatched", 0), ("mismatched", 1), ("mismatched", 2)]


@pytest.fixture(scope="module", params=[*FUSION, *GENERATIVE])
def model(request, tmp_path_factory):
    folder = tiny.make(request.param, tmp_path_factory.mktemp("fusion") / request.param)
    return load_model(tiny.spec(request.param, folder), device="cpu")


@pytest.fixture(scope="module")
def flava(tmp_path_factory):
    folder = tiny.make("flava", tmp_path_factory.mktemp("flava") / "flava")
    return load_model(tiny.spec("flava", folder), device="cpu")


def asked(model, condition="matched", seed=0, examples=EXAMPLES, unit="input", how="auto"):
    paired = pair(examples, condition, "multimodal", seed, "test")
    return request(model, paired, unit, how, ImageDigests())


def shown(condition, seed):
    return list(pair(EXAMPLES, condition, "multimodal", seed, "test"))


def rows_in(store, home):
    """Stream -> rows of its sections that are on disk, however many shards hold them: of its layers, and no others."""
    found = {}
    for shard in store._shards(home):
        for section in shard.sections:
            stream = Heading.named(section).side
            assert {layer.partition(".")[0] for layer in shard.layers(section)} == {stream}
            found[stream] = found.get(stream, 0) + len(shard.rows(section)[1])
    return found


def referee(model, examples, unit="input", how="auto"):
    """Layer -> (row, width): every pair run and pooled by itself, as rows of pairs were before towers had their own."""
    rows = {}
    for example in examples:
        for each in pool(model.encode([example]), [example], unit, how):
            rows.setdefault(each.layer, []).append(each.rows.numpy())
    return {layer: np.concatenate(parts) for layer, parts in rows.items()}


@pytest.mark.parametrize("batch_size", [None, 3])
def test_rows_are_those_of_every_pair_and_those_of_a_tower_are_kept_once(model, batch_size, tmp_path):
    extractions, store = [asked(model, condition, seed) for condition, seed in SHOWN], Store(tmp_path)
    compute(model, extractions, store, batch_size=batch_size)
    for (condition, seed), extraction in zip(SHOWN, extractions, strict=True):
        assert list(layers_of(extraction, store)) == list(model.layers)
        for layer, rows in referee(model, shown(condition, seed)).items():
            found = features(extraction, store, layer)
            assert found.id.tolist() == [example.id for example in EXAMPLES]
            np.testing.assert_allclose(found.X, rows, atol=1e-5)
    pairs = {(example.text, example.image) for condition in SHOWN for example in shown(*condition)}
    wanted = {"language": len(TEXTS), "vision": len(IMAGES), "joint": len(pairs)}
    streams = {layer.partition(".")[0] for layer in model.layers}
    assert rows_in(store, extractions[0].home) == {stream: wanted[stream] for stream in streams}
    width = {s: sum(size for layer, size in model.layers.items() if layer.startswith(f"{s}.")) for s in streams}
    assert forwards(extractions).numbers(model) == sum(wanted[stream] * width[stream] for stream in streams)


def test_no_tower_is_run_for_its_own_rows(model, tmp_path):
    """As many inputs as pairs, whatever is asked of towers; and no more images or texts than in them."""
    extractions = [asked(model, condition, seed) for condition, seed in SHOWN]
    pairs = {(example.text, example.image) for condition in SHOWN for example in shown(*condition)}
    passes = list(forwards(extractions))
    assert len(passes) == len(pairs) == missing(extractions, Store(tmp_path))
    assert {(each.example.text, each.example.image) for each in passes} == pairs
    asking = [(Heading.named(q.section).side, q.name) for each in passes for q in each.questions]
    assert len(asking) == len(set(asking))
    if "language" in extractions[0].sides:
        first = {}
        for place, each in enumerate(passes):
            first.setdefault(each.example.text, place)
        streams = [{Heading.named(q.section).side for q in each.questions} for each in passes]
        assert [place for place, found in enumerate(streams) if "language" in found] == sorted(first.values())


def test_a_condition_of_one_side_costs_nothing_beside_pairs(model, tmp_path):
    store = Store(tmp_path)
    matched = asked(model)
    lone = [asked(model, "text-only"), asked(model, "image-only")]
    met = "language" in matched.sides  # the Q-Former's queries, or its text, are run alone, too
    together = forwards([*lone, matched])
    assert sum(None in (each.example.text, each.example.image) for each in together) == (0 if met else 5 + 6)
    compute(model, [matched], store)
    assert [missing([each], store) for each in lone] == ([0, 0] if met else [5, 6])
    if not met:
        return
    for extraction, (stream, side) in zip(lone, ALONE.items(), strict=True):
        assert list(extraction.sides) == [stream]
        assert extraction.paired[stream] == matched.paired[stream]
        (other,) = {"text", "image"} - {side}
        alone = referee(model, [replace(example, **{other: None}) for example in EXAMPLES])
        assert list(layers_of(extraction, store)) == list(alone)
        for layer, rows in alone.items():
            np.testing.assert_allclose(features(extraction, store, layer).X, rows, atol=1e-5)


def test_what_was_run_alone_is_not_asked_of_pairs(flava, tmp_path):
    store = Store(tmp_path)
    alone = [asked(flava, "text-only"), asked(flava, "image-only")]
    compute(flava, alone, store)
    passes = forwards([asked(flava)]).lacking(alone[0].home, store)
    streams = {Heading.named(q.section).side for each in passes for q in each.questions}
    assert streams == {"joint"}


def test_what_is_asked_of_towers_is_not_lost_where_texts_are_cut_into_words_in_two_ways(flava):
    """Rows of the joint layers are there, those of the towers are not: of each input, both cuts are still run."""

    class Joint:
        def holds(self, home, section, names):
            return np.full(len(names), Heading.named(section).side == "joint")

    whole = [replace(example, words=((0, len(example.text)),)) for example in EXAMPLES]
    extractions = [asked(flava, unit="word", how="first"), asked(flava, examples=whole, unit="region", how="box")]
    waiting = forwards(extractions).lacking("home", Joint())
    found = {(q.section, q.name) for each in waiting for q in each.questions}
    every = {address for each in extractions for side in each.sides.values() for address in side.addresses()}
    assert found == {(section, name) for section, name in every if Heading.named(section).side != "joint"}
    assert {section for section, _ in found} == {"word:first:text:language", "region:box:image:vision"}
    assert all(question.example.words == each.example.words for each in waiting for question in each.questions)


@pytest.mark.parametrize(("unit", "how"), [("word", "first"), ("word", "mean"), ("region", "box")])
def test_units_of_one_side(model, unit, how, tmp_path):
    target = (None, "y") if unit == "word" else ("y",)
    examples = [replace(example, target=target) for example in EXAMPLES]
    level = "language" if unit == "word" else "vision"
    extractions, store = [], Store(tmp_path)
    for condition in ("matched", "mismatched"):
        paired = pair(examples, condition, level, 0, "test")
        extractions.append((paired, request(model, paired, unit, how, ImageDigests())))
    compute(model, [extraction for _, extraction in extractions], store)
    for paired, extraction in extractions:
        whole = referee(model, paired, unit, how)
        assert list(layers_of(extraction, store)) == list(whole)
        for layer, rows in whole.items():
            np.testing.assert_allclose(features(extraction, store, layer).X, rows, atol=1e-5)
    kept = rows_in(store, extractions[0][1].home)
    mine = "language" if unit == "word" else "vision"
    if mine in kept:
        assert kept[mine] == (len(TEXTS) if unit == "word" else len(IMAGES))


def test_a_stream_without_positions_for_a_pooling_is_left_out(model, tmp_path):
    """BLIP's `joint` has no patches; FLAVA's has; a pooling that no layer has is refused."""
    store, patches = Store(tmp_path), asked(model, how="patches")
    compute(model, [patches], store)
    assert missing([patches], store) == 0
    assert ("joint.1" in layers_of(patches, store)) == (type(model).__name__ != "Blip")
    assert "vision.1" in layers_of(patches, store)
    assert "language.1" not in layers_of(patches, store)
    with pytest.raises(Exception, match="no layer has positions that unit 'input' could be pooled from by 'regions'"):
        compute(model, [asked(model, how="regions")], store)
    if "language" not in model.reads:  # what is not a tower's is run on images alone, too
        with pytest.raises(Exception, match="no layer has positions that unit 'input' could be pooled from by 'words'"):
            compute(model, [asked(model, "image-only", how="words")], store)


def test_a_text_that_cannot_be_read_leaves_its_image_and_an_image_its_text(flava, tmp_path, monkeypatch):
    """And a side whose partner could not be run is run alone, where no other pair has it."""
    long = replace(EXAMPLES[0], text="dog " * 90)
    lone = replace(EXAMPLES[1], id="lone", text="two cats", image=IMAGES[5])
    examples = [long, *EXAMPLES[2:6], lone]
    extraction, store = asked(flava, examples=examples), Store(tmp_path)
    grid = type(flava).grid

    def damaged(self, batch):
        from vlprobe.errors import BadRow

        for example in batch:
            if example.image == IMAGES[5]:
                raise BadRow(example.place, "its image is torn")
        return grid(self, batch)

    monkeypatch.setattr(type(flava), "grid", damaged)
    compute(flava, [extraction], store, bad_rows="skip")
    ids = [example.id for example in examples]
    assert features(extraction, store, "language.1").id.tolist() == ids[1:]
    assert features(extraction, store, "vision.1").id.tolist() == ids[:-1]
    assert features(extraction, store, "joint.1").id.tolist() == ids[1:-1]
    lines = left_out(flava, extraction, store, "skip")
    assert [line.partition("left out for ")[2] for line in lines] == [
        "flava, layers of language)",
        "flava, layers of vision)",
        "flava, layers of joint)",
        "flava, layers of joint)",
    ]
    alone = referee(flava, [replace(lone, image=None)])["language.2"]
    np.testing.assert_allclose(features(extraction, store, "language.2").X[-1:], alone, atol=1e-5)
    assert missing([extraction], store) == 0


def test_jobs_are_the_same_ones_whatever_the_store_holds(flava, tmp_path, monkeypatch):
    """A run that was cut short, two parts that each did one half: the same questions in the same shards."""
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 7)
    from vlprobe.extraction.encoding import encode_chunk

    extractions = [asked(flava, condition, seed) for condition, seed in SHOWN]
    every = jobs(Asked("", tmp_path, "", tmp_path, None, "error", FULL), extractions)
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    for job in every:
        encode_chunk(lambda: flava, job, one, lambda count: None)
    for part in (every[1::2], every[::2]):
        for job in part:
            encode_chunk(lambda: flava, job, Store(tmp_path / "other"), lambda count: None)
    names = [sorted(path.name for path in store.folder.rglob("*.safetensors")) for store in (one, other)]
    assert names[0] == names[1]
    assert len(names[0]) == len(every) > 3
    for extraction in extractions:
        for layer in ("language.1", "vision.1", "joint.1"):
            assert (features(extraction, one, layer).X == features(extraction, other, layer).X).all()


def test_a_study_asks_probes_of_a_tower_once(tmp_path, monkeypatch):
    """What the mismatch does not change is probed once; scores are those of the model that is asked pair by pair."""
    config = tiny.CONFIGS["flava"]()
    config.text_config.max_position_embeddings = 80
    monkeypatch.setitem(tiny.CONFIGS, "flava", lambda: config)
    folder = tiny.make("flava", tmp_path / "flava")
    study = {
        "name": "fusion",
        "models": [{"model": f"flava:{folder}", "name": "flava"}],
        "tasks": [{"name": "position", "scenes": {"train": 60, "test": 30}}],
        "conditions": ["matched", "mismatched", "text-only", "matched>mismatched"],
        "store": str(tmp_path / "store"),
        "output": str(tmp_path / "results"),
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    results = Study.from_file(tmp_path / "study.yaml").run()
    keys = {(r.condition, r.layer): r.key for r in results if r.layer and not r.control}
    for condition in ("mismatched", "matched>mismatched"):
        for layer in ("language.2", "vision.2", "joint.2"):
            same = keys["matched", layer] == keys[condition, layer]
            assert same == layer.startswith("language.")
    assert keys["text-only", "language.2"] == keys["matched", "language.2"]
    assert ("text-only", "joint.2") not in keys
    findings = json.loads((tmp_path / "results" / "findings.json").read_text())["findings"]
    assert "mismatched" in {each["kind"] for each in findings}
    assert "unseen" not in {each["kind"] for each in findings}
    reliance = json.loads((tmp_path / "results" / "reliance.json").read_text())["rows"]
    loss = {(row["condition"], row["layer"]): row["loss"] for row in reliance}
    assert loss["mismatched", "language.2"] == 0
    assert ("mismatched", "joint.2") in loss
