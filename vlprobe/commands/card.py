"""`vlprobe card`: what a study found, for the models' cards on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def card(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The results folder of a study.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write; `cards` in the results folder if not given.", show_default=False),
    ] = None,
) -> None:
    """Write a snippet for every model's card on the Hugging Face hub: scores, their metadata, how to repeat it."""
    from vlprobe.report.contents import read_contents
    from vlprobe.sharing.card import write_cards

    for path in write_cards(read_contents(results), output or results / "cards"):
        typer.echo(str(path))
