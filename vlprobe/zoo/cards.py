"""Model cards: what a model of the zoo was trained on, for how long, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlprobe.zoo.recipes import Recipe

TAUGHT = {
    "boxes": "boxes of the things in a picture, with their shapes and colours",
    "words": "masked words of captions; it never saw a picture",
    "kinds": "which shapes of which colours a picture holds, how many things, and what covers each cell",
    "pairs": "masked words, masked regions where it reads regions, and whether a caption is true of its picture",
    "shuffled pairs": "the same as its twin, but every caption stood beside another scene's picture: it saw texts and "
    "pictures, and never a pair, so that nothing can be learnt about one from the other",
    "questions": "questions about scenes (colour, count, existence, size, place)",
    "statements": "statements about pairs of pictures, true or false",
}


def write_card(folder: Path, name: str, recipe: Recipe, said: Mapping[str, Any]) -> None:
    """Write README.md: what the model is, how it was made, what it reaches on scenes it was not trained on."""
    figures: Mapping[str, float] = said["figures"]
    scores = {key: value for key, value in figures.items() if not key.startswith("loss") and key != "seconds"}
    rows = [f"| {key} | {value:.3f} |" for key, value in scores.items()]
    losses = [f"{key.partition(': ')[2]} {value:.3f}" for key, value in figures.items() if key.startswith("loss")]
    clock = "on the clock" if recipe.family == "detector" else "of processor time"
    start = f"It started from the weights of `{recipe.start}`. " if recipe.start else ""
    text = [
        f"# {name}",
        "",
        f"A small {recipe.family} for vlprobe's small world of drawn scenes (`vlprobe.scenes`). It was taught "
        f"{TAUGHT[recipe.teaching]}. {start}It knows nothing of photographs or of English beyond those captions.",
        "",
        f"* Data: {_data(recipe, said['made_from'][0], said['made_from'][-1])}.",
        f"* Training: {recipe.steps} steps, {figures.get('seconds', float('nan')):.0f} s {clock}, on one core.",
        *([f"* Last losses: {', '.join(losses)}."] if losses else []),
        f"* Made again by `vlprobe zoo train {name}`.",
        "",
        "| on scenes `zoo-test` | |",
        "|---|---|",
        *rows,
        "",
    ]
    (folder / "README.md").write_text("\n".join(text), encoding="utf-8")


def _data(recipe: Recipe, seed: int, scenes: int) -> str:
    """Return what it was trained on."""
    if recipe.family != "detector":
        return f"{scenes} scenes `zoo-train` of seed {seed}, drawn by vlprobe; captions new in every batch"
    from vlprobe.zoo.detector import RECIPE

    return f"{recipe.steps * RECIPE.batch} scenes `zoo-train` of seed {seed}, drawn by vlprobe, each seen once"
