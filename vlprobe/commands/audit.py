"""`vlprobe audit`: what is wrong with a data set, before anyone probes it."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from vlprobe.errors import VlprobeError


class Format(StrEnum):
    """How an audit is written."""

    table = "table"
    json = "json"


class Target(StrEnum):
    """What the labels of a table are."""

    classes = "classes"
    number = "number"


def _column(use: str) -> object:
    return typer.Option(help=f"Of a table: {use}.", show_default=False)


def audit(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...",
            help="Names of known tasks, study files (.yaml), tables (.csv, .tsv, .jsonl, .parquet).",
            show_default=False,
        ),
    ],
    form: Annotated[Format, typer.Option("--format", help="For a person, or for a program.")] = Format.table,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Where published data lie, as in a study.", show_default=False),
    ] = None,
    text: Annotated[str | None, _column("the column of texts, if not 'text'")] = None,
    image: Annotated[str | None, _column("the column of image files, if not 'image'")] = None,
    label: Annotated[str | None, _column("the column of labels, if not 'label'")] = None,
    group: Annotated[str | None, _column("the column of groups, if not 'group'")] = None,
    split: Annotated[str | None, _column("the column of parts, if not 'split'")] = None,
    images: Annotated[str | None, _column("the folder of image files, if not its own")] = None,
    target: Annotated[Target, typer.Option(help="Of a table: what the labels are.")] = Target.classes,
) -> None:
    """Say what is wrong with a data set: leaks, duplicates, labels that the text gives away, damaged rows."""
    import json

    from rich.console import Console

    from vlprobe import __version__
    from vlprobe.audit import audit as audited
    from vlprobe.audit.printed import counted, print_audit, visible
    from vlprobe.audit.reading import Table, asked_tasks

    columns = {"text": text, "image": image, "label": label, "group": group, "split": split}
    table = Table({use: name for use, name in columns.items() if name}, images, target.value)
    console, done, unread = Console(), [], []
    for name, load in asked_tasks(tasks, data or (), table):
        try:
            done.append(audited(*load()))
        except VlprobeError as error:
            unread.append({"task": name, "error": str(error)})
            print("\n".join(visible(line).plain for line in f"Error: {error}".split("\n")), file=sys.stderr)
            continue
        if form is Format.table:
            print_audit(done[-1], console)
    if form is Format.json:
        content = {"vlprobe": __version__, "audits": [each.plain() for each in done], "unread": unread}
        typer.echo(json.dumps(content, indent=1, allow_nan=False))
    else:
        console.print(counted(done), highlight=False)
    if unread:
        raise typer.Exit(1)
