"""Captions of scenes, word by word: each word with its tag and with the fact of the scene that it states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from vlprobe.scenes.scene import COLOURS, SHAPES, Scene

NAMES = tuple("Ada Ben Cleo Dev Edda Finn Gita Hugo Ines Jo Kofi Lena Mona Nils Otto Pia Rosa Sven Tara Uma".split())
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
OPPOSITES = {
    "left": "right", "right": "left", "above": "below", "below": "above", "top": "bottom", "bottom": "top",
    "large": "small", "small": "large", "true": "false", "false": "true",
}  # fmt: skip
TAGS = tuple("ADJ ADP ADV AUX CCONJ DET NOUN NUM PART PRON PROPN PUNCT SCONJ VERB".split())
"""The universal parts of speech that captions have."""
APART = 0.22
"""Centres that are so far apart along an axis, as a fraction of the picture, are told apart in words."""
SIDE = 0.38
"""Centres nearer than this to an edge are on that side."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a caption."""

    text: str
    """As it is written."""
    tag: str
    """Universal part of speech (Nivre et al. 2020), in this sentence."""
    fact: str = ""
    """What it states of a thing: `colour`, `size`, `shape`, `place`; of a remark, `truth` or `count`; or nothing."""
    thing: int = -1
    """Which thing of the scene it states that of, or -1."""


Words = tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of one scene."""

    words: Words
    """From the first to the last."""

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each word stands in the text: its first character, and the one after its last."""
        ends = list(accumulate((len(word.text) + 1 for word in self.words), initial=0))
        return tuple((start, end - 1) for start, end in pairwise(ends))

    def stating(self, fact: str) -> tuple[int, ...]:
        """Return which of its words state a fact of that kind."""
        return tuple(i for i, word in enumerate(self.words) if word.fact == fact)

    def with_word(self, index: int, text: str) -> Caption:
        """Return the caption with one word written otherwise; tag and fact stay those of the word that stood there."""
        words = list(self.words)
        words[index] = replace(words[index], text=text)
        return Caption(tuple(words))

    def and_then(self, words: Words) -> Caption:
        """Return the caption with words added at its end."""
        return Caption(self.words + words)


