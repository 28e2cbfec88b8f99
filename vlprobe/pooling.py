"""From positions to units: the one place where hidden states become rows of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.errors import BadRow, StudyError, did_you_mean
from vlprobe.types import ROLES, Example, Hidden, Modality, Unit

POOLINGS: dict[Unit, dict[str, str]] = {
    "input": {
        "auto": "cls where the layer has one, else the mean over patches, regions or words",
        "cls": "the position that the model pools: [CLS], CLIP's end of text, SigLIP's last; of a pooler, its one; "
        "the last of a generative model's prompt",
        "words": "mean over all word pieces of the text",
        "last": "the last word piece of the text, which in a decoder has seen them all",
        "patches": "mean over all patches of the image",
        "regions": "mean over all regions of the image",
    },
    "word": {
        "first": "the word's first piece",
        "mean": "mean over the word's pieces",
    },
    "region": {
        "box": "mean over patches, each weighted by the area it shares with the box; of regions, the best overlap",
    },
}
"""Unit -> pooling -> what it does. The first of each unit is its default."""

SIDES: dict[str, Modality] = {
    "words": "text",
    "last": "text",
    "patches": "image",
    "regions": "image",
    "first": "text",
    "mean": "text",
    "box": "image",
}
"""Pooling -> the modality whose positions it reads; those that are not here read either."""

WHOLE = (".pooler", ".projection")
"""Ends of the addresses of layers that are one vector for the whole input."""


def check_pooling(unit: Unit, how: str) -> str:
    """Return `how` if it pools to `unit`.

    Raises:
        StudyError: it does not; with the nearest name.
    """
    if how not in POOLINGS[unit]:
        raise StudyError(f"unknown pooling '{how}' for unit '{unit}'{did_you_mean(how, POOLINGS[unit])}")
    return how


@dataclass(frozen=True)
class Pooled:
    """One layer of one batch, a row for every unit that carries a target."""

    layer: str
    """Layer address."""
    how: str
    """The pooling that was done, "auto" resolved: `cls`, `patches`, ..."""
    rows: torch.Tensor
    """(row, width), on the device of the states, float32."""
    example: np.ndarray
    """(row,) int64: index into the batch."""
    unit: np.ndarray
    """(row,) int64: index into the example's `target`."""


def pool(layers: Sequence[Hidden], batch: Sequence[Example], unit: Unit, how: str) -> list[Pooled]:
    """Pool the layers of one batch to the units that carry a target.

    Every pooling is a weighted mean over positions: with weights (batch, unit, position), rows = weights @ states.

    Args:
        layers: states (batch, position, width) and what each position is.
        batch: the examples, in the order of the states.
        unit: what a target belongs to.
        how: a name of `POOLINGS[unit]`.

    Returns:
        One entry a layer, its rows example by example. A layer without any position that such a unit could be
        pooled from is absent: a pooler has no words, a language stream no regions.

    Raises:
        BadRow: a layer has such positions, but not for one of the units: a word without a piece, a box that no
            patch covers.
    """
    units = [[k for k, target in enumerate(example.target) if target is not None] for example in batch]
    example = np.repeat(np.arange(len(batch)), [len(asked) for asked in units])
    row = np.concatenate([np.arange(len(asked)) for asked in units])
    unit_index = np.concatenate([np.asarray(asked, dtype=np.int64) for asked in units])
    # Of (batch, unit, position), which have a target; None: all.
    most = max(map(len, units))
    places = None if all(len(asked) == most for asked in units) else example * most + row
    # Layers of one stream share what their positions are, and so the weights, which go to the device once.
    known: dict[tuple[object, ...], tuple[str, torch.Tensor | None, torch.Tensor | None]] = {}
    pooled = []
    for hidden in layers:
        device = hidden.states.device
        same = (device, id(hidden.role), id(hidden.word), id(hidden.box))
        if same not in known:
            name = _input_pooling(hidden, how) if unit == "input" else how
            found = _weights(hidden, batch, units, name)
            weights = None if found is None else moved(torch.from_numpy(found), device)
            chosen = None if places is None else moved(torch.from_numpy(places), device)
            known[same] = name, weights, chosen
        name, weights, chosen = known[same]
        if weights is None:
            continue
        rows = torch.bmm(weights, hidden.states.float()).flatten(0, 1)
        rows = rows if chosen is None else rows.index_select(0, chosen)
        pooled.append(Pooled(hidden.layer, name, rows, example, unit_index))
    return pooled


