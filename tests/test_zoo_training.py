"""The zoo's training: what is asked, by which network, and that it goes on where it stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from vlprobe import Example, load_model
from vlprobe.errors import StudyError
from vlprobe.scenes.captions import relations, sides
from vlprobe.scenes.drawing import encoded
from vlprobe.scenes.scene import sample
from vlprobe.zoo import making as zoo
from vlprobe.zoo.batches import FACTS, IGNORED, altered, described, masked, remarked, with_masked_word, written
from vlprobe.zoo.corpus import Corpus, drawn
from vlprobe.zoo.learners import CELL_LABELS, JointLearner, TextLearner, covering, matching
from vlprobe.zoo.making import Making, make
from vlprobe.zoo.networks import TRANSFORMER, Images, Uniter
from vlprobe.zoo.recipes import RECIPES, Recipe
from vlprobe.zoo.training import Schedule, train
from vlprobe.zoo.words import MASK, PIECES, ids_of, write_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = [sample(5, "zoo-test", number) for number in range(40)]


def with_regions(scenes, width=12):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((len(scenes), 6, width))).half()
    boxes, mask = torch.zeros(len(scenes), 6, 4), torch.zeros(len(scenes), 6, dtype=torch.bool)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.things)] = torch.tensor([thing.box for thing in scene.things])
        mask[row, : len(scene.things)] = True
    return Corpus(scenes, None, features, boxes, mask, torch.zeros(len(scenes), 6, 2, dtype=torch.int64))


# Words and tokens


@pytest.mark.parametrize("cased", [True, False])
def test_ids_are_those_of_the_tokenizer_in_the_folder(tmp_path, cased):
    write_tokenizer(tmp_path, cased, 40)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = np.random.default_rng(1)
    for scene in SCENES:
        words = [word.text for word in remarked(scene, rng).words]
        assert tokenizer(" ".join(words))["input_ids"][1:-1] == ids_of(words, cased).tolist()


def test_no_piece_stands_twice_and_capitals_are_told_apart():
    assert len(set(PIECES)) == len(PIECES)
    assert ids_of(["Ada"], True) != ids_of(["Ada"], False)
    with pytest.raises(KeyError):
        ids_of(["elephant"], False)


# What is asked


def is_true(words, scene):
    """Whether every fact that a caption states is so; a word keeps its `thing` when it is altered."""
    for word in words:
        thing = scene.things[word.thing] if word.thing >= 0 else None
        if word.fact in ("colour", "size", "shape") and getattr(thing, word.fact) != word.text:
            return False
        if word.fact == "place":
            other = next((w.thing for w in words if w.fact == "shape" and w.thing != word.thing), None)
            known = sides(scene, word.thing) if other is None else relations(scene, word.thing, other)
            if word.text not in known:
                return False
    return True


def test_altered_captions_are_false_and_described_ones_are_true():
    rng = np.random.default_rng(0)
    for scene in SCENES * 5:
        caption = described(scene, rng)
        assert is_true(caption.words, scene)
        assert not is_true(altered(caption, scene, rng).words, scene)


def test_remarks_on_truth_are_honest():
    rng = np.random.default_rng(0)
    said = {True: 0, False: 0}
    for scene in SCENES * 20:
        words = remarked(scene, rng).words
        if words[-1].fact == "truth":
            true = is_true(words[:-4], scene)
            said[true] += 1
            assert words[-1].text == ("true" if true else "false")
    assert min(said.values()) > 10


def test_matching_captions_are_true_half_the_time_and_labelled_so():
    rng = np.random.default_rng(0)
    told = [matching(SCENES, i % len(SCENES), rng) for i in range(400)]
    assert 0.42 < np.mean([true for _, true in told]) < 0.58
    for number, (caption, true) in enumerate(told):
        scene = SCENES[number % len(SCENES)]
        spoken_of = {word.thing for word in caption.words if word.thing >= 0}
        if true:
            assert is_true(caption.words, scene)
        elif max(spoken_of) < len(scene.things):  # else it speaks of a thing that only another scene has
            assert not is_true(caption.words, scene) or caption.text not in {described(scene, rng).text}


def test_masked_words_are_labelled_with_what_stood_there_and_facts_are_masked_more_often():
    rng = np.random.default_rng(0)
    captions = [described(scene, rng) for scene in SCENES * 20]
    plain = written([[word.text for word in caption.words] for caption in captions], False)
    text, labels = masked(captions, False, rng, first=600)
    asked = labels != IGNORED
    assert (labels[asked] == plain.ids[asked]).all()
    assert (text.ids[~asked] == plain.ids[~asked]).all()
    assert not asked[600:].any()
    assert 0.75 < (text.ids[asked] == MASK).float().mean() < 0.85
    fact = torch.zeros_like(asked)
    for row, caption in enumerate(captions):
        for place, word in enumerate(caption.words, start=1):
            fact[row, place] = word.fact in FACTS
    seen = plain.mask.clone()
    seen[600:] = False
    assert asked[seen & fact].float().mean() > 3 * asked[seen & ~fact].float().mean() > 0


def test_one_masked_word_a_caption():
    captions = [described(scene, np.random.default_rng(3)) for scene in SCENES]
    places = [caption.stating("colour")[0] for caption in captions]
    text = with_masked_word(captions, places, False)
    assert ((text.ids == MASK).sum(1) == 1).all()
    assert (text.ids[torch.arange(len(captions)), torch.tensor(places) + 1] == MASK).all()


def test_cells_are_covered_by_the_topmost_thing_whose_box_holds_their_centre():
    scene = SCENES[7]
    labels = covering(scene, 8).reshape(8, 8, 3)
    for row in range(8):
        for column in range(8):
            x, y = (column + 0.5) / 8, (row + 0.5) / 8
            inside = [t for t in scene.things if t.box[0] < x < t.box[2] and t.box[1] < y < t.box[3]]
            if inside:
                assert labels[row, column, 0] > 0
            if inside and all(t.radius > 0.0625 for t in scene.things):
                assert labels[row, column, 1] == 1 + zoo_colours().index(inside[-1].colour)
    assert (labels < torch.tensor(CELL_LABELS)).all()


def zoo_colours():
    from vlprobe.scenes.scene import COLOURS

    return COLOURS


# Shuffled pairs


def test_the_shuffled_twin_never_sees_a_scene_beside_its_caption():
    corpus = with_regions(SCENES)
    learner = JointLearner(Uniter(12, 1), True, corpus, corpus, shuffled=True)
    seen = []
    images = corpus.images
    object.__setattr__(corpus, "images", lambda chosen, hidden=None: seen.append(chosen) or images(chosen, hidden))
    for step in range(5):
        rng = np.random.default_rng(step)
        learner.losses(rng, 64)
        told = np.random.default_rng(step).integers(len(SCENES), size=64)  # the first draw of a batch: its captions
        assert (seen[-1] != told).all()
    learner.shuffled = False
    learner.losses(np.random.default_rng(0), 64)
    assert (seen[-1] == np.random.default_rng(0).integers(len(SCENES), size=64)).all()


# The loop


def small():
    torch.manual_seed(0)
    return TextLearner(1, TRANSFORMER, Corpus(SCENES), Corpus(SCENES))


def test_training_lowers_the_loss(tmp_path):
    learner = small()
    before = learner.losses(np.random.default_rng(0), 64)["masked words"].item()
    train(learner, Schedule(60, 32), 0, tmp_path, lambda line: None)
    after = learner.losses(np.random.default_rng(0), 64)["masked words"].item()
    assert after < before - 0.5


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.zoo.training.SAVED_EVERY", 4)
    whole, broken = small(), small()
    train(whole, Schedule(10, 8), 3, tmp_path / "a", lambda line: None)

    def stop(line):
        if line.startswith("step 8"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, Schedule(10, 8), 3, tmp_path / "b", stop)
    again = small()
    with torch.no_grad():
        again.words[0].weight.zero_()  # what it starts with must not matter
    told = []
    train(again, Schedule(10, 8), 3, tmp_path / "b", told.append)
    assert all((a == b).all() for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert not (tmp_path / "b" / "training").exists()


def test_a_state_of_another_seed_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.zoo.training.SAVED_EVERY", 2)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(), Schedule(4, 8), 3, tmp_path, stop)
    fresh, other = small(), small()
    train(fresh, Schedule(4, 8), 4, tmp_path / "elsewhere", lambda line: None)
    train(other, Schedule(4, 8), 4, tmp_path, lambda line: None)
    assert all((a == b).all() for a, b in zip(fresh.state_dict().values(), other.state_dict().values(), strict=True))


# Whole models: made in a few steps, loaded by vlprobe, and the same network


@pytest.fixture
def tiny_zoo(monkeypatch):
    monkeypatch.setattr(zoo, "SCENES", {"zoo-train": 24, "zoo-test": 12})
    monkeypatch.setattr(zoo, "BATCH", 8)
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, steps=2))
    monkeypatch.setattr(zoo, "detected", lambda scenes, detector, kept: with_regions(scenes))
    monkeypatch.setattr(zoo, "train_detector", lambda place, seed, progress: {"recall": 0.0})


def made(folder, *names):
    for name in names:
        make(Making(name, folder, 1, lambda line: None))


@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "vilt"])
def test_made_models_load_and_their_last_states_are_the_trained_network_s(tmp_path, tiny_zoo, name):
    made(tmp_path, *(["vit"] if name == "vilt" else []), name)
    encoder = load_model(f"zoo:{tmp_path}/{name}")
    assert encoder.name == name
    assert "README.md" in {file.name for file in (tmp_path / name).iterdir()}
    batch = [Example(s.name, s.name, described(s, np.random.default_rng(0)).text, encoded(s), ()) for s in SCENES[:3]]
    hidden = {each.layer: each for each in encoder.encode(batch)}
    assert all(torch.isfinite(each.states).all() for each in hidden.values())
    if name == "vilt":
        network = zoo._joint("vilt", drawn(SCENES[:3]))
        network.body.load_state_dict(encoder.model.state_dict())
        texts = written([example.text.split() for example in batch], False)
        with torch.no_grad():
            states = network(texts.ids, texts.mask, drawn(SCENES[:3]).images(np.arange(3)))
        length = texts.ids.shape[1]
        assert (hidden["joint.norm"].states[:, :length] - states.text).abs().max() < 1e-5
        assert (hidden["joint.norm"].states[:, length + 1 :] - states.image).abs().max() < 1e-5
        assert (hidden["joint.pooler"].states[:, 0] - states.pooled).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["uniter", "lxmert"])
def test_networks_over_regions_are_those_that_the_encoders_run(tmp_path, tiny_zoo, family):
    made(tmp_path, "detector", family)
    said = json.loads((tmp_path / family / "zoo.json").read_text())
    assert said["regions"] == {"detector": "../detector", "conventions": "hf"}
    corpus = with_regions(SCENES[:3])
    network = zoo._joint(family, corpus)
    module = __import__(f"vlprobe.encoders.{family}", fromlist=["x"])
    from vlprobe.encoders import FAMILIES, ModelSettings
    from vlprobe.encoders.checkpoint import open_checkpoint
    from vlprobe.regions.source import RegionSource

    class Given(RegionSource):
        width, revision = 12, "given"

        def regions(self, batch):
            raise NotImplementedError

    checkpoint = open_checkpoint(
        str(tmp_path / family), None, family=family, families=FAMILIES,
        wanted=ModelSettings(model=f"{family}:x"), folder=tmp_path,
    )  # fmt: skip
    encoder = getattr(module, family.title())(checkpoint, torch.device("cpu"), Given())
    network.body.load_state_dict(encoder.model.state_dict())
    texts = written([described(s, np.random.default_rng(0)).text.split() for s in SCENES[:3]], family == "uniter")
    images = corpus.images(np.arange(3))
    with torch.no_grad():
        states = network(texts.ids, texts.mask, images)
    length = texts.ids.shape[1]
    if family == "uniter":
        tensors = module.RegionTensors(images.features, module.locations(images.boxes), images.mask)
        joint = encoder.states((texts.ids, texts.mask), tensors)
        last, pooled = joint.layers["joint.4"], joint.layers["joint.pooler"]
        text, image = last[:, :length], last[:, length:]
    else:
        joint = encoder.states(texts.ids, texts.mask, images.features, images.boxes, images.mask)
        text, image, pooled = joint.language[-1], joint.vision[-1], joint.pooler
    assert (text - states.text)[texts.mask].abs().max() < 1e-5
    assert (image - states.image)[images.mask].abs().max() < 1e-5
    assert (pooled - states.pooled).abs().max() < 1e-5


def test_vilt_starts_from_vit(tmp_path, tiny_zoo, monkeypatch):
    made(tmp_path, "vit")
    monkeypatch.setitem(RECIPES, "vilt", replace(RECIPES["vilt"], steps=1, rate=0.0))
    made(tmp_path, "vilt")
    vit, vilt = (load_model(f"zoo:{tmp_path}/{name}").model for name in ("vit", "vilt"))
    assert (vit.layers[2].mlp.fc1.weight == vilt.encoder.layer[2].intermediate.dense.weight).all()
    assert (vit.layers[0].attention.k_proj.weight == vilt.encoder.layer[0].attention.attention.key.weight).all()
    places = vilt.embeddings.position_embeddings
    assert (vit.embeddings.position_embeddings == places).all()


def test_tuned_models_name_their_stage(tmp_path, tiny_zoo):
    made(tmp_path, "vit", "vilt", "vilt-vqa", "vilt-nlvr2")
    stages = [load_model(f"zoo:{tmp_path}/{name}").stage for name in ("vilt", "vilt-vqa", "vilt-nlvr2")]
    assert stages == ["pretrained", "vqa", "nlvr2"]


def test_what_is_there_is_not_trained_again_unless_its_recipe_changed(tmp_path, tiny_zoo, monkeypatch):
    made(tmp_path, "bert")
    told = []
    make(Making("bert", tmp_path, 1, told.append))
    assert told == ["bert: there already"]
    before = (tmp_path / "bert" / "model.safetensors").read_bytes()
    make(Making("bert", tmp_path, 2, lambda line: None))
    assert (tmp_path / "bert" / "model.safetensors").read_bytes() != before


def test_wrong_names_and_missing_models_are_told(tmp_path, tiny_zoo):
    with pytest.raises(StudyError, match="did you mean 'uniter'"):
        make(Making("unitre", tmp_path, 0, print))
    with pytest.raises(StudyError, match="starts from detector, which is not in"):
        make(Making("uniter", tmp_path, 0, print))
    with pytest.raises(StudyError, match="the zoo has no model 'unitre'"):
        load_model("zoo:unitre")
    with pytest.raises(StudyError, match="there is no"):
        load_model(f"zoo:{tmp_path}/nothing")


def test_every_recipe_comes_after_what_it_needs():
    seen = []
    for name, recipe in RECIPES.items():
        assert isinstance(recipe, Recipe)
        assert not recipe.start or recipe.start in seen
        assert recipe.family not in ("uniter", "lxmert") or "detector" in seen
        seen.append(name)


def test_hidden_regions_are_not_seen():
    corpus = with_regions(SCENES[:4])
    net = Uniter(12, 1)
    text = written([["a", "star"]] * 4, True)
    hidden = corpus.mask.clone()
    shown = corpus.images(np.arange(4), hidden)
    other = Images(None, shown.features + 1, shown.boxes, shown.mask, shown.hidden)
    with torch.no_grad():
        assert torch.equal(net(text.ids, text.mask, shown).pooled, net(text.ids, text.mask, other).pooled)
        seen = net(text.ids, text.mask, corpus.images(np.arange(4)))
        assert not torch.equal(seen.pooled, net(text.ids, text.mask, shown).pooled)
