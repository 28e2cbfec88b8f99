"""A scene: two to six things on a sheet of paper. Everything that a task may ask about it stands in its fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlprobe.digest import generator

SHAPES = ("circle", "cross", "heart", "ring", "square", "star", "triangle")
COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")
"""The eight of Salin et al. (2022)."""
SIZES = ("large", "small")
RADIUS = {"small": (0.07, 0.09), "large": (0.13, 0.165)}
"""Half a thing's side, as a fraction of the picture's."""
FEWEST, MOST = 2, 6
"""Things of a scene."""
PAPERS = ("plain", "shaded", "striped", "dotted")
EDGE = 0.18
"""Centres are at least this far from the edges: so much room that a large thing stands wholly on the paper."""
ROOM = 0.23
"""Centres of two things are at least this far apart, along x or along y: large neighbours may cover each other's
corners, and none is hidden. The same for small things as for large ones, as `EDGE` is: a thing's place, the number of
things and their colours and shapes say nothing about its size."""
ATTEMPTS = 60
"""Draws of one thing's place before the scene's things are drawn anew."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape."""

    shape: str
    """One of `SHAPES`."""
    colour: str
    """One of `COLOURS`."""
    size: str
    """One of `SIZES`."""
    x: float
    """Centre, as a fraction of the picture's width."""
    y: float
    """Centre, as a fraction of its height, from the top."""
    radius: float
    """Half its side, as a fraction of the picture's."""
    tint: tuple[float, float, float]
    """What is added to its colour's red, green and blue, each in [-1, 1] of the room that the colour leaves."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) as fractions of the picture."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on paper; later ones lie on top of earlier ones."""

    name: str
    """Unique in its world: the world's name and the scene's number."""
    things: tuple[Thing, ...]
    """From the lowest to the topmost."""
    paper: str
    """One of `PAPERS`."""
    ground: tuple[float, float, float]
    """Red, green and blue of the paper, in [0, 1]."""
    grain: int
    """Seed of the paper's pattern and of the picture's noise."""

    def alone(self) -> tuple[int, ...]:
        """Return the things that no other shares its shape with: those that a caption may call by their shape."""
        shapes = [thing.shape for thing in self.things]
        return tuple(i for i, shape in enumerate(shapes) if shapes.count(shape) == 1)


def sample(seed: int, world: str, number: int) -> Scene:
    """Return scene `number` of a world: the same one whenever it is asked for, whatever was drawn before.

    Every scene holds at least two things that can be called by their shape.

    Args:
        seed: of the world.
        world: its name: worlds of different names share no scene.
        number: from 0.
    """
    rng = generator(seed, "scene", world, str(number))
    count = int(rng.integers(FEWEST, MOST + 1))
    while True:  # the count stays: numbers of things are equally frequent
        things = _things(rng, count)
        scene = Scene(
            name=f"{world}-{number:06d}",
            things=things,
            paper=PAPERS[rng.integers(len(PAPERS))],
            ground=_ground(rng),
            grain=int(rng.integers(2**32)),
        )
        if len(scene.alone()) >= 2:
            return scene


def _things(rng: np.random.Generator, count: int) -> tuple[Thing, ...]:
    """Return things that leave each other visible; empty where no place was found."""
    things: list[Thing] = []
    for _ in range(count):
        size = SIZES[rng.integers(2)]
        radius = rng.uniform(*RADIUS[size])
        shape, colour = SHAPES[rng.integers(len(SHAPES))], COLOURS[rng.integers(len(COLOURS))]
        red, green, blue = rng.uniform(-1, 1, size=3)
        for _ in range(ATTEMPTS):
            x, y = rng.uniform(EDGE, 1 - EDGE, size=2)
            if all(max(abs(x - t.x), abs(y - t.y)) >= ROOM for t in things):
                things.append(Thing(shape, colour, size, float(x), float(y), float(radius), (red, green, blue)))
                break
        else:
            return ()
    return tuple(things)


def _ground(rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a pale, slightly tinted paper, on which white and black both stand out."""
    level = rng.uniform(0.68, 0.84)
    red, green, blue = np.clip(level + rng.uniform(-0.07, 0.07, size=3), 0, 1)
    return float(red), float(green), float(blue)
