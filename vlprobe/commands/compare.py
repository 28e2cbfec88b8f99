"""`vlprobe compare`: what became of the numbers of one run in another."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """How a comparison is written."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


def _results(name: str) -> object:
    return typer.Argument(metavar=f"RESULTS-{name}", help=f"The results folder of run {name}.", show_default=False)


def compare(
    a: Annotated[Path, _results("A")],
    b: Annotated[Path, _results("B")],
    form: Annotated[Form, typer.Option("--format", help="For a person, a program, a table of one's own, a page.")] = (
        Form.table
    ),
) -> None:
    """Compare two runs item by item: what each score became, how sure that is, and what else is not the same.

    Models and tasks are known by their names. What only one run has is named.
    """
    import json

    from rich.console import Console

    from vlprobe import __version__
    from vlprobe.errors import DataError
    from vlprobe.findings.folder import open_folder
    from vlprobe.findings.two_runs import compare_runs
    from vlprobe.report.two_runs import long_form, marked_down, print_apart, print_two_runs

    found = compare_runs(open_folder(a), open_folder(b))
    if not found.changes:
        raise DataError(
            f"{a} and {b} have no model on no task under no condition in common; models and tasks are known by their "
            "names. To compare two models, name both in one study: what is computed is not computed again"
        )
    names = (str(a), str(b))
    if form is Form.table:
        print_two_runs(found, names, Console())
    elif form is Form.json:
        content = {"vlprobe": __version__, "a": names[0], "b": names[1]} | found.plain()
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    elif form is Form.csv:
        typer.echo(long_form(found), nl=False)
        print_apart(found, Console(file=sys.stderr))  # a table has no place for what is not the same
    else:
        typer.echo(marked_down(found, names), nl=False)
