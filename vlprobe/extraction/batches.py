"""Which inputs a model is run on together: neighbours in length, cut so that as little as possible is padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.extraction.passes import Forward

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

FEW = 32
"""Inputs at a time, where neither a study nor the model says."""
PARTS = 4
"""Batches that inputs make at least, if they are many, where images are read ahead: some are read while others run."""
FIXED = 64
"""Positions that a processor runs in the time that a batch takes whatever is in it: the weights come from memory once
more. It hardly depends on the model, being twice the arithmetic a second over the bytes a second. On a GPU it is
measured, see `Encoder.fixed`."""


def batches(encoder: Encoder, passes: Sequence[Forward], batch_size: int | None) -> Iterator[list[Forward]]:
    """Yield neighbours in length, all with the same modalities, and not more positions than the model likes.

    Args:
        encoder: the model.
        passes: its inputs.
        batch_size: inputs at a time, at most. None: `FEW`, or as many as have the positions that the model likes, where
            it says so.
    """
    if batch_size is None:
        batch_size = len(passes) if math.isfinite(encoder.most) else FEW
        if encoder.reading is not None and encoder.reading.workers:
            batch_size = max(len(passes) // PARTS, min(batch_size, FEW))
    alike: dict[tuple[bool, bool], list[Forward]] = {}
    for each in passes:
        alike.setdefault((each.example.text is None, each.example.image is None), []).append(each)
    for _, inside in sorted(alike.items()):
        found = list(zip(encoder.lengths([each.example for each in inside]), inside, strict=True))
        ordered = _by_image(found) if encoder.neighbours else sorted(found, key=_place)
        lengths = np.array([length for length, _ in ordered])
        for start, end in cut(lengths, batch_size, encoder.most, encoder.fixed if encoder.accelerator else FIXED):
            yield [each for _, each in ordered[start:end]]


def _place(one: tuple[float, Forward]) -> tuple[float, str]:
    return one[0], one[1].name


def _by_image(found: Sequence[tuple[float, Forward]]) -> list[tuple[float, Forward]]:
    """Return (positions, input) with those of one image side by side, all as long as the longest of them."""
    families: dict[object, list[tuple[float, Forward]]] = {}
    for one in sorted(found, key=_place):
        image = one[1].example.image
        families.setdefault(one[1].name if image is None else image, []).append(one)
    return [
        (family[-1][0], each) for family in sorted(families.values(), key=lambda f: _place(f[-1])) for _, each in family
    ]


def cut(lengths: np.ndarray, size: int, most: float, fixed: float) -> list[tuple[int, int]]:
    """Return the batches (first, one behind the last) that take the fewest positions: padded ones, `fixed` for each.

    best(end) = min over start of best(start) + (end - start) * longest + fixed, the longest being the last.

    Args:
        lengths: (input,) positions, ascending.
        size: inputs of a batch, at most.
        most: positions of a batch, at most; one input alone may have more.
        fixed: positions in whose time a batch could be run that holds nothing.
    """
    best, begins = np.zeros(len(lengths) + 1), np.zeros(len(lengths), np.int64)
    for last, longest in enumerate(lengths):
        fit = size if longest * size <= most else max(int(most // longest), 1)
        starts = np.arange(max(last + 1 - fit, 0), last + 1)
        total = best[starts] + (last + 1 - starts) * longest + fixed
        begins[last], best[last + 1] = starts[total.argmin()], total.min()
    found, end = [], len(lengths)
    while end:
        found.append((int(begins[end - 1]), end))
        end = found[-1][0]
    return found[::-1]
