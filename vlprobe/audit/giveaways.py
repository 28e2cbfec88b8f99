"""Texts that name their answer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from vlprobe.audit.fault import Fault, NotRun, Said, Severity, share
from vlprobe.audit.subject import Row, Subject, shortened

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
DEVIATIONS = 3.0
"""A text tells if it names its own label so many standard deviations more often than another row's text would."""


def giveaways(subject: Subject) -> Iterator[Said]:
    """Find rows whose text names their own label as a word of its own; a number in digits or, up to twelve, as a word.

    A text may name a label by chance: labels drawn by their shares would be named in some rows, too. Only what exceeds
    that by more than `DEVIATIONS` standard deviations is a fault.
    """
    reason = subject.no_texts or ("" if _one_answer(subject) else "every text has several answers")
    if not reason and not subject.numbers and not any(re.search(r"[^\W\d]", name) for name in subject.task.classes):
        reason = "the classes are called by numbers, which no text names"
    if reason:
        yield NotRun("giveaways", reason)
        return
    counts = Counter(_name(row) for row in subject.rows)
    shares = {name: count / len(subject.rows) for name, count in counts.items()}
    named = {row.example.id: _named(row.text, shares) for row in subject.rows}
    telling = [row for row in subject.rows if _name(row) in named[row.example.id]]
    chances = [sum(shares[name] for name in named[row.example.id]) for row in subject.rows]
    expected, deviation = sum(chances), math.sqrt(sum(chance * (1 - chance) for chance in chances))
    if not telling or len(telling) <= expected + DEVIATIONS * deviation:
        return
    naming = sum(bool(names) for names in named.values())
    statement = (
        f"{share(len(telling), len(subject.rows))} texts name their own label, where labels drawn by their shares "
        f"would be named in {expected:.1f}; {naming:,} texts name a label"
    )
    figures = {"expected": expected, "deviation": deviation, "naming": naming}
    severity = _SEVERITY[subject.task.level]
    cases = tuple(row.case(f"{_name(row)}: {shortened(row.example.text or '')}") for row in telling)
    cure = "" if severity == "note" else "mask the word, or drop the rows; see what words alone score"
    yield Fault("giveaways", severity, len(telling), len(subject.rows), statement, cure, cases, figures)


_SEVERITY: Mapping[str, Severity] = {"language": "note", "vision": "warning", "multimodal": "warning"}


def _one_answer(subject: Subject) -> bool:
    return all(len(row.answers) == 1 for row in subject.rows)


def _name(row: Row) -> str:
    return row.answer.lower()


def _named(text: str, names: Mapping[str, float]) -> set[str]:
    """Return the labels that a text names."""
    words = set(re.findall(r"\w+", text))
    words |= {str(NUMBERS.index(word)) for word in words & set(NUMBERS)}
    return {name for name in names if (name in words if name.isalnum() else _holds(text, name))}


def _holds(text: str, name: str) -> bool:
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
