"""The tables that `vlprobe run` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Print one table a task: model by condition, each cell with score, interval, layer and controls."""
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
    if "layer" not in cell:
        return f"majority {_number(cell['majority'])}"
    seeds = f", {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
    bounds = escape(f"[{_number(cell['low'])}, {_number(cell['high'])}]")
    return (
        f"[bold]{_number(cell['score'])}[/bold] {bounds} at {escape(cell['layer'])}{seeds}\n"
        f"[dim]majority {_number(cell['majority'])}, shuffled labels {_number(cell['shuffled'])}, "
        f"n = {cell['n_test']}[/dim]"
    )


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"
