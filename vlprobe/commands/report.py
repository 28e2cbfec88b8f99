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
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY.yaml",
            help="Show examples, too: the study file, from whose folder the data are found. Their images and texts "
            "become part of the page.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Lay published scores beside the study's: columns task, model, score, source; see docs/report.md.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Write what a study found, finished or not: a page, figures as SVG and PNG, tables as LaTeX, Markdown and CSV."""
    from vlprobe.report.contents import read_contents
    from vlprobe.report.writing import write_report

    contents = read_contents(results)
    if study is not None:
        from vlprobe.report.examples import read_examples

        contents |= {"examples": read_examples(contents, study.resolve().parent)}
    if published is not None:
        from vlprobe.report.published import read_published

        contents |= {"published": read_published(published, contents)}
    page = write_report(contents, output or results / "report")
    typer.echo(f"Report: {page.resolve().as_uri()}")
