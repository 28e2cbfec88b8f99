"""Two runs side by side: a table on the terminal, and the same as CSV and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from vlprobe.audit.printed import visible
from vlprobe.errors import many
from vlprobe.findings.apart import Alone
from vlprobe.findings.two_runs import NO_ANSWER, SAME_INPUT, Change, TwoRuns
from vlprobe.report.overview import SAID
from vlprobe.report.tables import METRICS, Table, comma_separated, markdown

COLUMNS = (
    "task", "model", "stage_a", "stage_b", "condition", "kind", "metric", "layer_a", "layer_b", "a", "b", "difference",
    "low", "high", "p", "corrected", "significant", "smallest", "compared", "groups", "differing", "n_a", "n_b",
    "low_a", "high_a", "low_b", "high_b", "verdict_a", "verdict_b", "untested",
)  # fmt: skip
"""Of the CSV: the fields of `Change`, one number or name a column."""
HOW = (
    "B minus A on the items that both answered, with its 95 % interval (not corrected); p corrected for all tests of "
    "this comparison (Holm). *: shown, p at most 0.05; else less than the number in brackets may go unseen. "
    "loss: what a wrong image (vision tasks: text) costs. Layers are those that each run chose."
)
SHOWN = 12
"""So many differences of one kind are printed; the other forms have all."""


def long_form(found: TwoRuns) -> str:
    """Return all numbers as CSV: one row for every change, NaN left empty."""
    rows = [list(map(_cell, _values(change))) for change in found.changes]
    return comma_separated(Table("", COLUMNS, rows))


def _values(change: Change) -> Iterator[object]:
    yield from (change.task, change.model, *change.stages, change.condition, change.kind, change.metric)
    yield from (*change.layers, *change.scores, change.difference, *change.interval, change.p, change.corrected)
    yield from (change.significant, change.smallest, change.compared, change.groups, change.differing, *change.n)
    yield from (*change.intervals[0], *change.intervals[1], *change.verdicts, change.untested)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def marked_down(found: TwoRuns, names: tuple[str, str]) -> str:
    """Return what differs between the runs, and the table, as Markdown.

    Args:
        found: the comparison.
        names: of the two folders.
    """
    rows = [[each.what, each.a or "-", each.b or "-"] for each in found.apart]
    for (run, why), whose in _by_reason(found.alone).items():
        rows.append([f"only in {run}", *("; ".join(whose) if side == run else why for side in "AB")])
    parts = [markdown(Table(f"A: {names[0]}. B: {names[1]}. What is not the same.", ("", "A", "B"), rows))]
    kept = [[change.task, change.model, _condition(change), *_lines(change, full=True)] for change in found.changes]
    head = ("task", "model", "condition", "A", "B", "B - A", "p", "n")
    return "\n".join([*parts, markdown(Table(HOW, head, kept))])


def print_two_runs(found: TwoRuns, names: tuple[str, str], console: Console) -> None:
    """Print what is not the same in two runs, and what became of every number.

    Args:
        found: the comparison.
        names: of the two folders.
        console: where to print. What came from files is printed as text, never as markup.
    """
    for letter, name in zip("AB", names, strict=True):
        console.print(visible(f"{letter}: {name}"), soft_wrap=True)
    print_apart(found, console)
    moved = [change for change in found.changes if change.untested not in (NO_ANSWER, SAME_INPUT)]
    for task, changes in groupby(moved, key=lambda change: change.task):
        shown = list(changes)
        title = visible(f"{task} ({METRICS.get(shown[0].metric, shown[0].metric)})")
        table = Shown(title=title, title_justify="left", title_style="bold")
        for head in ("model", "condition", "A", "B", "B - A", "p", "n"):
            table.add_column(head, overflow="fold", justify="left" if head in ("model", "condition") else "right")
        for change in shown:
            table.add_row(_model(change), visible(_condition(change)), *map(Text, _lines(change)))
        console.print(table)
        for why in dict.fromkeys(change.untested for change in shown if change.untested):
            console.print(visible(f"not paired: {why}"), soft_wrap=True)
    _print_counts(found, console)


def _model(change: Change) -> Text:
    """Return a model's name, and below it where it takes the target from."""
    before, after = (SAID.get(word, word) or "-" for word in change.verdicts)
    verdict = before if before == after else f"{before} → {after}"
    return Text("\n").join([visible(change.model), *([Text(verdict)] if any(change.verdicts) else [])])


