"""What is wrong with a data set, before anyone probes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vlprobe.audit.balance import balance, groups
from vlprobe.audit.duplicates import duplicates
from vlprobe.audit.fault import Audit, Case, Fault, NotRun, Said, sorted_by_severity
from vlprobe.audit.giveaways import giveaways
from vlprobe.audit.near_images import near_images
from vlprobe.audit.near_texts import near_texts
from vlprobe.audit.shared import shared
from vlprobe.audit.subject import SEED, Subject, look_at
from vlprobe.audit.texts import lengths, masks
from vlprobe.audit.unusable import unusable
from vlprobe.audit.words import words
from vlprobe.types import Task

__all__ = ["CHECKS", "Audit", "Case", "Fault", "NotRun", "audit"]

CHECKS: dict[str, Callable[[Subject], Iterator[Said]]] = {
    "unusable": unusable,
    "shared": shared,
    "duplicates": duplicates,
    "balance": balance,
    "groups": groups,
    "masks": masks,
    "lengths": lengths,
    "giveaways": giveaways,
    "words": words,
    "near texts": near_texts,
    "near images": near_images,
}
"""The checks, in the order in which they are told."""


def audit(task: Task, read: tuple[str, ...] = ()) -> Audit:
    """Run every check on a task.

    Args:
        task: loaded with `bad_rows="skip"`, so that what cannot be used is counted.
        read: how it was read, where that could be otherwise.
    """
    subject = look_at(task)
    said = [each for check in CHECKS.values() for each in check(subject)]
    drawn = f"the data bring no test part: audited is the one that seed {SEED} draws, by groups"
    return Audit(
        task=task.name,
        level=task.level,
        unit=task.unit,
        options=task.options,
        source=task.source,
        revision=task.revision,
        rows={part: len(rows) for part, rows in subject.parts.items()},
        read=(*read, *([drawn] if subject.drawn else [])),
        faults=sorted_by_severity(each for each in said if isinstance(each, Fault)),
        not_run=tuple(each for each in said if isinstance(each, NotRun)),
    )
