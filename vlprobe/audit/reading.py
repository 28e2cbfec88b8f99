"""What `vlprobe audit` is asked to look at: known tasks, study files, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.images import image_inside
from vlprobe.settings import parse, read_yaml
from vlprobe.study_file import StudyFile
from vlprobe.tasks import TASKS, load_task
from vlprobe.tasks.places import check_places
from vlprobe.tasks.tables import READERS, read_table
from vlprobe.types import Task

Read = tuple[Task, tuple[str, ...]]
"""A task, and how it was read where that could be otherwise."""

STUDIES = (".yaml", ".yml")


@dataclass(frozen=True)
class Table:
    """What is said about tables."""

    columns: Mapping[str, str]
    """Use -> column, as in a study's `columns`."""
    images: str | None = None
    """Folder of the image files; None: the table's own."""
    target: Literal["classes", "number"] = "classes"
    """As in a study."""

    @property
    def said(self) -> bool:
        """Whether anything was said."""
        return bool(self.columns or self.images or self.target != "classes")


def asked_tasks(names: Sequence[str], data: Sequence[str], table: Table) -> Iterator[tuple[str, Callable[[], Read]]]:
    """Yield (name, how to read it) of everything that is asked for.

    Args:
        names: of known tasks, or paths of study files (.yaml) and tables (.csv, .tsv, .jsonl, .parquet).
        data: NAME=FOLDER each, as in a study's `data`.
        table: what is said about the columns of tables.

    Raises:
        StudyError: a study file that cannot be used, `data` of another form, columns but no table.
    """
    places = _places(data)
    if table.said and not any(Path(name).suffix.lower() in READERS for name in names):
        raise StudyError(
            "columns, --images and --target are for a table, and none is named; a study file names its own"
        )
    for name in names:
        ending = Path(name).suffix.lower()
        if ending in STUDIES:
            yield from _of_study(Path(name), places)
        elif ending in READERS and name not in TASKS:
            yield name, partial(_of_table, Path(name), table)
        else:
            yield name, partial(_loaded, name, places, Path())


def _places(data: Sequence[str]) -> dict[str, str]:
    places = {}
    for said in data:
        name, found, folder = said.partition("=")
        if not found or not folder:
            raise StudyError(f"--data {said!r}: expected NAME=FOLDER, as salin2022=~/data/vlm-probing")
        places[name] = folder if folder.startswith(("~", "$", "package:")) else str(Path(folder).absolute())
    check_places(places)
    return places


def _of_study(path: Path, places: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], Read]]]:
    file = parse(StudyFile, read_yaml(path), path.name)
    for spec in file.tasks:
        name = spec if isinstance(spec, str) else str(spec.get("name", "(without a name)"))
        yield name, partial(_loaded, spec, {**file.data, **places}, path.resolve().parent)


def _loaded(spec: str | Mapping[str, Any], places: Mapping[str, str], folder: Path) -> Read:
    return load_task(spec, data=places, folder=folder, bad_rows="skip"), ()


def _of_table(path: Path, said: Table) -> Read:
    """Read a table as its columns suggest, and say how."""
    table = read_table(path, str(path), lambda row: None)
    spoken = {use: name for use, name in said.columns.items() if name}
    present = {use: use for use in ("text", "image", "group", "split", "id", *UNITS["input"]) if use in table.columns}
    found = present | {use: use for uses in UNITS.values() for use in uses if use in table.columns} | spoken
    unit = next((unit for unit, uses in UNITS.items() if all(use in found for use in uses)), "input")
    sides = ("text" in found or unit == "word", "image" in found)
    if not any(sides):
        raise DataError(
            f"{path} has no column 'text' and no column 'image'; name the right ones, --text or --image. Its columns: "
            + ", ".join(table.columns)
        )
    level = {(True, False): "language", (False, True): "vision", (True, True): "multimodal"}[sides]
    spec: dict[str, Any] = {"name": path.stem, "level": level, "unit": unit, "table": str(path.absolute())}
    spec |= {"columns": spoken, "target": said.target}
    spec |= {"images": str(Path(said.images).absolute())} if said.images else {}
    absent = "" if "image" not in found else _absent(path, found["image"], said.images)
    task = load_task(spec | ({"images": False} if absent else {}), bad_rows="skip")
    used = ", ".join(f"{use} '{name}'" for use, name in found.items() if use in _used(unit))
    told = f"level {level}, unit {unit}, target {said.target}; columns: {used}; a study file can say otherwise"
    return replace(task, images=absent or task.images), (told,)


UNITS: dict[str, tuple[str, ...]] = {"region": ("boxes", "labels"), "word": ("words", "labels"), "input": ("label",)}
"""Columns that make a unit; the first that has all of its own is taken."""


def _used(unit: str) -> tuple[str, ...]:
    return ("text", "image", "group", "split", "id", *UNITS[unit])


def _absent(path: Path, column: str, images: str | None) -> str:
    """Return why no image is read: not one of them is there. Empty where some are, or where the rows must tell."""
    folder = Path(images) if images else path.parent
    if not folder.is_dir():
        return ""
    names = []
    for row in read_table(path, str(path), lambda row: None).rows:
        value = row.values.get(column)
        if not isinstance(value, str):
            return ""
        try:
            if not value.strip() or image_inside(folder, value, row.place).is_file():
                return ""
        except BadRow:
            return ""
        names.append(value)
    if not names:
        return ""
    return f"no image is read: not one of the {len(set(names)):,} that {path} names is in {folder}; say --images FOLDER"
