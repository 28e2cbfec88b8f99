"""All tasks and models on one screen: who takes what from where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

SAID = {"from the image": "image", "from the text": "text", "from both": "both", "not at all": "no", "undecided": "?"}
"""Verdict -> what a cell says; anything else is said as it is."""
WIDTH = 13
"""Columns of the terminal that a model takes."""
COLOURS = {"image": "green", "text": "cyan", "both": "magenta", "no": "dim"}


def print_overview(summary: Mapping[str, Any], console: Console) -> None:
    """Print one table, tasks by models: where each takes the target from, its scores matched and mismatched; in words.

    Nothing is printed where there is no verdict, or one task and one model, of which the tables say as much.

    Args:
        summary: as `summarise` returns it, with findings.
        console: where to print.
    """
    models = list(dict.fromkeys(model for task in summary.values() for model in task["rows"]))
    judged = any(verdict["verdict"] for task in summary.values() for verdict in task["verdicts"].values())
    if not judged or len(summary) * len(models) < 2:
        return
    side_by_side = max((console.width - max(map(len, summary))) // WIDTH, 1)
    for start in range(0, len(models), side_by_side):
        shown = models[start : start + side_by_side]
        title = "Who takes what from where" + (", continued" if start else "")
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
        table.add_column("", no_wrap=True)
        for model in shown:
            # A long name goes on below, where it has a hyphen.
            name = model.partition(" (")[0]
            table.add_column(escape(name.replace("-", "-\n") if len(name) > WIDTH - 2 else name), justify="center")
        for name, task in summary.items():
            table.add_row(escape(name), *(_cell(task, model) for model in shown))
        console.print(table)
    console.print(
        "image, text, both: where the answer comes from; no: not shown to be better than the most frequent answer;\n"
        "?: undecided; -: not asked. "
        "Below: score with its own image → with another's (vision tasks: own text → another's).",
        style="dim", highlight=False, markup=False,
    )  # fmt: skip
    lines = Table.grid(padding=(0, 1))
    for name, task in summary.items():
        lines.add_row(f"[bold]{escape(name)}[/]", escape(_in_words(task)) or "-")
    console.print("\nIn words, the answer is taken", highlight=False)
    console.print(lines, highlight=False)


def _in_words(task: Mapping[str, Any]) -> str:
    """Return which models take a task's target from where."""
    whose: dict[str, list[str]] = {}
    for model in task["rows"]:
        whose.setdefault(task["verdicts"].get(model, {}).get("verdict", ""), []).append(model.partition(" (")[0])
    order = [*(verdict for verdict in SAID if verdict in whose), *(verdict for verdict in whose if verdict not in SAID)]
    return "; ".join(f"{verdict} by {', '.join(whose[verdict])}" for verdict in order if verdict)


def _cell(task: Mapping[str, Any], model: str) -> str:
    verdict = task["verdicts"].get(model, {}).get("verdict", "")
    said = SAID.get(verdict, verdict) or "-"
    cells = task["rows"].get(model, {})
    shown = [_number(cells[name]["score"]) for name in ("matched", "mismatched") if "score" in cells.get(name, {})]
    word = f"[{COLOURS[said]}]{said}[/]" if said in COLOURS else escape(said)
    return f"{word}\n[dim]{' → '.join(shown)}[/]" if shown else word


def _number(value: float) -> str:
    """Return two decimals without the zero before the point: eight models have to stand side by side."""
    if math.isnan(value):
        return "none"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