def _condition(change: Change) -> str:
    return "loss" if change.kind == "loss" else change.condition


def _lines(change: Change, full: bool = False) -> list[str]:
    """Return A, B, their difference, p and n, as cells; `full` tells why there is no difference."""
    own = [
        _number(score, change.kind == "loss")
        + (f"\n[{low:.3f}, {high:.3f}]" if not change.compared else "")
        + f"\n{layer}"
        for score, (low, high), layer in zip(change.scores, change.intervals, change.layers, strict=True)
    ]
    if not change.compared:
        told = change.untested if full else "not paired"
        return [*own, told, "", "\n".join(map(str, change.n))]
    if change.untested:
        return [*own, change.untested, "", str(change.compared)]
    low, high = change.interval
    p = "< 0.0001" if change.corrected < 0.0001 else f"{change.corrected:.2g}"
    unseen = "" if change.significant or math.isnan(change.smallest) else f"\n({change.smallest:.3f})"
    mark = " *" if change.significant else ""
    return [*own, f"{change.difference:+.3f}{mark}\n[{low:+.3f}, {high:+.3f}]{unseen}", p, str(change.compared)]


def _number(value: float, signed: bool) -> str:
    return "none" if math.isnan(value) else f"{value:+.3f}" if signed else f"{value:.3f}"


def print_apart(found: TwoRuns, console: Console) -> None:
    """Print what two runs were made of that differs, and what only one of them has."""
    told = found.apart[:SHOWN]
    if told:
        table = Shown(title="What is not the same", title_justify="left", title_style="bold")
        for head in ("", "A", "B"):
            table.add_column(head, overflow="fold")
        for each in told:
            table.add_row(*map(visible, (each.what, each.a or "-", each.b or "-")))
        console.print(table)
    if len(found.apart) > SHOWN:
        more = f"and {len(found.apart) - SHOWN} more; --format json has all"
        console.print(more, markup=False, highlight=False)
    for (run, why), whose in _by_reason(found.alone).items():
        other = "B" if run == "A" else "A"
        console.print(visible(f"only in {run}: {'; '.join(whose)} ({other}: {why})"), soft_wrap=True)


def _by_reason(alone: Sequence[Alone]) -> dict[tuple[str, str], list[str]]:
    """Return (run, why the other has none) -> what it has, told as briefly as the reason allows."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for each in alone:
        kind, _, name = each.why.removeprefix("no ").partition(" ")
        brief = each.why == f"no {kind} {name}" and name in (each.task, each.model, each.condition)
        told = f"{kind} {name}" if brief else f"{each.task}, {each.model}, {each.condition}"
        found.setdefault((each.run, each.why), {})[told] = None
    return {reason: list(told) for reason, told in found.items()}


def _print_counts(found: TwoRuns, console: Console) -> None:
    untested = [change.untested for change in found.changes if change.untested]
    same, blind = untested.count(NO_ANSWER), untested.count(SAME_INPUT)
    apart = len(untested) - same - blind
    shown = sum(change.significant for change in found.changes)
    console.print(HOW, style="dim", markup=False, highlight=False)
    parts = [f"{many(found.tests, 'test')}, {shown} shown to differ"]
    parts += [f"{apart} not paired, with the interval of each run"] if apart else []
    parts += [f"not in the tables: {same} of which no answer differs"] if same else []
    parts += [f"{blind} that are the same as matched, the model not seeing what a condition changes"] if blind else []
    console.print(f"{'; '.join(parts)}.", highlight=False)
