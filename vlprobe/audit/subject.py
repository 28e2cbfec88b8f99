"""A task as the checks see it: rows with what they can share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlprobe.audit.fault import Case
from vlprobe.audit.pictures import Pictures, scan
from vlprobe.errors import DataError
from vlprobe.splits import with_test
from vlprobe.tasks.rows import plain
from vlprobe.types import SPLITS, Example, Target, Task

SEED = 0
"""Draws the test part where the data bring none: that of a study's first seed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    example: Example
    """As loaded."""
    part: str
    """`train`, `validation`, `test`, or `all` where the rows cannot be cut."""
    text: str
    """As it is compared: lower case, single blanks; empty: none."""
    image: str
    """Digest of its bytes, or its name where it is not read; empty: none."""
    original: str
    """The caption before it was altered, as it is compared; empty where the data do not say."""
    answers: tuple[Target, ...]
    """The targets that are asked about."""

    def case(self, told: str = "") -> Case:
        """Return it as an example of a fault."""
        return Case(self.example.id, self.example.place, told or shortened(self.example.text or ""))

    @property
    def answer(self) -> str:
        """The answers, as messages write them."""
        return " ".join(f"{a:g}" if isinstance(a, float) else str(a) for a in self.answers)


@dataclass(frozen=True)
class Subject:
    """One task, ready to be looked at."""

    task: Task
    """The task."""
    rows: tuple[Row, ...]
    """All rows, part by part."""
    pictures: Pictures
    """What its images are."""
    uncut: str
    """Why there is no test part; empty where there is one."""
    drawn: bool
    """Whether the test part was drawn, as the data bring none."""

    @cached_property
    def parts(self) -> Mapping[str, tuple[Row, ...]]:
        """The rows by part, in the order of `SPLITS`."""
        names = dict.fromkeys(row.part for row in self.rows)
        return {name: tuple(row for row in self.rows if row.part == name) for name in names}

    @property
    def numbers(self) -> bool:
        """Whether the targets are numbers."""
        return not self.task.classes

    @property
    def no_images(self) -> str:
        """Why no image was read; empty where some were."""
        if any(row.example.image is not None for row in self.rows):
            return ""
        return self.task.images or "the data have no images"

    @property
    def no_texts(self) -> str:
        """Why there is no text; empty where there is some."""
        return "" if any(row.text for row in self.rows) else "the data have no texts"

    def inputs(self, row: Row) -> tuple[str, ...] | None:
        """Return what carries the row's answer, to be compared; None where nothing is known of it."""
        sides = {"language": (row.text,), "vision": (row.image,), "multimodal": (row.text, row.image)}
        kept = sides[self.task.level]
        return kept if any(kept) else None


def look_at(task: Task) -> Subject:
    """Return a task with its test part drawn if need be, its images read once, one after the other."""
    uncut = ""
    splits: Mapping[str, Sequence[Example]] = task.splits
    try:
        splits = with_test(task, SEED)
    except DataError as error:
        uncut = str(error)
    splits = {name: splits[name] for name in (*SPLITS, "all") if splits.get(name)}
    pictures = scan([example for examples in splits.values() for example in examples])
    rows = tuple(_row(example, part, pictures) for part, examples in splits.items() for example in examples)
    return Subject(task, rows, pictures, uncut, "all" in task.splits and not uncut)


def _row(example: Example, part: str, pictures: Pictures) -> Row:
    ties = dict(example.ties)
    named = example.image is None or isinstance(example.image, Path)
    image = pictures.digest(example) or (ties.get("image", "") if named else "")
    if not image and isinstance(example.image, Path):
        image = os.path.realpath(example.image)  # damaged: known by its name
    answers = tuple(target for target in example.target if target is not None)
    return Row(example, part, plain(example.text or ""), image, ties.get("caption", ""), answers)


def commonest(values: Sequence[str]) -> tuple[str, int]:
    """Return the commonest value and how often it is there; of equals the first in order of the alphabet."""
    counts = Counter(values)
    return max(sorted(counts.items()), key=lambda item: item[1])


def shortened(text: str, length: int = 100) -> str:
    """Return at most `length` characters of a text."""
    return text if len(text) <= length else text[: length - 3] + "..."
