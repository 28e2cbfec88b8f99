"""What each model of the zoo is to learn: a batch, its losses, and scores on scenes that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812

from vlprobe.digest import generator
from vlprobe.scenes.captions import Caption
from vlprobe.scenes.questions import ANSWERS, ask, state
from vlprobe.scenes.scene import COLOURS, FEWEST, MOST, SHAPES, SIZES, Scene
from vlprobe.zoo.batches import (
    IGNORED,
    Text,
    altered,
    described,
    masked,
    remarked,
    strings,
    with_masked_word,
    written,
)
from vlprobe.zoo.corpus import Corpus
from vlprobe.zoo.networks import PATCH, SIDE, WIDTH, Images, Joint, States
from vlprobe.zoo.training import Learner
from vlprobe.zoo.words import PIECES, ids_of

TRUE, ALTERED = 0.5, 0.35
"""Shares of the captions that are matched with their image: true ones, and false ones that differ in a fact; the rest
are true of another image."""
HIDDEN = 0.15
"""Share of the regions whose features are hidden, to be guessed."""
CELL_LABELS = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))
"""Of a cell of a picture: shape, colour and size of what covers it, or paper."""
TESTED = 1000
"""Held-out examples of a score."""


def word_head() -> nn.Sequential:
    """Return BERT's head for masked words: (…, width) -> (…, piece)."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(PIECES)))


def answer_head(inputs: int, answers: int) -> nn.Sequential:
    """Return the head of VQA and NLVR2: two layers, as in UNITER and LXMERT."""
    return nn.Sequential(
        nn.Linear(inputs, 2 * WIDTH), nn.GELU(), nn.LayerNorm(2 * WIDTH), nn.Linear(2 * WIDTH, answers)
    )


def guessed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy over the positions that are asked about."""
    asked = labels != IGNORED
    return F.cross_entropy(logits[asked], labels[asked])


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows whose largest logit is the label's."""
    return (logits.argmax(dim=-1) == labels).float().mean().item()


