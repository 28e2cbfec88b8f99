"""`vlprobe log`: results for an experiment tracker."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vlprobe.errors import many


class Tracker(StrEnum):
    """The trackers that there are."""

    wandb = "wandb"
    mlflow = "mlflow"
    trackio = "trackio"


def log(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The results folder of a study.", show_default=False)
    ],
    to: Annotated[Tracker, typer.Option(help="The tracker.", show_default=False)],
    project: Annotated[str, typer.Option(help="The tracker's project; MLflow: experiment.")] = "vlprobe",
) -> None:
    """Tell an experiment tracker what a study found: a run for every model, scores by layer; no examples."""
    from vlprobe.report.contents import read_contents
    from vlprobe.sharing.tracked import tracked
    from vlprobe.sharing.trackers import log as tell

    count = tell(tracked(read_contents(results)), to.value, project)
    typer.echo(f"{many(count, 'run')} in {to.value}, project {project}: one for every model")
