"""A scene as pixels: each shape is a signed distance, so that edges are smooth at every size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

from vlprobe.scenes.scene import Scene, Thing

SIDE = 96
"""Pixels of a picture's side, where nothing else is said."""
COLOUR_VALUES = {
    "black": (0.08, 0.08, 0.10),
    "blue": (0.13, 0.33, 0.80),
    "green": (0.12, 0.55, 0.22),
    "orange": (0.96, 0.53, 0.10),
    "purple": (0.53, 0.20, 0.62),
    "red": (0.83, 0.12, 0.15),
    "white": (0.98, 0.98, 0.97),
    "yellow": (0.97, 0.87, 0.18),
}
TINT = 0.05
"""How far a thing's colour may be from its name's."""
EDGE = 0.45
"""Share of its colour that a thing's outline keeps."""
NOISE = 0.012
"""Standard deviation of the noise of a pixel."""
PATTERN = 0.035
"""How far a paper's pattern is from its ground."""

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def draw(scene: Scene, side: int = SIDE) -> np.ndarray:
    """Return (side, side, 3) uint8 pixels of a scene.

    Args:
        scene: what is drawn.
        side: pixels; the same scene may be drawn at any size, for a model or for a page.
    """
    rng = np.random.default_rng(scene.grain)
    pixels = _paper(scene, side, rng)
    for thing in scene.things:
        _lay(pixels, thing)
    pixels += rng.normal(0, NOISE, size=pixels.shape).astype(np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def encoded(scene: Scene, side: int = SIDE) -> bytes:
    """Return a scene as the bytes of a PNG file, whose pixels are `draw`'s.

    They are stored, not compressed: that takes a twentieth of the time, noise hardly shrinks, and a scene's file is the
    same on every machine, whatever its libraries.
    """
    rows = np.zeros((side, 1 + 3 * side), dtype=np.uint8)  # each begins with 0: no filter
    rows[:, 1:] = draw(scene, side).reshape(side, -1)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes(), level=0), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    )


def _paper(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return (side, side, 3) float32 in [0, 1]: the ground with its pattern."""
    along = (np.arange(side, dtype=np.float32) + 0.5) / side
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.16)
    across = np.cos(angle) * along[None, :] + np.sin(angle) * along[:, None]
    if scene.paper == "shaded":
        pattern = 2 * (across - across.min()) / np.ptp(across) - 1
    elif scene.paper == "striped":
        pattern = np.sin(across * (2 * np.pi / period))
    elif scene.paper == "dotted":
        waves = np.sin(along * (2 * np.pi / period) + angle)
        pattern = np.where(waves[None, :] * waves[:, None] > 0.5, 1.0, 0.0)
    else:
        pattern = np.zeros((side, side))
    ground = np.array(scene.ground, dtype=np.float32)
    return ground + (PATTERN * pattern).astype(np.float32)[..., None]


def _lay(pixels: np.ndarray, thing: Thing) -> None:
    """Lay a thing over a picture, touching only the window that it stands in."""
    side = len(pixels)
    reach = thing.radius * side + 1.5
    left, top = max(int(thing.x * side - reach), 0), max(int(thing.y * side - reach), 0)
    right, bottom = int(thing.x * side + reach) + 1, int(thing.y * side + reach) + 1
    window = pixels[top:bottom, left:right]
    y, x = np.ogrid[: window.shape[0], : window.shape[1]]
    across = ((x + left + 0.5) / side - thing.x) / thing.radius
    down = ((y + top + 0.5) / side - thing.y) / thing.radius
    across, down = np.broadcast_arrays(across.astype(np.float32), down.astype(np.float32))
    pixel = 1 / (thing.radius * side)  # one pixel, in units of the thing
    distance = DISTANCES[thing.shape](across, down)
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    line = max(0.10, pixel)
    rim = np.clip(0.5 + (distance + line) / pixel, 0, 1)[..., None]
    fill = np.clip(np.array(COLOUR_VALUES[thing.colour]) + TINT * np.array(thing.tint), 0, 1).astype(np.float32)
    window += cover * (fill * (1 - rim * (1 - EDGE)) - window)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.28


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1, np.minimum(x, y) - 0.33)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Two slanted sides and the floor, each as the distance from its line.
    slope = np.hypot(2.0, 1.0)
    return np.maximum((2 * np.abs(x) - y - 1) / slope, y - 0.85)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A regular pentagram: the five points of a circle, folded into one by symmetry."""
    turn = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + turn) % (2 * turn) - turn)
    radius = np.hypot(x, y)
    across, along = radius * np.sin(angle), radius * np.cos(angle)
    # The line from the tip (0, 1) to the inner corner at angle `turn` and distance 0.45.
    inner = 0.45 * np.sin(turn), 0.45 * np.cos(turn)
    normal = np.array([1 - inner[1], inner[0]]) / np.hypot(1 - inner[1], inner[0])
    return across * normal[0] + (along - 1) * normal[1]


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two circles over a corner."""
    x = np.abs(x)
    lobe = np.hypot(x - 0.46, y + 0.38) - 0.52
    corner = (x + y - 0.90) / np.sqrt(2)
    inside = np.maximum(corner, -(y + 0.38))
    return np.minimum(lobe, np.maximum(inside, x - 0.98 + 0.0 * y))


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
"""Shape -> signed distance from its edge, negative inside, for points in units of half its side."""
