"""From the rows of an own table to drafts of examples: which column is what, and what its cells say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vlprobe.digest import image_digest
from vlprobe.errors import BadRow, DataError, StudyError, did_you_mean
from vlprobe.images import image_inside, image_size
from vlprobe.settings import Settings
from vlprobe.stored import StoredImage
from vlprobe.tasks.boxes import boxes_of
from vlprobe.tasks.cells import NO_LABEL, label_of, list_of, number_of, optional_label_of, text_of
from vlprobe.tasks.rows import SPLIT_NAMES, Draft, Names, Row, plain
from vlprobe.tasks.spool import keep
from vlprobe.tasks.tables import require_columns
from vlprobe.tasks.words import joined_words, listed_words, masked_words
from vlprobe.types import Example, ImageData, Level, Target

AskedUnit = Literal["input", "word", "region", "mask"]
"""`mask` is unit `word` with one label, that of the masked word."""


class Columns(Settings):
    """Which column of the file is used for what; one that is not named is used if it has the very name."""

    text: str | None = None
    image: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None
    id: str | None = None
    words: str | None = None
    labels: str | None = None
    boxes: str | None = None


NEEDS: dict[AskedUnit, tuple[str, ...]] = {
    "input": ("label",),
    "mask": ("text", "label"),
    "word": ("words", "labels"),
    "region": ("image", "boxes", "labels"),
}
"""Columns without which a unit has no meaning."""
LEVEL_NEEDS: dict[Level, tuple[str, ...]] = {
    "language": ("text",),
    "vision": ("image",),
    "multimodal": ("text", "image"),
}
"""Columns without which a level has no meaning; the text of unit `word` may be made of its words."""
ALWAYS = ("text", "image", "group", "split", "id")


@dataclass(frozen=True)
class Question:
    """What the study says about an own task of rows."""

    level: Level
    """As in `Task.level`."""
    unit: AskedUnit
    """What one label belongs to."""
    numbers: bool
    """Whether the labels are numbers."""
    pixels: bool
    """Whether boxes are in pixels."""
    images: tuple[Path, ...] | None
    """Folders that image files may lie in. None: images are not read, a file's name says which rows share one."""
    names: Names = field(default_factory=Names)
    """Ids given out so far."""

    def columns(self, named: Columns, present: tuple[str, ...], shown: str, split: bool) -> dict[str, str]:
        """Return the column of every use.

        Args:
            named: what the study says.
            present: the columns of the file.
            shown: how messages call the file.
            split: whether a column may say in which part a row is.

        Raises:
            StudyError: a column is named that the task does not use.
            DataError: a column is not in the file.
        """
        uses = {*ALWAYS, *NEEDS[self.unit]} - (set() if split else {"split"})
        said = {use: name for use, name in named.model_dump().items() if name is not None}
        for use in said:
            if use not in uses:
                why = "the files say which part they are" if use == "split" else f"its unit is {self.unit}"
                raise StudyError(f"columns: the task does not use '{use}', since {why}; remove it")
        require_columns({f"columns: {use}": name for use, name in said.items()}, present, shown)
        found = {use: use for use in uses if use in present} | said
        needed = dict.fromkeys((*NEEDS[self.unit], *LEVEL_NEEDS[self.level]))
        for use in needed:
            if use not in found and not (use == "text" and self.unit == "word"):
                raise DataError(
                    f"{shown} has no column '{use}', which level {self.level} with unit {self.unit} needs; "
                    f"name the right one, columns: {{{use}: ...}}{did_you_mean(use, present)}"
                )
        return found

    def draft(self, row: Row, columns: Mapping[str, str], split: str, prefix: str) -> Draft:
        """Return the draft of a row's example.

        Args:
            row: of the table.
            columns: column by use, as `columns` returns them.
            split: the part it is in, unless a column says it.
            prefix: of ids, where no column holds them.

        Raises:
            BadRow: a cell does not say what it should.
        """
        cells = Cells({use: (column, row.values.get(column)) for use, column in columns.items()}, row.place)
        if "split" in columns:
            split = split_of(*cells["split"])
        text = text_of(*cells["text"]) if "text" in columns else None
        image, named = self.image(*cells["image"]) if "image" in columns else (None, "")
        example = UNITS[self.unit](self, cells, text, image)
        name = label_of(*cells["id"]) if "id" in columns else f"{prefix}#{row.number}"
        group = label_of(*cells["group"]) if "group" in columns else None
        ties = _ties(example, named) if group is None else (("group", group),)
        example = replace(example, id=self.names.take(name, row.place))
        return Draft(split, example, group or name, ties)

    def image(self, value: Any, column: str, place: str) -> tuple[ImageData | None, str]:
        """Return (image, the name by which rows share it where it is not read); BadRow where there is none."""
        if self.images is None:
            return None, text_of(value, column, place)
        return image_of(value, column, self.images, place), ""

    def target(self, value: Any, column: str, place: str) -> Target:
        """Return a number or the name of a class, as the study says; BadRow where the cell is neither."""
        return number_of(value, column, place) if self.numbers else label_of(value, column, place)

    def targets(self, cells: Cells, count: int, what: str) -> tuple[Target, ...]:
        """Return the labels of a list of units, None for those that are not asked about.

        Args:
            cells: the row.
            count: how many units there are.
            what: the units are.

        Raises:
            BadRow: there are more labels, or fewer.
        """
        _, column, place = cells["labels"]
        labels = list_of(*cells["labels"])
        if len(labels) != count:
            raise BadRow(place, f"there are {count} {what} but {len(labels)} labels in '{column}'")
        return tuple(
            None if optional_label_of(label, column, place) in (None, *NO_LABEL) else self.target(label, column, place)
            for label in labels
        )


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a row by use."""

    held: Mapping[str, tuple[str, Any]]
    """Column and value."""
    place: str
    """The file and row, for messages."""

    def __getitem__(self, use: str) -> tuple[Any, str, str]:
        """Return (value, column, place), the arguments of the functions in `cells.py`."""
        column, value = self.held[use]
        return value, column, self.place


def _whole_input(question: Question, cells: Cells, text: str | None, image: ImageData | None) -> Example:
    return Example("", "", text, image, (question.target(*cells["label"]),), place=cells.place)


def _masked_word(question: Question, cells: Cells, text: str | None, image: ImageData | None) -> Example:
    words, mask = masked_words(text or "", cells.place)
    target = question.target(*cells["label"])
    targets = tuple(target if i == mask else None for i in range(len(words)))
    return Example("", "", text, image, targets, words, place=cells.place)


def _all_words(question: Question, cells: Cells, text: str | None, image: ImageData | None) -> Example:
    _, column, place = cells["words"]
    listed = [text_of(word, column, place) for word in list_of(*cells["words"])]
    targets = question.targets(cells, len(listed), "words")
    made, spans = joined_words(listed)
    if text is not None:
        made, spans = text, listed_words(text, listed, place)
    return Example("", "", made, image, targets, spans, place=place)


def _regions(question: Question, cells: Cells, text: str | None, image: ImageData | None) -> Example:
    size = image_size(image, cells.place) if question.pixels and image is not None else (1, 1)
    boxes = boxes_of(*cells["boxes"], size)
    targets = question.targets(cells, len(boxes), "boxes")
    return Example("", "", text, image, targets, boxes=boxes, place=cells.place)


UNITS: dict[AskedUnit, Callable[[Question, Cells, str | None, ImageData | None], Example]] = {
    "input": _whole_input,
    "mask": _masked_word,
    "word": _all_words,
    "region": _regions,
}
"""How a row becomes an example, still without id and group."""


def split_of(value: Any, column: str, place: str) -> str:
    """Return `train`, `validation` or `test`.

    Raises:
        BadRow: the cell says something else.
    """
    name = value.strip().lower() if isinstance(value, str) else value
    if name not in SPLIT_NAMES:
        raise BadRow(place, f"the cell '{column}' must be one of {', '.join(SPLIT_NAMES)}, found {value!r}")
    return SPLIT_NAMES[name]


def image_of(value: Any, column: str, folders: tuple[Path, ...], place: str) -> ImageData:
    """Return the image of a cell: a file, or where the bytes of one lie, not decoded; bytes go to a file of the cache.

    Args:
        value: a file name, bytes, or {bytes, path} as data sets on the hub hold them; a reference may stand for bytes.
        column: name of the column, for messages.
        folders: the file must lie in one of them.
        place: file and row, for messages.

    Raises:
        BadRow: no such file, a name that leaves the folder, or no image at all.
        DataError: there is no room for bytes (see `spool.py`).
    """
    path = None
    if isinstance(value, Mapping):
        path = value.get("path")
        value = value.get("bytes") or path
    if isinstance(value, StoredImage):
        return value
    if isinstance(value, (bytes, bytearray)) and value:
        return keep(bytes(value), path)
    name = text_of(value, column, place)
    if "://" in name:
        raise BadRow(
            place,
            f"the image {name!r} is an address, and nothing is fetched from there; fetch it before, or, where the task "
            "says streaming: true, leave that out: `datasets` may fetch it then",
        )
    problem = BadRow(place, f"there is no folder that the image {name!r} may lie in; set images: in the task")
    for folder in folders:
        try:
            path = image_inside(folder, name, place)
        except BadRow as outside:
            problem = outside
            continue
        if path.is_file():
            return path
        problem = BadRow(place, f"image file {path} does not exist")
    raise problem


def _ties(example: Example, named: str) -> tuple[tuple[str, str], ...]:
    """Return what makes two examples one group: the same image, or the same text."""
    ties = [("image", named)] if named else []
    if isinstance(example.image, Path):
        ties.append(("image", os.path.realpath(example.image)))
    elif example.image is not None:
        ties.append(("image", image_digest(example.image)))
    if example.text is not None and plain(example.text):
        ties.append(("text", plain(example.text)))
    return tuple(ties)
