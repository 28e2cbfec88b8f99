"""The eight tasks on scenes: every label is right, the text tells it exactly as often as the dial says."""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import scene_referee as referee
from vlprobe import load_task
from vlprobe.errors import StudyError
from vlprobe.images import open_image
from vlprobe.scenes import tasks as made
from vlprobe.scenes.drawing import draw
from vlprobe.scenes.scene import sample
from vlprobe.scenes.tasks import RECIPES, examples
from vlprobe.splits import cut
from vlprobe.tasks import words as spans
from vlprobe.types import MASK

LANGUAGE = ("pos-tagging", "bigram-shift")
REGIONS = "thing-color"
SHOWN = tuple(name for name in RECIPES if name not in (*LANGUAGE, REGIONS))
ALTERED = ("position", "size", "adversarial-caption")
COUNT = 800
remembered = lru_cache(maxsize=None)(sample)


@pytest.fixture(scope="module")
def tasks():
    """Both parts of every task at several settings of the dial, without pictures, which the texts do not need."""
    kept = {}

    def get(name, tell=0.0, count=COUNT):
        if (name, tell, count) not in kept:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(made, "_picture", lambda scene: b"")
                patch.setattr(made, "sample", remembered)
                kept[name, tell, count] = {part: examples(name, 0, part, count, tell) for part in ("train", "test")}
        return kept[name, tell, count]

    return get


def scene_of(example):
    return remembered(0, "tasks", int(example.id.removeprefix("tasks-")))


def label(example):
    """Return the one target that is there."""
    (found,) = {target for target in example.target if target is not None}
    return found


@pytest.mark.parametrize("name", ALTERED)
def test_altered_captions_are_false_and_the_others_true(tasks, name):
    for example in tasks(name)["train"]:
        assert referee.is_true(scene_of(example), example.text) == (label(example) == "0"), example.text


def test_altered_captions_are_altered_in_what_the_task_is_about(tasks):
    """One word of place, one of size, or both colours: nothing else of the claims is false."""
    for name, changed in zip(ALTERED, ("place", "size", "colour"), strict=True):
        for example in tasks(name)["train"][:300]:
            scene = scene_of(example)
            things, places = referee.read(example.text)
            wrong = Counter()
            for shape, colour, size in things:
                one = referee.the(scene, shape)
                wrong.update({"colour": one.colour != colour, "size": size not in (None, one.size)})
            wrong["place"] += sum(not referee.stands(scene, *claim) for claim in places)
            expected = {"colour": 2}.get(changed, 1) if label(example) == "1" else 0
            assert {fact: count for fact, count in wrong.items() if count} == ({changed: expected} if expected else {})


def test_swapped_words_are_no_caption_and_the_others_are(tasks):
    for example in tasks("bigram-shift")["train"]:
        assert referee.can_be_read(example.text) == (label(example) == "0"), example.text


def test_counts_are_those_of_the_picture(tasks):
    for example in tasks("object-count")["train"]:
        assert label(example) == len(scene_of(example).things)
        assert referee.is_true(scene_of(example), example.text)


def test_the_class_is_the_shape_of_the_one_large_thing(tasks):
    for example in tasks("shape-class")["train"]:
        assert [one.shape for one in scene_of(example).things if one.size == "large"] == [label(example)]
        assert referee.BLANK.fullmatch(example.text)


def test_the_masked_word_is_the_colour_of_the_thing_it_stands_with(tasks):
    for example in tasks("color")["train"]:
        scene = scene_of(example)
        (at,) = [i for i, target in enumerate(example.target) if target is not None]
        assert example.text[slice(*example.words[at])] == MASK == spans.MASK
        things, _ = referee.read(example.text)
        ((shape, _, _),) = [thing for thing in things if thing[1] == MASK]
        assert referee.the(scene, shape).colour == label(example)
        assert referee.is_true(scene, example.text.replace(MASK, label(example)))


