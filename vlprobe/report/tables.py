"""The tables of a report, as Markdown, CSV and LaTeX: the main one in the shape of papers, and all numbers, long."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlprobe.report.layers import last_layer, named, probed
from vlprobe.report.published import beside, sources_of

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': '{"}', "`": r"\textasciigrave{}", "*": r"$^{*}$", "†": r"$^{\dagger}$", "²": "$^2$",
}  # fmt: skip
"""Character -> how LaTeX writes it as it is."""
METRICS = {"accuracy": "accuracy", "r2": "R²"}
SURFACE = ("majority", "bag-of-words", "n-grams", "pixels")
"""Controls that have a row of their own: they look at no model."""
NOTE = (
    "Score of the linear probe on the test part at the layer that is best on the validation part (in brackets). "
    "*: matched differs from mismatched, corrected p at most 0.05. †: beats the majority class, and was not shown to "
    "beat every other control. Bold: highest of its column. The last rows look at no model."
)
STREAMED = (
    "streaming-lda, streaming-ridge: probes on representations that the disk would not have held. They are not the "
    "linear probe: compare them with one another only; no finding is of them."
)
PUBLISHED = (
    "Published: as the file of published scores has it. Difference: score minus published; the published one may be of "
    "another layer, probe or cut of the data."
)


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    caption: str
    """What it shows."""
    columns: Sequence[str]
    """The header row."""
    rows: Sequence[Sequence[str]]
    """As many texts in each as there are columns."""
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(row, column) of the cells that are set in bold."""
    breaks: frozenset[int] = field(default_factory=frozenset)
    """Rows that a line stands before."""
    left: int = 3
    """Columns that are words, and so start on the left."""


def main_table(contents: Mapping[str, Any]) -> Table:
    """Return models, stages and conditions by tasks: score, best layer, significance; below it the controls alone.

    Behind a task of which there are published scores stand, for every source, these and the differences.
    """
    tasks = contents["tasks"]
    rows: list[list[str]] = []
    breaks: set[int] = set()
    values: list[list[float]] = []
    for model in contents["models"]:
        name, _, stage = model.rpartition(" (")
        breaks.add(len(rows))
        for condition in contents["conditions"]:
            cells = [task["rows"].get(model, {}).get(condition, {}) for task in tasks.values()]
            published = beside(contents, model, condition)
            if published or any("layer" in probed(cell) for cell in cells):
                shown = [_shown(cell, marks_of(task, model, condition))
                         for task, cell in zip(tasks.values(), cells, strict=True)]  # fmt: skip
                rows.append([name, stage.removesuffix(")"), condition, *_with_published(contents, shown, published)])
                both = zip(tasks, cells, strict=True)
                values.append([x for task, cell in both for x in (cell.get("score", math.nan), *_gap(contents, task))])
    breaks.add(len(rows))
    bold = {(row, 3 + column) for row, column in _highest(values)}
    for control in SURFACE:
        scores = [task["surface"].get("matched", {}).get(control, math.nan) for task in tasks.values()]
        if not all(map(math.isnan, scores)):
            rows.append([control, "", "matched", *_with_published(contents, list(map(number, scores)), {})])
    heads: list[str] = []
    for name, task in tasks.items():
        heads.append(f"{name} ({METRICS.get(task['metric'], task['metric'])})")
        for source in sources_of(contents, name):
            heads += [f"published: {source}", "difference"]
    note = " ".join([NOTE, *([PUBLISHED] if contents["published"] else []), *([STREAMED] if streams(tasks) else [])])
    return Table(
        f"{contents['name']}: {note}", ["model", "stage", "condition", *heads], rows, frozenset(bold),
        frozenset(breaks - {0}),
    )  # fmt: skip


def _gap(contents: Mapping[str, Any], task: str) -> list[float]:
    """Return a number that is none for every column of published scores of a task, and of differences."""
    return [math.nan] * (2 * len(sources_of(contents, task)))


