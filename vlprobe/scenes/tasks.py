"""The eight probing tasks on scenes: made, not read, so that every label is known and nothing has to be downloaded.

They ask what Salin et al. (2022) ask of photographs; `shape-class` stands for their classes of flowers. A ninth,
`thing-color`, asks about regions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice

import numpy as np

from vlprobe.digest import generator
from vlprobe.scenes.captions import (
    TAGS,
    Caption,
    blank,
    describe,
    remark_on_colour,
    remark_on_count,
    remark_on_largest,
    remark_on_truth,
    with_opposite,
    with_swapped_colours,
    with_swapped_neighbours,
)
from vlprobe.scenes.drawing import encoded
from vlprobe.scenes.scene import COLOURS, SHAPES, Scene, sample
from vlprobe.types import MASK, Example, Level, Target, Unit

WORLD = "tasks"
"""The world that all tasks are about; models are trained in others."""
PARTS = ("train", "test")
"""Even numbers of scenes are the first's, odd ones the second's: however many are asked for, no scene is in both."""


@dataclass(frozen=True, slots=True)
class Posed:
    """A task's question about one scene."""

    caption: Caption
    """What a model reads."""
    target: tuple[Target, ...]
    """One value, or one for every word or thing."""


Pose = Callable[[Scene, Caption, np.random.Generator, bool], Posed | None]
"""From a scene, its true caption, a random generator and whether the text is to tell the answer, to the question; None
where this scene and caption have not what is asked about."""


@dataclass(frozen=True)
class Recipe:
    """How one of the eight tasks is made."""

    level: Level
    """As in `Task.level`."""
    unit: Unit
    """As in `Task.unit`."""
    description: str
    """One line."""
    classes: tuple[str, ...]
    """As in `Task.classes`."""
    pose: Pose
    """Makes its question about a scene."""


def example(name: str, seed: int, number: int, tell: float = 0.0) -> Example | None:
    """Return a task's example about one scene of the world, or None where the scene lacks what the task asks about.

    The tasks share the scene, its picture and its true caption: what is altered, masked or added is the task's own.

    Args:
        name: of a task, from `RECIPES`.
        seed: of the world.
        number: of the scene.
        tell: the dial: the share of scenes whose text states the answer in a remark, `, which is false`. A scene that
            tells at 0.3 tells at 0.5. The language tasks have no remark, whatever the dial: their text holds the
            answer anyway; nor has `thing-color`, which has an answer for every thing.
    """
    scene, recipe = sample(seed, WORLD, number), RECIPES[name]
    caption = describe(scene, generator(seed, "caption", str(number)))
    if caption is None:  # every scene can be described where nothing special is wanted
        return None
    tells = bool(generator(seed, "tell", str(number)).random() < tell)
    posed = recipe.pose(scene, caption, generator(seed, "task", name, str(number)), tells)
    if posed is None:
        return None
    return Example(
        id=scene.name,
        group=scene.name,
        text=posed.caption.text,
        image=_picture(scene),
        target=posed.target,
        words=posed.caption.spans if recipe.unit == "word" else (),
        boxes=tuple(thing.box for thing in scene.things) if recipe.unit == "region" else (),
        place=f"scene {number} of seed {seed}",
    )


def examples(name: str, seed: int, part: str, wanted: int, tell: float = 0.0) -> tuple[Example, ...]:
    """Return the first `wanted` examples of one of `PARTS`; asked for fewer, it returns the first of these."""
    numbers = count(PARTS.index(part), len(PARTS))
    found = (one for number in numbers if (one := example(name, seed, number, tell)) is not None)
    return tuple(islice(found, wanted))


# 115 MB at most. The tasks of a study ask about the same scenes, each drawn once.
_picture = lru_cache(maxsize=4096)(encoded)


def _tags(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed:
    return Posed(caption, tuple(word.tag for word in caption.words))


def _shifted(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed:
    altered = _coin(rng)
    return Posed(with_swapped_neighbours(caption, rng) if altered else caption, (_yes_or_no(altered),))


def _counted(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed:
    told = caption.and_then(remark_on_count(scene)) if tells else caption
    return Posed(told, (float(len(scene.things)),))


def _classed(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed | None:
    large = [i for i, thing in enumerate(scene.things) if thing.size == "large"]
    if len(large) != 1:
        return None
    told = blank(rng)
    told = told.and_then(remark_on_largest(scene, large[0])) if tells else told
    return Posed(told, (scene.things[large[0]].shape,))


def _coloured(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed:
    return Posed(blank(rng), tuple(thing.colour for thing in scene.things))


def _masked(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed:
    stated = caption.stating("colour")
    at = stated[rng.integers(len(stated))]
    thing = caption.words[at].thing
    told = caption.with_word(at, MASK)
    told = told.and_then(remark_on_colour(scene, thing)) if tells else told
    colour = scene.things[thing].colour
    return Posed(told, tuple(colour if i == at else None for i in range(len(told.words))))


def _displaced(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed | None:
    return _opposed("place", caption, rng, tells)


def _resized(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed | None:
    return _opposed("size", caption, rng, tells)


def _opposed(fact: str, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed | None:
    stated = caption.stating(fact)
    if not stated:
        return None
    altered, at = _coin(rng), stated[rng.integers(len(stated))]
    return _judged(with_opposite(caption, at) if altered else caption, altered, tells)


def _recoloured(scene: Scene, caption: Caption, rng: np.random.Generator, tells: bool) -> Posed | None:
    if len({caption.words[i].text for i in caption.stating("colour")}) < 2:
        return None
    altered = _coin(rng)
    return _judged(with_swapped_colours(caption) if altered else caption, altered, tells)


def _judged(caption: Caption, altered: bool, tells: bool) -> Posed:
    told = caption.and_then(remark_on_truth(not altered)) if tells else caption
    return Posed(told, (_yes_or_no(altered),))


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _yes_or_no(altered: bool) -> str:
    return "1" if altered else "0"


ALTERED = ("0", "1")
"""Classes of the tasks about altered captions; 1: it was."""
RECIPES: dict[str, Recipe] = {
    "pos-tagging": Recipe("language", "word", "part-of-speech tag of every word of the caption", TAGS, _tags),
    "bigram-shift": Recipe(
        "language", "input", "were two neighbouring words of the caption swapped?", ALTERED, _shifted
    ),
    "object-count": Recipe("vision", "input", "how many things does the scene hold? (regression)", (), _counted),
    "shape-class": Recipe("vision", "input", "which of seven shapes has the one large thing?", SHAPES, _classed),
    "thing-color": Recipe("vision", "region", "which of eight colours has each thing?", COLOURS, _coloured),
    "color": Recipe("multimodal", "word", "which of eight colours was masked in the caption?", COLOURS, _masked),
    "position": Recipe(
        "multimodal", "input", "was the caption's word of place replaced by its opposite?", ALTERED, _displaced
    ),
    "size": Recipe(
        "multimodal", "input", "was a word of size in the caption replaced by its opposite?", ALTERED, _resized
    ),
    "adversarial-caption": Recipe(
        "multimodal", "input", "were the colours of the caption's two things swapped?", ALTERED, _recoloured
    ),
}
"""The tasks by name."""
