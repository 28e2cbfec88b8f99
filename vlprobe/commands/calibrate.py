"""`vlprobe calibrate`: the instrument, held against known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = Path("results") / "calibration"


def calibrate(
    output: Annotated[Path, typer.Option(help="Folder of the studies' results folders.")] = OUTPUT,
) -> None:
    """Ask the bundled models what is known of them, and say whether each answer is right.

    What is in the output folder is not computed again. Exit code 1 where an answer is wrong.
    """
    from rich.console import Console

    from vlprobe.calibration.measures import calibrate as measure
    from vlprobe.calibration.statements import STATEMENTS
    from vlprobe.calibration.studies import Scale
    from vlprobe.calibration.telling import print_checked, write_checked

    scale = Scale()
    checked = measure(STATEMENTS, scale, output, lambda line: typer.echo(line, err=True), progress=True)
    print_checked(checked, Console())
    typer.echo(f"All numbers: {write_checked(checked, scale, output)}")
    if not all(each.right for each in checked):
        raise typer.Exit(1)
