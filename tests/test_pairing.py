"""Conditions: a mismatch is a derangement over groups, drawn evenly; the target's side stays."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from toys import colour_task
from vlprobe.errors import DataError, StudyError
from vlprobe.pairing import derange, obstacle, pair, read_condition, show
from vlprobe.types import Example, Task

EXAMPLES = colour_task().splits["all"]


def test_no_example_keeps_an_image_of_its_own_group():
    paired = pair(EXAMPLES, "mismatched", "multimodal", 0, "test")
    owner = {e.image: e.group for e in EXAMPLES}
    assert all(owner[after.image] != before.group for before, after in zip(EXAMPLES, paired, strict=True))
    for before, after in zip(EXAMPLES, paired, strict=True):
        assert replace(after, image=before.image) == before


def test_a_vision_task_moves_the_text():
    paired = pair(EXAMPLES, "mismatched", "vision", 0, "test")
    for before, after in zip(EXAMPLES, paired, strict=True):
        assert after.image == before.image
        assert after.text != before.text
        assert after.target == before.target


def test_groups_are_moved_whole():
    paired = pair(EXAMPLES, "mismatched", "multimodal", 0, "test")
    owner = {e.image: e.group for e in EXAMPLES}
    donors: dict[str, set[str]] = {}
    for example in paired:
        donors.setdefault(example.group, set()).add(owner[example.image])
    assert all(len(given) == 1 for given in donors.values())
    assert len({next(iter(given)) for given in donors.values()}) == len(donors)


def test_every_donor_is_equally_likely():
    groups = [f"g{i}" for i in range(5)]
    counts = Counter((i, d) for seed in range(3000) for i, d in enumerate(derange(groups, range(5), seed, "test")))
    assert all(i != d for i, d in counts)
    observed = [counts[i, d] for i in range(5) for d in range(5) if i != d]
    assert chisquare(observed).pvalue > 0.01


def test_the_same_text_in_another_group_is_no_mismatch():
    groups, texts = ["a", "b", "c", "d"], ["same", "same", "x", "y"]
    for seed in range(50):
        donors = derange(groups, texts, seed, "test")
        assert all(texts[d] != texts[i] for i, d in enumerate(donors))
    with pytest.raises(DataError, match="cannot be mismatched"):
        derange(groups, ["same", "same", "same", "y"], 0, "test")


def test_one_group_cannot_be_mismatched():
    with pytest.raises(DataError, match="at least two groups"):
        derange(["a", "a"], ["x", "y"], 0, "test")


def test_seed_and_split_draw_apart():
    def images(seed, split):
        return [e.image for e in pair(EXAMPLES, "mismatched", "multimodal", seed, split)]

    assert images(0, "test") == images(0, "test")
    assert images(0, "test") != images(1, "test")
    assert images(0, "test") != images(0, "train")


def test_one_sided_conditions():
    assert all(e.image is None and e.text for e in pair(EXAMPLES, "text-only", "multimodal", 0, "test"))
    for example in pair(EXAMPLES, "image-only", "multimodal", 0, "test"):
        assert example.text is None
        assert example.words == ()
        assert len(example.target) == 1


def test_a_text_model_sees_the_same_whatever_the_image():
    paired = pair(EXAMPLES, "mismatched", "multimodal", 0, "test")
    assert [show(e, ("text",)) for e in paired] == [show(e, ("text",)) for e in EXAMPLES]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("matched", ("matched", "matched")), ("matched>mismatched", ("matched", "mismatched"))],
)
def test_condition_names(name, expected):
    assert read_condition(name) == expected


@pytest.mark.parametrize("name", ["mismached", "matched>mismached", ">matched", "matched>", ""])
def test_wrong_condition_names(name):
    with pytest.raises(StudyError, match="mismatched"):
        read_condition(name)


def one(text="a b", image=b"x", unit="input", level="multimodal", target=("x",), words=()):
    return Task("t", level, unit, ("x", "y"), {"all": (Example("e", "g", text, image, target, words),)})


@pytest.mark.parametrize(
    ("condition", "task", "modalities", "needs", "reason"),
    [
        ("matched", one(), ("text",), (), ""),
        ("mismatched", one(image=None), ("text",), (), "the task has no images"),
        ("text-only", one(text=None), ("text", "image"), (), "the task has no text"),
        ("text-only", one(), ("image",), (), "the model reads image only"),
        ("text-only", one(), ("text", "image"), ("image",), "does not run without image"),
        ("image-only", one(unit="word", target=("x", "y"), words=((0, 1), (2, 3))), ("text", "image"), (), "are words"),
        ("image-only", one(unit="word", target=("x", None), words=((0, 1), (2, 3))), ("text", "image"), (), ""),
        ("text-only", one(unit="region", level="vision"), ("text", "image"), (), "are regions"),
        ("mismatched", one(unit="region"), ("text", "image"), (), "the image must stay"),
        ("mismatched", one(unit="word", level="vision"), ("text", "image"), (), "the text must stay"),
    ],
)
def test_what_cannot_be_asked_is_said(condition, task, modalities, needs, reason):
    said = obstacle(condition, task, modalities, needs)
    assert reason in said if reason else said == ""


@pytest.mark.parametrize("other", [None, "a b"])
def test_masks_are_not_put_to_a_model_without_a_token_for_them(other):
    texts = ("a [MASK]", "a [MASK]", other)
    examples = tuple(Example(str(k), str(k), text, b"x", ("x",)) for k, text in enumerate(texts))
    task = Task("t", "multimodal", "input", ("x", "y"), {"train": examples[:1], "test": examples[1:]})
    said = obstacle("matched", task, ("text", "image"), (), masks=False)
    reason = "every text has a masked word, and the model was trained without a mask token"
    wanted = f"{reason}; condition image-only asks about the image"
    assert said == ("" if other else wanted)  # a few texts with a mask are bad rows, by name
    assert obstacle("image-only", task, ("text", "image"), (), masks=False) == ""
    assert obstacle("matched", task, ("text", "image"), ()) == ""


def test_uneven_groups_are_served():
    groups = ["a"] * 5 + ["b"] * 2 + ["c"]
    donors = derange(groups, list(range(8)), 3, "test")
    assert all(groups[i] != groups[d] for i, d in enumerate(donors))
    assert len(np.unique(donors)) >= 3
