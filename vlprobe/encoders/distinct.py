"""What several examples of a batch hold alike, a text or an image, is run once for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from vlprobe.device import moved

Rows = TypeVar("Rows", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class Distinct:
    """What the examples of a batch hold, each thing once."""

    first: tuple[int, ...]
    """Of each thing, the first example that holds it."""
    shown: tuple[int, ...]
    """Of each example, which of them it holds."""

    def once(self, rows: Rows) -> Rows:
        """Return (thing, ...) of (example, ...), equal where the thing is."""
        return self._of(rows, self.first)

    def each(self, rows: Rows) -> Rows:
        """Return (example, ...) of (thing, ...)."""
        return self._of(rows, self.shown)

    def _of(self, rows: Rows, places: tuple[int, ...]) -> Rows:
        if len(self.first) == len(self.shown):  # then each is in its place
            return rows
        if isinstance(rows, torch.Tensor):  # a list of places would be copied to a GPU while the host waits
            return rows.index_select(0, moved(torch.tensor(places), rows.device))
        return rows[list(places)]


def distinct(held: Iterable[object]) -> Distinct:
    """Return what there is among what each example holds, in the order in which it first comes."""
    place: dict[object, int] = {}
    shown = tuple(place.setdefault(one, len(place)) for one in held)
    return Distinct(tuple(map(shown.index, range(len(place)))), shown)
