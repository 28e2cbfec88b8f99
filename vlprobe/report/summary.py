"""Results -> one plain dict: what the tables and pages are filled from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from vlprobe.findings import Finding, answering_layers, best_layer, of_linear, unbeaten
from vlprobe.probes import CONTROLS, LINEAR, STREAMING
from vlprobe.types import Result


def summarise(results: Iterable[Result], findings: Sequence[Finding] = ()) -> dict[str, Any]:
    """Return {task: {level, metric, conditions, surface, rows: {model: {condition: cell}}, verdicts: {model: ...}}}.

    A cell is the layer where the linear probe has the best mean validation score over seeds (the test part takes no
    part in the choice), with its mean test score, the interval that holds every seed's interval, and the controls
    beside it; under `alone`, those that look at no layer and that the model has to beat; under `layers`, the same of
    every layer, its controls under `beneath`; under `beside`, what other probes made of the best layer; where there is
    no linear probe, under `streamed`, what the streaming one made of the layer best for it, and of all. `surface` is
    {condition: {control: score}} of the controls that look at no layer, and so are the same for all models. A verdict
    says where the model takes the target from, what it does not see, whether matched was shown to differ from
    mismatched, and which controls a probe that beats the majority class was not shown to beat.

    Args:
        results: of one run.
        findings: what `find` made of them; without them there are no verdicts.
    """
    by_task: dict[str, list[Result]] = {}
    for result in results:
        by_task.setdefault(result.task, []).append(result)
    return {
        task: _task(rows) | {"verdicts": _verdicts([each for each in findings if each.task == task])}
        for task, rows in by_task.items()
    }


def _verdicts(findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    verdicts: dict[str, dict[str, Any]] = {}
    for finding in findings:
        mine = verdicts.setdefault(
            f"{finding.model} ({finding.stage})",
            {"verdict": "", "unseen": False, "differs": False, "unbeaten": []},
        )
        if finding.kind == "verdict":
            mine["verdict"] = finding.verdict
        if finding.kind == "unseen":
            mine["unseen"] = True
        if finding.kind == "mismatched":
            mine["differs"] = finding.significant
        if unbeaten(finding) and finding.kind != "shuffled-labels":
            mine["unbeaten"].append(list(finding.scores)[1])
    known = {f"{each.model} ({each.stage})" for each in findings if each.kind == "majority" and each.significant}
    order = list(CONTROLS)
    for model, mine in verdicts.items():
        mine["unbeaten"] = sorted(mine["unbeaten"], key=order.index) if model in known else []
    return verdicts


def _task(results: Sequence[Result]) -> dict[str, Any]:
    cells: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        cells.setdefault((f"{result.model} ({result.stage})", result.condition), []).append(result)
    rows: dict[str, dict[str, Any]] = {}
    for (model, condition), inside in cells.items():
        rows.setdefault(model, {})[condition] = _cell(inside)
    return {
        "level": results[0].level,
        "metric": of_linear(results)[0].metric,
        "conditions": list(dict.fromkeys(result.condition for result in results)),
        "surface": _surface(results),
        "rows": rows,
    }


def _surface(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    conditions = dict.fromkeys(result.condition for result in results if not result.layer)
    return {name: _alone([each for each in results if each.condition == name]) for name in conditions}


def _alone(results: Sequence[Result]) -> dict[str, float]:
    """Return {control: score} of the controls that look at no layer, under one condition; each seed counts once."""
    scores: dict[str, dict[int, float]] = {}
    for result in results:
        if not result.layer:
            scores.setdefault(result.control, {})[result.seed] = result.score
    return {name: _mean([*scores[name].values()]) for name in CONTROLS if name in scores}


def _cell(results: Sequence[Result]) -> dict[str, Any]:
    by_layer: dict[str, list[Result]] = {}
    linear = of_linear(results)
    for result in linear:
        if not result.control:
            by_layer.setdefault(result.layer, []).append(result)
    majority = [result.score for result in linear if result.control == "majority"]
    layers = {
        name: _layer(rows) | _selectivity(linear, rows) | _beneath(linear, name) for name, rows in by_layer.items()
    }
    cell: dict[str, Any] = {"majority": _mean(majority), "alone": _alone(results), "layers": layers}
    if not by_layer:
        streamed = _streamed(results)
        return cell | ({"streamed": streamed} if streamed else {})
    best = best_layer(results)
    beside = _beside([result for result in results if result.layer == best])
    return cell | {"layer": best, "controls": _controls(linear, best), "beside": beside} | layers[best]


def _streamed(results: Sequence[Result]) -> dict[str, Any]:
    """Return what the streaming probe made of the layer that it found best on the validation part, if there is one."""
    rows = [each for each in results if each.probe in STREAMING]
    by_layer: dict[str, list[Result]] = {}
    for each in rows:
        if not each.control:
            by_layer.setdefault(each.layer, []).append(each)
    if not by_layer:
        return {}
    best = best_layer(rows, probes=STREAMING)
    layers = {name: _layer(inside) | _beneath(rows, name) for name, inside in by_layer.items()}
    chosen = {"probe": rows[0].probe, "layer": best, "controls": _controls(rows, best), "beside": {}, "layers": layers}
    return chosen | layers[best]


def _controls(results: Sequence[Result], best: str) -> dict[str, float]:
    """Return {control: score} of those that look at a layer, where the probe looks at its best one."""
    found = {}
    for control, layer in answering_layers(results, best, (*LINEAR, *STREAMING)).items():
        names = ("", control) if control == "layer-0" else (control,)  # the probe may have been on it anyway
        found[control] = _mean([each.score for each in results if each.layer == layer and each.control in names])
    return {name: found[name] for name in CONTROLS if name in found}


def _selectivity(results: Sequence[Result], rows: Sequence[Result]) -> dict[str, float]:
    """Return how far a probe on one layer is above the same probe on the control task, where it has one."""
    drawn = [each.score for each in results if each.control == "control-task" and each.layer == rows[0].layer]
    return {"selectivity": _mean([row.score for row in rows]) - _mean(drawn)} if drawn else {}


def _beneath(results: Sequence[Result], layer: str) -> dict[str, dict[str, float]]:
    """Return the controls that look at one layer, under their names."""
    found: dict[str, list[float]] = {}
    for result in results:
        if result.control and result.layer == layer:
            found.setdefault(result.control, []).append(result.score)
    return {"beneath": {name: _mean(found[name]) for name in CONTROLS if name in found}}


def _beside(results: Sequence[Result]) -> dict[str, Any]:
    """Return {probe: layer} of the probes at one layer that are not linear, each in its own metric."""
    by_probe: dict[str, list[Result]] = {}
    for result in results:
        if result.probe not in ("", *LINEAR):
            by_probe.setdefault(result.probe, []).append(result)
    made = {}
    for name, rows in by_probe.items():
        probed = [row for row in rows if not row.control]
        if probed:
            shuffled = {"metric": probed[0].metric, "shuffled": _shuffled(rows, probed[0].layer)}
            made[name] = _layer(probed) | shuffled | _selectivity(rows, probed)
    return made


def _shuffled(results: Sequence[Result], layer: str) -> float:
    return _mean([each.score for each in results if each.control == "shuffled-labels" and each.layer == layer])


def _layer(rows: Sequence[Result]) -> dict[str, Any]:
    return {
        "score": _mean([row.score for row in rows]),
        "low": min(row.interval[0] for row in rows),
        "high": max(row.interval[1] for row in rows),
        "validation": _mean([row.validation for row in rows]),
        "unit": rows[0].unit,
        "seeds": len(rows),
        "n_train": rows[0].n_train,
        "n_test": rows[0].n_test,
        "warnings": sum(len(row.warnings) for row in rows),
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
