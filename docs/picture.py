"""Draws `docs/pictures/scenes.jpg`, one panel for each task on drawn scenes: `python docs/picture.py [FILE]`.

Models see the scenes at 96 pixels; for a page they are drawn at 240, from the same facts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vlprobe.scenes.drawing import draw
from vlprobe.scenes.scene import sample
from vlprobe.scenes.tasks import RECIPES, WORLD, example
from vlprobe.types import MASK, Example

SEED = 0
SHOWN = {
    "pos-tagging": 1, "bigram-shift": 10, "object-count": 26, "shape-class": 36,
    "color": 21, "position": 33, "size": 53, "adversarial-caption": 9,
}  # fmt: skip
"""Number of the scene by task: each with another of the sentences, papers and numbers of things."""
SIDE, GAP, COLUMNS = 240, 28, 4
TITLE, LINE, TAGGED = 17, 21, 31
"""Heights: of letters of a title, of a line, of a line with tags under its words."""
TEXT_ROOM = 132
"""Pixels under a scene."""
INK, PALE, ACCENT = (28, 30, 36), (128, 132, 140), (196, 43, 40)


@dataclass(frozen=True)
class Token:
    """A word as it is set."""

    text: str
    """The word."""
    colour: tuple[int, int, int] = INK
    """Red, green and blue."""
    under: str = ""
    """What stands under it, small."""


def main() -> None:
    """Draw the page."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures" / "scenes.jpg"
    width, height = SIDE + GAP, TITLE + 10 + SIDE + TEXT_ROOM
    rows = -(-len(SHOWN) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP // 2), "white")
    for place, (name, number) in enumerate(SHOWN.items()):
        panel(page, (GAP + place % COLUMNS * width, GAP // 2 + place // COLUMNS * height), name, number)
    page.save(out, quality=90, subsampling=0)


def panel(page: Image.Image, at: tuple[int, int], name: str, number: int) -> None:
    """Draw one task: its name, a scene, the text, and the answer."""
    pen, (x, y) = ImageDraw.Draw(page), at
    shown = example(name, SEED, number)
    plain = example("pos-tagging", SEED, number)
    if shown is None or plain is None:
        raise ValueError(f"scene {number} of seed {SEED} has not what {name} asks about; choose another in SHOWN")
    pen.text((x, y + TITLE), name, INK, font=letters(TITLE), anchor="ls")
    pen.text((x + SIDE, y + TITLE), RECIPES[name].level, PALE, font=letters(13), anchor="rs")
    page.paste(Image.fromarray(draw(sample(SEED, WORLD, number), SIDE)), (x, y + TITLE + 10))
    bottom = flow(pen, (x, y + TITLE + 10 + SIDE + 22), tokens(name, shown, plain))
    said = answer(name, shown)
    if said:
        pen.text((x, bottom + 6), said, ACCENT, font=letters(15), anchor="ls")


def tokens(name: str, shown: Example, plain: Example) -> list[Token]:
    """Return the words as they are set: those that were altered or masked stand out."""
    words, before = (shown.text or "").split(), (plain.text or "").split()
    if name == "pos-tagging":
        return [Token(word, under=str(tag)) for word, tag in zip(words, shown.target, strict=True)]
    if name == "shape-class":
        return [Token(word) for word in words]
    return [
        Token(word, ACCENT if word == MASK or word != was else INK) for word, was in zip(words, before, strict=True)
    ]


def answer(name: str, shown: Example) -> str:
    """Return the target in words."""
    if name == "pos-tagging":
        return ""
    (target,) = {target for target in shown.target if target is not None}
    if RECIPES[name].classes == ("0", "1"):
        return "altered" if target == "1" else "unaltered"
    return f"{target:g}" if isinstance(target, float) else str(target)


def flow(pen: ImageDraw.ImageDraw, at: tuple[int, int], words: Sequence[Token]) -> int:
    """Set words in lines as wide as a scene; return where the line after them stands."""
    font, small = letters(15), letters(9)
    (left, y), space = at, 5
    x, step = left, TAGGED if any(word.under for word in words) else LINE
    for word in words:
        wide = max(font.getlength(word.text), small.getlength(word.under))
        if x > left and x + wide > left + SIDE:
            x, y = left, y + step
        pen.text((x, y), word.text, word.colour, font=font, anchor="ls")
        pen.text((x, y + 11), word.under, ACCENT, font=small, anchor="ls")
        x += int(wide) + space
    return y + step


def letters(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the typeface that Pillow brings, the same on every machine."""
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