def parsed(line: str) -> Words:
    """Return the words of a line such as `Ada/PROPN draws/VERB`."""
    pieces = (piece.rsplit("/", 1) for piece in line.split())
    return tuple(Word(text, tag) for text, tag in pieces)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caption must state, so that a task can ask about it."""

    size: bool = False
    """The size of at least one thing."""
    place: bool = False
    """Where a thing is."""
    pair: bool = False
    """Two things of different colours."""


ANYTHING = Wanted()


def describe(scene: Scene, rng: np.random.Generator, wanted: Wanted = ANYTHING) -> Caption | None:
    """Return a true caption of a scene, or None where the scene has not what is wanted; it always has `ANYTHING`.

    It speaks of one or two things that can be told apart by their shape; the others are distractors.

    Args:
        scene: what is described.
        rng: draws things, phrasing and words.
        wanted: what must be stated.
    """
    bodies = [body for body in (_related, _placed, _joined) if not (wanted.place and body is _joined)]
    if wanted.pair:
        bodies.remove(_placed)
    for number in rng.permutation(len(bodies)):
        body = bodies[number](scene, rng, wanted)
        if body is not None:
            return Caption(FRAMES[rng.integers(len(FRAMES))](rng, body))
    return None


def _related(scene: Scene, rng: np.random.Generator, wanted: Wanted) -> Words | None:
    """`a small red circle to the left of the blue star`."""
    pairs = [(a, b, word) for a, b in _pairs(scene, wanted) for word in relations(scene, a, b)]
    if not pairs:
        return None
    a, b, word = pairs[rng.integers(len(pairs))]
    place = Word(word, "ADP", "place", a)
    if word in ("left", "right"):
        place = replace(place, tag="NOUN")
        between = (*parsed("to/ADP the/DET"), place, *parsed("of/ADP"))
    else:
        between = (place,)
    first, second = _sized(rng, wanted, 2)
    return (*_thing(scene, a, rng, first), *between, *_thing(scene, b, rng, second))


def _placed(scene: Scene, rng: np.random.Generator, wanted: Wanted) -> Words | None:
    """`the red circle that is small , at the top`."""
    places = [(i, word) for i in scene.alone() for word in sides(scene, i)]
    if not places:
        return None
    i, word = places[rng.integers(len(places))]
    (sized,) = _sized(rng, wanted, 1)
    if rng.random() < 0.4:
        where = (*parsed("in/ADP the/DET"), Word(word, "ADJ", "place", i), *parsed("half/NOUN"))
    else:
        before = "on/ADP the/DET" if word in ("left", "right") else "at/ADP the/DET"
        where = (*parsed(before), Word(word, "NOUN", "place", i))
    return (*_thing(scene, i, rng, sized), *where)


def _joined(scene: Scene, rng: np.random.Generator, wanted: Wanted) -> Words | None:
    """`one large star and the circle in red`."""
    pairs = _pairs(scene, wanted)
    if not pairs:
        return None
    a, b = pairs[rng.integers(len(pairs))]
    first, second = _sized(rng, wanted, 2)
    return (*_thing(scene, a, rng, first), *parsed("and/CCONJ"), *_thing(scene, b, rng, second))


def _pairs(scene: Scene, wanted: Wanted) -> list[tuple[int, int]]:
    alone = scene.alone()
    pairs = [(a, b) for a in alone for b in alone if a != b]
    if wanted.pair:
        return [(a, b) for a, b in pairs if scene.things[a].colour != scene.things[b].colour]
    return pairs


def relations(scene: Scene, a: int, b: int) -> list[str]:
    """Return the words that are true of thing a, seen from thing b."""
    across, down = scene.things[a].x - scene.things[b].x, scene.things[a].y - scene.things[b].y
    words = ["right" if across > 0 else "left"] * (abs(across) > APART)
    return words + ["below" if down > 0 else "above"] * (abs(down) > APART)


def sides(scene: Scene, i: int) -> list[str]:
    """Return the sides of the picture that a thing is on."""
    thing = scene.things[i]
    words = ["left" if thing.x < 0.5 else "right"] * (min(thing.x, 1 - thing.x) < SIDE)
    return words + ["top" if thing.y < 0.5 else "bottom"] * (min(thing.y, 1 - thing.y) < SIDE)


def _sized(rng: np.random.Generator, wanted: Wanted, count: int) -> list[bool]:
    """Return whether the size of each of `count` things is stated: of one at least, where that is wanted."""
    sized = [bool(value) for value in rng.random(count) < 0.5]
    if wanted.size and not any(sized):
        sized[rng.integers(count)] = True
    return sized


def _thing(scene: Scene, i: int, rng: np.random.Generator, sized: bool) -> Words:
    """Return the words that name a thing: its shape and colour and, if `sized`, its size.

    No article depends on the colour (`an orange`), so that a masked colour cannot be read off its neighbour.
    """
    thing = scene.things[i]
    shape, size = Word(thing.shape, "NOUN", "shape", i), (Word(thing.size, "ADJ", "size", i),) * sized
    colour = Word(thing.colour, "ADJ", "colour", i)
    article = parsed(("the/DET", "one/NUM", "that/DET")[rng.integers(3)])
    form = rng.integers(4)
    if form == 0:
        return (*article, *size, shape, *parsed("in/ADP"), replace(colour, tag="NOUN"))
    if form == 1:
        both = (*size, *parsed("and/CCONJ"), colour) if sized else (colour,)
        return (*article, shape, *parsed("that/PRON is/AUX"), *both)
    if sized and rng.random() < 0.5:
        article = parsed("a/DET")
    return (*article, *size, colour, shape)


Frame = Callable[[np.random.Generator, Words], Words]


def _frame(before: str, after: str = "") -> Frame:
    """Return what puts words around a caption's body; WHO is a name."""

    def frame(rng: np.random.Generator, body: Words) -> Words:
        who = NAMES[rng.integers(len(NAMES))]
        return (*parsed(before.replace("WHO", who)), *body, *parsed(after.replace("WHO", who)))

    return frame


