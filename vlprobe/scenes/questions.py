"""Questions about scenes and statements about pairs of them, each with its answer: what VQA and NLVR2 ask of photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlprobe.scenes.captions import NUMBERS, OPPOSITES, Word, Words, parsed, relations
from vlprobe.scenes.scene import COLOURS, FEWEST, MOST, SHAPES, SIZES, Scene

ANSWERS = tuple(sorted((*COLOURS, *NUMBERS[FEWEST : MOST + 1], "no", "yes")))
"""Every answer of `ask`."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene, as VQA asks it."""

    words: Words
    """From the first to the question mark."""
    answer: str
    """One of `ANSWERS`."""
    kind: str
    """One of `KINDS`."""

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence about a left and a right scene that is true or false, as in NLVR2."""

    words: Words
    """From the first to the last."""
    true: bool
    """Whether it is."""
    kind: str
    """One of `PAIR_KINDS`."""

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    """Return a question about a scene; all kinds are equally frequent, and in each, `yes` and `no` are.

    A thing is called by its shape only where no other has that shape.

    Args:
        scene: what is asked about.
        rng: draws kind, thing and answer.
    """
    kind = tuple(KINDS)[rng.integers(len(KINDS))]
    words, answer = KINDS[kind](scene, rng)
    return Question(words, answer, kind)


def state(left: Scene, right: Scene, rng: np.random.Generator) -> Statement:
    """Return a statement about two scenes, true as often as false, so that its kind and words do not tell which.

    Kinds that these scenes cannot both fulfil and fail are not used: without a shape that both hold, there is no true
    statement that both hold one.

    Args:
        left: the first image.
        right: the second image.
        rng: draws truth, kind and things.
    """
    true = _coin(rng)
    made = [(kind, make(left, right, true, rng)) for kind, make in PAIR_KINDS.items()]
    usable = [(kind, words) for kind, words in made if words is not None]
    kind, words = usable[rng.integers(len(usable))]
    return Statement(words, true, kind)


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _alone(scene: Scene, rng: np.random.Generator) -> int:
    alone = scene.alone()
    return alone[rng.integers(len(alone))]


def _named(scene: Scene, i: int) -> Words:
    """Return `the circle`."""
    return (*parsed("the/DET"), Word(scene.things[i].shape, "NOUN", "shape", i))


def _said(yes: bool) -> str:
    return "yes" if yes else "no"


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`what colour is the circle ?`."""
    i = _alone(scene, rng)
    words = (*parsed("what/DET colour/NOUN is/AUX"), *_named(scene, i), *parsed("?/PUNCT"))
    return words, scene.things[i].colour


def _count(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`how many things are there ?`."""
    return parsed("how/ADV many/ADJ things/NOUN are/AUX there/PRON ?/PUNCT"), NUMBERS[len(scene.things)]


def _exists(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`is there a star ?`."""
    yes = _coin(rng)
    there = {thing.shape for thing in scene.things}
    shapes = [shape for shape in SHAPES if (shape in there) == yes]
    shape = Word(shapes[rng.integers(len(shapes))], "NOUN")
    return (*parsed("is/AUX there/PRON a/DET"), shape, *parsed("?/PUNCT")), _said(yes)


def _is_colour(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`is the circle red ?`: where it is not, another thing is, if the scene has another colour at all."""
    i, yes = _alone(scene, rng), _coin(rng)
    own = scene.things[i].colour
    others = [thing.colour for thing in scene.things if thing.colour != own]
    wrong = others or [colour for colour in COLOURS if colour != own]
    colour = Word(own if yes else wrong[rng.integers(len(wrong))], "ADJ")
    return (*parsed("is/AUX"), *_named(scene, i), colour, *parsed("?/PUNCT")), _said(yes)


def _is_size(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`is the circle large ?`."""
    i, size = _alone(scene, rng), SIZES[rng.integers(len(SIZES))]
    words = (*parsed("is/AUX"), *_named(scene, i), Word(size, "ADJ"), *parsed("?/PUNCT"))
    return words, _said(scene.things[i].size == size)


def _where(scene: Scene, rng: np.random.Generator) -> tuple[Words, str]:
    """`is the circle to the left of the star ?`."""
    a, b = rng.permutation(scene.alone())[:2]
    true = relations(scene, a, b)
    word, yes = true[rng.integers(len(true))], _coin(rng)
    word = word if yes else OPPOSITES[word]
    place = f"to/ADP the/DET {word}/NOUN of/ADP" if word in ("left", "right") else f"{word}/ADP"
    words = (*parsed("is/AUX"), *_named(scene, int(a)), *parsed(place), *_named(scene, int(b)), *parsed("?/PUNCT"))
    return words, _said(yes)


KINDS: dict[str, Callable[[Scene, np.random.Generator], tuple[Words, str]]] = {
    "colour": _colour,
    "count": _count,
    "exists": _exists,
    "is-colour": _is_colour,
    "is-size": _is_size,
    "where": _where,
}
"""The kinds of questions about one scene."""


def _holds(left: Scene, right: Scene, true: bool, rng: np.random.Generator) -> Words:
    """`the left image holds a red circle`.

    A false one speaks of a thing of the other image, or joins a shape and a colour that the image has apart.
    """
    on_left = _coin(rng)
    here, other = (left, right) if on_left else (right, left)
    kinds = [(thing.shape, thing.colour) for thing in here.things]
    if not true:
        held, colours = kinds, [colour for _, colour in kinds]
        elsewhere = [(thing.shape, thing.colour) for thing in other.things]
        apart = [(shape, colour) for shape, _ in held for colour in colours if (shape, colour) not in held]
        elsewhere = [pair for pair in elsewhere if pair not in held]
        kinds = elsewhere if elsewhere and (not apart or _coin(rng)) else apart
        # Two scenes of the same pairs, all of one colour: any other colour is false.
        kinds = kinds or [(shape, colour) for shape, _ in held for colour in COLOURS if (shape, colour) not in held]
    shape, colour = kinds[rng.integers(len(kinds))]
    article = "an" if colour[0] in "aeiou" else "a"
    side = "left" if on_left else "right"
    return parsed(f"the/DET {side}/ADJ image/NOUN holds/VERB {article}/DET {colour}/ADJ {shape}/NOUN")


def _both(left: Scene, right: Scene, true: bool, rng: np.random.Generator) -> Words | None:
    """`both images hold a star`: a false one speaks of a shape that one of them holds."""
    a, b = {thing.shape for thing in left.things}, {thing.shape for thing in right.things}
    if not a & b or not a ^ b:
        return None
    shapes = sorted(a & b if true else a ^ b)
    return parsed(f"both/DET images/NOUN hold/VERB a/DET {shapes[rng.integers(len(shapes))]}/NOUN")


def _more(left: Scene, right: Scene, true: bool, rng: np.random.Generator) -> Words | None:
    """`the left image has more things than the right image`."""
    if len(left.things) == len(right.things):
        return None
    more_left = (len(left.things) > len(right.things)) == true
    first, second = ("left", "right") if more_left else ("right", "left")
    things = "image/NOUN has/VERB more/ADJ things/NOUN than/SCONJ the/DET"
    return parsed(f"the/DET {first}/ADJ {things} {second}/ADJ image/NOUN")


PAIR_KINDS: dict[str, Callable[[Scene, Scene, bool, np.random.Generator], Words | None]] = {
    "holds": _holds,
    "both": _both,
    "more": _more,
}
"""The kinds of statements about two scenes."""