def test_every_thing_has_its_box_and_colour(tasks):
    for example in tasks(REGIONS)["train"]:
        things = scene_of(example).things
        assert example.target == tuple(thing.colour for thing in things)
        assert example.boxes == tuple(thing.box for thing in things)
        assert all(0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 for x1, y1, x2, y2 in example.boxes)
        assert referee.BLANK.fullmatch(example.text)


@pytest.mark.parametrize("name", ["pos-tagging", "color"])
def test_every_word_has_a_span_and_a_target(tasks, name):
    for tell in (0.0, 1.0):
        for example in tasks(name, tell)["train"][:200]:
            assert [example.text[a:b] for a, b in example.words] == example.text.split()
            assert len(example.target) == len(example.words)


def test_the_words_of_an_input_task_are_not_asked_about(tasks):
    for name in set(RECIPES) - {"pos-tagging", "color", REGIONS}:
        assert all(example.words == () and len(example.target) == 1 for example in tasks(name)["train"][:50])


def rows(tasks, name, tell, count=COUNT):
    """Return texts and labels of train and test."""
    parts = tasks(name, tell, count)
    return [([one.text for one in parts[part]], np.array([label(one) for one in parts[part]])) for part in parts]


def read_by_words(train, test, length):
    """Return a bag-of-words probe's test score, and what its best guess without words would get, with its sigma."""
    (texts, y), (other_texts, other) = train, test
    # Without lower-casing or cutting: whatever the text holds may be used.
    bag = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, length), lowercase=False, binary=True, min_df=4)
    X, Z = bag.fit_transform(texts), bag.transform(other_texts)
    if y.dtype.kind == "f":
        guess = Ridge(alpha=10.0).fit(X, y).predict(Z)
        return np.corrcoef(guess, other)[0, 1], 0.0, 1 / len(other) ** 0.5
    score = LogisticRegression(C=0.1, max_iter=500).fit(X, y).score(Z, other)
    chance = np.unique(other, return_counts=True)[1].max() / len(other)
    return score, chance, (chance * (1 - chance) / len(other)) ** 0.5


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("name", SHOWN)
def test_at_zero_the_text_does_not_tell(tasks, name, length):
    score, chance, sigma = read_by_words(*rows(tasks, name, 0.0), length)
    assert score < chance + 3 * sigma


@pytest.mark.parametrize("name", SHOWN)
def test_at_zero_no_word_no_pair_and_no_three_go_with_a_label(tasks, name):
    """Each on its own, so that a small leak shows which the probe above overlooks; 5 sigma, since they are many."""
    (texts, y), (more, other) = rows(tasks, name, 0.0)
    bag = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 3), lowercase=False, binary=True, min_df=20)
    held = bag.fit_transform(texts + more)
    labels = np.concatenate([y, other])
    columns = [labels] if labels.dtype.kind == "f" else [(labels == value).astype(float) for value in np.unique(labels)]
    counts = np.asarray(held.sum(axis=0)).ravel()
    for column in columns:
        sums = held.T @ ((column - column.mean()) / column.std())
        strays = np.abs(sums) / np.sqrt(np.maximum(counts * (1 - counts / len(labels)), 1))
        assert strays.max() < 5, bag.get_feature_names_out()[strays.argmax()]


@pytest.mark.parametrize("name", SHOWN)
def test_at_one_the_text_always_tells(tasks, name):
    """The remark does, that is; a bag of all words would not know which of its colours the remark spoke of."""
    remarks = [([text.rpartition(" , ")[2] for text in texts], y) for texts, y in rows(tasks, name, 1.0)]
    score, *_ = read_by_words(*remarks, 1)
    assert score >= 0.99


def test_remarks_state_the_label_in_the_words_of_their_task(tasks):
    said = {
        "object-count": r", (two|three|four|five|six) things in all",
        "shape-class": rf", and the large one is a ({referee.SHAPES})",
        "color": rf", so the ({referee.SHAPES}) is ({referee.COLOURS})",
        **dict.fromkeys(ALTERED, r", which is (true|false)"),
    }
    for name, pattern in said.items():
        for plain, told in zip(tasks(name, 0.0)["test"], tasks(name, 1.0)["test"], strict=True):
            remark = re.fullmatch(re.escape(plain.text) + " " + pattern, told.text)
            answers = {"true": "0", "false": "1", **referee.COUNTS}
            assert answers.get(remark[remark.lastindex], remark[remark.lastindex]) == label(told)
            assert (plain.id, label(plain)) == (told.id, label(told))


