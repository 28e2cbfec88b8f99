"""What a reader hands on: rows, the list of bad ones, and drafts of examples before their groups are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlprobe.errors import BadRow, DataError
from vlprobe.types import SPLITS, Example

BadRows = Literal["error", "skip"]

SHOWN = 5
"""So many bad rows are written out in an error; the rest is counted."""

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""How the data sets of the world write the three parts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, its cells not yet looked at."""

    place: str
    """The file and row, for messages: `captions.csv, row 17`."""
    number: int
    """Row number as an editor shows it, starting at 1."""
    values: Mapping[str, Any]
    """Cell by column."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An example whose group is still to be found."""

    split: str
    """`train`, `validation`, `test`, or `all`."""
    example: Example
    """With any `group`: it is replaced."""
    label: str
    """The group is called by the smallest of its members' labels."""
    ties: tuple[tuple[str, str], ...]
    """Drafts that have a tie in common are in one group, as are those linked through a third."""


class BadRowList:
    """The bad rows of one task: collected while it is read, judged when it has been read.

    Args:
        task: name of the task, for messages.
        bad_rows: `error` or `skip`.
    """

    def __init__(self, task: str, bad_rows: BadRows) -> None:
        self.task = task
        self.bad_rows = bad_rows
        self.rows: list[BadRow] = []

    def add(self, row: BadRow) -> None:
        """Note one bad row and go on reading."""
        self.rows.append(row)

    def judge(self, usable: Mapping[str, int]) -> tuple[str, ...]:
        """Return one line for every row that is left out.

        Args:
            usable: how many good rows each file has.

        Raises:
            DataError: there are bad rows under `bad_rows: error`, or a file without a good one.
        """
        lines = [str(row) for row in self.rows]
        shown = "\n".join(f"  {line}" for line in lines[:SHOWN])
        more = f"\n  ... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        of = f"{len(lines)} of {len(lines) + sum(usable.values())} rows of task {self.task} cannot be used"
        if lines and self.bad_rows == "error":
            raise DataError(
                f"{of}:\n{shown}{more}\n"
                "fix the rows, or set bad_rows: skip in the study to leave them out and count them"
            )
        for file, count in usable.items():
            if not count:
                why = f"; {of}:\n{shown}{more}" if lines else ""
                raise DataError(f"task {self.task}: {file} holds no usable row{why}")
        return tuple(lines)


def plain(text: str) -> str:
    """Return a text as it is compared: stripped, lower-cased, white space collapsed."""
    return " ".join(text.lower().split())


def grouped(drafts: Sequence[Draft]) -> dict[str, tuple[Example, ...]]:
    """Return the examples by split; each group is a connected component of the drafts over their ties."""
    root = _components([draft.ties for draft in drafts])
    names: dict[int, str] = {}
    for draft, component in zip(drafts, root, strict=True):
        names[component] = min(names.get(component, draft.label), draft.label)
    splits: dict[str, list[Example]] = {}
    for draft, component in zip(drafts, root, strict=True):
        example = replace(draft.example, group=names[component], ties=draft.ties)
        splits.setdefault(draft.split, []).append(example)
    return {name: tuple(splits[name]) for name in (*SPLITS, "all") if name in splits}


def _components(ties: Sequence[tuple[tuple[str, str], ...]]) -> list[int]:
    """Return for every item the number of its connected component (union-find with path halving)."""
    parent = list(range(len(ties)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, own in enumerate(ties):
        for tie in own:
            parent[find(i)] = find(first.setdefault(tie, i))
    return [find(i) for i in range(len(ties))]


class Names:
    """The ids that a task has given out so far, and where."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def take(self, name: str, place: str) -> str:
        """Return `name`, which is then taken.

        Raises:
            BadRow: another row has it.
        """
        if name in self._places:
            raise BadRow(place, f"the id '{name}' is already that of {self._places[name]}; ids must be unique")
        self._places[name] = place
        return name
