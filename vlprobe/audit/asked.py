"""The units that a task asks about, cut as a study would cut them, and the words of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlprobe.audit.fault import NotRun
from vlprobe.audit.subject import SEED, Subject
from vlprobe.controls.rows import Rows, rows_of
from vlprobe.controls.words import words_of
from vlprobe.splits import cut
from vlprobe.types import SPLITS

LIMIT = 2000
"""Examples of each part that are used at most: enough to see whether words tell."""


@dataclass(frozen=True)
class Asked:
    """The rows of a task as its study would cut it with the first seed, and what is counted of each."""

    whole: bool
    """Whether a row is a whole text; else it is a word of one."""
    parts: Mapping[str, Rows]
    """By part."""
    metric: str
    """`accuracy` or `r2`."""

    def labels(self, part: str) -> np.ndarray:
        """Return (row,) the targets of a part."""
        return self.parts[part].features().y

    def words(self, part: str, grams: int) -> list[list[str]]:
        """Return what is counted of each row of a part."""
        return words_of(self.parts[part], self.whole, grams)


def asked_of(subject: Subject, leaks: bool = False) -> Asked | NotRun:
    """Return the units of a task, cut as a study does with seed 0 and `bad_rows: skip`, or why there are none.

    Args:
        subject: the task.
        leaks: keep the train rows that share a group with test, which the cut leaves out.

    Raises:
        DataError: it cannot be cut.
    """
    task = subject.task
    if subject.no_texts:
        return NotRun("words", subject.no_texts)
    if any(row.example.text is None for row in subject.rows):
        return NotRun("words", "not every row has a text")
    if leaks:  # a group of its own for every row: nothing is shared
        alone = {
            part: tuple(replace(row.example, group=row.example.id) for row in rows)
            for part, rows in subject.parts.items()
        }
        task = replace(task, splits=alone)
    parts = cut(task, SEED, LIMIT, "skip").named()
    whole = task.unit != "word" or task.facts.one_target
    return Asked(whole, {part: rows_of(parts[part]) for part in SPLITS}, "accuracy" if task.classes else "r2")
