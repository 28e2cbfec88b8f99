"""How often every label occurs in every part, and the sizes of groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from vlprobe.audit.fault import Case, Fault, NotRun, Said, share
from vlprobe.audit.subject import Subject
from vlprobe.errors import many

RARE = 10
"""A class with fewer units in train is rare."""
ONE_SIDED = 0.8
"""The commonest class of a balanced enough test part has at most this share."""
FEW_GROUPS = 30
"""With fewer groups in test, intervals are wide and differences go unseen."""
LARGE = 0.1
"""No group should hold more of a part than this share."""
DISTINCT = 20
"""More classes than this, all of them numbers, look like numbers."""


def balance(subject: Subject) -> Iterator[Said]:
    """Count the labels of every part: units that are asked about, not rows."""
    if subject.numbers:
        yield from _numbers(subject)
        return
    counts = {
        part: Counter(str(answer) for row in rows for answer in row.answers) for part, rows in subject.parts.items()
    }
    yield _shares(counts)
    if not subject.uncut:
        yield from _missing(counts)
    last = list(counts)[-1]
    name, most = max(sorted(counts[last].items()), key=lambda item: item[1])
    if most > ONE_SIDED * counts[last].total():
        statement = f"{share(most, counts[last].total())} {last} labels are '{name}': that answer alone scores as much"
        yield Fault("balance", "warning", most, counts[last].total(), statement, "look at the gain over the majority")
    first = next(iter(counts))
    rare = sorted(name for name, count in counts[first].items() if count < RARE)
    if rare:
        statement = f"{share(len(rare), len(counts[first]))} classes have fewer than {RARE} units in {first}"
        cure = "merge them, or expect nothing of them"
        cases = tuple(Case(name, "", many(counts[first][name], f"{first} unit")) for name in rare)
        yield Fault("balance", "warning", len(rare), len(counts[first]), statement, cure, cases, {"part": first})
    yield from _numeric(subject)


def _shares(counts: dict[str, Counter[str]]) -> Fault:
    told = []
    for part, held in counts.items():
        name, most = max(sorted(held.items()), key=lambda item: item[1])
        told.append(f"{part} {len(held)}, the commonest '{name}' {share(most, held.total())}")
    statement = f"classes: {'; '.join(told)}"
    total = sum(held.total() for held in counts.values())
    figures = {part: dict(sorted(held.items())) for part, held in counts.items()}
    return Fault("balance", "note", total, total, statement, figures=figures)


def _missing(counts: dict[str, Counter[str]]) -> Iterator[Fault]:
    for part, held in counts.items():
        if part == "train":
            continue
        unseen = sorted(held.keys() - counts["train"].keys())
        if unseen:
            units = sum(held[name] for name in unseen)
            statement = (
                f"{share(units, held.total())} {part} labels are of {len(unseen)} classes that train lacks: "
                + ", ".join(f"'{name}'" for name in unseen[:5])
            )
            cases = tuple(Case(name, "", many(held[name], f"{part} unit")) for name in unseen)
            yield Fault("balance", "error", units, held.total(), statement, _UNSEEN, cases, {"part": part})
        untested = sorted(counts["train"].keys() - held.keys())
        if untested:
            statement = f"{len(untested)} of {len(counts['train'])} classes of train do not occur in {part}"
            cases = tuple(Case(name, "", many(counts["train"][name], "train unit")) for name in untested)
            cure = "expect no score for them"
            figures = {"part": part}
            yield Fault("balance", "warning", len(untested), len(counts["train"]), statement, cure, cases, figures)


_UNSEEN = "no probe can learn them: take another split, or set bad_rows: skip, which leaves such units out"


def _numeric(subject: Subject) -> Iterator[Fault]:
    names = subject.task.classes
    if len(names) > DISTINCT and all(name.lstrip("-").replace(".", "", 1).isdigit() for name in names):
        if any(len(name) > 1 and name.startswith("0") and "." not in name for name in names):
            return  # padded with zeros: names
        statement = f"all {len(names)} classes are numbers, from {min(names, key=float)} to {max(names, key=float)}"
        cure = "if they count or measure, say target: number (--target number)"
        yield Fault("balance", "note", len(names), len(names), statement, cure)


def _numbers(subject: Subject) -> Iterator[Said]:
    told, figures, reach = [], {}, {}
    for part, rows in subject.parts.items():
        values = np.array([answer for row in rows for answer in row.answers], dtype=float)
        kinds, counts = np.unique(values, return_counts=True)
        most = kinds[counts.argmax()]
        told.append(
            f"{part} {values.min():g} to {values.max():g}, mean {values.mean():.2f}, "
            f"{most:g} in {share(int(counts.max()), len(values))}"
        )
        figures[part] = {f"{kind:g}": int(count) for kind, count in zip(kinds, counts, strict=True)}
        reach[part] = values
    total = sum(len(values) for values in reach.values())
    yield Fault("balance", "note", total, total, f"numbers: {'; '.join(told)}", figures=figures)
    if subject.uncut:
        return
    low, high = reach["train"].min(), reach["train"].max()
    for row_part, values in reach.items():
        beyond = int(((values < low) | (values > high)).sum())
        if beyond:
            statement = (
                f"{share(beyond, len(values))} {row_part} targets lie outside those of train, {low:g} to {high:g}"
            )
            yield Fault("balance", "warning", beyond, len(values), statement, "expect them to be missed")


def groups(subject: Subject) -> Iterator[Said]:
    """Count the groups of every part: what intervals and tests count."""
    for part, rows in subject.parts.items():
        sizes = Counter(row.example.group for row in rows)
        largest = max(sizes.values())
        names = sorted(name for name, size in sizes.items() if size == largest)
        statement = f"{part}: {len(rows):,} rows in {len(sizes):,} groups, the largest holds {largest:,}"
        figures = {"part": part, "groups": len(sizes), "largest": largest}
        yield Fault("groups", "note", len(sizes), len(rows), statement, figures=figures)
        if part in ("test", "all") and len(sizes) < FEW_GROUPS:
            told = f"{part} has {len(sizes)} groups only: intervals are wide, and small differences cannot be shown"
            yield Fault("groups", "warning", len(sizes), len(rows), told, "take more groups into the test part")
        if largest > max(LARGE * len(rows), 1):
            told = f"one group holds {share(largest, len(rows))} {part} rows"
            cases = tuple(next(row for row in rows if row.example.group == name).case() for name in names)
            cure = "see what ties its rows: a placeholder image, or a text that recurs"
            yield Fault("groups", "warning", largest, len(rows), told, cure, cases, {"part": part})
    if all(len(set(row.example.ties)) == 0 for row in subject.rows):
        yield NotRun("groups by image and text", "the data bring groups of their own, and do not say what made them")
