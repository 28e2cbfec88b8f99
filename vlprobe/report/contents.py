"""A results folder -> one plain dict that holds all a page, its tables and its figures are filled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlprobe.findings import Finding, Reliance, count, headlines
from vlprobe.findings.folder import open_folder
from vlprobe.report.alike import read_alike
from vlprobe.report.audited import read_audit
from vlprobe.report.layers import address, in_order, probed
from vlprobe.report.summary import summarise
from vlprobe.types import Result


def read_contents(folder: Path) -> dict[str, Any]:
    """Return what a results folder holds, as `contents` returns it; a study that is not finished is shown so far.

    Findings that are missing, or older than the results (a run was killed), are made anew, and not written. How alike
    layers are, and what an audit found, is read where it is there.

    Raises:
        DataError: there are no results, or files are damaged, or results are of runs that differ in limit or data.
    """
    opened = open_folder(folder)
    made = contents(opened.chosen, opened.findings(), opened.reliance(), opened.described)
    similarity = read_alike(folder, made["models"], list(made["tasks"]))
    audit = read_audit(folder, opened.described["tasks"])
    return made | {"folder": str(folder), "similarity": similarity, "audit": audit}


def contents(
    results: Sequence[Result], findings: Sequence[Finding], reliance: Sequence[Reliance], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the plain dict that a report is filled from.

    `name`, `tests` and `controls` (how many of each), `findings` (those worth a sentence), `all_findings`, `tasks` (as
    `summarise` returns them, in the study's order, with a number, class names and curves), `models` (labels in the
    study's order), `lacking` (what the study asks and is not there), `examples` and `published` (none: see
    `read_examples` and `read_published`), `stages` (pairs of labels: an architecture pretrained, and trained further),
    `similarity` and `audit` (none: see `read_alike` and `read_audit`), `provenance` (what `study.json` holds).

    Args:
        results: of one run.
        findings: what `find` made of them.
        reliance: what `find_reliance` made of them.
        described: `study.json`.
    """
    summary = summarise(results, findings)
    labels = [f"{model['name']} ({model['stage']})" for model in described["models"]]
    tests, controls = count(findings)
    tasks = {task["name"]: task for task in described["tasks"] if task["name"] in summary}
    numbered = {name: number for number, name in enumerate(tasks, start=1)}
    told = [_told(finding, numbered) for finding in headlines(findings) if finding.task in numbered]
    every = [_told(finding, numbered) for finding in findings if finding.task in numbered]
    return {
        "name": described["study"]["name"],
        "tests": tests,
        "controls": controls,
        "findings": told,
        "all_findings": every,
        "models": [label for label in labels if any(label in task["rows"] for task in summary.values())],
        "conditions": described["study"]["conditions"],
        "tasks": {
            name: summary[name] | _described(task) | {"number": numbered[name], "curves": curves(summary[name])}
            | {"reliance": _losses(summary[name], [row for row in reliance if row.task == name])}
            for name, task in tasks.items()
        },
        "stages": _stages(described["models"]),
        "examples": [],
        "published": [],
        "similarity": {"tasks": {}, "lacking": []},
        "audit": {},
        "lacking": _lacking(summary, labels, described),
        "provenance": dict(described),
    }  # fmt: skip


def _stages(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (label, label) of models that are one architecture: pretrained, or else named first, and each other."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for model in models:
        architecture = f"{model['family']} {sorted(model['layers'].items())}"
        if model["stage"] != "random":
            alike.setdefault(architecture, []).append((model["stage"], f"{model['name']} ({model['stage']})"))
    pairs = []
    for each in alike.values():
        (_, base), *others = sorted(each, key=lambda model: model[0] != "pretrained")  # stable: else the first named
        pairs += [(base, label) for stage, label in others if f"({stage})" != base[-len(stage) - 2 :]]
    return pairs


def _told(finding: Finding, numbered: Mapping[str, int]) -> dict[str, Any]:
    return {
        "text": finding.statement,
        "task": finding.task,
        "model": finding.model,
        "label": f"{finding.model} ({finding.stage})",
        "stage": finding.stage,
        "kind": finding.kind,
        "verdict": finding.verdict,
        "significant": finding.significant,
        "number": numbered[finding.task],
        "groups": finding.groups,
    }


def _described(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked_of": task["unit"], "classes": task["classes"], "examples": task["examples"]}


def curves(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for every model, condition and layer: score, interval, and the controls that look at the layer.

    `streamed` names the probe where representations were not kept; it is empty for the linear one.
    """
    rows = []
    for model, cells in task["rows"].items():
        for condition, cell in cells.items():
            chosen = probed(cell)
            for layer in in_order(chosen["layers"]):
                at = chosen["layers"][layer]
                rows.append(
                    {
                        "model": model,
                        "condition": condition,
                        "layer": layer,
                        "stream": address(layer)[0],
                        "score": at["score"],
                        "low": at["low"],
                        "high": at["high"],
                        "n": at["n_test"],
                        "best": layer == chosen["layer"],
                        "beneath": at["beneath"],
                        "streamed": chosen.get("probe", ""),
                    }
                )
    return rows


def _losses(task: Mapping[str, Any], reliance: Sequence[Reliance]) -> list[dict[str, Any]]:
    """Return what each model loses under each condition at the layer that is best when matched."""
    rows = []
    for row in reliance:
        label = f"{row.model} ({row.stage})"
        if task["rows"].get(label, {}).get("matched", {}).get("layer") != row.layer:
            continue
        rows.append(
            {
                "model": label,
                "condition": row.condition,
                "side": row.side,
                "layer": row.layer,
                "matched": row.matched,
                "without": row.without,
                "loss": row.loss,
                "low": row.interval[0],
                "high": row.interval[1],
                "corrected": row.corrected,
                "n": row.n,
            }
        )
    return rows


def _lacking(summary: Mapping[str, Any], labels: Sequence[str], described: Mapping[str, Any]) -> list[str]:
    """Return what the study asks and the folder lacks: `not_done` of `study.json` says what is lacking on purpose."""
    noted = described["not_done"]
    lacking = []
    for task in described["tasks"]:
        rows = summary.get(task["name"], {"rows": {}})["rows"]
        for label in labels:
            model = label.rpartition(" (")[0]
            for condition in described["study"]["conditions"]:
                meant = any(note.startswith(f"{task['name']}, {model}, {condition}:") for note in noted)
                if not meant and "layer" not in probed(rows.get(label, {}).get(condition, {})):
                    lacking.append(f"{task['name']}, {label}, {condition}")
    return lacking
