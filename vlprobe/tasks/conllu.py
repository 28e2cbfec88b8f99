"""Reading CoNLL-U: sentences of words with their tags (https://universaldependencies.org/format.html)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from vlprobe.errors import BadRow
from vlprobe.tasks.tables import checked_text, lines_of
from vlprobe.types import Source

Column = Literal["upos", "xpos"]

COLUMNS: dict[Column, int] = {"upos": 3, "xpos": 4}
"""Index of a tag among the ten fields of a word line."""

_WORD, _RANGE, _EMPTY = re.compile(r"[1-9]\d*"), re.compile(r"\d+-\d+"), re.compile(r"\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """The words of one sentence; multiword-token ranges and empty nodes are left out."""

    id: str
    """`# sent_id`, or empty."""
    place: str
    """File and first line, for messages."""
    number: int
    """The line of its first word."""
    forms: tuple[str, ...]
    """One per word."""
    tags: tuple[str | None, ...]
    """One per word; None where the file has `_`."""


def read_conllu(
    path: Path, shown: str, column: Column, on_bad_row: Callable[[BadRow], None]
) -> tuple[Iterator[Sentence], Source]:
    """Return the sentences of a CoNLL-U file and its source.

    Args:
        path: the file.
        shown: how messages call it.
        column: which tag.
        on_bad_row: called with every sentence that cannot be parsed.

    Raises:
        DataError: missing, or not UTF-8.
    """
    source = checked_text(path, shown)
    lines = (line.removesuffix("\r") for line in lines_of(path))
    return _sentences(lines, shown, column, on_bad_row), source


def _sentences(
    lines: Iterable[str], shown: str, column: Column, on_bad_row: Callable[[BadRow], None]
) -> Iterator[Sentence]:
    inside: list[str] = []
    for end, line in enumerate(chain(lines, [""])):
        if line.strip():
            inside.append(line)
            continue
        try:
            sentence = _sentence(inside, end - len(inside) + 1, shown, column)
        except BadRow as problem:
            on_bad_row(problem)
        else:
            if sentence:
                yield sentence
        inside = []


def _sentence(lines: list[str], first: int, shown: str, column: Column) -> Sentence | None:
    name, number = "", 0
    forms: list[str] = []
    tags: list[str | None] = []
    for i, line in enumerate(lines, start=first):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            name = value.strip() if key.strip() == "sent_id" else name
            continue
        fields = line.split("\t")
        place = f"{shown}, row {i}"
        if len(fields) != 10:
            raise BadRow(place, f"a word line has 10 columns parted by tabs, this one has {len(fields)}")
        if _RANGE.fullmatch(fields[0]) or _EMPTY.fullmatch(fields[0]):
            continue
        if not _WORD.fullmatch(fields[0]) or not fields[1].strip():
            raise BadRow(place, f"expected a word's number and its form, found {fields[0]!r} and {fields[1]!r}")
        number = number or i
        forms.append(fields[1])
        tags.append(None if fields[COLUMNS[column]] in ("", "_") else fields[COLUMNS[column]])
    if not forms:  # comments only, or several empty lines
        return None
    return Sentence(name, f"{shown}, row {number}", number, tuple(forms), tuple(tags))