class TextLearner(Learner):
    """BERT: masked words of captions; it never sees an image."""

    def __init__(self, layers: int, settings: dict[str, Any], train: Corpus, test: Corpus) -> None:
        super().__init__()
        config = transformers.BertConfig(**settings, num_hidden_layers=layers, type_vocab_size=2)
        self.body, self.words = transformers.BertModel(config), word_head()
        self.train_scenes, self.test_scenes = train.scenes, test.scenes

    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """See `Learner`."""
        chosen = rng.integers(len(self.train_scenes), size=size)
        text, labels = masked([remarked(self.train_scenes[i], rng) for i in chosen], False, rng)
        output = self.body(input_ids=text.ids, attention_mask=text.mask.long())
        # The pooler is to be trained too, or a probe would read random weights: is there a remark?
        return {"masked words": guessed(self.words(output.last_hidden_state), labels)}

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Return how often a masked word of a kind is guessed, without the image."""
        return facts_guessed(self.test_scenes, False, lambda text, _: self.words(self._states(text)))

    def _states(self, text: Text) -> torch.Tensor:
        states: torch.Tensor = self.body(input_ids=text.ids, attention_mask=text.mask.long()).last_hidden_state
        return states


class PictureLearner(Learner):
    """ViT and ResNet: which shapes of which colours are there, how many things, and what covers each cell of the grid.

    The last is token labelling (Jiang et al. 2021, arXiv:2104.10858): every cell is classified too, without which a
    transformer over so few pictures hardly learns shapes.
    """

    def __init__(self, body: nn.Module, width: int, grid: int, train: Corpus, test: Corpus) -> None:
        super().__init__()
        self.body, self.classifier = body, nn.Linear(width, len(SHAPES) * len(COLOURS) + MOST - FEWEST + 1)
        self.cells = nn.Linear(width, sum(CELL_LABELS))
        self.train_corpus, self.test_corpus = train, test
        self.covers = torch.stack([covering(scene, grid) for scene in train.scenes])

    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """See `Learner`."""
        chosen = rng.integers(len(self.train_corpus.scenes), size=size)
        kinds, counts = self._labels(self.train_corpus.scenes, chosen)
        whole, cells = self._logits(self.train_corpus.images(chosen))
        # Four of 56 kinds are there on average: weighted so that they count for as much as the rest.
        return {
            "kinds of things": 10 * F.binary_cross_entropy_with_logits(whole[:, : kinds.shape[1]], kinds),
            "count": 0.3 * F.cross_entropy(whole[:, kinds.shape[1] :], counts),
            "cells": cell_loss(cells, self.covers[chosen]),
        }

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Return the share of the kinds there that are among the likeliest, and the accuracy of the count."""
        chosen = np.arange(min(TESTED, len(self.test_corpus.scenes)))
        kinds, counts = self._labels(self.test_corpus.scenes, chosen)
        logits = torch.cat([self._logits(self.test_corpus.images(part))[0] for part in np.array_split(chosen, 10)])
        order = logits[:, : kinds.shape[1]].argsort(dim=1, descending=True)
        there = kinds.sum(dim=1, keepdim=True)
        likeliest = torch.arange(kinds.shape[1])[None] < there
        found = (kinds.gather(1, order) * likeliest).sum() / there.sum()
        return {"kinds found": found.item(), "count": accuracy(logits[:, kinds.shape[1] :], counts)}

    def _logits(self, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image, kind and count) and (image, cell, label) logits."""
        output = self.body(pixel_values=images.pixels)
        if output.last_hidden_state.ndim == 4:  # ResNet pools over its grid
            cells = output.last_hidden_state.flatten(2).transpose(1, 2)
            return self.classifier(output.pooler_output.flatten(1)), self.cells(cells)
        return self.classifier(output.last_hidden_state[:, 0]), self.cells(output.last_hidden_state[:, 1:])

    @staticmethod
    def _labels(scenes: Sequence[Scene], chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        kinds = torch.zeros(len(chosen), len(SHAPES) * len(COLOURS))
        for row, number in enumerate(chosen):
            for thing in scenes[number].things:
                kinds[row, SHAPES.index(thing.shape) * len(COLOURS) + COLOURS.index(thing.colour)] = 1
        counts = torch.tensor([len(scenes[number].things) - FEWEST for number in chosen])
        return kinds, counts


def covering(scene: Scene, grid: int) -> torch.Tensor:
    """Return (cell, 3) int64: shape, colour and size of the topmost thing whose box holds a cell's centre, from 1 on.

    Cells come row by row; 0 is paper.
    """
    labels = np.zeros((grid, grid, len(CELL_LABELS)), dtype=np.int64)
    centre = (np.arange(grid) + 0.5) / grid
    for thing in scene.things:
        reach = max(thing.radius, 0.5 / grid)  # no thing falls between the centres
        inside = (np.abs(centre[:, None] - thing.y) < reach) & (np.abs(centre[None] - thing.x) < reach)
        labels[inside] = 1 + np.array([SHAPES.index(thing.shape), COLOURS.index(thing.colour), SIZES.index(thing.size)])
    return torch.from_numpy(labels.reshape(grid * grid, -1))


def cell_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the cross-entropies of shape, colour and size of cells.

    Args:
        logits: (…, label), the kinds of labels side by side.
        labels: (…, kind).
    """
    parts = logits.split(CELL_LABELS, dim=-1)
    losses = [F.cross_entropy(part.flatten(0, -2), labels[..., k].flatten()) for k, part in enumerate(parts)]
    return torch.stack(losses).sum()


def whiten(projection: nn.Conv2d, pixels: torch.Tensor) -> None:
    """Set a patch projection to the whitened principal components of patches (Krähenbühl et al. 2016, section 3).

    Neighbouring pixels are so alike that, from random weights, brightness drowns all else for thousands of steps.

    Args:
        projection: changed in place.
        pixels: (image, 3, side, side).
    """
    size = projection.kernel_size[0]
    patches = F.unfold(pixels, size, stride=size).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    values, vectors = values.flip(0)[: projection.out_channels], vectors.flip(1)[:, : projection.out_channels]
    weights = 0.5 * (vectors / (values + 1e-4 * values[0]).sqrt()).T
    with torch.no_grad():
        projection.weight.copy_(weights.reshape(projection.weight.shape))
        if projection.bias is not None:
            projection.bias.copy_(-weights @ mean)


