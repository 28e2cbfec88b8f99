"""Which files the shards of a task are, and what their members are used for."""

from __future__ import annotations

import re
from itertools import product, takewhile
from pathlib import Path

from vlprobe.errors import DataError, StudyError
from vlprobe.settings import resolve_path
from vlprobe.tasks.columns import ALWAYS, NEEDS, AskedUnit, Columns

MOST = 100_000
"""Shards of one pattern."""
MEMBERS = {"text": "txt", "label": "cls"}
"""Use -> the member that says it, unless the study names another column."""
_WILD = re.compile(r"[*?[]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def shard_files(pattern: str, folder: Path) -> dict[str, Path]:
    """Return name as shown -> file of all shards, in the order of the range or of their names.

    Args:
        pattern: a file; `train-{000..003}.tar`; or with `*`, `?` and `[...]` as in a shell.
        folder: where relative paths start.

    Raises:
        StudyError: braces that are no range.
        DataError: no such file.
    """
    found: dict[str, Path] = {}
    for name in _ranged(pattern):
        parts = Path(name).parts
        fixed = list(takewhile(lambda part: not _WILD.search(part), parts))
        if len(fixed) == len(parts):
            found[name] = resolve_path(name, folder)
            continue
        base = resolve_path("/".join(fixed), folder)
        paths = sorted(base.glob("/".join(parts[len(fixed) :])))
        if not paths:
            raise DataError(f"shards: no file is called {name} ({resolve_path(name, folder)})")
        found |= {str(Path(*fixed) / path.relative_to(base)): path for path in paths}
    absent = next((name for name, path in found.items() if not path.is_file()), None)
    if absent is not None:
        raise DataError(f"shards: there is no file {absent} ({found[absent]})")
    return found


def _ranged(pattern: str) -> list[str]:
    """Return the names that a pattern's ranges stand for; numbers are as wide as the first one is written."""
    parts = _RANGE.split(pattern)
    if re.search(r"(?<!\$)\{", "".join(parts[::3])):
        raise StudyError(f"shards: {pattern}: braces hold a range of numbers, {{000..003}}; or name shards by *")
    counts = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        numbers = range(int(first), int(last) + 1)
        if not 0 < len(numbers) <= MOST:
            raise StudyError(f"shards: {pattern}: the range {{{first}..{last}}} stands for {len(numbers):,} files")
        counts.append([f"{number:0{len(first)}}" for number in numbers])
    fixed = parts[::3]
    return ["".join(a + b for a, b in zip(fixed, (*drawn, ""), strict=True)) for drawn in product(*counts)]


def member_columns(named: Columns, present: tuple[str, ...], unit: AskedUnit, shown: str) -> Columns:
    """Return the columns that a study names, with .txt for the text and .cls for the label where it names none.

    Raises:
        StudyError: the shard holds both the member and a field of .json that is called like the use.
    """
    used = {*ALWAYS, *NEEDS[unit]}
    found = {}
    for use, member in MEMBERS.items():
        if use in used and getattr(named, use) is None and member in present:
            if use in present:
                raise StudyError(
                    f"{shown} has both .{member} and the field '{use}' of .json; say which: "
                    f"columns: {{{use}: {member}}}"
                )
            found[use] = member
    return named.model_copy(update=found)
