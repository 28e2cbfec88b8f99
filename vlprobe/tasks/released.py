"""The files that Salin et al. (2022) released: rows, and which part of the split each is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlprobe.errors import BadRow, DataError
from vlprobe.tasks.rows import BadRowList
from vlprobe.tasks.tables import Dialect, read_table, read_text, require_columns
from vlprobe.types import Source

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("image_name", "comment_number", "comment", "original", "target")
DIALECT = Dialect(delimiter="|", quotes=False)
"""Captions hold quotes, which are characters as any other."""

_COCO = re.compile(r"(?i)coco_((?:train|val|test)\d+_0*(\d+)\.jpg)")
_FLOWER = re.compile(r"image_(\d+)\.jpg")


@dataclass(frozen=True)
class Release:
    """The released files on this machine."""

    datasets: Path
    """Folder of the CSV files."""
    lists: Path
    """Folder of the split files."""
    folder: Path
    """Where relative paths of the study start."""
    options: dict[str, Any]
    """What the study says about the task; rules and answers add what they found out."""
    sources: list[Source] = field(default_factory=list)
    """The files that were read so far."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a CSV."""

    place: str
    """The file and row, for messages."""
    number: int
    """Row number; the header is row 1."""
    file: int
    """Which of the task's files it stands in, from 0."""
    image: str
    """Name of the image file as its publisher writes it."""
    listed: str
    """The same as the CSV writes it: `coco_val2014_...` in the files made for UNITER."""
    caption: str
    """Number of the caption among those of the image."""
    text: str
    """What a model is to read."""
    original: str
    """The caption before it was altered."""
    target: str
    """As written."""


Part = Callable[[Line], str | None]
"""Returns `train`, `test` or `all`; None: the released split does not use the row."""
Rule = Callable[[Release, Sequence[Line]], Part]


def find_release(root: Path, folder: Path, options: dict[str, Any]) -> Release:
    """Return the release that lies in a clone of the repository, or in a folder with its two folders.

    Raises:
        DataError: one of the two is missing.
    """
    for datasets, lists in (("datasets", "probing_tasks/split"), ("datasets", "split")):
        if (root / datasets).is_dir() and (root / lists).is_dir():
            return Release(root / datasets, root / lists, folder, options)
    raise DataError(
        f"data: salin2022: {root} must hold the folder `datasets` and the folder `probing_tasks/split` or `split` of "
        "https://github.com/ejsalin/vlm-probing; point it to a clone"
    )


def read_lines(release: Release, files: Sequence[str], bad: BadRowList) -> Iterator[Line]:
    """Yield the rows of a task's CSV files, noting bad ones.

    Raises:
        DataError: a file or column is missing, or not UTF-8.
    """
    for index, name in enumerate(files):
        shown = f"{name}.csv"
        table = read_table(release.datasets / shown, shown, bad.add, DIALECT)
        release.sources.append(table.source)
        require_columns({name: name for name in COLUMNS}, table.columns, shown)
        for row in table.rows:
            listed, caption, text, original, target = (row.values[column].strip() for column in COLUMNS)
            if not listed:
                bad.add(BadRow(row.place, "the cell 'image_name' is empty"))
                continue
            yield Line(row.place, row.number, index, published_name(listed), listed, caption, text, original, target)


def published_name(name: str) -> str:
    """Return a COCO file name in COCO's own capitals, any other name as it is."""
    found = _COCO.fullmatch(name)
    return f"COCO_{found[1]}" if found else name


def list_key(name: str) -> str:
    """Return what an image is called in a split file: `123` for 123.jpg and for COCO_val2014_000000000123.jpg."""
    found = _COCO.fullmatch(name)
    return found[2] if found else name.removesuffix(".jpg")


def at_random(release: Release, lines: Sequence[Line]) -> Part:
    """All rows are in one part, from which whole groups will be drawn."""
    return lambda line: "all"


def by_file(release: Release, lines: Sequence[Line]) -> Part:
    """The first file is train, the second test."""
    return lambda line: ("train", "test")[line.file]


def listed(file: str, part: str) -> Rule:
    """Rows whose image a split file names are in `part`, all others in the other part."""
    other = {"train": "test", "test": "train"}[part]

    def rule(release: Release, lines: Sequence[Line]) -> Part:
        text, source = read_text(release.lists / file, file)
        release.sources.append(source)
        names = {list_key(name.strip()) for name in text.split("\n") if name.strip()}
        inside = sum(list_key(line.image) in names for line in lines)
        if lines and not 0 < inside < len(lines):
            raise DataError(
                f"{file} names the images of {inside} of {len(lines)} rows; it is to part them into {part} and {other}"
                ". Take the file from the authors' repository again, or set split: grouped"
            )
        return lambda line: part if list_key(line.image) in names else other

    return rule


def by_flower_sets(release: Release, lines: Sequence[Line]) -> Part:
    """Train on `tstid`, test on `trnid`; `valid` is not used.

    The authors swapped the roles of the sets that Oxford Flowers-102 calls train (1020 images) and test (6149).
    """
    names = {"tstid": "train", "trnid": "test", "valid": None}
    sets = read_mat(release, "setid.mat", tuple(names))
    part = {int(number): names[key] for key, numbers in sets.items() for number in numbers}
    release.options["unused_rows"] = sum(names[key] is None for key, numbers in sets.items() for _ in numbers)

    def rule(line: Line) -> str | None:
        number = flower_number(line)
        if number not in part:
            raise BadRow(line.place, f"setid.mat puts {line.image} in none of its sets")
        return part[number]

    return rule


def flower_number(line: Line) -> int:
    """Return 17 for image_00017.jpg.

    Raises:
        BadRow: the image is called otherwise.
    """
    found = _FLOWER.fullmatch(line.image)
    if not found:
        raise BadRow(line.place, f"expected a name such as image_00017.jpg, found {line.image!r}")
    return int(found[1])


def read_mat(release: Release, file: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return vectors of whole numbers from a MATLAB file; scipy parses it and executes nothing.

    Args:
        release: where it lies.
        file: its name.
        names: of the variables; each becomes an array (number,) int64.

    Raises:
        DataError: missing, of another format, or without such a vector.
    """
    import numpy as np
    from scipy.io import loadmat

    from vlprobe.digest import file_digest

    path = release.lists / file
    if not path.is_file():
        raise DataError(f"{file}: there is no such file ({path})")
    try:
        held = loadmat(path, appendmat=False, variable_names=list(names))
    except Exception as error:  # noqa: BLE001 (a damaged file makes scipy raise nearly any type)
        raise DataError(f"{file} cannot be read as a MATLAB file: {type(error).__name__}: {error}") from None
    release.sources.append(Source(str(path), file_digest(path)))
    vectors = {}
    for name in names:
        vector = held.get(name)
        if not isinstance(vector, np.ndarray) or not np.issubdtype(vector.dtype, np.integer):
            raise DataError(f"{file} holds no vector of whole numbers '{name}'; take the file from its source again")
        vectors[name] = vector.ravel().astype(np.int64)
    return vectors