class JointLearner(Learner):
    """UNITER, LXMERT, ViLT: masked words, matching, masked regions; of patches, what covers each, as ViT is taught.

    Args:
        net: the network.
        cased: whether its tokenizer keeps capitals.
        train: scenes to train on.
        test: scenes that are not trained on.
        shuffled: whether every text stands beside another scene's image: the model sees images and texts, and never a
            pair.
        share: of a batch that has masked words; the rest is matched.
    """

    def __init__(
        self, net: Joint, cased: bool, train: Corpus, test: Corpus, shuffled: bool, share: float = 0.5
    ) -> None:
        super().__init__()
        self.net, self.cased, self.shuffled, self.share = net, cased, shuffled, share
        self.words, self.matching = word_head(), nn.Linear(WIDTH, 2)
        self.regions = self.cells = None
        if train.features is not None:
            self.regions = nn.Linear(WIDTH, len(SHAPES) + len(COLOURS))
        else:
            self.cells = nn.Linear(WIDTH, sum(CELL_LABELS))
            self.covers = torch.stack([covering(scene, SIDE // PATCH) for scene in train.scenes])
        self.train_corpus, self.test_corpus = train, test

    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """See `Learner`. The first part of a batch has masked words and regions, the other is matched."""
        corpus, first = self.train_corpus, round(self.share * size)
        chosen = rng.integers(len(corpus.scenes), size=size)
        captions = [remarked(corpus.scenes[i], rng) for i in chosen[:first]]
        told = [matching(corpus.scenes, i, rng) for i in chosen[first:]]
        text, labels = masked([*captions, *(caption for caption, _ in told)], self.cased, rng, first)
        seen = (chosen + 1 + rng.integers(len(corpus.scenes) - 1, size=size)) % len(corpus.scenes)
        seen = seen if self.shuffled else chosen
        hidden = None
        if corpus.mask is not None:
            hidden = torch.from_numpy(rng.random((size, corpus.mask.shape[1])) < HIDDEN) & corpus.mask[seen]
            hidden[first:] = False
        states = self.net(text.ids, text.mask, corpus.images(seen, hidden))
        losses = {
            "masked words": guessed(self.words(states.text[:first]), labels[:first]),
            "matching": F.cross_entropy(self.matching(states.pooled[first:]), torch.tensor([true for _, true in told])),
        }
        if self.cells is not None:
            losses["cells"] = 0.2 * cell_loss(self.cells(states.image), self.covers[seen])
        if self.regions is not None and hidden is not None and corpus.labels is not None and hidden.any():
            logits, kinds = self.regions(states.image[hidden]), corpus.labels[seen][hidden]
            losses["masked regions"] = 0.2 * (
                F.cross_entropy(logits[:, : len(SHAPES)], kinds[:, 0])
                + F.cross_entropy(logits[:, len(SHAPES) :], kinds[:, 1])
            )
        return losses

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Return how often a masked word is guessed with its image and with another's, and the matching accuracy."""
        corpus = self.test_corpus
        scores: dict[str, float] = {}
        for name, turn in (("", 0), (", another image", 1)):

            def words(text: Text, chosen: np.ndarray, turn: int = turn) -> torch.Tensor:
                return self.words(self._states(text, (chosen + turn) % len(corpus.scenes)).text)

            found = facts_guessed(corpus.scenes, self.cased, words)
            scores |= {f"{fact}{name}": score for fact, score in found.items()}
        rng = generator(0, "zoo", "matching")
        told = [matching(corpus.scenes, i, rng) for i in range(min(TESTED, len(corpus.scenes)))]
        text = written([strings(caption.words) for caption, _ in told], self.cased)
        pooled = self._states(text, np.arange(len(told))).pooled
        return scores | {"matching": accuracy(self.matching(pooled), torch.tensor([true for _, true in told]))}

    def _states(self, text: Text, chosen: np.ndarray) -> States:
        states: States = self.net(text.ids, text.mask, self.test_corpus.images(chosen))
        return states


def matching(scenes: Sequence[Scene], number: int, rng: np.random.Generator) -> tuple[Caption, int]:
    """Return a caption to be matched with a scene's image, and whether it is true (1) or not (0)."""
    fate, scene = rng.random(), scenes[number]
    if fate < TRUE:
        return described(scene, rng), 1
    if fate < TRUE + ALTERED:
        return altered(described(scene, rng), scene, rng), 0
    other = scenes[(number + 1 + int(rng.integers(len(scenes) - 1))) % len(scenes)]
    return described(other, rng), 0


def facts_guessed(scenes: Sequence[Scene], cased: bool, words: Any) -> dict[str, float]:
    """Return the share of masked words guessed right, one masked word a caption, by the kind of fact they state.

    Args:
        scenes: held out.
        cased: whether capitals are kept.
        words: (Text, (text,) numbers of scenes) -> (text, position, piece) logits.
    """
    rng = generator(0, "zoo", "held out")
    captions = [described(scene, rng) for scene in scenes[:TESTED]]
    scores: dict[str, float] = {}
    for fact, name in (("colour", "color"), ("size", "size"), ("place", "position")):
        asked = [(i, caption.stating(fact)) for i, caption in enumerate(captions) if caption.stating(fact)]
        places = np.array([places[rng.integers(len(places))] for _, places in asked])
        chosen = np.array([i for i, _ in asked])
        text = with_masked_word([captions[i] for i, _ in asked], places, cased)
        labels = torch.tensor(
            [ids_of([captions[i].words[k].text], cased)[0] for (i, _), k in zip(asked, places, strict=True)]
        )
        logits = words(text, chosen)[torch.arange(len(chosen)), torch.from_numpy(places) + 1]
        scores[name] = accuracy(logits, labels)
    return scores


class VqaLearner(Learner):
    """A pretrained joint model, tuned to answer questions about scenes."""

    def __init__(self, net: Joint, cased: bool, train: Corpus, test: Corpus) -> None:
        super().__init__()
        self.net, self.cased, self.train_corpus, self.test_corpus = net, cased, train, test
        self.answers = answer_head(WIDTH, len(ANSWERS))

    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """See `Learner`."""
        chosen = rng.integers(len(self.train_corpus.scenes), size=size)
        logits, labels, _ = self._answered(self.train_corpus, chosen, rng)
        return {"answers": F.cross_entropy(logits, labels)}

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Return the share of right answers, in all and by kind of question."""
        chosen = np.arange(min(TESTED, len(self.test_corpus.scenes)))
        logits, labels, kinds = self._answered(self.test_corpus, chosen, generator(0, "zoo", "questions"))
        scores = {"answers": accuracy(logits, labels)}
        for kind in sorted({*kinds}):
            rows = torch.tensor([each == kind for each in kinds])
            scores[f"answers: {kind}"] = accuracy(logits[rows], labels[rows])
        return scores

    def _answered(
        self, corpus: Corpus, chosen: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        questions = [ask(corpus.scenes[i], rng) for i in chosen]
        text = written([strings(question.words) for question in questions], self.cased)
        states = self.net(text.ids, text.mask, corpus.images(chosen))
        labels = torch.tensor([ANSWERS.index(question.answer) for question in questions])
        return self.answers(states.pooled), labels, [question.kind for question in questions]


class Nlvr2Learner(Learner):
    """A pretrained joint model, tuned to judge statements about pairs of images.

    It reads the statement with each image apart, and the head reads both poolers side by side (LXMERT's way, and
    UNITER's `paired`).
    """

    def __init__(self, net: Joint, cased: bool, train: Corpus, test: Corpus) -> None:
        super().__init__()
        self.net, self.cased, self.train_corpus, self.test_corpus = net, cased, train, test
        self.truth = answer_head(2 * WIDTH, 2)

    def losses(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        """See `Learner`."""
        pairs = rng.integers(len(self.train_corpus.scenes), size=(2, size))
        logits, labels = self._judged(self.train_corpus, pairs, rng)
        return {"truth": F.cross_entropy(logits, labels)}

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Return the share of statements judged right."""
        count = min(TESTED, len(self.test_corpus.scenes) // 2)
        pairs = np.arange(2 * count).reshape(2, count)
        logits, labels = self._judged(self.test_corpus, pairs, generator(0, "zoo", "statements"))
        return {"truth": accuracy(logits, labels)}

    def _judged(self, corpus: Corpus, pairs: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        said = [state(corpus.scenes[left], corpus.scenes[right], rng) for left, right in pairs.T]
        text = written([strings(statement.words) for statement in said], self.cased)
        left = self.net(text.ids, text.mask, corpus.images(pairs[0]))
        right = self.net(text.ids, text.mask, corpus.images(pairs[1]), second=True)
        logits = self.truth(torch.cat([left.pooled, right.pooled], dim=1))
        return logits, torch.tensor([int(statement.true) for statement in said])
