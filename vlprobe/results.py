"""The results folder: `results.jsonl`, `predictions/`, and `study.json`, where they came from.

`results.jsonl` holds one result a line; of two lines for the same result the later one counts. Beside every result
stand its answers, `predictions/KEY.npz`, written first: a result on disk has its predictions. Every line and every
JSON file names the schema that it follows (`vlprobe schema`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from vlprobe.aside import aside, sweep
from vlprobe.errors import DataError, unwritable
from vlprobe.predictions import ANOTHER, PredictionFiles
from vlprobe.types import Predictions, Result

T = TypeVar("T")

SCHEMA = 1
"""Version of what a results folder holds. Raise it when the fields of a file change their names or their meaning."""

DIGITS = 16
"""Of a result's key, by which `study.json` names it."""


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
        self.bare: set[str] = set()
        """Keys of results whose predictions are missing or damaged: they are not known, and to be computed again."""
        self._torn = False
        self._written: dict[tuple[str, str, str, str], Result] = {}
        self._whole: set[str] = set()
        self.files = PredictionFiles(folder)
        """The answers beside the results."""
        beside = self.files.keys()
        for result in self._read():
            self._written[_identity(result)] = result
            if result.key in beside:
                self.known[result.key] = result
            else:
                self.bare.add(result.key)

    def _read(self) -> list[Result]:
        if not self.file.exists():
            return []
        whole, _, torn = self.file.read_bytes().rpartition(b"\n")  # it may be torn inside a letter
        self._torn = bool(torn)  # a run was killed while it wrote its last line, which is computed again
        results = []
        for number, line in enumerate(filter(None, whole.split(b"\n")), start=1):
            try:
                values = json.loads(line.decode())
                if isinstance(values, dict):
                    check_schema(values, f"{self.file}, line {number}")
                results.append(read_result(values))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{self.file}, line {number}: not a result of this version of vlprobe ({error}); "
                    "move the file away, or give --output another folder"
                ) from None
        return results

    def all(self) -> list[Result]:
        """Return every result that has its predictions, under every model and condition that it was written for."""
        return [result for result in self._written.values() if result.key in self.known]

    def add(self, result: Result, predictions: Predictions | None = None) -> None:
        """Append a result, unless the same one is there.

        Args:
            result: what to append.
            predictions: its answers; None where those of its key are there, being another model's or condition's too.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        if predictions is not None:
            self.files.write(result.key, predictions)
            self._whole.add(result.key)
            self.bare.discard(result.key)
        self.known[result.key] = result
        there = self._written.get(_identity(result))
        self._written[_identity(result)] = result
        line = write_result(result)
        if there and write_result(there) == line:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._torn:
                self._cut_torn()
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # a line that was cut short is a torn one, which whoever writes next takes away
            raise unwritable("results", self.folder, error, ANOTHER) from error

    def _cut_torn(self) -> None:
        """Take a torn last line away, as late as it must be: who only reads leaves the file of another run alone."""
        with self.file.open("rb+") as file:
            held = file.read()
            if not held.endswith(b"\n"):
                file.truncate(held.rfind(b"\n") + 1)
        self._torn = False

    def predictions(self, key: str) -> Predictions:
        """Return the answers of one result.

        Raises:
            DataError: they are missing or damaged.
        """
        found = self.files.read(key)
        self._whole.add(key)
        return found

    def check(self, key: str) -> None:
        """Read a known result's predictions once; where they are damaged, the result is known no longer."""
        if key in self._whole or key not in self.known:
            return
        try:
            self.predictions(key)
        except DataError:
            del self.known[key]
            self.bare.add(key)

    def describe(self, content: Mapping[str, Any]) -> None:
        """Write `study.json`, all of it or nothing; what runs that were killed left unfinished goes.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        sweep(self.folder, self.files.folder)
        self.write("study.json", content)

    def description(self) -> dict[str, Any]:
        """Return what `study.json` holds, without its schema.

        Raises:
            DataError: it is not there, or of a schema that is not known.
        """
        path = self.folder / "study.json"
        if not path.exists():
            raise DataError(
                f"{self.folder}: no results of a study are here (no study.json); run `vlprobe run STUDY.yaml` first"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        check_schema(content, str(path))
        return {name: value for name, value in content.items() if name != "schema"}

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder, with its schema, all of it or nothing.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        text = json.dumps({"schema": SCHEMA, **content}, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            with aside(self.folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise unwritable("results", self.folder, error, ANOTHER) from error


def read_results(folder: str | Path) -> list[Result]:
    """Return the results of a study as `study.json` describes it; `DataFrame` of pandas and polars takes them.

    Of a result that was made again, the later one; none of an earlier version of the study file.

    Args:
        folder: the results folder.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    results = Results(Path(folder))
    return of_study(results.all(), results.description())


def of_study(results: Sequence[Result], described: Mapping[str, Any]) -> list[Result]:
    """Return the results that belong to what `study.json` describes.

    A folder may hold those of an earlier study file, or of data that have changed since, too.
    """
    models = {(model["name"], model["stage"]) for model in described["models"]}
    tasks = {task["name"] for task in described["tasks"]}
    conditions, wanted = set(described["study"]["conditions"]), set(described["study"]["seeds"])
    asked = set(described["asked"]) if "asked" in described else None  # older folders do not say it
    return [
        each
        for each in results
        if (each.model, each.stage) in models
        and each.task in tasks
        and each.condition in conditions
        and each.seed in wanted
        and (asked is None or each.key[:DIGITS] in asked)
    ]


def read_made(folder: str | Path, file: str, make: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what is made of a JSON file that a run left in its results folder.

    Args:
        folder: the results folder.
        file: its name there.
        make: of its content.

    Raises:
        DataError: it is missing, cannot be read, or is not of this version.
    """
    path = Path(folder) / file
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        check_schema(content, str(path))
        return make(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the study again, which makes it anew") from None


def check_schema(values: Mapping[str, Any], place: str) -> None:
    """Refuse what a reader of this version would misread; what names no schema is from before there were any, and is 1.

    Args:
        values: an object of one of the folder's JSON files.
        place: for the message.

    Raises:
        DataError: the schema is not known.
    """
    found = values.get("schema", 1)
    if found != SCHEMA:
        newer = isinstance(found, int) and found > SCHEMA
        cure = "install a newer vlprobe" if newer else "move it away, and run the study again"
        raise DataError(f"{place}: its schema is {found!r}, and this version of vlprobe reads {SCHEMA}; {cure}")


def write_result(result: Result) -> str:
    """Return a result as one line of JSON; NaN, which JSON lacks, becomes null."""
    values = {"schema": SCHEMA, **asdict(result)}
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
    if not isinstance(values, dict) or set(values) - {"schema"} != known:
        raise TypeError(f"its fields are not those of a Result: {', '.join(sorted(known ^ set(values)))}")
    values = {name: values[name] for name in known}
    numbers = {name: math.nan if values[name] is None else values[name] for name in ("score", "validation")}
    low, high = (math.nan if bound is None else bound for bound in values["interval"])
    return Result(**values | numbers | {"interval": (low, high), "warnings": tuple(values["warnings"])})


def _identity(result: Result) -> tuple[str, str, str, str]:
    return result.key, result.model, result.task, result.condition
