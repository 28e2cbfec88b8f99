"""The tables that `vlprobe run` prints, and what they come to in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlprobe.errors import many
from vlprobe.findings import FILE, Finding, count, headlines
from vlprobe.report.layers import probed
from vlprobe.report.tables import STREAMED

LINES = 15
"""Findings that are printed; all are in findings.json."""
CELLS = (
    "In a cell: score, [95 % interval], best layer (chosen on the validation part), controls. Layer 0: of the same "
    "stream. Selects: score minus that on random labels of types. Untrained: the same model with random weights. "
    "No model: what the targets, the words and the pixels tell without one."
)
"""What stands in the tables."""
LEGEND = (
    "takes it: where what a probe finds comes from; not at all: not shown to beat the majority class; not above: "
    "a control that the probe was not shown to beat.",
    "*: shown, corrected p at most 0.05 (in a table: matched differs from mismatched). -: not shown.",
)
"""What the signs of verdicts and findings mean."""
SHORT = {"bag-of-words": "words", "shuffled-labels": "shuffled", "layer-0": "layer 0", "control-task": "random labels"}
SHORT |= {"random-init": "untrained"}
"""Control -> what a narrow cell calls it; others by their name."""


BESIDE = {
    "mlp": "one hidden layer",
    "mdl": "how many times shorter the train labels get",
    "salin2022": "best epoch on the test part, which flatters it",
}
"""What has to be known of a probe that stands beside the linear one."""
UNITS = {"compression": "x"}
"""Metric -> what is written behind its number, where it is not the one that the table is about."""


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Print one table a task: model by condition, each cell with score, interval, layer and controls.

    A cell is a few short lines, so that five conditions stand side by side on a narrow terminal. Probes that were asked
    for beside the linear one follow below it, on the layer that the linear one chose.
    """
    for name, task in summary.items():
        title = escape(f"{name} ({task['level']}), {task['metric']}")
        table = Table(title=title, title_justify="left", show_lines=True)
        table.add_column("model", overflow="fold")
        judged = any(verdict["verdict"] for verdict in task["verdicts"].values())
        if judged:
            table.add_column("takes it", overflow="fold")
        for condition in task["conditions"]:
            table.add_column(escape(condition).replace(">", ">\n"), overflow="fold")
        alone = [_lines(task["surface"].get(each, {})) for each in task["conditions"]]
        table.add_row("[dim]no model[/dim]", *([""] if judged else []), *alone)
        for model, cells in task["rows"].items():
            verdict = task["verdicts"].get(model, {"verdict": "", "unseen": False, "differs": False, "unbeaten": []})
            said = [_takes(verdict, task["level"])] if judged else []
            shown = [_cell(cells.get(each), each == "matched" and verdict["differs"]) for each in task["conditions"]]
            table.add_row(_two_lines(model), *said, *shown)
        console.print(table)
    console.print(CELLS, style="dim", markup=False, highlight=False)
    _print_beside(summary, console)


def _print_beside(summary: Mapping[str, Any], console: Console) -> None:
    """Print what the probes beside the linear one are."""
    cells = [cell for task in summary.values() for row in task["rows"].values() for cell in row.values()]
    if any("streamed" in cell for cell in cells):
        console.print(STREAMED, style="dim", markup=False, highlight=False)
    there = dict.fromkeys(name for cell in cells for name in cell.get("beside", ()))
    if there:
        told = ", ".join(f"{name} ({BESIDE[name]})" if name in BESIDE else name for name in there)
        line = f"Below n, for comparison only, other probes on the same layer: {told}."
        console.print(line, style="dim", markup=False, highlight=False)


def _two_lines(model: str) -> str:
    name, _, stage = model.rpartition(" (")
    return f"{escape(name)}\n[dim]{escape(stage.removesuffix(')'))}[/dim]"


def _takes(verdict: Mapping[str, Any], level: str) -> str:
    beneath = [f"sees no {'text' if level == 'vision' else 'image'}"] if verdict["unseen"] else []
    beneath += (
        ["not above", *(f" {SHORT.get(name, name)}" for name in verdict["unbeaten"])] if verdict["unbeaten"] else []
    )
    return "\n".join([verdict["verdict"] or "-", *(f"[dim]{line}[/dim]" for line in beneath)])


def _cell(cell: Mapping[str, Any] | None, differs: bool) -> str:
    chosen = probed(cell or {})
    if "layer" not in chosen:
        return "-"
    bounds = escape(f"[{_number(chosen['low'])}, {_number(chosen['high'])}]")
    beneath = {name: score for name, score in chosen["controls"].items() if name != "control-task"}
    controls = [_lines(beneath)] if beneath else []
    if "selectivity" in chosen:
        controls.append(f"[dim]selects {chosen['selectivity']:+.3f}[/dim]")
    controls.append(f"[dim]n = {chosen['n_test']}[/dim]")
    controls += [f"[dim]{chosen['seeds']} seeds[/dim]"] if chosen["seeds"] > 1 else []
    score = _number(chosen["score"])
    first = [chosen["probe"], score] if "probe" in chosen else [f"[bold]{score}[/bold]{' *' if differs else ''}"]
    beside = [line for name, other in chosen["beside"].items() for line in _beside(name, other)]
    return "\n".join([*first, bounds, escape(chosen["layer"]), *controls, *beside])


def _lines(controls: Mapping[str, float]) -> str:
    return "\n".join(f"[dim]{SHORT.get(name, name)} {_number(score)}[/dim]" for name, score in controls.items())


def _beside(name: str, other: Mapping[str, Any]) -> list[str]:
    """Return what a probe that is not linear made of the layer that the linear one chose."""
    unit = UNITS.get(other["metric"], "")
    lines = [f"{escape(name)} {_number(other['score'])}{unit}"]
    if not math.isnan(other["shuffled"]):  # else that control was not asked for
        lines.append(f"[dim]shuffled {_number(other['shuffled'])}{unit}[/dim]")
    if "selectivity" in other:
        lines.append(f"[dim]selects {other['selectivity']:+.3f}[/dim]")
    return lines


def print_findings(findings: Sequence[Finding], folder: Path, console: Console) -> None:
    """Print what the tables come to, a sentence each, the most important first.

    Args:
        findings: as `find` returns them.
        folder: where `findings.json` is.
        console: where to print.
    """
    told = headlines(findings)
    if not told:
        return
    tests, controls = count(findings)
    for line in LEGEND if any(finding.verdict for finding in told) else ():
        console.print(line, style="dim", markup=False, highlight=False)
    said = f"of {many(tests, 'test')}, and {controls} of controls, p corrected for the number of each (Holm)"
    console.print(f"\n[bold]Findings[/bold] {said}", highlight=False)
    lines = Table.grid(padding=(0, 1))
    for finding in told[:LINES]:
        lines.add_row(" *" if finding.significant else " -", escape(finding.statement))
    console.print(lines, highlight=False)
    more = len(findings) - min(len(told), LINES)
    said = f"and {more:,} more, the single tests among them, in {folder / FILE}" if more else f"all in {folder / FILE}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"
