"""How many positions a batch may have on a GPU: found by trial, once for a model and a kind of GPU, and written down.

The number that was written first is everyone's, so that a run that was killed goes on with the batches that it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlprobe.digest import digest
from vlprobe.extraction.batches import LAUNCHED
from vlprobe.extraction.passes import Forward
from vlprobe.store import Store

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

FIRST = LAUNCHED
"""Positions that are tried first."""
GAIN = 1.1
"""Twice the positions must run so much faster, or half of them are enough: they take half the memory."""
ENOUGH = 128
"""Inputs without which nothing is tried."""

Run = Callable[[Sequence[Forward]], None]
"""Runs a model on a batch; raises OutOfMemoryError where it does not fit."""


@dataclass(frozen=True)
class Budget:
    """Where the budget of a model on a kind of GPU is written down."""

    encoder: Encoder
    """The model; `most` is its budget."""
    store: Store
    """Its features are kept there, and the budget beside them."""
    home: str
    """Its address there."""

    @property
    def name(self) -> str:
        """Return what it is called in the model's folder."""
        return f"batch-{digest(self.encoder.accelerator)[:16]}.json"

    def settle(self, passes: Sequence[Forward], run: Run) -> None:
        """Let a model on a GPU have the batches that are written down; where none are, try.

        Args:
            passes: some of its inputs.
            run: the model.
        """
        said = self.store.noted(self.home, self.name)
        most = _positions(said)
        if most is None and len(passes) >= ENOUGH:
            content = self._content(tried(self.encoder, passes, run))
            if said is not None:  # and says nothing
                self.store.note(self.home, self.name, content)
            most = _positions(self.store.note_first(self.home, self.name, content))
        if most is not None:
            self.encoder.most = most

    def halve(self, positions: float) -> None:
        """Write down that a batch of so many positions did not fit: half of them are the budget from now on."""
        self.encoder.most = max(positions / 2, 1.0)
        self.store.note(self.home, self.name, self._content(self.encoder.most))

    def _content(self, positions: float) -> dict[str, object]:
        return {"accelerator": self.encoder.accelerator, "positions": positions}


def _positions(said: Mapping[str, object] | None) -> float | None:
    """Return what is written down, if that is a number of positions."""
    found = (said or {}).get("positions")
    return float(found) if isinstance(found, (int, float)) and found >= 1 else None


def tried(encoder: Encoder, passes: Sequence[Forward], run: Run, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return the positions that a batch shall have: doubled as long as that makes a model faster and memory holds it.

    Batches of a trial are of the longest inputs, which need most for as many positions. Each is run twice, and the
    second time counts: at first, kernels are chosen and memory is taken.

    Args:
        encoder: the model, which says how long inputs are.
        passes: inputs, all different.
        run: the model.
        clock: says seconds.
    """
    lengths = _longest(encoder, passes)
    best, rate, positions = 0, 0.0, FIRST
    while True:
        count = max(min(int(positions // lengths[0][0]), len(lengths)), 1)
        batch = [each for _, each in lengths[:count]]
        try:
            run(batch)
            start = clock()
            run(batch)
            reached = sum(length for length, _ in lengths[:count]) / max(clock() - start, 1e-9)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if best or count == 1:
                return best or positions
            positions //= 2
            continue
        if positions < FIRST or reached < GAIN * rate:
            return best or positions
        best, rate = positions, reached
        if count == len(lengths):
            return best
        positions *= 2


def _longest(encoder: Encoder, passes: Sequence[Forward]) -> list[tuple[float, Forward]]:
    """Return (positions, input) from the longest on, of the inputs with those modalities that take most positions."""
    alike: dict[tuple[bool, bool], list[tuple[float, Forward]]] = {}
    for length, each in zip(encoder.lengths([each.example for each in passes]), passes, strict=True):
        key = each.example.text is None, each.example.image is None
        alike.setdefault(key, []).append((max(length, 1.0), each))
    found = max(sorted(alike.items()), key=lambda item: sum(length for length, _ in item[1]))[1]
    return sorted(found, key=lambda item: (-item[0], item[1].name))