def _with_published(
    contents: Mapping[str, Any], shown: Sequence[str], published: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """Return the cells of a row, one for each task, with the published scores of its model and condition between."""
    cells: list[str] = []
    for task, text in zip(contents["tasks"], shown, strict=True):
        cells.append(text)
        for source in sources_of(contents, task):
            there = published.get((task, source))
            cells += [number(there["score"]), signed(there["difference"])] if there else ["-", "-"]
    return cells


def signed(value: float) -> str:
    """Return a difference with three decimals and its sign; `-` for none."""
    return "-" if math.isnan(value) else f"{value:+.3f}"


def marks_of(task: Mapping[str, Any], model: str, condition: str) -> str:
    """Return the signs behind a score: `*` where matched was shown to differ, `†` where a control was not beaten."""
    verdict = task["verdicts"].get(model)
    if condition != "matched" or verdict is None:
        return ""
    return ("*" if verdict["differs"] else "") + ("†" if verdict["unbeaten"] else "")


def _shown(cell: Mapping[str, Any], marks: str) -> str:
    chosen = probed(cell)
    return f"{number(chosen['score'])}{marks} ({named(chosen)})" if "layer" in chosen else "-"


def streams(tasks: Mapping[str, Any]) -> bool:
    """Say whether some cell is of a probe on representations that were not kept."""
    return any("streamed" in cell for task in tasks.values() for row in task["rows"].values() for cell in row.values())


def _highest(values: Sequence[Sequence[float]]) -> set[tuple[int, int]]:
    """Return (row, column) of the highest numbers of every column, as they are shown."""
    found = set()
    for column, scores in enumerate(zip(*values, strict=True)):
        shown = [-math.inf if math.isnan(score) else round(score, 3) for score in scores]
        found |= {(row, column) for row, score in enumerate(shown) if score == max(shown) > -math.inf}
    return found


def number(value: float) -> str:
    """Return a score with three decimals; `-` for none."""
    return "-" if math.isnan(value) else f"{value:.3f}"


LONG = (
    "task", "level", "metric", "model", "stage", "condition", "control", "layer", "score", "low", "high", "n_test",
    "n_train", "seeds", "chosen", "selectivity", "probe",
)  # fmt: skip


def long_table(contents: Mapping[str, Any]) -> Table:
    """Return one row for every score of the linear probe, at every layer, and of its controls: for plots of one's own.

    `probe` is `linear`, or the streaming one that stands in its place where representations were not kept. `chosen` is
    `best` at the layer that answers for the model, `last` at the last one of its stream, `best last` where both are.
    """
    rows: list[list[str]] = []
    for name, task in contents["tasks"].items():
        start = [name, task["level"], task["metric"]]
        for condition, controls in task["surface"].items():
            alone = [*start, "", "", condition]
            rows += [[*alone, control, "", _exact(score), *[""] * 8] for control, score in controls.items()]
        for curve in task["curves"]:
            model, _, stage = curve["model"].rpartition(" (")
            cell = task["rows"][curve["model"]][curve["condition"]]
            cell, probe = probed(cell), curve["streamed"] or "linear"
            at, layer = cell["layers"][curve["layer"]], curve["layer"]
            who = [*start, model, stage.removesuffix(")"), curve["condition"]]
            chosen = [word for word, one in (("best", cell["layer"]), ("last", last_layer(cell))) if one == layer]
            counts = [str(at[key]) for key in ("n_test", "n_train", "seeds")]
            numbers = [_exact(at[key]) for key in ("score", "low", "high")]
            selects = _exact(at.get("selectivity", math.nan))
            rows.append([*who, "", layer, *numbers, *counts, " ".join(chosen), selects, probe])
            rows += [
                [*who, control, layer, _exact(score), *[""] * 7, probe] for control, score in at["beneath"].items()
            ]
    said = f"{contents['name']}: all scores of the linear probe and its controls"
    return Table(f"{said}. {STREAMED}" if streams(contents["tasks"]) else said, LONG, rows, left=8)


def _exact(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def markdown(table: Table) -> str:
    """Return a table as GitHub's Markdown shows it; what would be markup is shown as it is."""
    rows = [
        [f"**{in_text(text)}**" if (i, k) in table.bold else in_text(text) for k, text in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    align = ["---" if k < table.left else "---:" for k in range(len(table.columns))]
    lines = [[in_text(text) for text in table.columns], align, *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", in_text(table.caption), ""])


def in_text(text: str) -> str:
    """Return a text as Markdown shows it: nothing in it is markup, and it is one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\|`*_[]" else sign for sign in text)


def comma_separated(table: Table) -> str:
    """Return a table as CSV, RFC 4180 with line feeds."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([table.columns, *table.rows])
    return written.getvalue()


def latex(table: Table) -> str:
    r"""Return a table as a `tabular` that `\input` takes, with booktabs' rules; escaped."""
    lines = [
        r"% \usepackage{booktabs,textcomp} in the preamble; wide: \resizebox{\textwidth}{!}{\input{...}}",
        f"% {' '.join(table.caption.split())}",
        rf"\begin{{tabular}}{{@{{}}{'l' * table.left}{'r' * (len(table.columns) - table.left)}@{{}}}}",
        r"\toprule",
        f"{' & '.join(map(tex, table.columns))} \\\\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        if i in table.breaks:
            lines.append(r"\addlinespace")
        cells = [rf"\textbf{{{tex(text)}}}" if (i, k) in table.bold else tex(text) for k, text in enumerate(row)]
        lines.append(f"{' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def tex(text: str) -> str:
    """Return a text as LaTeX shows it: nothing in it is a command, hyphens do not join, a minus is one."""
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    if re.fullmatch(r"-[0-9.]+.*", text):
        return f"$-${escaped[1:]}"
    return re.sub("-(?=-)", "-{}", escaped)
