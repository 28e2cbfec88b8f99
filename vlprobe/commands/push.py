"""`vlprobe push`: results, and features, to a data set on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The results folder of a study.", show_default=False)
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The data set; made if it is not there.", show_default=False)
    ],
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY.yaml",
            help="Send the features of every layer, too, read from the store: the study file, from whose folder models "
            "and data are found.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; else it is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which files would be sent.")] = False,
) -> None:
    """Send results to a private data set on the Hugging Face hub: scores, findings, provenance, predictions, a card.

    Predictions and features hold ids of examples and labels.
    Images, texts, reports, and lines about rows that were left out are never sent.
    """
    from vlprobe.sharing import hub

    if dry_run:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            for line in hub.listed(hub.gather(results, features, Path(temporary))):
                typer.echo(line)
        typer.echo("nothing was sent")
        return
    address = hub.push(results, repo_id, public=public, features=features, say=typer.echo)
    typer.echo(f"Pushed: {address}")
