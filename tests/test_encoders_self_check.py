"""The check at load: a sound encoder passes, and each fault that it is there for is found and named."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.self_check import faults
from vlprobe.encoders.taps import tap
from vlprobe.errors import CheckpointError
from vlprobe.images import open_image
from vlprobe.types import ROLES, Hidden

SIDE = 8
"""Patches of a side."""


class Sound(Encoder):
    """Words and patches of their own, mixed a little in the second layer: all that an encoder promises."""

    modalities = ("text", "image")
    layers = {"language.0": 4, "language.1": 4, "vision.0": 3, "vision.1": 3}  # noqa: RUF012

    def encode(self, batch):
        return [*self.words(batch), *self.patches(batch)]

    def words(self, batch):
        longest = max(len(example.words) for example in batch)
        states = torch.zeros(len(batch), longest, 4)
        role, word = np.zeros(states.shape[:2], dtype=np.int8), np.full(states.shape[:2], -1, dtype=np.int32)
        for row, example in enumerate(batch):
            for k, (start, end) in enumerate(example.words):
                letters = [ord(letter) for letter in example.text[start:end]]
                states[row, k] = torch.tensor([sum(letters), len(letters), letters[0], k], dtype=torch.float32)
                role[row, k], word[row, k] = ROLES.index("word"), self.place(k)
        nowhere = np.full((*role.shape, 4), np.nan, dtype=np.float32)
        mixed = states + self.mean(states, torch.from_numpy(role != 0))
        return [Hidden(f"language.{k}", each, role, word, nowhere) for k, each in enumerate((states, mixed))]

    def place(self, k):
        return k

    def mean(self, states, known):
        return (states * known[..., None]).sum(1, keepdim=True) / known.sum(1)[:, None, None]

    def patches(self, batch):
        pixels = [np.asarray(open_image(example.image).resize((SIDE, SIDE), 0), np.float32) for example in batch]
        states = torch.from_numpy(np.stack(pixels)).reshape(len(batch), -1, 3)
        down, across = np.indices((SIDE, SIDE)).reshape(2, -1) / SIDE
        box = np.stack(self.corners(across, down), axis=1).astype(np.float32)
        role = np.full(states.shape[:2], ROLES.index("patch"), dtype=np.int8)
        word = np.full(states.shape[:2], -1, dtype=np.int32)
        boxes = np.broadcast_to(box, (len(batch), *box.shape))
        return [
            Hidden(f"vision.{k}", each, role, word, boxes)
            for k, each in enumerate((states, states + states.mean(1, True)))
        ]

    def corners(self, across, down):
        return across, down, across + 1 / SIDE, down + 1 / SIDE


def test_a_sound_encoder_passes():
    assert faults(Sound()) == []


class NextWord(Sound):
    def place(self, k):
        return k + 1


class WordBefore(Sound):
    def place(self, k):
        return max(0, k - 1)


class PaddingLeaks(Sound):
    def mean(self, states, known):
        return states.mean(1, keepdim=True)


class SoWide(Sound):
    layers = {**Sound.layers, "vision.1": 5}  # noqa: RUF012


class Unnamed(Sound):
    layers = {**Sound.layers, "vision.2": 3}  # noqa: RUF012


class NotANumber(Sound):
    def mean(self, states, known):
        return super().mean(states, known) / 0


class Turned(Sound):
    """Columns for rows, as in a grid that was transposed."""

    def corners(self, across, down):
        return super().corners(down, across)


class Shifted(Sound):
    """A position too far, as where a [CLS] was forgotten."""

    def corners(self, across, down):
        return super().corners(np.roll(across, 4), np.roll(down, 4))


class SameTwice(Sound):
    def mean(self, states, known):
        return 0


class Constant(Sound):
    def patches(self, batch):
        first, second = super().patches(batch)
        return [first, Hidden("vision.1", torch.ones_like(second.states), second.role, second.word, second.box)]


class Apart(Sound):
    reads = {"language": ("text",), "vision": ("image",)}  # noqa: RUF012


class WordsThatSee(Apart):
    """The mean of the image's red goes into every word of the second layer."""

    def encode(self, batch):
        first, second, *patches = super().encode(batch)
        seen = patches[0].states[:, :, :1].mean(1, keepdim=True)
        return [first, replace(second, states=second.states + seen), *patches]


