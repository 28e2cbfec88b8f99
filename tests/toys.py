"""Small models and tasks whose answers are known, for tests."""

import io

import numpy as np
import torch
from PIL import Image

from vlprobe import Encoder, Example, Hidden, Task, open_image
from vlprobe.types import ROLES

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}
PATCHES = [(x / 2, y / 2, (x + 1) / 2, (y + 1) / 2) for y in range(2) for x in range(2)]


class Toy(Encoder):
    """Words are hashed, the image is four patches of mean colour; `joint.1` mixes every position with the mean."""

    modalities = ("text", "image")
    layers = {"joint.0": 8, "joint.1": 16, "joint.pooler": 16}

    def __init__(self, name="toy", modalities=("text", "image"), needs=()):
        self.name, self.modalities, self.needs = name, modalities, needs
        self.revision = f"toy-{name}"
        self.seen = []

    def encode(self, batch):
        self.seen += list(batch)
        rows = [self._positions(example) for example in batch]
        count = max(len(row) for row in rows)
        states = torch.zeros(len(batch), count, 8)
        role = np.zeros((len(batch), count), np.int8)
        word = np.full((len(batch), count), -1, np.int32)
        box = np.full((len(batch), count, 4), np.nan, np.float32)
        for i, row in enumerate(rows):
            for j, (vector, what, which, where) in enumerate(row):
                states[i, j] = torch.tensor(vector)
                role[i, j], word[i, j], box[i, j] = ROLES.index(what), which, where
        valid = torch.from_numpy(role > 0).unsqueeze(-1).float()
        mean = (states * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
        mixed = torch.cat([states, mean.expand_as(states)], dim=-1)
        pooler = Hidden("joint.pooler", mixed[:, :1], role[:, :1], word[:, :1], box[:, :1])
        return [Hidden("joint.0", states, role, word, box), Hidden("joint.1", mixed, role, word, box), pooler]

    def _positions(self, example):
        nowhere = (np.nan,) * 4
        out = [([0.0] * 8, "cls", -1, nowhere)]
        for k, (start, end) in enumerate(example.words or _words(example.text)):
            token = example.text[start:end]
            # The first piece is the word's first letter, the second its length.
            out.append((_one_hot(ord(token[0]) % 7), "word", k, nowhere))
            out.append((_one_hot(len(token) % 7), "word", k, nowhere))
        if example.image is not None:
            pixels = np.asarray(open_image(example.image, example.place).resize((2, 2), Image.Resampling.BOX)) / 255
            for (x, y), where in zip(((0, 0), (1, 0), (0, 1), (1, 1)), PATCHES, strict=True):
                out.append(([0.0] * 5 + pixels[y, x].tolist(), "patch", -1, where))
        return out


def _one_hot(i):
    return [float(i == k) for k in range(8)]


def _words(text):
    out, start = [], 0
    for token in (text or "").split():
        start = text.index(token, start)
        out.append((start, start + len(token)))
        start += len(token)
    return out


def png(colour, size=(8, 8)):
    """Return the bytes of an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def colour_task(count=240, groups=60, level="multimodal", noise=12, seed=0, split="all"):
    """Ask for the colour that only the image tells; the text says nothing of it."""
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    examples = []
    for i in range(count):
        name = names[int(rng.integers(len(names)))]
        pixel = tuple(int(v) for v in np.clip(np.array(COLOURS[name]) + rng.normal(0, noise, 3), 0, 255))
        text = f"a thing {i} is [MASK] here"
        at = text.index("[MASK]")
        words = tuple(_words(text))
        target = tuple(name if start == at else None for start, _ in words)
        examples.append(
            Example(f"e{i}", f"g{i % groups}", text, png(pixel), target, words, (), f"toy.csv, row {i + 2}")
        )
    return Task("colour", level, "word", tuple(sorted(names)), {split: tuple(examples)})
