"""Questions have the right answer, statements are as true as they say, and neither gives itself away."""

from collections import Counter

import numpy as np

import scene_referee as referee
from vlprobe.digest import generator
from vlprobe.scenes.captions import vocabulary
from vlprobe.scenes.questions import ANSWERS, KINDS, PAIR_KINDS, ask, state
from vlprobe.scenes.scene import sample

SCENES = [sample(0, "left", number) for number in range(1500)]
OTHERS = [sample(0, "right", number) for number in range(1500)]
ASKED = [ask(scene, generator(0, "ask", str(number))) for number, scene in enumerate(SCENES)]
STATED = [
    state(left, right, generator(0, "state", str(number)))
    for number, (left, right) in enumerate(zip(SCENES, OTHERS, strict=True))
]


def even(values, sigmas=4):
    """Whether the shares of some values may be equal."""
    found = Counter(values)
    share, total = 1 / len(found), found.total()
    return all(abs(one / total - share) < sigmas * (share * (1 - share) / total) ** 0.5 for one in found.values())


def test_answers_are_right():
    for scene, question in zip(SCENES, ASKED, strict=True):
        assert referee.answered(scene, question.text) == question.answer, question.text


def test_all_kinds_are_asked_equally_often():
    assert {question.kind for question in ASKED} == {*KINDS}
    assert even(question.kind for question in ASKED)


def test_no_kind_has_a_preferred_answer():
    for kind in KINDS:
        assert even(question.answer for question in ASKED if question.kind == kind), kind


def test_the_same_question_is_answered_yes_as_often_as_no():
    """No word of a yes-or-no question tells its answer."""
    said = Counter()
    for question in ASKED:
        if question.answer in ("yes", "no"):
            said.update((word, question.answer) for word in {*question.text.split()})
    for word in {word for word, _ in said}:
        yes, no = said[word, "yes"], said[word, "no"]
        assert abs(yes - no) < 4.5 * (yes + no) ** 0.5, word


def test_answers_are_those_that_are_announced():
    assert {question.answer for question in ASKED} == {*ANSWERS}
    assert [*ANSWERS] == sorted({*ANSWERS})


def test_a_wrong_colour_is_that_of_another_thing():
    for scene, question in zip(SCENES, ASKED, strict=True):
        if question.kind == "is-colour" and question.answer == "no":
            colours = {one.colour for one in scene.things}
            assert question.words[3].text in colours or len(colours) == 1


def test_statements_are_as_true_as_they_say():
    for left, right, statement in zip(SCENES, OTHERS, STATED, strict=True):
        assert referee.holds(left, right, statement.text) == statement.true, statement.text


def test_statements_are_true_as_often_as_false_whatever_they_say():
    said = Counter()
    for statement in STATED:
        said.update((word, statement.true) for word in {*statement.text.split(), statement.kind})
    for word in {word for word, _ in said}:
        true, false = said[word, True], said[word, False]
        assert abs(true - false) < 4.5 * (true + false) ** 0.5, word
    assert {statement.kind for statement in STATED} == {*PAIR_KINDS}
    assert min(Counter(statement.kind for statement in STATED).values()) > len(STATED) / 4


def test_false_statements_speak_of_what_is_there():
    """Shape and colour are both to be seen, in this image or together in the other: one needs to look at both."""
    from_the_other = []
    for left, right, statement in zip(SCENES, OTHERS, STATED, strict=True):
        if statement.true or statement.kind == "more":
            continue
        words = statement.text.split()
        if statement.kind == "both":
            assert sum(any(one.shape == words[-1] for one in scene.things) for scene in (left, right)) == 1
            continue
        here, other = (left, right) if words[1] == "left" else (right, left)
        apart = {one.shape for one in here.things} >= {words[-1]} and {one.colour for one in here.things} >= {words[-2]}
        elsewhere = any((one.shape, one.colour) == (words[-1], words[-2]) for one in other.things)
        assert apart or elsewhere
        from_the_other.append(elsewhere)
    assert 0.3 < np.mean(from_the_other) < 0.7


def test_articles_fit():
    for statement in STATED:
        words = statement.text.split()
        for article, word in zip(words, words[1:], strict=False):
            assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou")


def test_every_word_is_in_the_vocabulary():
    known = {*vocabulary()}
    for line in (*ASKED, *STATED):
        assert {word.text for word in line.words} <= known
        assert all(word.tag for word in line.words)


def test_the_same_draw_gives_the_same_question():
    assert ask(SCENES[3], generator(0, "ask", "3")) == ASKED[3]
    assert state(SCENES[3], OTHERS[3], generator(0, "state", "3")) == STATED[3]
