"""Checked statements -> a table to read, and `calibration.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlprobe import __version__
from vlprobe.calibration.measures import Checked, Measured
from vlprobe.calibration.studies import Scale
from vlprobe.results import Results

FILE = "calibration.json"
LEGEND = "Measured: a difference of two scores where it has a sign, else a score; over the scenes of all worlds."


def print_checked(checked: Sequence[Checked], console: Console) -> None:
    """Print of every statement what is known, what was expected, what was measured, and whether it is right.

    Args:
        checked: what `calibrate` returned.
        console: where to print.
    """
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    table.add_column("what is known, and what was expected", ratio=1)
    table.add_column("measured, [95 % interval]", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in checked:
        statement = each.statement
        known = f"{escape(statement.claim)}\n[dim]{statement.name}: {escape(statement.expected)}[/]"
        lines = "\n".join(_line(measured, signed=statement.than is not None) for measured in each.measured)
        table.add_row(known, lines, "[green]right[/]" if each.right else "[red bold]WRONG[/]")
    console.print(table, highlight=False)
    console.print(LEGEND, style="dim", highlight=False, markup=False)
    console.print(closing(checked), markup=False, highlight=False)


def closing(checked: Sequence[Checked]) -> str:
    """Return what it comes to."""
    wrong = [each.statement.name for each in checked if not each.right]
    if not wrong:
        return f"All of {len(checked)} statements are right."
    return (
        f"{len(wrong)} of {len(checked)} statements are wrong: {', '.join(wrong)}. Something between the scenes and "
        "the scores is not what it should be; trust no result of this installation before it is found."
    )


def _line(measured: Measured, signed: bool) -> str:
    low, high = measured.interval
    sign = "+" if signed else ""
    said = escape(f"{measured.model:<15} {measured.effect:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]")
    return said if measured.right else f"[red bold]{said}[/]"


def write_checked(checked: Sequence[Checked], scale: Scale, folder: Path) -> Path:
    """Write `calibration.json`, all of it or nothing, and return where it is.

    Args:
        checked: what `calibrate` returned.
        scale: of the studies.
        folder: to write to.
    """
    content: dict[str, Any] = {
        "vlprobe": __version__,
        "right": all(each.right for each in checked),
        "scale": asdict(scale),
        "statements": [
            asdict(each.statement)
            | {"expected": each.statement.expected, "right": each.right}
            | {"measured": [asdict(measured) for measured in each.measured]}
            for each in checked
        ],
    }
    Results(folder).write(FILE, content)
    return folder / FILE
