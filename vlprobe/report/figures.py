"""The figures of a report: score by layer, models by layers, and what is lost without the image or the text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import unescape
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup, escape

from vlprobe.report.layers import in_order
from vlprobe.report.tables import METRICS

COLOURS = {"matched": "#0072B2", "mismatched": "#D55E00", "text-only": "#009E73", "image-only": "#CC79A7"}
"""Condition -> its colour: of Okabe and Ito's palette, which the colour-blind tell apart."""
OTHERS = ("#E69F00", "#56B4E9", "#8C6BB1", "#999999")
"""Colours of further conditions (`A>B`), in the study's order."""
INK, AXIS, GRID, GREY = "#333333", "#8a8a8a", "#e4e4e4", "#777777"
"""Of words, axes, grids and controls: the page's style sheet turns the first three over in the dark."""
DASHES = {
    "majority": [1, 0],
    "words": [6, 3],
    "pixels": [2, 2],
    "shuffled labels": [1, 4],
    "untrained": [9, 3, 2, 3],
}
"""Control -> how its line is dashed."""
LAYERED = {"shuffled-labels": "shuffled labels", "random-init": "untrained"}
"""Controls that have a line by layer -> what they are called."""
HOLLOW = "Diamonds: streaming probes, which are not the linear one, and are to be compared with one another only."
WIDTH, HEIGHT, GAP = 210, 130, 8
"""Of a panel without its axes, and between the parts of one, in pixels."""


def colours(conditions: Sequence[str]) -> dict[str, str]:
    """Return condition -> colour."""
    others = iter(OTHERS * len(conditions))
    return {name: COLOURS.get(name) or next(others) for name in conditions}


def short(model: str) -> str:
    """Return a model's label without a stage that is no news."""
    return model.removesuffix(" (pretrained)")


def span(scores: Sequence[float]) -> list[float]:
    """Return the axis that holds scores: from 0 to 1, and lower where they are."""
    return [min([0.0, *(math.floor(score * 10) / 10 for score in scores if score > -math.inf)]), 1.0]


def panel(task: Mapping[str, Any], model: str, conditions: Sequence[str], legend: bool = False) -> alt.HConcatChart:
    """Return score by layer of one model on one task: a stream beside the other, conditions as lines, controls grey."""
    rows = [row for row in task["curves"] if row["model"] == model and not math.isnan(row["score"])]
    streams: dict[str, list[str]] = {}
    for layer in in_order({row["layer"] for row in rows}):
        streams.setdefault(layer.partition(".")[0], []).append(layer)
    step = (WIDTH - GAP * (len(streams) - 1)) / sum(len(layers) for layers in streams.values())
    parts: list[alt.LayerChart] = []
    for stream, layers in streams.items():
        inside = [row | {"place": row["layer"].partition(".")[2]} for row in rows if row["stream"] == stream]
        chart = _stream(inside, task, model, conditions, first=not parts, legend=legend)
        above = 9 if parts else 4  # the first has an axis, whose highest label stands higher than the panel
        title = alt.TitleParams(stream, fontSize=10, fontWeight="normal", color=INK, anchor="middle", offset=above)
        parts.append(chart.properties(width=max(round(step * len(layers)), 30), height=HEIGHT, title=title))
    return alt.hconcat(*parts, spacing=GAP)