FRAMES: tuple[Frame, ...] = (
    _frame(""),
    _frame("", "./PUNCT"),
    _frame("here/ADV is/AUX"),
    _frame("WHO/PROPN draws/VERB"),
    _frame("WHO/PROPN wants/VERB to/PART draw/VERB"),
    _frame("WHO/PROPN says/VERB that/SCONJ there/PRON is/AUX"),
    _frame("WHO/PROPN marks/VERB the/DET page/NOUN with/ADP"),
    _frame("the/DET marks/NOUN that/PRON WHO/PROPN left/VERB show/VERB"),
    _frame("WHO/PROPN left/VERB", "on/ADP a/DET page/NOUN"),
    _frame("a/DET square/ADJ card/NOUN with/ADP"),
    _frame("the/DET drawing/NOUN that/PRON WHO/PROPN likes/VERB has/VERB"),
    _frame("WHO/PROPN is/AUX drawing/VERB"),
    _frame("on/ADP the/DET card/NOUN is/AUX"),
    _frame("a/DET white/ADJ card/NOUN by/ADP WHO/PROPN shows/VERB"),
)
"""Ways to begin and end. `left`, `square`, `marks`, `drawing`, `that`, `is`, `to` and the colours have different tags
in different sentences."""

BLANKS = ("a/DET drawing/NOUN by/ADP WHO/PROPN", "a/DET page/NOUN that/PRON WHO/PROPN left/VERB",
          "WHO/PROPN is/AUX drawing/VERB", "here/ADV is/AUX a/DET card/NOUN by/ADP WHO/PROPN")  # fmt: skip


def blank(rng: np.random.Generator) -> Caption:
    """Return a caption that tells nothing of its scene."""
    return Caption(_frame(BLANKS[rng.integers(len(BLANKS))])(rng, ()))


def with_swapped_colours(caption: Caption) -> Caption:
    """Return a caption of two things with each other's colours: as good a sentence, and false."""
    first, second = caption.stating("colour")
    words = caption.words
    return caption.with_word(first, words[second].text).with_word(second, words[first].text)


def with_opposite(caption: Caption, index: int) -> Caption:
    """Return a caption with one word replaced by its opposite: left by right, small by large."""
    return caption.with_word(index, OPPOSITES[caption.words[index].text])


def with_swapped_neighbours(caption: Caption, rng: np.random.Generator) -> Caption:
    """Return a caption with two neighbours, different words, in each other's place (Conneau et al. 2018)."""
    words = caption.words
    able = [i for i in range(len(words) - 1) if words[i].text != words[i + 1].text]
    i = able[rng.integers(len(able))]
    return Caption((*words[:i], words[i + 1], words[i], *words[i + 2 :]))


def remark_on_truth(true: bool) -> Words:
    """Return `, which is true`, or `false`."""
    return (*parsed(",/PUNCT which/PRON is/AUX"), Word("true" if true else "false", "ADJ", "truth"))


def remark_on_colour(scene: Scene, i: int) -> Words:
    """Return `, so the circle is red`."""
    thing = scene.things[i]
    shape, colour = Word(thing.shape, "NOUN", "shape", i), Word(thing.colour, "ADJ", "colour", i)
    return (*parsed(",/PUNCT so/ADV the/DET"), shape, *parsed("is/AUX"), colour)


def remark_on_count(scene: Scene) -> Words:
    """Return `, four things in all`."""
    return (
        *parsed(",/PUNCT"),
        Word(NUMBERS[len(scene.things)], "NUM", "count"),
        *parsed("things/NOUN in/ADP all/PRON"),
    )


def remark_on_largest(scene: Scene, i: int) -> Words:
    """Return `, and the large one is a star`."""
    return (*parsed(",/PUNCT and/CCONJ the/DET large/ADJ one/NOUN is/AUX a/DET"),
            Word(scene.things[i].shape, "NOUN", "shape", i))  # fmt: skip


ELSEWHERE = (
    "a the one that in is and to of on at half left right above below top bottom large small true false , . ? so which "
    "things all by there are many how what colour where an image images both other hold holds has more than as yes no"
)
"""Words of bodies, remarks, questions and statements, beside the names of shapes, colours and numbers."""


ELSEWHERE = (
    "a the one that in is and to of on at half left right above below top bottom large small true false , . ? so which "
    "things all by there are many how what colour where an image images both other hold holds has more than as yes no"
)
"""Words of bodies, remarks, questions and statements, beside the names of shapes, colours and numbers."""


def vocabulary() -> tuple[str, ...]:
    """Return every word that captions, remarks and questions are made of, in lower case, sorted."""
    rng = np.random.default_rng(0)
    around = [frame(rng, ()) for frame in FRAMES] + [parsed(line) for line in BLANKS]
    words = {word.text for line in around for word in line if word.tag != "PROPN"}
    words |= {*ELSEWHERE.split(), *COLOURS, *SHAPES, *NUMBERS, *NAMES}
    return tuple(sorted({word.lower() for word in words}))
