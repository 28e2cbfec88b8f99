"""The page of a report: one HTML file that asks nothing of any network, and runs no script."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vlprobe.errors import many
from vlprobe.probes import CONTROLS
from vlprobe.report.alike import MOST, moved, pairs
from vlprobe.report.alike_figure import alike_figure
from vlprobe.report.figures import DASHES, colours, drawn, heat_figure, inline, panel, reliance_figure, short, titled
from vlprobe.report.layers import last_layer, named, probed
from vlprobe.report.overview import SAID
from vlprobe.report.published import beside, sources_of
from vlprobe.report.slopes import slopes_figure
from vlprobe.report.tables import METRICS, PUBLISHED, STREAMED, SURFACE, marks_of, number, signed, streams
from vlprobe.report.terminal import BESIDE, UNITS

OPEN = 12
"""Findings that are shown at once; the rest are folded."""
LOSSES = ("mismatched", "text-only", "image-only", "stage-loss")
"""Kinds of findings that are drawn among what is lost."""
CALLED = {"shuffled-labels": "shuffled labels", "control-task": "random labels", "layer-0": "layer 0"}
CALLED |= {"random-init": "untrained"}


def page(contents: Mapping[str, Any]) -> str:
    """Return a report as one HTML page.

    Args:
        contents: as `read_contents` returns them. What is in them is shown as text, whatever it holds.
    """
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": number, "signed": signed, "short": short, "many": many}
    environment.filters["metric"] = lambda name: METRICS.get(name, name)
    environment.filters["called"] = lambda name: CALLED.get(name, name)
    template = environment.get_template("page.html")
    described, numbers = contents["provenance"], count(1)
    return template.render(
        contents,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - ours, nothing of a study is in it
        open=OPEN,
        said=SAID,
        glance=list(_glance(contents)),
        main=list(_main(contents)),
        surface=[name for name in SURFACE if any(name in _alone(task) for task in contents["tasks"].values())],
        alone={name: _alone(task) for name, task in contents["tasks"].items()},
        figures={name: _figures(name, task, contents, numbers) for name, task in contents["tasks"].items()},
        losses=_losses(contents, numbers),
        slopes=_slopes(contents, numbers),
        figure_of=lambda finding: _figure_of(finding, contents),
        streamed=STREAMED if streams(contents["tasks"]) else "",
        beside={name: _probes(task) for name, task in contents["tasks"].items()},
        probes_said=BESIDE,
        units=UNITS,
        alike=list(_alike(contents, numbers)),
        alike_most=MOST,
        details={name: list(_details(task)) for name, task in contents["tasks"].items()},
        colours=colours(contents["conditions"]),
        sources={name: sources_of(contents, name) for name in contents["tasks"]},
        dashes=_dashes(contents),
        explained=CONTROLS,
        published_note=PUBLISHED,
        command=shlex.join(described["command"]),
        study=yaml.safe_dump(described["study"], sort_keys=False, allow_unicode=True, width=100),
    )


def _figure_of(finding: Mapping[str, Any], contents: Mapping[str, Any]) -> str:
    """Return the id of the figure that shows what a finding says: of what is lost, of a model's layers, or the task."""
    task = contents["tasks"][finding["task"]]
    if finding["kind"] in LOSSES and task["reliance"]:
        return f"lost-{finding['number']}"
    if drawn(task, finding["label"]) and finding["label"] in contents["models"]:
        return f"panel-{finding['number']}-{contents['models'].index(finding['label']) + 1}"
    return f"task-{finding['number']}"


def _probes(task: Mapping[str, Any]) -> list[str]:
    """Return the probes that stand beside the linear one, in the order in which they come."""
    cells = [cell for row in task["rows"].values() for cell in row.values()]
    return list(dict.fromkeys(name for cell in cells for name in cell.get("beside", ())))


def _alone(task: Mapping[str, Any]) -> Mapping[str, float]:
    return dict(task["surface"].get("matched", {}))


