"""Boxes around regions of an image, as fractions of its width and height."""

from __future__ import annotations

from typing import Any

from vlprobe.errors import BadRow
from vlprobe.tasks.cells import list_of, number_of

Box = tuple[float, float, float, float]


def boxes_of(value: Any, column: str, place: str, size: tuple[int, int] = (1, 1)) -> tuple[Box, ...]:
    """Return the boxes of a cell.

    Args:
        value: a list of [x1, y1, x2, y2], or such a list written as JSON.
        column: name of the column, for messages.
        place: file and row, for messages.
        size: (width, height) of the image in the unit of the boxes: pixels, or (1, 1) for fractions.

    Raises:
        BadRow: not such a list, or a box that is empty or reaches out of the image.
    """
    boxes = []
    for box in list_of(value, column, place):
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise BadRow(place, f"a box in '{column}' must be [x1, y1, x2, y2], found {box!r}")
        x1, y1, x2, y2 = (number_of(edge, column, place) for edge in box)
        if x2 <= x1 or y2 <= y1:
            raise BadRow(place, f"the box {list(box)!r} is empty: x2 must exceed x1 and y2 must exceed y1")
        if x1 < 0 or y1 < 0 or x2 > size[0] or y2 > size[1]:
            cure = "; boxes in pixels need box_unit: pixel" if size == (1, 1) else ""
            raise BadRow(place, f"the box {list(box)!r} reaches out of the image of {size[0]} x {size[1]}{cure}")
        boxes.append((x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1]))
    return tuple(boxes)
