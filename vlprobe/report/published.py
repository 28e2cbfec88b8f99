"""Published numbers beside a study's own: a table of them is read strictly, so that none is taken for another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlprobe.errors import BadRow, DataError, did_you_mean
from vlprobe.tasks.rows import Row
from vlprobe.tasks.tables import Table, read_table, require_columns

COLUMNS = {
    "task": "required",
    "model": "required",
    "score": "required",
    "source": "required",
    "stage": "",
    "condition": "matched",
    "metric": "",
    "scale": "",
    "note": "",
}
"""Column -> `required`, or what an empty cell, or no such column, means."""
SCALES = ("percent", "fraction")
METRICS = {"accuracy": "accuracy", "acc": "accuracy", "r2": "r2", "r²": "r2"}
"""How a metric may be written, in small letters -> as in `Result`."""
SHOWN = 10
"""So many unknown names are told at once."""

Scale = Literal["percent", "fraction", ""]


def read_published(path: Path, contents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return published scores in the file's order: task, model (its label), condition, source, score, note, difference.

    `score` is a fraction, as a study's own are. `difference` is the study's score at its best layer minus the published
    one, NaN where the study has none yet.

    Args:
        path: a table with the columns of `COLUMNS`: .csv, .tsv, .jsonl or .parquet.
        contents: what a report is filled from.

    Raises:
        DataError: the file cannot be read, has no or other columns, or names a task, model or condition that the study
            does not have.
        BadRow: a score that cannot be told from one in percent, or that is in another metric; one that is there twice.
    """
    table = read_table(path, path.name, _refuse)
    _check_columns(table, path.name)
    rows = list(table.rows)
    _refuse_unknown(rows, path.name, contents)
    read = [_read(row, contents) for row in rows]
    _refuse_mixed(rows, read)
    first: dict[tuple[str, ...], str] = {}
    for row, (published, _) in zip(rows, read, strict=True):
        key = tuple(published[name] for name in ("source", "task", "model", "condition"))
        if key in first:
            raise BadRow(row.place, f"{first[key]} has a score of {', '.join(key[1:])} from {key[0]}, too; keep one")
        first[key] = row.place
    file = f"{path.name}, sha256 {table.source.sha256}"
    return [published | {"file": file} for published, _ in read]


def _check_columns(table: Table, shown: str) -> None:
    require_columns({name: name for name, said in COLUMNS.items() if said == "required"}, table.columns, shown)
    for name in table.columns:
        if name not in COLUMNS:  # a misspelt one would be taken for one that is not there
            raise DataError(f"{shown} has a column '{name}', which says nothing here{did_you_mean(name, COLUMNS)}")


def _refuse(bad: BadRow) -> None:
    raise bad


def _cell(row: Row, name: str) -> str:
    value = row.values.get(name)
    default = COLUMNS[name]
    text = "" if value is None else str(value).strip()
    if not text and default == "required":
        raise BadRow(row.place, f"its {name} is empty")
    return text or default


def _refuse_unknown(rows: Iterable[Row], shown: str, contents: Mapping[str, Any]) -> None:
    """Name all names at once that the study does not know."""
    known = {
        "task": list(contents["tasks"]),
        "model": [model["name"] for model in contents["provenance"]["models"]],
        "condition": list(contents["conditions"]),
    }
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        for what, names in known.items():
            if _cell(row, what) not in names:
                found.setdefault((what, _cell(row, what)), row.place)
    if found:
        lines = [
            f"  {place}: the study has no {what} '{name}'{did_you_mean(name, known[what])}"
            for (what, name), place in list(found.items())[:SHOWN]
        ]
        more = [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        cure = "write names as the study calls them, and leave out what it does not have"
        raise DataError("\n".join([f"{shown}: {cure}:", *lines, *more]))


def _read(row: Row, contents: Mapping[str, Any]) -> tuple[dict[str, Any], Scale]:
    """Return one published score, and how it was written."""
    task, name, condition = (_cell(row, each) for each in ("task", "model", "condition"))
    label = _label(row, name, contents["provenance"]["models"])
    metric = contents["tasks"][task]["metric"]
    said = _cell(row, "metric")
    if said and METRICS.get(said.lower(), said) != metric:
        raise BadRow(row.place, f"its metric is {said}, and the study's {task} is scored by {metric}: leave it out")
    score, scale = _score(row, metric)
    own = contents["tasks"][task]["rows"].get(label, {}).get(condition, {}).get("score", math.nan)
    published = {"task": task, "model": label, "condition": condition, "source": _cell(row, "source")}
    return published | {"score": score, "note": _cell(row, "note"), "difference": own - score}, scale


def _label(row: Row, name: str, models: Sequence[Mapping[str, Any]]) -> str:
    (stage,) = (model["stage"] for model in models if model["name"] == name)
    said = _cell(row, "stage")
    if said and said != stage:
        raise BadRow(row.place, f"its stage is '{said}', and the study's {name} is '{stage}': leave one of them out")
    return f"{name} ({stage})"


def _score(row: Row, metric: str) -> tuple[float, Scale]:
    """Return a score as a fraction, and how it was written; empty where nothing but its size says so."""
    text, scale = _cell(row, "score"), _cell(row, "scale").lower()
    if scale not in ("", *SCALES):
        raise BadRow(row.place, f"its scale is '{scale}'{did_you_mean(scale, SCALES)}")
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)", text.replace("\u2212", "-"))
    if not found:
        raise BadRow(row.place, f"its score '{text}' is no number; write 0.753, or 75.3%")
    value, percent = float(found[1]), bool(found[2])
    if percent and scale == "fraction":
        raise BadRow(row.place, f"its score is '{text}', and its scale fraction; one of them is wrong")
    if percent or scale == "percent":
        if abs(value) <= 1 and value:
            raise BadRow(
                row.place,
                f"its score of {found[1]} percent is {value / 100:.3g} as a fraction; write {value / 100:.3g} with the "
                f"scale fraction if that is meant, and the scale fraction if {found[1]} is one",
            )
        value, scale = value / 100, "percent"
    elif value > 1:
        raise BadRow(
            row.place,
            f"its score is {text}, and a study's are at most 1: in percent, write {text}%, or the scale percent",
        )
    if value > 1 or (metric == "accuracy" and value < 0):
        raise BadRow(row.place, f"its score '{text}' is no {metric}")
    return value, "percent" if scale == "percent" else "fraction" if scale == "fraction" else ""


def _refuse_mixed(rows: Sequence[Row], read: Sequence[tuple[Mapping[str, Any], Scale]]) -> None:
    """Refuse a source whose scores are partly in percent, and partly say not what they are in: 0.9 may be either."""
    percent = {published["source"]: row.place for row, (published, scale) in zip(rows, read, strict=True)
               if scale == "percent"}  # fmt: skip
    for row, (published, scale) in zip(rows, read, strict=True):
        if not scale and published["source"] in percent:
            raise BadRow(
                row.place,
                f"its score is '{_cell(row, 'score')}', and {percent[published['source']]}, of the same source, is in "
                "percent; say which it is in the column scale (percent, fraction)",
            )


def sources_of(contents: Mapping[str, Any], task: str) -> list[str]:
    """Return the sources that have a score of a task, in the file's order."""
    return list(dict.fromkeys(row["source"] for row in contents["published"] if row["task"] == task))


def beside(contents: Mapping[str, Any], model: str, condition: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (task, source) -> the published scores of one model under one condition."""
    return {
        (row["task"], row["source"]): row
        for row in contents["published"]
        if (row["model"], row["condition"]) == (model, condition)
    }
