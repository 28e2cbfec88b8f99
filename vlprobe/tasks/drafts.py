"""What all readers of own tasks share: what a study says, drafts file by file, and the task made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.settings import Settings
from vlprobe.tasks.columns import AskedUnit, Columns, Question
from vlprobe.tasks.rows import BadRowList, Draft, Gathered, Names
from vlprobe.tasks.tables import Table
from vlprobe.types import Level, Source, Task, Unit

Item = TypeVar("Item")


class Own(Settings):
    """What every own task says."""

    name: str
    level: Level
    citation: str = ""
    licence: str = ""
    revision: str = ""


class Asked(Own):
    """What a task of rows says about its columns."""

    unit: AskedUnit = "input"
    target: Literal["classes", "number"] = "classes"
    columns: Columns = Columns()
    box_unit: Literal["fraction", "pixel"] = "fraction"


@dataclass(frozen=True)
class Where:
    """Where the rows of one file belong."""

    called: str
    """What messages call it and the files it is one of."""
    shown: str
    """What messages call it."""
    part: str
    """`train`, `validation`, `test` or `all`."""
    prefix: str
    """Of the ids of its rows."""


class Drafts:
    """The drafts of a task of rows, file by file.

    Args:
        own: what the study says.
        bad: its bad rows.
    """

    def __init__(self, own: Asked, bad: BadRowList) -> None:
        self.own, self.bad, self.names = own, bad, Names()
        self.gathered = Gathered()
        self.sources: list[Source] = []

    def add(self, table: Table, where: Where, named: Columns, folders: tuple[Path, ...] | None) -> None:
        """Read the rows of one more file.

        Args:
            table: the file.
            where: its rows belong.
            named: the columns that the study names.
            folders: that images may lie in; None: they are not read.
        """
        question = question_of(self.own, folders, self.names)
        self.gathered.add(where.called, ())
        if table.columns:  # else not one row can be read: `made_task` says so
            columns = question.columns(named, table.columns, where.shown, split=where.part == "all")
            draft = partial(question.draft, columns=columns, split=where.part, prefix=where.prefix)
            self.gathered.add(where.called, good(table.rows, draft, self.bad))
        self.sources.append(table.source)

    def task(self) -> Task:
        """Return the task, once its bad rows have been judged."""
        unit = self.own.unit
        return made_task(self.own, "word" if unit == "mask" else unit, self.gathered, self.sources, self.bad)


def good(items: Iterable[Item], draft: Callable[[Item], Draft], bad: BadRowList) -> Iterator[Draft]:
    """Yield the drafts of the items that can be used, noting the others."""
    for item in items:
        try:
            yield draft(item)
        except BadRow as problem:
            bad.add(problem)


def made_task(own: Own, unit: Unit, gathered: Gathered, sources: Sequence[Source], bad: BadRowList) -> Task:
    """Return the task made of the drafts of every file, once its bad rows have been judged."""
    skipped = bad.judge(gathered.count)
    if not gathered.labelled:
        raise DataError(f"task {own.name}: not one of its {sum(gathered.count.values())} examples has a label")
    return Task(
        name=own.name,
        level=own.level,
        unit=unit,
        classes=tuple(sorted(gathered.classes)),
        splits=gathered.splits(),
        source=tuple(sources),
        revision=own.revision,
        licence=own.licence,
        citation=own.citation,
        skipped=skipped,
        options=own.model_dump(exclude_none=True),
    )


def question_of(own: Asked, images: tuple[Path, ...] | None, names: Names) -> Question:
    """Return what is asked of rows; StudyError where boxes are in pixels that nobody can count."""
    if own.box_unit == "pixel" and own.unit != "region":
        raise StudyError(f"task {own.name}: box_unit is for unit region, and the unit is {own.unit}; remove it")
    if own.box_unit == "pixel" and images is None:
        raise StudyError(f"task {own.name}: boxes in pixels need the images' sizes; with images: false give fractions")
    return Question(own.level, own.unit, own.target == "number", own.box_unit == "pixel", images, names)
