"""Rows that cannot be read at all, and images that cannot be opened."""

from __future__ import annotations

from collections.abc import Iterator

from vlprobe.audit.fault import Case, Fault, NotRun, Said, share
from vlprobe.audit.subject import Subject


def unusable(subject: Subject) -> Iterator[Said]:
    """Count the rows that were left out while the task was loaded, and those whose image cannot be opened."""
    left_out = subject.task.skipped
    total = len(subject.rows) + len(left_out)
    cure = "correct them, or set bad_rows: skip, which leaves them out and counts them"
    if left_out:
        cases = tuple(Case("", place, problem) for place, _, problem in (line.partition(": ") for line in left_out))
        statement = f"{share(len(left_out), total)} rows cannot be used, and are in none of the counts below"
        yield Fault("unusable", "error", len(left_out), total, statement, cure, cases)
    if subject.no_images:
        yield NotRun("damaged images", subject.no_images)
        return
    damaged = [(row, problem) for row in subject.rows if (problem := subject.pictures.problem(row.example))]
    if damaged:
        statement = f"{share(len(damaged), len(subject.rows))} rows have an image that cannot be opened"
        cases = tuple(row.case(problem) for row, problem in damaged)
        yield Fault("damaged images", "error", len(damaged), len(subject.rows), statement, cure, cases)
