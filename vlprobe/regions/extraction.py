"""A folder of images -> a feature file, entry by entry: a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlprobe.digest import digest, file_digest
from vlprobe.errors import BadRow, DataError
from vlprobe.images import image_inside, open_image
from vlprobe.regions.entries import EntryWriter
from vlprobe.regions.formats import FORMATS
from vlprobe.types import Example, ImageData, Regions

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the files of a folder that are looked at."""


class Looks(Protocol):
    """What extraction needs of a detector."""

    revision: str
    """Of weights and conventions."""

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image."""

    def features_of(self, image: ImageData, boxes: np.ndarray, place: str = "") -> Regions:
        """Return what it makes of given boxes, (region, 4) fractions of the image."""


@dataclass(frozen=True)
class Job:
    """One image to look at."""

    image: Path
    """Its file."""
    place: str
    """What names it: itself, or the file and row."""
    boxes: tuple[tuple[float, ...], ...] | None = None
    """Given boxes (x1, y1, x2, y2) in pixels. None: the detector finds its own."""


@dataclass(frozen=True)
class Extracted:
    """What a run did."""

    done: int
    """Images whose regions were written."""
    skipped: int
    """Images that were in the output already."""
    bad: tuple[str, ...]
    """One line for every image that was left out, with the reason."""


def extract_regions(
    images: Path,
    detector: Looks,
    output: Path,
    form: str,
    batch_size: int = 8,
    progress: bool = False,
    *,
    given: Path | None = None,
    skip_bad: bool = False,
) -> Extracted:
    """Write the regions of all images to a feature file; images that are in it already are skipped.

    Args:
        images: a folder, with those inside it, or one image.
        detector: looks at them.
        output: the feature file; created, or added to.
        form: one of `FORMATS`.
        batch_size: images at a time through the detector.
        progress: whether to show a bar, where there is a terminal.
        given: JSON lines `{"image": name inside the folder, "boxes": [[x1, y1, x2, y2], ...]}`, in pixels: features of
            these boxes instead of those that the detector finds.
        skip_bad: leave damaged images out and count them.

    Raises:
        BadRow: an image or a row of `given` cannot be used.
        DataError: no images, two of one name, an output that another detector wrote or that cannot be written to.
    """
    jobs = _images(images) if given is None else _given(given, images)
    _check_names(jobs, images)
    try:
        _note_origin(output, detector.revision, given)
        with FORMATS[form].writer(output) as writer, _bar(len(jobs), progress) as advance:
            waiting = [job for job in jobs if not writer.holds(job.image.stem)]
            advance(len(jobs) - len(waiting))
            bad: list[str] = []
            for start in range(0, len(waiting), batch_size):
                batch = waiting[start : start + batch_size]
                bad += _write(batch, detector, writer, skip_bad)
                advance(len(batch))
    except OSError as error:
        raise DataError(f"{output} cannot be written to: {error}; what is in it is kept") from None
    return Extracted(len(waiting) - len(bad), len(jobs) - len(waiting), tuple(bad))


def _write(batch: Sequence[Job], detector: Looks, writer: EntryWriter, skip_bad: bool) -> list[str]:
    """Write the entries of a batch, and return why some are not there."""
    try:
        found = _look(batch, detector)
    except BadRow as error:
        if not skip_bad:
            raise
        if len(batch) == 1:
            return [str(error)]
        # One by one: the error may be about any of them.
        return [line for job in batch for line in _write([job], detector, writer, skip_bad)]
    for job, regions in zip(batch, found, strict=True):
        writer.write(job.image.stem, regions)
    return []


def _look(batch: Sequence[Job], detector: Looks) -> list[Regions]:
    if all(job.boxes is None for job in batch):
        return detector.regions(
            [Example(job.image.stem, job.image.stem, None, job.image, (), place=job.place) for job in batch]
        )
    return [detector.features_of(job.image, _fractions(job), job.place) for job in batch]


def _fractions(job: Job) -> np.ndarray:
    """Return the given boxes as fractions of the image, (region, 4).

    Raises:
        BadRow: the image cannot be opened, or a box is not inside it.
    """
    size = open_image(job.image, job.place).size
    boxes = np.array(job.boxes, dtype=np.float64)
    wrong = (
        (boxes < 0).any(axis=1) | (boxes > np.array(size * 2)).any(axis=1) | (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
    )
    if wrong.any():
        row = int(wrong.argmax())
        raise BadRow(
            job.place,
            f"box {row} is {boxes[row].tolist()}, and image {job.image.name} has {size[0]} x {size[1]} pixels; boxes "
            "are x1, y1, x2, y2 in pixels, inside the image",
        )
    return boxes / np.array(size * 2)


def _images(images: Path) -> list[Job]:
    if not images.exists():
        raise DataError(f"{images} does not exist; name a folder of images, or an image")
    if images.is_file():
        return [Job(images, str(images))]
    return [
        Job(file, str(file)) for file in sorted(images.rglob("*")) if file.suffix.lower() in IMAGES and file.is_file()
    ]


def _given(file: Path, images: Path) -> list[Job]:
    if not images.is_dir():
        raise DataError(f"{images} is no folder; {file} names images inside one")
    try:
        with file.open(encoding="utf-8") as lines:
            return [_row(line, f"{file}, row {n}", images) for n, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _row(line: str, place: str, images: Path) -> Job:
    wanted = '{"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]}'
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(place, f"not JSON ({error}); expected {wanted}") from None
    boxes = row.get("boxes") if isinstance(row, dict) else None
    if not isinstance(boxes, list) or not boxes or not all(_is_box(box) for box in boxes):
        raise BadRow(place, f"no list of boxes; expected {wanted}")
    if not isinstance(row.get("image"), str):
        raise BadRow(place, f"no image name; expected {wanted}")
    return Job(image_inside(images, row["image"], place), place, tuple(tuple(map(float, box)) for box in boxes))


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(type(edge) in (int, float) for edge in box)
    return numbers and bool(np.isfinite(np.array(box, dtype=np.float64)).all())


def _check_names(jobs: Sequence[Job], images: Path) -> None:
    if not jobs:
        raise DataError(f"{images} holds no images; they end with {', '.join(IMAGES)}")
    known: dict[str, Job] = {}
    for job in jobs:
        other = known.setdefault(job.image.stem, job)
        if other is not job:
            raise DataError(
                f"{other.place} and {job.place} would be one entry, '{job.image.stem}'; rename one, or write them to "
                "two outputs"
            )


def _note_origin(output: Path, revision: str, given: Path | None) -> None:
    """Keep beside the output what made it, so that no other detector adds to it."""
    note = output.with_name(output.name + ".vlprobe-source.json")
    origin = {"detector": digest(revision, file_digest(given) if given else None)}
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(origin), encoding="utf-8")
        return
    try:
        there = json.loads(note.read_bytes())
    except FileNotFoundError:
        return  # of another program: nothing is known of it
    except (ValueError, RecursionError):
        there = None
    if there != origin:
        raise DataError(
            f"{output} was written with another detector, other conventions or other boxes ({note.name}); name "
            "another output, or delete this one"
        )


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Any]:
    """Show a progress bar on a terminal.

    Yields:
        advance: function of the number of images done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not (wanted and console.is_terminal)) as bar:
        task = bar.add_task("images", total=total)
        yield lambda count: bar.advance(task, count)
