"""`vlprobe schema`: what the files of a results folder hold, for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class File(StrEnum):
    """The files that have a schema."""

    results = "results"
    study = "study"
    findings = "findings"
    reliance = "reliance"
    similarity = "similarity"


def schema(file: Annotated[File, typer.Argument(help="The file.", show_default=False)]) -> None:
    """Print the JSON Schema of a file of a results folder; of results.jsonl, that of one line."""
    place = Path(__file__).parents[1] / "schemas" / f"{file.value}.schema.json"
    typer.echo(place.read_text(encoding="utf-8"), nl=False)
