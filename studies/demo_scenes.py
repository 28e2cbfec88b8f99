"""Draws the demo's scenes: one coloured shape a picture, and captions that tell only what they tell.

Writes `studies/data/demo/scenes.csv` and the pictures beside it.
"""

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180), "yellow": (230, 190, 20)}
SHAPES = ("circle", "square", "triangle")
PHRASES = (
    "{who} drew a [MASK] {shape} on the {side} of a {page}",
    "on the {side} of {who} 's {page} there is a [MASK] {shape}",
    "{who} has a {page} with a [MASK] {shape} , and it is on the {side}",
    "the {shape} that {who} put on the {side} of the {page} is [MASK]",
)
WHO = tuple("Ada Ben Cleo Dev Edda Finn Gita Hugo Ines Jo Kofi Lena Mona Nils Otto Pia Quinn Rosa Sven Tara".split())
PAGES = ("page", "sheet", "card", "poster", "letter", "note", "leaflet", "ticket", "napkin", "canvas")
SIZE = 96
COUNT = 480


def draw(shape: str, colour: tuple[int, int, int], side: str, rng: random.Random) -> Image.Image:
    """Return a picture with one shape, its size, place and paper a little different every time."""
    paper = tuple(rng.randint(225, 255) for _ in range(3))
    image = Image.new("RGB", (SIZE, SIZE), paper)
    radius = rng.randint(12, 20)
    x = rng.randint(22, 30) + (SIZE // 2 if side == "right" else 0)
    y = rng.randint(25, SIZE - 25)
    box = (x - radius, y - radius, x + radius, y + radius)
    fill = tuple(max(0, min(255, channel + rng.randint(-25, 25))) for channel in colour)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    return image


def main() -> None:
    """Write the pictures and their table."""
    rng = random.Random(2022)
    folder = Path(__file__).parent / "data" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "colour", "shape", "false"])
        for i in range(COUNT):
            colour, shape, side = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(("left", "right"))
            lie = rng.random() < 0.5
            said = {"left": "right", "right": "left"}[side] if lie else side
            draw(shape, COLOURS[colour], side, rng).save(folder / f"scene{i:04d}.png")
            caption = rng.choice(PHRASES).format(who=rng.choice(WHO), shape=shape, side=said, page=rng.choice(PAGES))
            table.writerow([f"scene{i:04d}.png", caption, colour, shape, int(lie)])


if __name__ == "__main__":
    main()
