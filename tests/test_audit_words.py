"""What words alone tell: found where they do, in words, and not where they do not; hints at labels they contradict."""

import numpy as np
import pytest
from test_audit import clean, found, ids, made, row, wrong

from vlprobe.audit import CHECKS, NotRun
from vlprobe.audit.subject import look_at
from vlprobe.statistics import interval
from vlprobe.tasks import load_task
from vlprobe.tasks.rows import Draft, grouped
from vlprobe.types import Example, Task

FILLERS = [f"filler{k}" for k in range(40)]


def rows(count=400, telling=1.0, seed=0, flip=()):
    """Labels a and b; the text holds `inside` or `outside`, which tells the label as often as is said."""
    rng = np.random.default_rng(seed)
    drafts = []
    for i in range(count):
        label = "ab"[int(rng.integers(2))]
        told = label if rng.random() < telling else "ab"[int(rng.integers(2))]
        words = [*rng.choice(FILLERS, 7).tolist(), "inside" if told == "a" else "outside", f"only{i}"]
        shown = {"a": "b", "b": "a"}[label] if i in flip else label
        drafts.append(row("train" if i < count * 0.6 else "test", i, shown, " ".join(words), image=f"{i}.jpg"))
    return drafts


def scores(task):
    return next(fault for fault in found(task, "words") if fault.check == "words")


def test_words_that_tell_are_found_and_named():
    fault = scores(made(rows()))
    assert fault.severity == "warning"
    assert fault.figures["tells"] and not fault.figures["misleads"]
    for name in "bag-of-words", "n-grams":
        assert fault.figures[name]["score"] > 0.97
        assert fault.figures[name]["interval"][1] >= fault.figures[name]["score"]
    (telling,) = [each for each in found(made(rows()), "words") if each.check == "telling words"]
    assert ids(telling) == ["inside", "outside"]
    train = [draft for draft in rows() if draft.split == "train"]
    inside = sum("inside" in draft.example.text.split() for draft in train)
    assert f"label a: {inside} of {inside} (100.0 %) in train" in telling.cases[0].told


def test_in_a_language_task_the_text_may_tell():
    assert scores(made(rows(), "language")).severity == "note"


def test_words_that_tell_nothing_are_not_blamed():
    """At the 5 % level: of twelve data sets without a fault, one may be blamed, and one's labels be called in question.

    Of eighty, two were blamed, and one was told to have words that tell its labels.
    """
    blamed = questioned = 0
    for seed in range(12):
        task = made(rows(120, telling=0.0, seed=seed))
        blamed += wrong(task, "words") != []
        said = list(CHECKS["words"](look_at(task)))
        questioned += [each.check for each in said if isinstance(each, NotRun)] != ["label noise"]
    assert blamed <= 1 and questioned <= 1


def test_the_score_and_its_interval_are_those_of_the_answers():
    """A text of one word: what it scores is counted by hand."""
    drafts = [row("train", i, "ab"[i % 2], text="ab"[i % 2], image=f"{i}.jpg", group=f"g{i}") for i in range(60)]
    wrong_ones = 7
    for i in range(40):
        label = "ab"[i % 2]
        text = label if i >= wrong_ones else "ba"[i % 2]
        drafts.append(row("test", 100 + i, label, text=text, group=f"t{i // 2}"))
    figures = scores(made(drafts)).figures
    assert figures["bag-of-words"]["score"] == pytest.approx(33 / 40)
    right = np.array([i >= wrong_ones for i in range(40)])
    group = np.array([f"t{i // 2}" for i in range(40)])
    assert figures["bag-of-words"]["interval"] == pytest.approx(interval(right, np.ones(40, bool), group, "accuracy"))
    assert figures["majority"] == 0.5