def _weights(hidden: Hidden, batch: Sequence[Example], units: list[list[int]], how: str) -> np.ndarray | None:
    """Return (batch, unit, position) float32 that sum to 1 over positions, or None: nothing to pool from."""
    positions = _POSITIONS[how](hidden)
    if not positions.any():
        return None
    weights = np.zeros((len(batch), max(map(len, units)), positions.shape[1]), dtype=np.float32)
    for i, example in enumerate(batch):
        for row, k in enumerate(units[i]):
            weights[i, row] = _WEIGHTS[how](hidden, positions, i, example, k)
    return weights


def _input_pooling(hidden: Hidden, how: str) -> str:
    if how != "auto":
        return how
    present = [ROLES[role] for role in np.unique(hidden.role)]
    named = {"cls": "cls", "patch": "patches", "region": "regions", "word": "words"}
    return next((name for role, name in named.items() if role in present), "cls")


def _having(role: str) -> Callable[[Hidden], np.ndarray]:
    return lambda hidden: hidden.role == ROLES.index(role)


def _mean(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    return _normalised(positions[i], example, "has no such position")


def _first_of_all(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    first = np.zeros(positions.shape[1], dtype=bool)
    first[np.flatnonzero(positions[i])[:1]] = True
    return _normalised(first, example, "has no [CLS] position")


def _last_of_all(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    last = np.zeros(positions.shape[1], dtype=bool)
    last[np.flatnonzero(positions[i])[-1:]] = True
    return _normalised(last, example, "has no such position")


def _pieces(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    pieces = positions[i] & (hidden.word[i] == k)
    return _normalised(pieces, example, f"has no piece for word {k + 1}{_quoted(example, k)}")


def _first_piece(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    pieces = np.flatnonzero(_pieces(hidden, positions, i, example, k))
    first = np.zeros(positions.shape[1], dtype=np.float32)
    first[pieces[0]] = 1
    return first


def _overlap(hidden: Hidden, positions: np.ndarray, i: int, example: Example, k: int) -> np.ndarray:
    """Weigh patches by the area shared with the box; regions are boxes themselves, and the best IoU takes all."""
    x1, y1, x2, y2 = example.boxes[k]
    box = np.nan_to_num(hidden.box[i].astype(np.float64), nan=0.0)
    width = np.clip(np.minimum(box[:, 2], x2) - np.maximum(box[:, 0], x1), 0, None)
    height = np.clip(np.minimum(box[:, 3], y2) - np.maximum(box[:, 1], y1), 0, None)
    shared = np.where(positions[i], width * height, 0.0)
    if (hidden.role[i] == ROLES.index("region")).any():
        union = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) + (x2 - x1) * (y2 - y1) - shared
        best = np.argmax(shared / np.maximum(union, 1e-12))
        shared = np.where(np.arange(len(shared)) == best, shared, 0.0)
    return _normalised(shared, example, f"has no patch or region that covers box {k + 1} {example.boxes[k]}")


def _normalised(weight: np.ndarray, example: Example, problem: str) -> np.ndarray:
    total = weight.sum()
    if total == 0:
        raise BadRow(example.place, f"example {example.id} {problem} in this model's representation")
    return (weight / total).astype(np.float32)


def _quoted(example: Example, k: int) -> str:
    if example.text is None or k >= len(example.words):
        return ""
    start, end = example.words[k]
    return f" ({example.text[start:end]!r})"


_POSITIONS = {
    "cls": _having("cls"),
    "words": _having("word"),
    "last": _having("word"),
    "patches": _having("patch"),
    "regions": _having("region"),
    "first": _having("word"),
    "mean": _having("word"),
    "box": lambda hidden: np.isin(hidden.role, (ROLES.index("patch"), ROLES.index("region"))),
}
_WEIGHTS = {
    "cls": _first_of_all,
    "words": _mean,
    "last": _last_of_all,
    "patches": _mean,
    "regions": _mean,
    "first": _first_piece,
    "mean": _pieces,
    "box": _overlap,
}
