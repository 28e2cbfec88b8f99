"""What an experiment tracker is told of one model of a study, whichever tracker it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlprobe.report.layers import address, probed
from vlprobe.report.tables import long_table

NUMBERS = ("score", "low", "high", "n_test", "n_train", "seeds", "selectivity")
"""Columns of the table of scores that hold numbers."""


@dataclass(frozen=True)
class Tracked:
    """One model of a study: a run of its own, so that a tracker's charts lay models over one another."""

    name: str
    """`NAME (STAGE)`."""
    study: str
    """The study's name."""
    config: Mapping[str, str]
    """Where the scores come from, and `TASK/CONDITION/layer`, `TASK/CONDITION/PROBE/layer`: the best layers."""
    curves: Mapping[int, Mapping[str, float]]
    """Index of a layer -> `TASK/CONDITION/STREAM` -> score there; of a streaming probe `TASK/CONDITION/PROBE/STREAM`:
    no chart lays it over the linear one. What has no index, as a pooler, is in the table."""
    summary: Mapping[str, float]
    """`TASK/CONDITION/best_score`, with `best_low` and `best_high`, its interval, and `majority`; of a streaming probe
    `TASK/CONDITION/PROBE/best_score`, ..."""
    columns: Sequence[str]
    """Of the table."""
    rows: Sequence[Sequence[str | float | None]]
    """Every score of the model and of the controls that look at its layers."""


def tracked(contents: Mapping[str, Any]) -> Iterator[Tracked]:
    """Yield the models of a study, in its order.

    Args:
        contents: as `vlprobe.report.contents.read_contents` returns them.
    """
    for label in contents["models"]:
        name, stage = label[:-1].rsplit(" (", 1)
        columns, rows = _table(contents, name, stage)
        best, summary = _best(contents, label)
        config = _config(contents["provenance"], name, stage) | best
        yield Tracked(label, contents["name"], config, _curves(contents, label), summary, columns, rows)


def _curves(contents: Mapping[str, Any], label: str) -> dict[int, dict[str, float]]:
    curves: dict[int, dict[str, float]] = {}
    for where, cell in _cells(contents, label):
        for layer, at in probed(cell)["layers"].items():
            stream, index = address(layer)
            if index < math.inf and not math.isnan(at["score"]):
                curves.setdefault(int(index), {})[f"{_of_probe(where, cell)}/{stream}"] = at["score"]
    return dict(sorted(curves.items()))


def _best(contents: Mapping[str, Any], label: str) -> tuple[dict[str, str], dict[str, float]]:
    """Return the best layers, and their scores."""
    layers: dict[str, str] = {}
    scores: dict[str, float] = {}
    for where, cell in _cells(contents, label):
        best, mine = probed(cell), _of_probe(where, cell)
        layers[f"{mine}/layer"] = best["layer"]
        found = {"best_score": best["score"], "best_low": best["low"], "best_high": best["high"]}
        scores |= {f"{mine}/{name}": value for name, value in found.items()} | {f"{where}/majority": cell["majority"]}
    return layers, {name: value for name, value in scores.items() if not math.isnan(value)}


def _cells(contents: Mapping[str, Any], label: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield `TASK/CONDITION` and scores, where there are any."""
    for name, task in contents["tasks"].items():
        for condition, cell in task["rows"].get(label, {}).items():
            if "layer" in probed(cell):
                yield f"{name}/{condition}", cell


def _of_probe(where: str, cell: Mapping[str, Any]) -> str:
    """Return `TASK/CONDITION`, with the probe behind it where that is a streaming one."""
    probe = probed(cell).get("probe")
    return f"{where}/{probe}" if probe else where


def _config(described: Mapping[str, Any], name: str, stage: str) -> dict[str, str]:
    (model,) = [each for each in described["models"] if (each["name"], each["stage"]) == (name, stage)]
    study = described["study"]
    return {
        "study": study["name"],
        "model": name,
        "stage": stage,
        "revision": model["revision"],
        "family": model["family"],
        "seeds": ", ".join(map(str, study["seeds"])),
        "limit": str(study.get("limit") or "none"),
        "command": " ".join(described["command"]),
        "python": described["python"],
        **described["packages"],
    }


def _table(contents: Mapping[str, Any], name: str, stage: str) -> tuple[list[str], list[list[str | float | None]]]:
    table = long_table(contents)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    mine = [row for row in rows if (row["model"], row["stage"]) == (name, stage)]
    return list(table.columns), [[_cell(column, text) for column, text in row.items()] for row in mine]


def _cell(column: str, text: str) -> str | float | None:
    return text if column not in NUMBERS else float(text) if text else None