def test_leaking_rows_of_the_other_label_mislead_what_learns_by_heart():
    rng = np.random.default_rng(0)
    drafts = []
    for i in range(200):
        words = " ".join(rng.choice([f"w{k}" for k in range(400)], 8))
        label = "ab"[i % 2]
        drafts.append(row("train", 2 * i, label, words, image=f"{i}.jpg", group=f"g{i}"))
        if i < 120:
            drafts.append(row("test", 2 * i + 1, "ba"[i % 2], f"{words} yes", image=f"{i}.jpg", group=f"g{i}"))
    kept, leaking = [fault for fault in found(made(drafts), "words") if fault.check == "words"]
    assert (kept.severity, leaking.severity) == ("note", "warning")
    assert leaking.figures["misleads"] and leaking.figures["n-grams"]["score"] < 0.1
    assert leaking.statement.startswith("with the train rows that share a group with test")
    assert len([fault for fault in found(made(rows()), "words") if fault.check == "words"]) == 1


def test_labels_that_words_contradict_are_hinted_at():
    flipped = tuple(range(3, 400, 40))
    (hint,) = [fault for fault in found(made(rows(flip=flipped)), "words") if fault.check == "label noise"]
    assert hint.severity == "note"
    hinted = set(ids(hint))
    assert hinted <= {f"r{i}" for i in flipped} and len(hinted) >= 9  # of ten
    assert hint.figures["expected"] == pytest.approx(len(flipped), rel=1.0)
    assert [fault for fault in found(made(rows()), "words") if fault.check == "label noise"] == []
    # Words that tell four times out of five are contradicted by 80 rows, and next to never surely.
    task = made(rows(telling=0.6))
    assert scores(task).figures["tells"]
    assert sum(fault.count for fault in found(task, "words") if fault.check == "label noise") <= 2


def tagged(sentences):
    drafts = []
    for i, (text, tags) in enumerate(sentences):
        words, start = [], 0
        for word in text.split():
            words.append((start, start + len(word)))
            start += len(word) + 1
        part = "train" if i % 3 else "test"
        example = Example(f"s{i}", "", text, None, tuple(tags.split()), tuple(words), place=f"x, row {i}")
        drafts.append(Draft(part, example, f"s{i}", (("text", f"{i}"),)))
    classes = sorted({tag for _, tags in sentences for tag in tags.split()})
    return Task("tags", "language", "word", tuple(classes), grouped(drafts))


def test_a_word_that_is_tagged_otherwise_between_the_same_words():
    same = [(f"the{i} old man the boats", "D A V D N") for i in range(4)]
    odd = [("he says old man the boats", "P V A N D N"), ("see old man the boats", "V A V D N")]
    fault = [each for each in found(tagged(same + odd), "words") if each.check == "label noise"]
    assert fault == []  # other words on the left: another context
    odd = [("the1 old man the boats", "D A N D N"), ("the1 old man the boats", "D A V D N")]
    (fault,) = [each for each in found(tagged(same + odd), "words") if each.check == "label noise"]
    assert (fault.count, fault.of, ids(fault)) == (1, 30, ["s4"])
    assert fault.cases[0].told == "'man' in 'the1 old man the boats' is N here, V in 2 of 3"


def test_numbers_are_scored_by_r2():
    drafts = [
        row("train" if i < 160 else "test", i, float(i % 8), f"there are n{i % 8} of them x{i}") for i in range(240)
    ]
    figures = scores(made(drafts, "vision")).figures
    assert figures["metric"] == "r2" and figures["bag-of-words"]["score"] > 0.95
    assert figures["majority"] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("name", ["size", "shape-class"])
def test_drawn_scenes_tell_as_their_dial_says(name):
    """Tasks whose text is known to tell always, or never."""
    for tell in (0.0, 1.0):
        task = load_task({"name": name, "scenes": {"train": 240, "test": 120, "tell": tell}})
        assert scores(task).figures["tells"] == bool(tell)
        assert scores(task).severity == ("warning" if tell else "note")


def test_without_a_text_words_are_not_scored():
    drafts = [row("train" if i < 40 else "test", i, "ab"[i % 2], text="", image=f"{i}.jpg") for i in range(60)]
    (said,) = CHECKS["words"](look_at(made(drafts, "vision")))
    assert said == NotRun("words", "the data have no texts")
    (said,) = CHECKS["words"](look_at(made([*clean(), row("test", 900, "a", text="", image="x.jpg")])))
    assert said == NotRun("words", "not every row has a text")
