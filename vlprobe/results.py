"""The results folder: `results.jsonl`, `predictions/`, and `study.json`, where they came from.

`results.jsonl` holds one result a line; of two lines for the same result the later one counts. Beside every result
stand its answers, `predictions/KEY.npz`, written first: a result on disk has its predictions. Every line and every
JSON file names the schema that it follows (`vlprobe schema`).
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from vlprobe.errors import DataError
from vlprobe.types import Predictions, Result, Sent

T = TypeVar("T")

SCHEMA = 1
"""Version of what a results folder holds. Raise it when the fields of a file change their names or their meaning."""

KINDS = {"id": "U", "index": "i", "group": "U", "target": "Uf", "predicted": "Uf"}
"""Array of a predictions file -> the dtype kinds that it may have: text, whole numbers, floats; never objects."""
SENT = KINDS | {"bits": "f"}
"""The same, of a probe that sends labels."""

DIGITS = 16
"""Of a result's key, by which `study.json` names it."""

PACKED = "predictions.zip"
"""The same files in one, as which they come from the hub, where folders hold thousands of files at most."""

UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What numpy raises over files that are no archive of arrays."""


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
        self._packed = self._open_packed()
        beside = {path.name for path in self._predictions.glob("*.npz")}
        beside |= set(self._packed.namelist()) if self._packed else set()
        for result in self._read():
            self._written[_identity(result)] = result
            if f"{result.key}.npz" in beside:
                self.known[result.key] = result
            else:
                self.bare.add(result.key)

    @property
    def _predictions(self) -> Path:
        return self.folder / "predictions"

    def _open_packed(self) -> zipfile.ZipFile | None:
        """Open `predictions.zip`, where there is one: for good, since its table of contents is long."""
        path = self.folder / PACKED
        if not path.exists():
            return None
        try:
            return zipfile.ZipFile(path)
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read ({error}); fetch it again") from None

    def _open(self, path: Path) -> BinaryIO:
        """Open a predictions file, that of the folder rather than the one that was packed."""
        if self._packed is None or path.exists():
            return path.open("rb")
        return BytesIO(self._packed.read(path.name))

    def _read(self) -> list[Result]:
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        self._torn = bool(torn)  # a run was killed while it wrote its last line, which is computed again
        results = []
        for number, line in enumerate(filter(None, whole.split("\n")), start=1):
            try:
                values = json.loads(line)
                if isinstance(values, dict):
                    check_schema(values, f"{self.file}, line {number}")
                results.append(read_result(values))
            except (json.JSONDecodeError, TypeError, KeyError) as error:
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
        """
        if predictions is not None:
            self._write_predictions(result.key, predictions)
            self.bare.discard(result.key)
        self.known[result.key] = result
        there = self._written.get(_identity(result))
        self._written[_identity(result)] = result
        line = write_result(result)
        if there and write_result(there) == line:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._torn:
            self._cut_torn()
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

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
        path = self._predictions / f"{key}.npz"
        try:
            with self._open(path) as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (SENT if "bits" in file else KINDS)}
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read ({error}); run the study again, which makes it anew") from None
        _check(arrays, path)
        self._whole.add(key)
        return Sent(**arrays) if "bits" in arrays else Predictions(**arrays)

    def packed(self, key: str) -> bytes:
        """Return the file of one result's answers as it is.

        Raises:
            DataError: it is missing or damaged.
        """
        self.predictions(key)
        with self._open(self._predictions / f"{key}.npz") as opened:
            return opened.read()

    def check(self, key: str) -> None:
        """Read a known result's predictions once; where they are damaged, the result is known no longer."""
        if key in self._whole or key not in self.known:
            return
        try:
            self.predictions(key)
        except DataError:
            del self.known[key]
            self.bare.add(key)

    def _write_predictions(self, key: str, predictions: Predictions) -> None:
        """Write all of a file or nothing; two processes that write the same key write the same bytes."""
        self._predictions.mkdir(parents=True, exist_ok=True)
        path = self._predictions / f"{key}.npz"
        arrays = {name: getattr(predictions, name) for name in (SENT if isinstance(predictions, Sent) else KINDS)}
        _check(arrays, path)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._whole.add(key)

    def describe(self, content: Mapping[str, Any]) -> None:
        """Write `study.json`, all of it or nothing."""
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
        """Write a JSON file of the folder, with its schema, all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.{os.getpid()}.tmp"
        text = json.dumps({"schema": SCHEMA, **content}, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.folder / name)


def _check(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) != len(arrays["id"]) or array.dtype.kind not in SENT[name]:
            raise DataError(
                f"{path}: '{name}' is {array.dtype} of shape {array.shape} beside {len(arrays['id'])} ids; "
                "it must be text or numbers, one a row. Remove the file and run the study again"
            )


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