def test_the_dial_turns_steadily_and_nothing_else_moves(tasks):
    """A scene that tells at 0.3 tells at 0.5, and scenes tell whatever the task and the label."""
    dials = (0.0, 0.3, 0.5, 1.0)
    telling = {}
    for name in SHOWN:
        for tell in dials:
            plain, told = tasks(name, 0.0)["train"], tasks(name, tell)["train"]
            assert [label(one) for one in plain] == [label(one) for one in told]
            telling[name, tell] = {one.id for one, other in zip(told, plain, strict=True) if one.text != other.text}
            assert abs(len(telling[name, tell]) - tell * COUNT) <= 3.5 * (tell * (1 - tell) * COUNT) ** 0.5
        for less, more in combinations(dials, 2):
            assert telling[name, less] < telling[name, more]
    ids = {name: {one.id for one in tasks(name)["train"]} for name in SHOWN}
    for one, other in combinations(SHOWN, 2):
        shared = ids[one] & ids[other]
        assert telling[one, 0.3] & shared == telling[other, 0.3] & shared
    for name in ALTERED:
        told = Counter(label(one) for one in tasks(name)["train"] if one.id in telling[name, 0.5])
        assert abs(told["0"] - told["1"]) < 4 * told.total() ** 0.5


@pytest.mark.parametrize("name", [*LANGUAGE, REGIONS])
def test_tasks_without_a_remark_have_no_dial(tasks, name):
    assert tasks(name, 1.0, 100) == tasks(name, 0.0, 100)


def test_unaltered_captions_are_the_same_inputs_for_all_tasks(tasks):
    tagged = {one.id: one.text for part in tasks("pos-tagging").values() for one in part}
    counted = {one.id: one.text for part in tasks("object-count").values() for one in part}
    assert tagged == counted
    for name in ("bigram-shift", *ALTERED):
        for part in tasks(name).values():
            for one in part:
                if one.id in tagged:
                    assert (one.text == tagged[one.id]) == (label(one) == "0")


def test_labels_are_balanced(tasks):
    for name in ("bigram-shift", *ALTERED, "color", "shape-class"):
        found = Counter(label(one) for one in tasks(name)["train"])
        share = 1 / len(RECIPES[name].classes)
        assert set(found) == set(RECIPES[name].classes)
        for count in found.values():
            assert abs(count - share * COUNT) < 4 * (share * (1 - share) * COUNT) ** 0.5


def test_what_is_altered_is_drawn_for_each_task_on_its_own(tasks):
    drawn = {name: {one.id: label(one) for one in tasks(name)["train"]} for name in ("bigram-shift", *ALTERED)}
    for one, other in combinations(drawn, 2):
        shared = sorted({*drawn[one]} & {*drawn[other]})
        same = sum(drawn[one][id] == drawn[other][id] for id in shared)
        assert abs(same - len(shared) / 2) < 4 * (len(shared) / 4) ** 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_more_examples_leave_the_first_ones_as_they_were(tasks, name):
    few, many = tasks(name, 0.0, 100), tasks(name, 0.0, 200)
    assert all(len(few[part]) == 100 and few[part] == many[part][:100] for part in few)


@pytest.mark.parametrize("name", RECIPES)
def test_train_and_test_share_no_scene(tasks, name):
    parts = tasks(name)
    ids = [one.id for part in parts.values() for one in part]
    assert len({*ids}) == len(ids) == 2 * COUNT
    assert all(one.group == one.id for part in parts.values() for one in part)