def _glance(contents: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row a model: for each task the verdict in a word, and the scores matched and mismatched."""
    for model in contents["models"]:
        cells = []
        for task in contents["tasks"].values():
            verdict = task["verdicts"].get(model, {}).get("verdict", "")
            row = task["rows"].get(model, {})
            scores = [row[name]["score"] for name in ("matched", "mismatched") if "score" in row.get(name, {})]
            word = SAID.get(verdict, verdict)
            cells.append({"word": word, "verdict": verdict, "shown": " → ".join(f"{score:.2f}" for score in scores)})
        yield {"model": model, "cells": cells}


def _main(contents: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row for every model and condition: score, marks, best layer, and what is told on hovering."""
    tops = {name: _top(task) for name, task in contents["tasks"].items()}
    for model in contents["models"]:
        name, _, stage = model.rpartition(" (")
        rows: list[dict[str, Any]] = []
        for condition in contents["conditions"]:
            cells: list[dict[str, Any] | None] = []
            published = beside(contents, model, condition)
            for task_name, task in contents["tasks"].items():
                cell = task["rows"].get(model, {}).get(condition, {})
                there = [published.get((task_name, source)) for source in sources_of(contents, task_name)]
                cells += [_shown(cell, marks_of(task, model, condition), tops[task_name]), *there]
            if any(cells):
                rows.append({"condition": condition, "cells": cells, "first": not rows})
        named = {"model": name, "stage": stage.removesuffix(")"), "span": len(rows)}
        yield from (named | row for row in rows)


def _shown(cell: Mapping[str, Any], marks: str, top: float) -> dict[str, Any] | None:
    """Return a cell of the main table; a probe on representations that were not kept is never among the highest."""
    chosen = probed(cell)
    if "layer" not in chosen:
        return None
    told = f"{STREAMED} " if "streamed" in cell else ""
    told += f"95 % interval [{number(chosen['low'])}, {number(chosen['high'])}], n = {chosen['n_test']}"
    told += f", {chosen['seeds']} seeds" if chosen["seeds"] > 1 else ""
    told += "".join(f"; {CALLED.get(each, each)} {number(score)}" for each, score in chosen["controls"].items())
    best = "streamed" not in cell and round(cell["score"], 3) == top
    return {"score": chosen["score"], "layer": named(chosen), "told": told, "top": best, "marks": marks}


def _top(task: Mapping[str, Any]) -> float:
    scores = [cell.get("score", math.nan) for cells in task["rows"].values() for cell in cells.values()]
    return max((round(score, 3) for score in scores if not math.isnan(score)), default=math.nan)


def _figures(name: str, task: Mapping[str, Any], contents: Mapping[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    panels = []
    for model in contents["models"]:
        if drawn(task, model):
            chart, title = panel(task, model, contents["conditions"]), titled(task, model)
            panels.append((model, title, inline(chart, f"{name}, {title}: score by layer", next(numbers))))
    heat = heat_figure(name, task)
    told = f"{name}: score of every model at every layer"
    return {"panels": panels, "heat": None if heat is None else inline(heat, told, next(numbers))}


def loss_axes(contents: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return metric -> the axis that holds what is lost on all its tasks, so that panels can be compared."""
    axes = {}
    for metric in dict.fromkeys(task["metric"] for task in contents["tasks"].values()):
        rows = [row for task in contents["tasks"].values() if task["metric"] == metric for row in task["reliance"]]
        bounds = [value for row in rows for value in (row["low"], row["high"], row["loss"]) if not math.isnan(value)]
        low, high = min([-0.1, *bounds]), max([1.0, *bounds])
        axes[metric] = (math.floor(low * 10) / 10, math.ceil(high * 10) / 10)
    return axes


def _losses(contents: Mapping[str, Any], numbers: Iterator[int]) -> list[tuple[str, Any]]:
    axes, drawn = loss_axes(contents), []
    for name, task in contents["tasks"].items():
        figure = reliance_figure(name, task, contents["conditions"], axes[task["metric"]])
        if figure is not None:
            drawn.append((name, inline(figure, f"{name}: what each model loses", next(numbers))))
    return drawn


def _slopes(contents: Mapping[str, Any], numbers: Iterator[int]) -> list[Any]:
    axes, drawn = loss_axes(contents), []
    for name, task in contents["tasks"].items():
        figure = slopes_figure(name, task, contents["stages"], contents["conditions"], axes[task["metric"]])
        if figure is not None:
            drawn.append(inline(figure, f"{name}: what is lost before and after further training", next(numbers)))
    return drawn


def _alike(contents: Mapping[str, Any], numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    """Yield the figure and the tables of every task whose layers were compared."""
    for name, task in contents["similarity"]["tasks"].items():
        between = pairs(task)
        told = f"{name}: how alike all layers are that were compared, in a table below"
        yield {
            "task": name,
            "n": task["n"],
            "layers": len(task["layers"]),
            "svg": inline(alike_figure(name, task, MOST), told, next(numbers)),
            "pairs": between,
            "moved": moved(task, contents["stages"]),
        }


def _details(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row for every model and condition of a task, with all its numbers; `probe` names a streaming one."""
    for model, cells in task["rows"].items():
        for condition, cell in cells.items():
            chosen = probed(cell)
            if "layer" in chosen:
                last = last_layer(chosen)
                yield {
                    **chosen,
                    "probe": chosen.get("probe", ""),
                    "model": model,
                    "condition": condition,
                    "last": last,
                    "last_score": chosen["layers"][last]["score"],
                    "verdict": task["verdicts"].get(model, {}) if condition == "matched" else {},
                }


def _dashes(contents: Mapping[str, Any]) -> dict[str, str]:
    """Return the controls that are drawn -> how, for the legend."""
    there = set()
    for task in contents["tasks"].values():
        for cells in task["rows"].values():
            cell = cells.get("matched", {})
            layers = probed(cell).get("layers", {})
            there |= {*cell.get("alone", {}), *(name for layer in layers.values() for name in layer["beneath"])}
    names = {
        "bag-of-words": "words",
        "n-grams": "words",
        "shuffled-labels": "shuffled labels",
        "random-init": "untrained",
    }
    drawn = {names.get(name, name) for name in there}
    return {name: " ".join(map(str, dash)) for name, dash in DASHES.items() if name in drawn}
