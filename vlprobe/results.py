"""The results folder: `results.jsonl`, one result a line, and `study.json`, where they came from."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlprobe.errors import DataError
from vlprobe.types import Result, Task

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder
    from vlprobe.plan import Plan
    from vlprobe.study_file import StudyFile

PACKAGES = ("vlprobe", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pillow")


class Results:
    """The results of a study on disk.

    Args:
        folder: created when first written to.

    Raises:
        DataError: `results.jsonl` is there and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "results.jsonl"
        self.known: dict[str, Result] = {}
        """Key -> result; models and conditions that see the same inputs share keys."""
        self._written: set[tuple[str, str, str, str]] = set()
        for result in self._read():
            self.known[result.key] = result
            self._written.add(_identity(result))

    def _read(self) -> list[Result]:
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:  # a run was killed while it wrote its last line, which is computed again
            self.file.write_text(whole + "\n" if whole else "", encoding="utf-8")
        results = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                results.append(read_result(json.loads(line)))
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                raise DataError(
                    f"{self.file}, line {number}: not a result of this version of vlprobe ({error}); "
                    "move the file away, or give --output another folder"
                ) from None
        return results

    def add(self, result: Result) -> None:
        """Append a result, unless the same one is there."""
        self.known[result.key] = result
        if _identity(result) in self._written:
            return
        self._written.add(_identity(result))
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(write_result(result) + "\n")

    def describe(self, study: StudyFile, models: Sequence[Encoder], tasks: Sequence[Task], plan: Plan) -> None:
        """Write `study.json`: the resolved study, versions, revisions, hashes, what was left out and why."""
        content = {
            "study": study.model_dump(mode="json"),
            "command": ["vlprobe", *sys.argv[1:]],
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: _version(name) for name in PACKAGES},
            "models": [
                {"name": m.name, "stage": m.stage, "revision": m.revision, "layers": m.layers, "left_out": m.left_out}
                for m in models
            ],
            "tasks": [_describe_task(task) for task in tasks],
            "not_done": plan.notes,
            "skipped_rows": plan.skipped,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
        temporary = self.folder / "study.json.tmp"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.rename(self.folder / "study.json")

    def add_skipped(self, lines: Sequence[str]) -> None:
        """Add rows that a model could not take to `skipped_rows` of `study.json`."""
        file = self.folder / "study.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["skipped_rows"] = [*content["skipped_rows"], *lines]
        temporary = self.folder / "study.json.tmp"
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.rename(file)


def write_result(result: Result) -> str:
    """Return a result as one line of JSON; NaN, which JSON lacks, becomes null."""
    values = asdict(result)
    for name, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            values[name] = None
    values["interval"] = [None if math.isnan(bound) else bound for bound in result.interval]
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def read_result(values: dict[str, Any]) -> Result:
    """Return the result that one line of `results.jsonl` holds.

    Raises:
        TypeError, KeyError: fields that are missing or unknown.
    """
    known = {field.name for field in fields(Result)}
    if not isinstance(values, dict) or set(values) != known:
        raise TypeError(f"its fields are not those of a Result: {', '.join(sorted(known ^ set(values)))}")
    numbers = {name: math.nan if values[name] is None else values[name] for name in ("score", "validation", "l2")}
    low, high = (math.nan if bound is None else bound for bound in values["interval"])
    return Result(**values | numbers | {"interval": (low, high), "warnings": tuple(values["warnings"])})


def _identity(result: Result) -> tuple[str, str, str, str]:
    return result.key, result.model, result.task, result.condition


def _describe_task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "level": task.level,
        "unit": task.unit,
        "classes": task.classes,
        "examples": {name: len(examples) for name, examples in task.splits.items()},
        "options": task.options,
        "source": [asdict(source) for source in task.source],
        "revision": task.revision,
        "licence": task.licence,
        "citation": task.citation,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: object) -> Any:
    if isinstance(value, (tuple, list, set, frozenset)):
        return list(value)
    if hasattr(value, "items"):
        return dict(value.items())
    return str(value)
