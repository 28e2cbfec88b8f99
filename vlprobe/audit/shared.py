"""What two parts share: images, texts, the captions that texts were altered from, groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from vlprobe.audit.fault import Fault, NotRun, Said, Severity, share
from vlprobe.audit.subject import Row, Subject, shortened
from vlprobe.errors import many

KINDS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "image": ("an image", lambda row: row.image),
    "text": ("a text", lambda row: row.text),
    "original": ("an original caption", lambda row: row.original),
    "group": ("a group", lambda row: row.example.group),
}
"""What rows can share, how messages call it, and where a row has it."""
LABELS = {
    "other": "with another label only",
    "both": "with the same and with another",
    "same": "with the same label only",
}
"""How the labels of a row and of those that it shares something with compare, the worst first."""
CURE = (
    "set bad_rows: skip, which leaves these {first} rows out and counts them, or split: grouped where the task has it"
)
UNSEEN = "a study does not see it, as its groups are others: drop the {first} rows, or give these rows one group"

Clash = tuple[Row, list[Row]]
"""A row, and those of an earlier part that it shares something with."""


def shared(subject: Subject) -> Iterator[Said]:
    """Find rows of one part that share an image, a text, an original caption or a group with another part's.

    `group` is what a study cuts by: rows tied by any of the others, through any number of rows, or the group column.
    """
    if subject.uncut:
        yield NotRun("shared", subject.uncut)
        return
    if not any(row.image for row in subject.rows):
        yield NotRun("shared images", subject.no_images)
    elif subject.no_images:
        yield NotRun("shared images by content", f"{subject.no_images}; they are compared by name")
    for first, second in combinations(subject.parts, 2):
        yield from _shared(subject, first, second)


def _shared(subject: Subject, first: str, second: str) -> Iterator[Fault]:
    """Yield a fault for every kind of thing that two parts share; kinds with the very same clashes are one fault."""
    merged: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    clashes: dict[str, list[Clash]] = {}
    for kind, (_, key) in KINDS.items():
        found = clashes[kind] = _clashes(subject.parts[first], subject.parts[second], key)
        if found:
            same = tuple((row.example.id, tuple(other.example.id for other in others)) for row, others in found)
            merged.setdefault(same, []).append(kind)
    for kinds in merged.values():
        yield _fault(kinds, clashes[kinds[0]], (first, second), len(subject.parts[second]))


def _clashes(first: Sequence[Row], second: Sequence[Row], key: Callable[[Row], str]) -> list[Clash]:
    held: dict[str, list[Row]] = {}
    for row in first:
        if key(row):
            held.setdefault(key(row), []).append(row)
    return [(row, held[key(row)]) for row in second if key(row) in held]


def _fault(kinds: Sequence[str], clashes: Sequence[Clash], parts: tuple[str, str], of: int) -> Fault:
    first, second = parts
    labels = Counter(_compared(*clash) for clash in clashes)
    leaking = {other.example.id for _, others in clashes for other in others}
    called = " and ".join(KINDS[kind][0] for kind in kinds)
    said = ", ".join(f"{labels[name]:,} {told}" for name, told in LABELS.items() if labels[name])
    statement = (
        f"{share(len(clashes), of)} {second} rows share {called} with {many(len(leaking), f'{first} row')}: {said}"
    )
    seen = all(row.example.group == other.example.group for row, others in clashes for other in others)
    severity: Severity = "error" if seen or "image" in kinds else "warning"  # a text may recur and mean something else
    cure = (CURE if seen else UNSEEN).format(first=first)
    figures = {"kinds": list(kinds), "parts": list(parts), f"{first}_rows": len(leaking)}
    figures |= {f"{name}_label": labels[name] for name in LABELS}
    cases = tuple(row.case(_told(row, others)) for row, others in sorted(clashes, key=_opposite_first))
    return Fault("shared", severity, len(clashes), of, statement, cure, cases, figures)


def _compared(row: Row, others: Sequence[Row]) -> str:
    same = {other.answers == row.answers for other in others}
    return "both" if len(same) == 2 else "same" if same.pop() else "other"


def _opposite_first(clash: Clash) -> int:
    return list(LABELS).index(_compared(*clash))


def _told(row: Row, others: Sequence[Row]) -> str:
    other = min(others, key=lambda other: other.answers == row.answers)
    return f"{_seen(row)}; {other.example.id} ({other.example.place}): {_seen(other)}"


def _seen(row: Row) -> str:
    text = f"{shortened(row.example.text, 60)!r} " if row.example.text else ""
    return f"{text}is {shortened(row.answer, 30)}"
