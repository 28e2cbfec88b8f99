"""The results folder: `results.jsonl`, one result a line, and `study.json`, where they came from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vlprobe.errors import DataError
from vlprobe.types import Result


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

    def describe(self, content: Mapping[str, Any]) -> None:
        """Write `study.json`, all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "study.json.tmp"
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.rename(self.folder / "study.json")

    def description(self) -> dict[str, Any]:
        """Return what `study.json` holds."""
        return json.loads((self.folder / "study.json").read_text(encoding="utf-8"))


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
    numbers = {name: math.nan if values[name] is None else values[name] for name in ("score", "validation")}
    low, high = (math.nan if bound is None else bound for bound in values["interval"])
    return Result(**values | numbers | {"interval": (low, high), "warnings": tuple(values["warnings"])})


def _identity(result: Result) -> tuple[str, str, str, str]:
    return result.key, result.model, result.task, result.condition
