"""The heat map of how alike layers are: all layers of a task by all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from vlprobe.report.alike import thinned
from vlprobe.report.figures import short


def alike_figure(name: str, task: Mapping[str, Any], most: int | None = None) -> alt.Chart:
    """Return all layers by all layers of one task, below the diagonal: how bright a cell is says how alike they are.

    Args:
        name: of the task.
        task: as `read_alike` returns it.
        most: layers that are shown; None: all.
    """
    shown = thinned(task["layers"], most or len(task["layers"]))
    names = [_called(*task["layers"][i]) for i in shown]
    values = []
    for (i, row), (k, column) in ((a, b) for a in enumerate(shown) for b in enumerate(shown) if b[0] <= a[0]):
        value = task["cka"][row][column]
        told = f"{names[i]}, {names[k]}: {_said(value)}"
        values.append({"row": names[i], "column": names[k], "cka": None if math.isnan(value) else value, "told": told})
    axis = {"title": None, "scale": alt.Scale(domain=names, paddingInner=0.04)}
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("column:N", axis=alt.Axis(labelAngle=-90, grid=False, labelLimit=0), **axis),
        y=alt.Y("row:N", axis=alt.Axis(grid=False, labelLimit=0), **axis),
    )
    colour = alt.Color(
        "cka:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True),
        legend=alt.Legend(title=None, orient="right", gradientLength=100, format=".1f"),
    )  # fmt: skip
    cells = base.mark_rect(stroke=None, invalid="filter").encode(color=colour, description="told:N")
    title = alt.TitleParams(f"{name}: how alike layers are (debiased CKA, n = {task['n']})", anchor="start")
    return cells.properties(width=alt.Step(17), height=alt.Step(15), title=title)


def _called(model: str, layer: str) -> str:
    return f"{short(model)} {layer}"


def _said(value: float) -> str:
    return "the same for all items" if math.isnan(value) else f"{value:.3f}"
