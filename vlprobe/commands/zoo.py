"""`vlprobe zoo`: the bundled models, and making them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

zoo = typer.Typer(help="Small models with known answers: list them, train them from nothing.", no_args_is_help=True)


@zoo.command("list")
def list_() -> None:
    """List the bundled models with what they were taught and how well they do."""
    import json

    from vlprobe.encoders.zoo import ZOO
    from vlprobe.zoo.cards import TAUGHT
    from vlprobe.zoo.recipes import RECIPES

    for name, recipe in RECIPES.items():
        file = ZOO / name / "zoo.json"
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else {}
        scores = {key: value for key, value in figures.items() if not key.startswith("loss") and key != "seconds"}
        shown = ", ".join(f"{key} {value:.2f}" for key, value in list(scores.items())[:4]) or "not there"
        typer.echo(f"{name:<16} {shown}\n{'':<16} {TAUGHT[recipe.teaching]}")


@zoo.command()
def train(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Which models; all if not given.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder that the models' folders are written to.")] = Path("zoo"),
    seed: Annotated[int, typer.Option(help="Of weights, scenes and batches.", min=0)] = 0,
) -> None:
    """Train models of the zoo from nothing; a run that was stopped goes on where it was.

    A study names the result `zoo:FOLDER/NAME`.
    """
    from vlprobe.zoo.making import Making, make
    from vlprobe.zoo.recipes import RECIPES

    for name in names or list(RECIPES):
        make(Making(name, output, seed, lambda line, name=name: typer.echo(f"{name}: {line}")))  # type: ignore[misc]
