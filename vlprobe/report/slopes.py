"""What training does to how much a model needs the image, or the text: a slope from one stage to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from vlprobe.report.figures import INK, colours, short, told_loss
from vlprobe.report.tables import METRICS


def slopes_figure(
    name: str,
    task: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]],
    conditions: Sequence[str],
    domain: Sequence[float],
) -> alt.LayerChart | None:
    """Return one task's losses of architectures at two stages, joined; None where no pair has losses.

    Args:
        name: of the task.
        task: as `contents` holds it.
        pairs: labels of the models at the first stage and at the second.
        conditions: of the study, which give the colours.
        domain: the axis of losses.
    """
    lost = {(row["model"], row["condition"]): row for row in task["reliance"]}
    values = []
    for base, tuned in pairs:
        for condition in conditions:
            if (base, condition) in lost and (tuned, condition) in lost:
                pair = f"{base} {tuned} {condition}"
                for label in (base, tuned):
                    row = lost[label, condition]
                    ends = {"stage": label.rpartition(" (")[2].removesuffix(")"), "pair": pair, "told": told_loss(row)}
                    named = (
                        {"said": short(tuned).rpartition(" (")[0] or short(tuned)} if label == tuned else {"said": ""}
                    )
                    values.append(row | ends | named)
    if not values:
        return None
    stages = list(dict.fromkeys(row["stage"] for row in values))
    chosen = {
        each: colour for each, colour in colours(conditions).items() if any(v["condition"] == each for v in values)
    }
    y = {
        "scale": alt.Scale(domain=list(domain), clamp=True),
        "title": f"lost ({METRICS.get(task['metric'], task['metric'])})",
    }
    base_chart = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("stage:N", sort=stages, title=None, scale=alt.Scale(type="point", padding=0.6),
                axis=alt.Axis(labelAngle=0)),
        color=alt.Color("condition:N", scale=alt.Scale(domain=[*chosen], range=[*chosen.values()]), legend=None),
    )  # fmt: skip
    lines = base_chart.mark_line(strokeWidth=1.8, aria=False).encode(y=alt.Y("loss:Q", **y), detail="pair:N")
    bars = base_chart.mark_rule(strokeWidth=1.2, opacity=0.6, aria=False).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    points = base_chart.mark_point(filled=True, size=50, opacity=1).encode(y=alt.Y("loss:Q", **y), description="told:N")
    words = alt.Chart(alt.Data(values=[row for row in values if row["said"]])).mark_text(
        align="left", dx=7, fontSize=9, color=INK
    )
    names = words.encode(x=alt.X("stage:N", sort=stages), y=alt.Y("loss:Q", **y), text="said:N")
    return alt.layer(lines, bars, points, names).properties(
        width=190, height=130, title=alt.TitleParams(name, anchor="start")
    )