def _stream(
    rows: Sequence[Mapping[str, Any]], task: Mapping[str, Any], model: str, conditions: Sequence[str], first: bool,
    legend: bool,
) -> alt.LayerChart:  # fmt: skip
    places = list(dict.fromkeys(row["place"] for row in rows))
    low = [row["low"] for row in task["curves"]] + [
        value for values in task["surface"].values() for value in values.values()
    ]
    axis = alt.Axis(tickCount=5, format=".1f", labels=first, ticks=first, domain=first)
    y = {"scale": alt.Scale(domain=span(low), clamp=True), "axis": axis, "title": None}
    x = alt.X("place:N", sort=places, title=None, scale=alt.Scale(type="point", padding=0.4),
              axis=alt.Axis(labelAngle=0, labelOverlap=True))  # fmt: skip
    chosen = colours(conditions)
    colour = alt.Color(
        "condition:N", scale=alt.Scale(domain=[*chosen], range=[*chosen.values()]),
        legend=alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolStrokeWidth=3,
                          symbolOpacity=1, symbolSize=300) if legend else None,
    )  # fmt: skip
    told = [dict(row) | {"told": _told(row)} for row in rows]
    base = alt.Chart(alt.Data(values=[_clean(row) for row in told])).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.16, aria=False).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    lines = [
        base.mark_line(strokeWidth=1.8, aria=False, strokeDash=[1, 0] if own else [4, 3])
        .encode(y=alt.Y("score:Q", **y))
        .transform_filter(f"(datum.condition == 'matched') == {str(own).lower()}")
        for own in (True, False)
    ]
    bars = base.mark_rule(strokeWidth=1, opacity=0.5, aria=False).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    seen = "(datum.best ? 90 : 30) * (datum.condition == 'matched' ? 1 : 0.45)"  # what lies below is seen
    size = {"expr": f"{seen} * (datum.streamed ? 1.8 : 1)"}
    marks = [
        base.mark_point(
            filled=not hollow, shape="diamond" if hollow else "circle", opacity=1, size=size, strokeWidth=1.2
        )
        .encode(y=alt.Y("score:Q", **y), description="told:N")
        .transform_filter(f"(datum.streamed != '') == {str(hollow).lower()}")
        for hollow in dict.fromkeys(bool(row["streamed"]) for row in rows)
    ]
    return alt.layer(*_controls(rows, task["rows"][model].get("matched", {}), x, y, legend), band, bars, *lines, *marks)


def _controls(
    rows: Sequence[Mapping[str, Any]], cell: Mapping[str, Any], x: alt.X, y: Mapping[str, Any], legend: bool
) -> list[alt.Chart]:
    """Return the controls of the matched inputs, as level lines, or lines by layer where they look at one."""
    alone = dict(cell.get("alone", {}))
    words = [alone[name] for name in ("bag-of-words", "n-grams") if name in alone]
    levels = {"majority": alone.get("majority"), "words": max(words, default=None), "pixels": alone.get("pixels")}
    there = [name for name, value in levels.items() if value is not None]
    there += [said for name, said in LAYERED.items() if any(name in row["beneath"] for row in rows)]
    dash = alt.StrokeDash(
        "control:N", scale=alt.Scale(domain=[*DASHES], range=[*DASHES.values()]),
        legend=alt.Legend(title=None, orient="bottom", symbolStrokeColor=GREY, symbolSize=400, values=there)
        if legend
        else None,
    )  # fmt: skip
    level = [
        {"control": name, "score": value, "told": f"{name}: {value:.3f}"}
        for name, value in levels.items()
        if value is not None and not math.isnan(value)
    ]
    layered = [
        {"control": said, "score": row["beneath"][name], "place": row["place"]}
        for row in rows
        for name, said in LAYERED.items()
        if row["condition"] == "matched" and name in row["beneath"]
    ]
    charts = []
    if level:
        flat = alt.Chart(alt.Data(values=level)).mark_rule(color=GREY, strokeWidth=1.2)
        charts.append(flat.encode(y=alt.Y("score:Q", **y), strokeDash=dash, description="told:N"))
    if layered:
        by_layer = alt.Chart(alt.Data(values=layered)).mark_line(color=GREY, strokeWidth=1.2, aria=False)
        charts.append(by_layer.encode(x=x, y=alt.Y("score:Q", **y), strokeDash=dash))
    return charts


def _told(row: Mapping[str, Any]) -> str:
    bounds = f"[{row['low']:.3f}, {row['high']:.3f}]"
    best = ", best on the validation part" if row["best"] else ""
    probe = f", {row['streamed']}" if row["streamed"] else ""
    who = f"{short(row['model'])}, {row['layer']}, {row['condition']}{probe}"
    return f"{who}: {row['score']:.3f} {bounds}, n = {row['n']}{best}"


