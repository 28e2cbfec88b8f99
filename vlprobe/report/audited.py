"""What the data set check found, for a report: `audit.json` in the results folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlprobe.audit.fault import SEVERITIES
from vlprobe.errors import DataError

FILE = "audit.json"
"""What `vlprobe audit STUDY.yaml --format json` prints."""


def read_audit(folder: Path, tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {made, faults, not_run, unread, unchecked, other} of the study's tasks; all empty where there is no audit.

    `made` is the version that made it, `faults` are severity, task, check, count, of, statement, cure, errors first;
    `not_run` (task, check, why), `unread` (task, error), `unchecked` names of tasks, `other` what says that an audit
    was of other data than the results. Rows are not named: texts of the data are for those who ask for examples.

    Args:
        folder: of the results.
        tasks: of `study.json`.

    Raises:
        DataError: the file is no audit.
    """
    path = folder / FILE
    empty: dict[str, Any] = {"faults": [], "not_run": [], "unread": [], "other": []}
    if not path.exists():
        return {"made": "", "unchecked": [task["name"] for task in tasks]} | empty
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        audits = {audit["task"]: audit for audit in content["audits"]}
        known = [(task, audits[task["name"]]) for task in tasks if task["name"] in audits]
        unread = [(each["task"], str(each["error"])) for each in content["unread"]]
        faults = [fault for _, audit in known for fault in _faults(audit)]
        return {
            "made": str(content["vlprobe"]),
            "faults": sorted(faults, key=lambda fault: SEVERITIES.index(fault["severity"])),
            "not_run": [
                (audit["task"], str(x["check"]), str(x["why"])) for _, audit in known for x in audit["not_run"]
            ],
            "unread": [each for each in unread if each[0] in {task["name"] for task in tasks}],
            "unchecked": [task["name"] for task in tasks if task["name"] not in audits],
            "other": [line for task, audit in known for line in _other(task, audit)],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cure = f"make it with `vlprobe audit STUDY.yaml --format json > {path}`, or remove it"
        raise DataError(f"{path}: is no audit of this version ({error!r}); {cure}") from None


def _faults(audit: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for fault in audit["faults"]:
        words = {name: str(fault[name]) for name in ("check", "severity", "statement", "cure")}
        if words["severity"] not in SEVERITIES:
            raise ValueError(f"no severity '{words['severity']}'")
        yield {"task": str(audit["task"]), "count": int(fault["count"]), "of": int(fault["of"])} | words


def _other(task: Mapping[str, Any], audit: Mapping[str, Any]) -> Iterator[str]:
    """Yield what says that an audit was not of the data that the results are of."""
    files = [sorted(source["sha256"] for source in each["source"]) for each in (task, audit)]
    if files[0] != files[1]:
        yield f"{task['name']}: the files that were checked are not those of the results, by sha256"
    for name in dict.fromkeys((*task["options"], *audit["options"])):
        if task["options"].get(name) != audit["options"].get(name):
            yield f"{task['name']}: it was checked with another '{name}'"
    if not files[0] and task["revision"] != audit["revision"]:
        revisions = [each["revision"] or "none" for each in (audit, task)]
        yield f"{task['name']}: revision {revisions[0]} was checked, and the results are of {revisions[1]}"