class PatchesThatRead(Apart):
    """As many patches as there are words."""

    def encode(self, batch):
        *words, first, second = super().encode(batch)
        role = second.role.copy()
        for row, example in enumerate(batch):
            role[row, sum(map(ord, example.text)) % 32 :] = ROLES.index("")
        return [*words, first, replace(second, role=role)]


def test_streams_that_read_one_side_alone_pass():
    assert faults(Apart()) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NextWord, r"language\.0: no position is said to be the word 'two'"),
        (WordBefore, r"language\.0: no position is said to be the word 'cats'"),
        (PaddingLeaks, r"language\.1: an example's states change by .* of the largest with the others in its batch"),
        (SoWide, r"vision\.1: `states` has the shape \(3, 64, 3\), not \(3, 64, 5\)"),
        (Unnamed, r"`layers` promises .*vision\.2; `encode` brings .*vision\.1$"),
        (NotANumber, r"language\.1 holds NaN"),
        (
            Shifted,
            r"vision\.0: \d+ of 64 patches inside the square that changed did not move, e\.g\. the one said to be at 0",
        ),
        (SameTwice, r"language\.1 is the same as language\.0"),
        (Constant, r"vision\.1 is the same for"),
        (WordsThatSee, r"language\.1, said to read the text alone, changes by .* of the largest with the image"),
        (PatchesThatRead, r"vision\.1, said to read the image alone, changes by inf of the largest with the text"),
    ],
)
def test_each_fault_is_found(kind, said):
    found = faults(kind())
    assert found
    assert re.search(said, found[0]), found


class Swapped(Sound):
    """The first two words change places."""

    def place(self, k):
        return {0: 1, 1: 0}.get(k, k)


def test_words_that_change_places_are_found():
    assert [re.sub(" between.*| in '.*", "", line) for line in faults(Swapped())] == [
        "language.0: the states said to be word 1 are the same",
        "language.0: the states said to be word 0 differ",
    ]


def test_a_mark_off_the_diagonal_tells_rows_from_columns():
    assert any("patches" in line for line in faults(Turned()))


def test_a_checkpoint_that_fails_is_refused_with_all_that_was_found(tmp_path, monkeypatch):
    folder = tiny.make("bert", tmp_path / "bert")
    load_model(f"bert:{folder}", device="cpu")
    monkeypatch.setattr("vlprobe.encoders.text.word_of_piece", lambda offsets, words: np.arange(len(offsets)) - 2)
    with pytest.raises(CheckpointError, match=r"bert failed the check at load, .*:\n  language\.0: .*word"):
        load_model(f"bert:{folder}", device="cpu")


def blocks(count):
    return nn.ModuleList([nn.Linear(3, 3) for _ in range(count)])


def test_blocks_that_run_in_another_order_or_with_something_between_are_no_stream():
    one, two, three = blocks(3)
    x = torch.ones(2, 3)
    with tap([one, two, three]) as states:
        three(two(one(x)))
    assert len(states) == 4
    with pytest.raises(CheckpointError, match="block 2, a Linear, is not given what block 1 put out"), tap([one, two]):
        two(one(x) + 1)
    with pytest.raises(CheckpointError, match="is not given what block 1 put out"), tap([two, one, three]):
        three(two(one(x)))
    with tap([one, one, two]) as states:
        two(one(one(x)))
    assert len(states) == 4
    with pytest.raises(CheckpointError, match="is not given what block"), tap([one, one, two]):
        two(one(x))
    with tap([one, two], chained=False) as states:
        two(one(x) + 1)
    assert len(states) == 3
