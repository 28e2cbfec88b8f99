"""What an audit says: faults, checks that could not be run, and the whole of one task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vlprobe.types import Source

Severity = Literal["error", "warning", "note"]
"""error: scores mislead, or a study stops. warning: scores may mislead. note: to be known."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Case:
    """One row, or two that clash, as an example of a fault."""

    id: str
    """`Example.id`; of two, that of the later part."""
    place: str
    """File and row."""
    told: str
    """What is to be seen in it: its text, its label, the row that it clashes with."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set, or that must be known before it is probed."""

    check: str
    """Name of the check."""
    severity: Severity
    """`error`, `warning` or `note`."""
    count: int
    """Rows concerned."""
    of: int
    """Rows looked at."""
    statement: str
    """In words, with numbers."""
    cure: str = ""
    """What to do; empty where nothing need be done."""
    cases: tuple[Case, ...] = ()
    """All rows concerned, the worst first; empty where the fault is none of single rows."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Its numbers by name."""


@dataclass(frozen=True)
class NotRun:
    """A check that could not be run."""

    check: str
    """Name of the check."""
    why: str
    """The reason, and the cure where there is one."""


Said = Fault | NotRun


@dataclass(frozen=True)
class Audit:
    """What is wrong with one task."""

    task: str
    """Its name."""
    level: str
    """As in `Task.level`."""
    unit: str
    """As in `Task.unit`."""
    options: Mapping[str, Any]
    """What was said about it, resolved."""
    source: tuple[Source, ...]
    """The files that it was read from."""
    revision: str
    """Revision of the data set where it has one, else empty."""
    rows: Mapping[str, int]
    """Rows of every part."""
    read: tuple[str, ...]
    """How it was read, where that could be otherwise."""
    faults: tuple[Fault, ...]
    """Errors, warnings, notes; in each, in the order of the checks."""
    not_run: tuple[NotRun, ...]
    """Checks that could not be run."""

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold, keys as the fields are named; null where a number is not one."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sorted_by_severity(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return the faults, errors first."""
    return tuple(sorted(faults, key=lambda fault: SEVERITIES.index(fault.severity)))


def share(count: int, of: int) -> str:
    """Return `107 of 200 (53.5 %)`."""
    return f"{count:,} of {of:,} ({100 * count / of:.1f} %)" if of else f"{count:,} of 0"
