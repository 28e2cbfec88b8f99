"""What a network is shown in a step of training, and what it is to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.scenes.captions import (
    Caption,
    Words,
    describe,
    remark_on_colour,
    remark_on_count,
    remark_on_largest,
    remark_on_truth,
    with_opposite,
    with_swapped_colours,
)
from vlprobe.scenes.scene import COLOURS, Scene
from vlprobe.zoo.words import CLS, MASK, PAD, PIECES, SEP, ids_of

IGNORED = -100
"""Label of a position that is not asked about."""
FACTS = ("colour", "size", "place", "shape", "truth", "count")
"""Words that state one of these are masked more often than the others."""
FACT_MASKED, OTHER_MASKED = 0.35, 0.08
"""Shares of the words that are masked."""
REMARKED, ALTERED = 0.35, 0.5
"""Shares of the captions that get a remark, and, among those with a remark on truth, that are made false."""


@dataclass(frozen=True)
class Text:
    """Texts as a network takes them."""

    ids: torch.Tensor
    """(text, position) int64."""
    mask: torch.Tensor
    """(text, position) bool: False is padding."""


def written(sentences: Sequence[Sequence[str]], cased: bool) -> Text:
    """Return sentences as [CLS] words [SEP], padded on the right."""
    longest = max(len(words) for words in sentences) + 2
    ids = np.full((len(sentences), longest), PAD, dtype=np.int64)
    for row, words in enumerate(sentences):
        ids[row, 0], ids[row, len(words) + 1] = CLS, SEP
        ids[row, 1 : len(words) + 1] = ids_of(words, cased)
    return Text(torch.from_numpy(ids), torch.from_numpy(ids != PAD))


def strings(words: Words) -> list[str]:
    """Return what is written."""
    return [word.text for word in words]


def described(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a true caption; every scene has two things that one can be made of."""
    caption = describe(scene, rng)
    if caption is None:
        raise ValueError(f"scene {scene.name} has no caption")
    return caption


def remarked(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a caption that may end with a remark; the remark is honest, the caption it follows may be false."""
    caption = described(scene, rng)
    if rng.random() >= REMARKED:
        return caption
    kind = rng.integers(4)
    if kind == 0:
        large = [i for i, thing in enumerate(scene.things) if thing.size == "large"]
        return caption.and_then(remark_on_largest(scene, large[0])) if len(large) == 1 else caption
    if kind == 1:
        return caption.and_then(remark_on_count(scene))
    if kind == 2:
        told = [caption.words[i].thing for i in caption.stating("colour")]
        return caption.and_then(remark_on_colour(scene, told[rng.integers(len(told))]))
    true = rng.random() >= ALTERED
    return (caption if true else altered(caption, scene, rng)).and_then(remark_on_truth(true))


def altered(caption: Caption, scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a false caption that is as good a sentence: one fact is changed, or two colours change places."""
    ways: list[Callable[[], Caption]] = []
    colours = caption.stating("colour")
    if len({caption.words[i].text for i in colours}) == 2:
        ways.append(lambda: with_swapped_colours(caption))
    ways.append(lambda: _recoloured(caption, colours[rng.integers(len(colours))], rng))
    sizes, places = caption.stating("size"), caption.stating("place")
    if sizes:
        ways += [lambda: with_opposite(caption, sizes[rng.integers(len(sizes))])]
    if places:
        ways += [lambda: with_opposite(caption, places[0])] * 2
    return ways[rng.integers(len(ways))]()


def _recoloured(caption: Caption, index: int, rng: np.random.Generator) -> Caption:
    others = [colour for colour in COLOURS if colour != caption.words[index].text]
    return caption.with_word(index, others[rng.integers(len(others))])


def masked(
    captions: Sequence[Caption], cased: bool, rng: np.random.Generator, first: int | None = None
) -> tuple[Text, torch.Tensor]:
    """Return captions with words masked, and (text, position) labels: the word that stood there, or `IGNORED`.

    Of the chosen words 80 % become [MASK], 10 % another word, 10 % stay (Devlin et al. 2019).

    Args:
        captions: what is written.
        cased: whether capitals are kept.
        rng: chooses the words.
        first: how many captions, from the first, have words masked; None: all.
    """
    text = written([strings(caption.words) for caption in captions], cased)
    ids = text.ids.numpy().copy()
    share = np.zeros(ids.shape)
    for row, caption in enumerate(captions[:first]):
        for place, word in enumerate(caption.words, start=1):
            share[row, place] = FACT_MASKED if word.fact in FACTS else OTHER_MASKED
    chosen = rng.random(ids.shape) < share
    fate = rng.random(ids.shape)
    labels = np.where(chosen, text.ids.numpy(), IGNORED)
    ids[chosen & (fate < 0.8)] = MASK
    other = chosen & (fate >= 0.9)
    ids[other] = rng.integers(len(PIECES), size=int(other.sum()))
    return Text(torch.from_numpy(ids), text.mask), torch.from_numpy(labels)


def with_masked_word(captions: Sequence[Caption], places: Sequence[int] | np.ndarray, cased: bool) -> Text:
    """Return captions with one word masked each.

    Args:
        captions: what is written.
        places: which word of each.
        cased: whether capitals are kept.
    """
    hidden = [caption.with_word(place, "[MASK]") for caption, place in zip(captions, places, strict=True)]
    return written([strings(caption.words) for caption in hidden], cased)
