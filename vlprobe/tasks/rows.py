"""What a reader hands on: rows, the list of bad ones, and drafts of examples before their groups are known."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlprobe.digest import alike_in_size, file_size, image_digests
from vlprobe.errors import BadRow, DataError
from vlprobe.examples import Examples, Kept, image_in, label_in, written
from vlprobe.ledger import Ledger, key_of
from vlprobe.records import Records
from vlprobe.types import SPLITS, Example, ImageData

BadRows = Literal["error", "skip"]

SHOWN = 5
"""So many bad rows are written out in an error; the rest is counted."""

PARTS = (*SPLITS, "all")
"""What a draft's split may be."""

WIDEST = 96
"""Bytes of the longest label, where labels are compared side by side."""

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


class Gathered:
    """The drafts of a task, kept on disk as they come; its examples, once all are there."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        """Drafts by file."""
        self.classes: set[str] = set()
        """Targets that are names."""
        self.labelled = 0
        """Drafts with a target."""
        self._records, self._ties = Records(), Ledger()
        self._part, self._parent = array("b"), array("i")
        self._files, self._sizes, self._embedded = array("i"), array("q"), False

    def add(self, file: str, drafts: Iterable[Draft]) -> None:
        """Take the drafts of one more file, or more of one."""
        self.count.setdefault(file, 0)
        for draft in drafts:
            self.count[file] += 1
            self._one(draft)

    def _one(self, draft: Draft) -> None:
        number = self._records.add(written(replace(draft.example, ties=draft.ties), draft.label))
        self._part.append(PARTS.index(draft.split))
        self._parent.append(number)
        for tie in draft.ties:
            first = self._tie(number, tie)
            if tie[0] == "image" and first == number:
                self._note_image(number, draft.example.image)
        named = {target for target in draft.example.target if target is not None}
        self.labelled += bool(named)
        self.classes |= {target for target in named if isinstance(target, str)}

    def _tie(self, number: int, tie: tuple[str, str]) -> int:
        """Put a draft into one group with all that have this tie; return the first of them."""
        first = self._ties.setdefault(key_of(*tie), number)
        self._parent[self._find(number)] = self._find(first)  # union-find with path halving
        return first

    def _note_image(self, number: int, image: ImageData | None) -> None:
        if isinstance(image, Path):
            self._files.append(number)
            self._sizes.append(file_size(image))
        elif image is not None:
            self._embedded = True

    def _tie_equal_files(self) -> None:
        """Put drafts into one group whose image files, of whatever names, hold the same bytes."""
        files, sizes = np.array(self._files, np.int32), np.array(self._sizes, np.int64)
        files = files[sizes >= 0] if self._embedded else files[alike_in_size(sizes)]
        paths = (Path(str(image_in(self._records[row]))) for row in files)
        for number, sha256 in zip(files.tolist(), image_digests(paths), strict=True):
            if sha256:
                self._tie(number, ("image", sha256))

    def _find(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def splits(self) -> dict[str, Examples]:
        """Return the examples by split; each group is a connected component of the drafts over their ties.

        It is called by the smallest of its members' labels. Nothing can be added afterwards.
        """
        self._tie_equal_files()
        self._ties = Ledger()
        leader = self._leaders()
        leaders = np.unique(leader)
        names = self._labels(leaders)
        order = np.argsort(names, kind="stable")
        place = np.empty(len(leaders), np.int32)
        place[order] = _steps(names, order)
        del names
        part = np.frombuffer(self._part, np.int8)
        origin = Kept(self._records, leader, place[np.searchsorted(leaders, leader)])
        rows = {name: np.flatnonzero(part == i).astype(np.int32) for i, name in enumerate(PARTS)}
        return {name: Examples(origin, found) for name, found in rows.items() if len(found)}

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        """Return (row,) labels as UTF-8, which sorts as they do; where one is long, as objects."""
        said = (label_in(self._records[row]).encode("utf-8", "surrogatepass") for row in rows)
        widest = max((WIDEST if label.endswith(b"\0") else len(label) for label in said), default=0)
        said = (label_in(self._records[row]).encode("utf-8", "surrogatepass") for row in rows)
        return np.fromiter(said, np.dtype(f"S{max(widest, 1)}") if widest < WIDEST else object, len(rows))

    def _leaders(self) -> np.ndarray:
        """Return (draft,) int32: the member of its group whose label is the smallest."""
        root = np.array(self._parent, np.int32)
        while (root != root[root]).any():
            root = root[root]
        self._parent = array("i")
        leader = np.arange(len(root), dtype=np.int32)
        crowded = np.flatnonzero(np.bincount(root)[root] > 1) if len(root) else leader
        crowded = crowded[np.argsort(root[crowded], kind="stable")]
        for members in np.split(crowded, np.flatnonzero(np.diff(root[crowded])) + 1):
            if len(members):
                leader[members] = min(members.tolist(), key=lambda row: label_in(self._records[row]))
        return leader


def _steps(names: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return (name,) how many other names stand before each, in this order."""
    found = np.zeros(len(order), np.int32)
    for i, (before, here) in enumerate(pairwise(order), start=1):
        found[i] = found[i - 1] + (names[before] != names[here])
    return found


def grouped(drafts: Iterable[Draft]) -> dict[str, Examples]:
    """Return the examples of some drafts by split."""
    gathered = Gathered()
    gathered.add("", drafts)
    return gathered.splits()


class Names:
    """The ids that a task has given out so far, and where."""

    def __init__(self) -> None:
        self._taken, self._places = Ledger(), Records()

    def __contains__(self, name: str) -> bool:
        return key_of(name) in self._taken

    def take(self, name: str, place: str) -> str:
        """Return `name`, which is then taken.

        Raises:
            BadRow: another row has it.
        """
        number = len(self._places)
        taken = self._taken.setdefault(key_of(name), number)
        if taken < number:
            other = self._places[taken].decode("utf-8", "surrogatepass")
            raise BadRow(place, f"the id '{name}' is already that of {other}; ids must be unique")
        self._places.add(place.encode("utf-8", "surrogatepass"))
        return name
