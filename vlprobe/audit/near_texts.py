"""Texts that are nearly the same: all words but one, or the same words in another order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlprobe.audit.fault import Case, Fault, NotRun, Said, share
from vlprobe.audit.subject import Row, Subject, shortened

WORD = re.compile(r"\[mask\]|[\w'-]+")
SHORTEST = 6
"""Of texts with fewer words, that all but one are the same says nothing."""
TEMPLATE = 100
"""More texts than this that are the same but for one word are a template filled in, and are not compared."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class Near:
    """Near duplicates among the texts of a task."""

    twins: Mapping[Words, tuple[Words, ...]]
    """Words of a text -> those of its near duplicates, in order."""
    rows: Mapping[Words, tuple[Row, ...]]
    """Words of a text -> the rows that have it."""
    templates: int
    """Texts that were not compared with all others."""

    def of(self, row: Row) -> list[Row]:
        """Return the rows of other groups that have nearly a row's text."""
        twins = [twin for words in self.twins.get(_words(row), ()) for twin in self.rows[words]]
        return [twin for twin in twins if twin.example.group != row.example.group]


def near_texts(subject: Subject) -> Iterator[Said]:
    """Find near duplicates among the texts of different groups: across parts, and with different labels.

    Near are two texts of at least `SHORTEST` words that differ in one word (replaced, added or lacking), and two that
    hold the same words in another order. Signs and capitals do not count.
    """
    if subject.no_texts:
        yield NotRun("near texts", subject.no_texts)
        return
    near = find_near(subject.rows)
    if near.templates:
        why = f"{near.templates:,} texts are a template filled in: more than {TEMPLATE} differ in the same one word"
        yield NotRun("near texts of templates", why)
    names = list(subject.parts)
    for i, second in enumerate(names):
        for first in names[:i]:
            yield from _across(subject, near, first, second)
    yield from _contradicting(subject, near)


def find_near(rows: Sequence[Row]) -> Near:
    """Return the near duplicates among the distinct texts of some rows."""
    texts: dict[Words, list[Row]] = {}
    for row in rows:
        texts.setdefault(_words(row), []).append(row)
    held: dict[int, list[Words]] = {}
    once: set[int] = set()
    again: set[int] = set()
    for words in texts:
        for key in _keys(words):
            (again if key in once else once).add(key)
    for words in texts:  # most keys are there once: only the others are kept with their texts
        for key in _keys(words) & again:
            held.setdefault(key, []).append(words)
    twins: dict[Words, set[Words]] = {}
    templates: set[Words] = set()
    for members in held.values():
        if len(members) > TEMPLATE:
            templates.update(members)
            continue
        for k, b in enumerate(members):
            for a in members[:k]:
                if _near(a, b):
                    twins.setdefault(a, set()).add(b)
                    twins.setdefault(b, set()).add(a)
    ordered = {words: tuple(sorted(others)) for words, others in twins.items()}
    return Near(ordered, {words: tuple(owners) for words, owners in texts.items()}, len(templates))


def _words(row: Row) -> Words:
    return tuple(WORD.findall(row.text))


def _keys(words: Words) -> set[int]:
    """Return hashes of what is left without one word, of the whole, and of the words in order of the alphabet."""
    if len(words) < SHORTEST:
        return set()
    return {hash(words[:k] + words[k + 1 :]) for k in range(len(words))} | {hash(words), hash(("", *sorted(words)))}


def _near(a: Words, b: Words) -> bool:
    """Whether one word or the order is all that differs: a word taken out of both may have stood elsewhere."""
    if len(a) > len(b):
        a, b = b, a
    if len(a) < len(b):
        return any(b[:k] + b[k + 1 :] == a for k in range(len(b)))
    return sorted(a) == sorted(b) or sum(x != y for x, y in zip(a, b, strict=True)) == 1


def _across(subject: Subject, near: Near, first: str, second: str) -> Iterator[Fault]:
    found = [(row, [twin for twin in near.of(row) if twin.part == first]) for row in subject.parts[second]]
    found = [(row, twins) for row, twins in found if twins]
    if not found:
        return
    found.sort(key=lambda pair: not _clash(*pair))
    of, other = len(subject.parts[second]), sum(_clash(row, twins) for row, twins in found)
    statement = (
        f"{share(len(found), of)} {second} texts are nearly a text of {first} in another group, {other} of them one "
        "with another label"
    )
    cure = "look at them; where they are the same sentence, give both one group"
    cases = tuple(_case(row, twins) for row, twins in found)
    figures = {"parts": [first, second], "other_label": other}
    yield Fault("near texts", "warning", len(found), of, statement, cure, cases, figures)


def _contradicting(subject: Subject, near: Near) -> Iterator[Fault]:
    found = [(row, twins) for row in subject.rows if _clash(row, twins := near.of(row))]
    if found:
        cases = tuple(_case(row, twins) for row, twins in found)
        statement = f"{share(len(cases), len(subject.rows))} rows have nearly the text of a row with another label"
        cure = "look at them: the label hangs on what differs, or one of the two is wrong"
        yield Fault("near texts", "note", len(cases), len(subject.rows), statement, cure, cases)


def _clash(row: Row, twins: Sequence[Row]) -> bool:
    return any(twin.answers != row.answers for twin in twins)


def _case(row: Row, twins: Sequence[Row]) -> Case:
    twin = min(twins, key=lambda twin: twin.answers == row.answers)
    texts = [shortened(each.example.text or "", 80) for each in (row, twin)]
    labels = [shortened(each.answer, 30) for each in (row, twin)]
    return row.case(f"{texts[0]!r} is {labels[0]}; {twin.example.id}: {texts[1]!r} is {labels[1]}")