def titled(task: Mapping[str, Any], model: str) -> str:
    """Return what stands above a model's panel: its name, and the streaming probe where that is what listened."""
    probes = [row["streamed"] for row in task["curves"] if row["model"] == model and row["streamed"]]
    return ", ".join(dict.fromkeys([short(model), *probes]))


def drawn(task: Mapping[str, Any], model: str) -> bool:
    """Say whether a model has a panel: whether some probe scored one of its layers."""
    return any(row["model"] == model and not math.isnan(row["score"]) for row in task["curves"])


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a chart reads of a row; an interval that is none is the score."""
    bounds = {name: row["score"] if math.isnan(row[name]) else row[name] for name in ("low", "high")}
    return {name: value for name, value in row.items() if name != "beneath"} | bounds


def curves_figure(name: str, task: Mapping[str, Any], conditions: Sequence[str]) -> alt.ConcatChart | None:
    """Return the panels of all models on one task, with a legend: for a paper; None where no model has a score."""
    panels = [
        panel(task, model, conditions, legend=True).properties(
            title=alt.TitleParams(titled(task, model), anchor="start")
        )
        for model in task["rows"]
        if drawn(task, model)
    ]
    if not panels:
        return None
    said = [HOLLOW] if any(row["streamed"] for row in task["curves"]) else []
    title = alt.TitleParams(
        f"{name}: {METRICS.get(task['metric'], task['metric'])} by layer",
        anchor="start",
        fontSize=14,
        subtitle=said,
        subtitleColor=INK,
        subtitleFontSize=10,
    )
    return alt.concat(*panels, columns=3, spacing=24, title=title)


def heat_figure(name: str, task: Mapping[str, Any]) -> alt.LayerChart | None:
    """Return models by layers of one task, matched: how bright a cell is says its score; None where there is none.

    Linear probes alone: what stands in one figure is compared.
    """
    linear = [row for row in task["curves"] if not row["streamed"]]
    rows = [row for row in linear if row["condition"] == "matched" and not math.isnan(row["score"])]
    if not rows:
        return None
    layers = in_order({row["layer"] for row in rows})
    values = [
        {"model": short(row["model"]), "layer": row["layer"], "score": row["score"], "told": _told(row)} for row in rows
    ]
    written = len(layers) <= 14
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("layer:N", sort=layers, title=None, axis=alt.Axis(labelAngle=-40, grid=False)),
        y=alt.Y("model:N", sort=[short(model) for model in task["rows"]], title=None, axis=alt.Axis(grid=False)),
    )
    cells = base.mark_rect(stroke=None).encode(
        color=alt.Color(
            "score:Q", scale=alt.Scale(scheme="viridis", domain=span([row["score"] for row in rows])),
            legend=alt.Legend(title=None, orient="right", gradientLength=100, format=".1f"),
        ),
        description="told:N",
    )  # fmt: skip
    dark = alt.condition("datum.score > 0.55", alt.value("#111111"), alt.value("#fafafa"))
    words = base.mark_text(fontSize=10, aria=False).encode(text=alt.Text("score:Q", format=".2f"), color=dark)
    step = alt.Step(40 if written else 18)
    title = alt.TitleParams(f"{name}: {METRICS.get(task['metric'], task['metric'])} by layer, matched", anchor="start")
    return alt.layer(*([cells, words] if written else [cells])).properties(
        width=step, height=alt.Step(24), title=title
    )  # fmt: skip


def reliance_figure(
    name: str, task: Mapping[str, Any], conditions: Sequence[str], domain: Sequence[float], legend: bool = False
) -> alt.LayerChart | None:
    """Return what each model loses on one task, with intervals; None where no condition takes anything away."""
    losses = task["reliance"]
    blind = [model for model, verdict in task["verdicts"].items() if verdict["unseen"]]
    if not losses:
        return None
    there = [model for model in task["rows"] if model in blind or any(row["model"] == model for row in losses)]
    lost = [each for each in conditions if any(row["condition"] == each for row in losses)]
    chosen = {name: colour for name, colour in colours(conditions).items() if name in lost}
    values = [
        row | {"model": short(row["model"]), "told": told_loss(row), "shown": row["corrected"] <= 0.05}
        for row in losses
    ]
    y = alt.Y("model:N", sort=[short(model) for model in there], title=None,
              scale=alt.Scale(domain=[short(model) for model in there]), axis=alt.Axis(grid=True))  # fmt: skip
    x = {
        "scale": alt.Scale(domain=list(domain), clamp=True),
        "title": f"lost ({METRICS.get(task['metric'], task['metric'])})",
    }
    shift = alt.YOffset("condition:N", sort=lost, scale=alt.Scale(domain=lost))
    key = alt.Legend(title=None, orient="bottom", symbolType="circle") if legend else None
    colour = alt.Color("condition:N", scale=alt.Scale(domain=[*chosen], range=[*chosen.values()]), legend=key)
    base = alt.Chart(alt.Data(values=values)).encode(y=y, color=colour, yOffset=shift)
    bars = base.mark_rule(strokeWidth=2, aria=False).encode(x=alt.X("low:Q", **x), x2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("loss:Q", **x), description="told:N",
        shape=alt.condition("datum.shown", alt.value("circle"), alt.value("diamond")),
    )  # fmt: skip
    zero = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(color=AXIS, aria=False).encode(x=alt.X("at:Q", **x))
    unseen = [{"model": short(model), "at": 0, "said": f"does not see the {losses[0]['side']}"} for model in blind]
    words = alt.Chart(alt.Data(values=unseen)).mark_text(align="left", dx=6, fontSize=9, fontStyle="italic", color=INK)
    notes = [words.encode(x=alt.X("at:Q", **x), y=y, text="said:N")] if unseen else []
    return alt.layer(zero, bars, points, *notes).properties(
        width=WIDTH, height=alt.Step(18 * max(len(lost), 1)), title=alt.TitleParams(name, anchor="start")
    )  # fmt: skip


def told_loss(row: Mapping[str, Any]) -> str:
    """Return what a loss tells on hovering."""
    p = "p < 0.0001" if row["corrected"] < 0.0001 else f"p = {row['corrected']:.2g}"
    scores = f"{row['matched']:.3f} matched, {row['without']:.3f} {row['condition']}"
    loss = f"loses {row['loss']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{short(row['model'])}, {row['layer']}: {scores}: {loss}, {p} corrected over all layers, n = {row['n']}"


def _dressed(chart: Any, background: str | None) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 10, "titleFontSize": 10, "titleFontWeight": "normal"}
    lines = {"gridColor": GRID, "domainColor": AXIS, "tickColor": AXIS, "tickSize": 3}
    spec["config"] = {
        "background": background,
        "font": "Helvetica Neue, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": text | lines,
        "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 10, "labelLimit": 0},
        "title": {"color": INK, "fontSize": 12, "fontWeight": 600},
    }
    return spec


def svg_file(chart: Any) -> str:
    """Return a figure as an SVG file, on white."""
    return str(vl_convert.vegalite_to_svg(_dressed(chart, "white")))


def png_file(chart: Any) -> bytes:
    """Return a figure as a PNG file, on white, for print: 3 pixels for each of the SVG's."""
    return bytes(vl_convert.vegalite_to_png(_dressed(chart, "white"), scale=3))


def inline(chart: Any, label: str, number: int) -> Markup:
    """Return a figure as part of a page: no background, hover over every mark, names of its own.

    Args:
        chart: what to draw.
        label: what it shows, for those who do not see it.
        number: tells its inner names from those of the page's other figures.
    """
    drawn = str(vl_convert.vegalite_to_svg(_dressed(chart, None)))
    drawn = re.sub(r'(<(\w+) aria-label="([^"]*)"[^>]*?)/>', _hover, drawn)
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="f{number}-\1"', drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", rf"url(#f{number}-\1)", drawn)
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))  # noqa: S704


def _hover(found: re.Match[str]) -> str:
    whole, tag, said = found.groups()
    return f"{whole}><title>{escape(unescape(said))}</title></{tag}>"
