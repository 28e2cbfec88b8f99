"""The tables that `vlprobe run` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Print one table a task: model by condition, each cell with score, interval, layer and controls.

    A cell is a few short lines, so that five conditions stand side by side on a narrow terminal.
    """
    for name, task in summary.items():
        title = escape(f"{name} ({task['level']}), {task['metric']}")
        table = Table(title=title, title_justify="left", show_lines=True)
        table.add_column("model")
        for condition in task["conditions"]:
            table.add_column(escape(condition))
        for model, cells in task["rows"].items():
            table.add_row(escape(model), *(_cell(cells.get(condition)) for condition in task["conditions"]))
        console.print(table)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    controls = [f"majority {_number(cell['majority'])}"]
    if "layer" not in cell:
        return controls[0]
    bounds = escape(f"[{_number(cell['low'])}, {_number(cell['high'])}]")
    controls += [f"shuffled {_number(cell['shuffled'])}", f"n = {cell['n_test']}"]
    controls += [f"{cell['seeds']} seeds"] if cell["seeds"] > 1 else []
    lines = [f"[bold]{_number(cell['score'])}[/bold]", bounds, escape(cell["layer"])]
    return "\n".join([*lines, *(f"[dim]{line}[/dim]" for line in controls)])


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"
