"""`vlprobe report`: a results folder as tables and figures for a paper, and a page for everyone else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The results folder of a study.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write; `report` in the results folder if not given.", show_default=False),
    ] = None,
) -> None:
    """Write what a study found, finished or not: a page, figures as SVG and PNG, tables as LaTeX, Markdown and CSV."""
    from vlprobe.report.contents import read_contents
    from vlprobe.report.writing import write_report

    page = write_report(read_contents(results), output or results / "report")
    typer.echo(f"Report: {page.resolve().as_uri()}")
