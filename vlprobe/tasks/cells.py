"""What a cell of a table says: a text, a label, a number, a list. What it does not say is a bad row."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from vlprobe.errors import BadRow

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")

NO_LABEL = ("", "_")
"""Labels of a word or region that is not asked about; CoNLL-U writes `_`."""


def text_of(value: Any, column: str, place: str) -> str:
    """Return a text that is not blank.

    Raises:
        BadRow: it is blank, missing, or no text.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(place, f"the cell '{column}' is empty")
    if not isinstance(value, str):
        raise BadRow(place, f"the cell '{column}' must be a text, found {value!r}")
    return value


def number_of(value: Any, column: str, place: str) -> float:
    """Return a finite number.

    Raises:
        BadRow: it is something else.
    """
    # Not float() alone: it would take "1_000" and "infinity" too.
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BadRow(place, f"the cell '{column}' must be a finite number, found {value!r}")


def label_of(value: Any, column: str, place: str) -> str:
    """Return the name of a class; numbers and truth values become their text, as JSON writes it.

    Names that are shown alike are alike: 1.0 is 1, and an accented letter is one, however written (Unicode's NFC).

    Raises:
        BadRow: it is empty, or a list or the like.
    """
    label = optional_label_of(value, column, place)
    if label is None:
        raise BadRow(place, f"the cell '{column}' is empty")
    return label


def optional_label_of(value: Any, column: str, place: str) -> str | None:
    """Return the name of a class, or None for null and an empty text.

    Raises:
        BadRow: it is a list or the like.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).strip() or None
    raise BadRow(place, f"a label in '{column}' must be a text or a number, found {value!r}")


def list_of(value: Any, column: str, place: str) -> list[Any]:
    """Return a list: itself, or one that is written as JSON, or parted by spaces.

    Raises:
        BadRow: it is empty, no list, or wrong JSON.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            if value.split()[0] != "[MASK]":  # words parted by spaces may begin with a masked one
                raise BadRow(place, f"the cell '{column}' is not a valid JSON list: {error}") from None
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        raise BadRow(place, f"the cell '{column}' must be a list, found {value!r}")
    if not value:
        raise BadRow(place, f"the list in '{column}' is empty")
    return value