@pytest.mark.parametrize("name", RECIPES)
def test_a_study_reads_it(name):
    task = load_task({"name": name, "scenes": {"seed": 3, "train": 60, "test": 12, "tell": 0.5}})
    assert (task.name, task.level, task.unit) == (name, RECIPES[name].level, RECIPES[name].unit)
    assert [len(task.load(part)) for part in ("train", "test")] == [60, 12]
    assert task.options == {"scenes": {"seed": 3, "train": 60, "test": 12, "tell": 0.5}}
    assert task.licence and task.citation
    assert {target for one in task.load("train") for target in one.target} - {None} <= {
        *task.classes
    } or not task.classes
    for one in task.load("test")[:3]:
        drawn = draw(sample(3, "tasks", int(one.id.removeprefix("tasks-"))))
        assert (np.asarray(open_image(one.image)) == drawn).all()
    parts = cut(task, 0, None, "skip")
    assert len(parts.train) + len(parts.validation) == 60


def test_a_task_has_a_name_of_its_own_where_it_is_asked_twice():
    small = {"train": 9, "test": 2}
    one = load_task({"name": "a", "scenes": {"task": "color", **small}})
    other = load_task({"name": "color", "scenes": small})
    assert (one.name, other.name) == ("a", "color")
    assert dict(one.splits) == dict(other.splits) and one.classes == other.classes
    assert one.options["scenes"]["task"] == "color"


def test_seeds_have_other_scenes():
    texts = [
        {
            one.text
            for one in load_task({"name": "pos-tagging", "scenes": {"seed": seed, "train": 50, "test": 1}}).load(
                "train"
            )
        }
        for seed in (0, 1)
    ]
    assert len(texts[0] & texts[1]) < 3


def test_the_defaults_are_those_of_the_documentation(monkeypatch):
    monkeypatch.setattr(made, "_picture", lambda scene: b"")
    assert load_task({"name": "bigram-shift", "scenes": {}}).options == {
        "scenes": {"seed": 0, "train": 1200, "test": 600, "tell": 0.0}
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "colour", "scenes": {}}, "no task 'colour' on scenes; did you mean 'color'"),
        ({"name": "flowers", "scenes": {}}, "no task 'flowers' on scenes; known: .*shape-class"),
        ({"name": "told", "scenes": {"task": "colour"}}, "no task 'colour' on scenes; did you mean 'color'"),
        ({"name": "color", "scenes": {"task": 5}}, "scenes.task: .*valid string; found 5"),
        ({"name": "shape-class"}, r"write \{name: shape-class, scenes: \{\}\}"),
        ({"name": "color", "scenes": {"tel": 1}}, "unknown key 'scenes.tel'; did you mean 'tell'"),
        ({"name": "color", "scenes": {"tell": 1.5}}, "scenes.tell: .*less than or equal to 1; found 1.5"),
        ({"name": "color", "scenes": {"tell": -0.5}}, "scenes.tell: .*greater than or equal to 0"),
        ({"name": "color", "scenes": {"train": 0}}, "scenes.train: .*greater than or equal to 1"),
        ({"name": "color", "scenes": {"seed": -1}}, "scenes.seed: .*greater than or equal to 0"),
        ({"name": "color", "scenes": None}, "task color: scenes: .*found None"),
        ({"name": "color", "scenes": {}, "split": "grouped"}, "unknown key 'split'"),
        ({"name": "color", "scenes": {}, "table": "a.csv"}, "has the keys scenes and table; keep one"),
        ({"name": "my-own", "scens": {}}, "unknown key 'scens'; did you mean 'scenes'"),
    ],
)
def test_what_cannot_be_asked_is_said(spec, said):
    with pytest.raises(StudyError, match=said):
        load_task(spec)


def test_every_process_makes_the_same_examples():
    code = (
        "from vlprobe.scenes.tasks import RECIPES, examples; from vlprobe.digest import digest; import hashlib;"
        "made = [one for name in RECIPES for one in examples(name, 5, 'test', 6, 0.5)];"
        "print(digest(*([one.id, one.text, one.target, hashlib.sha256(one.image).hexdigest()] for one in made)))"
    )
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    runs = {
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
        for env in environments
    }
    assert len(runs) == 1 and len(runs.pop()) == 65
