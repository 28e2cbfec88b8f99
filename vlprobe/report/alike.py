"""How alike layers are, for a report: the pairs of layers that matter, and a table of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vlprobe.report.layers import address, in_order
from vlprobe.report.tables import Table
from vlprobe.similarity.alike import FILE, Alike, read_similarity

MOST = 40
"""Layers in a figure of the page; of more, every second, third, ... of each model is shown. Files have all."""
COLUMNS = ("task", "model_a", "stage_a", "layer_a", "model_b", "stage_b", "layer_b", "cka", "biased", "n")


def read_alike(folder: Path, models: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """Return {tasks: {task: {n, layers, cka, biased}}, lacking} of a results folder; empty where no run has ended yet.

    Args:
        folder: of the results.
        models: labels of the study's models; layers of others, of an earlier study file, are left out.
        tasks: names of its tasks.

    Raises:
        DataError: the file cannot be read.
    """
    if not (folder / FILE).exists():
        return {"tasks": {}, "lacking": []}
    found = read_similarity(folder)
    made = {each.task: _of_study(each, models) for each in found.tasks if each.task in tasks}
    return {"tasks": {name: task for name, task in made.items() if len(task["layers"]) > 1},
            "lacking": list(found.lacking)}  # fmt: skip


def _of_study(found: Alike, models: Sequence[str]) -> dict[str, Any]:
    whose = [(f"{each.model} ({each.stage})", each.layer) for each in found.layers]
    kept = [i for i, (model, _) in enumerate(whose) if model in models]
    kept.sort(key=lambda i: models.index(whose[i][0]))
    matrices = {name: [[getattr(found, name)[i][k] for k in kept] for i in kept] for name in ("cka", "biased")}
    return {"n": found.n, "layers": [whose[i] for i in kept]} | matrices


def thinned(layers: Sequence[tuple[str, str]], most: int) -> list[int]:
    """Return places of layers, the last of each stream always among them, and no more than `most` where that goes."""
    streams: dict[tuple[str, str], list[int]] = {}
    for place, (model, layer) in enumerate(layers):
        streams.setdefault((model, address(layer)[0]), []).append(place)
    step = 1
    while sum(-(-len(each) // step) for each in streams.values()) > most and step < max(map(len, streams.values())):
        step += 1
    return sorted(place for each in streams.values() for place in each[::-1][::step])


def pairs(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, of every two models, the layers that are most alike, and their last ones."""
    by_model: dict[str, list[int]] = {}
    for place, (model, _) in enumerate(task["layers"]):
        by_model.setdefault(model, []).append(place)
    found = []
    for a, b in combinations(by_model, 2):
        known = [(task["cka"][i][k], i, k) for i in by_model[a] for k in by_model[b]
                 if not math.isnan(task["cka"][i][k])]  # fmt: skip
        if known:
            value, i, k = max(known, key=lambda each: (each[0], -each[1], -each[2]))
            last = [_last([task["layers"][place][1] for place in by_model[model]]) for model in (a, b)]
            at = [task["layers"].index((model, layer)) for model, layer in zip((a, b), last, strict=True)]
            most = {"layers": (task["layers"][i][1], task["layers"][k][1]), "cka": value}
            found.append({"models": (a, b), "most": most, "last": {"layers": last, "cka": task["cka"][at[0]][at[1]]}})
    return found


def _last(layers: Sequence[str]) -> str:
    """Return the last numbered layer, of the last stream; the last of all where none is numbered."""
    order = in_order(layers)
    return ([layer for layer in order if address(layer)[1] < math.inf] or order)[-1]


def moved(task: Mapping[str, Any], stages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return, of every architecture at two stages of training, how alike each layer is to itself.

    Args:
        task: as `read_alike` returns it.
        stages: labels of the models at the first stage and at the second.
    """
    place = {each: i for i, each in enumerate(task["layers"])}
    found = []
    for pair in stages:
        both = [layer for model, layer in task["layers"] if model == pair[0] and (pair[1], layer) in place]
        values = [(layer, task["cka"][place[pair[0], layer]][place[pair[1], layer]]) for layer in in_order(both)]
        if values:
            found.append({"models": pair, "layers": values})
    return found


def alike_table(similarity: Mapping[str, Any]) -> Table:
    """Return one row for every two layers of a task."""
    return Table("How alike layers are", COLUMNS, list(_rows(similarity)))


def _rows(similarity: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, task in similarity["tasks"].items():
        for (i, a), (k, b) in combinations(enumerate(task["layers"]), 2):
            values = (task[kind][i][k] for kind in ("cka", "biased"))
            yield [name, *_split(*a), *_split(*b), *("" if math.isnan(x) else repr(x) for x in values), str(task["n"])]


def _split(label: str, layer: str) -> list[str]:
    model, _, stage = label.rpartition(" (")
    return [model, stage.removesuffix(")"), layer]
