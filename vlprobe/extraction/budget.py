"""How many positions a batch may have on a GPU, and how many the GPU runs in the time that any batch takes beside.

Both are found by trial, once for a model and a kind of GPU, and written down. What was written first is everyone's, so
that a run that was killed goes on with the batches that it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlprobe.device import free_memory, out_of_memory
from vlprobe.digest import digest
from vlprobe.encoders.encoder import LAUNCHED
from vlprobe.errors import BadRow
from vlprobe.extraction.passes import Forward
from vlprobe.store import Store

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

FIRST = 2048
"""Positions that are tried first."""
GAIN = 1.1
"""Twice the positions must run so much faster, or half of them are enough: they take half the memory."""
ENOUGH = 128
"""Inputs without which nothing is tried."""

Run = Callable[[Sequence[Forward]], None]
"""Runs a model on a batch to its end; raises what `out_of_memory` knows where it does not fit."""


@dataclass(frozen=True)
class Found:
    """What a trial found."""

    positions: float
    """Positions that a batch shall have, at most."""
    fixed: float = LAUNCHED
    """Positions that are run in the time that a batch takes whatever is in it."""


@dataclass(frozen=True)
class Budget:
    """Where the budget of a model on a kind of GPU is written down."""

    encoder: Encoder
    """The model; `most` and `fixed` are its budget."""
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
        found = _read(said)
        if found is None and len(passes) >= ENOUGH:
            content = self._content(tried(self.encoder, passes, run))
            if said is not None:  # and says nothing
                self.store.note(self.home, self.name, content)
            found = _read(self.store.note_first(self.home, self.name, content))
        if found is not None:
            self.encoder.most, self.encoder.fixed = found.positions, found.fixed

    def halve(self, positions: float) -> None:
        """Write down that a batch of so many positions did not fit: half of them are the budget from now on."""
        self.encoder.most = max(positions / 2, 1.0)
        self.store.note(self.home, self.name, self._content(Found(self.encoder.most, self.encoder.fixed)))

    def _content(self, found: Found) -> dict[str, object]:
        return {"accelerator": self.encoder.accelerator, "positions": found.positions, "fixed": round(found.fixed)}


def _read(said: Mapping[str, object] | None) -> Found | None:
    """Return what is written down, if those are numbers of positions."""
    positions, fixed = ((said or {}).get(name) for name in ("positions", "fixed"))
    if not (isinstance(positions, (int, float)) and positions >= 1):
        return None
    return Found(float(positions), float(fixed) if isinstance(fixed, (int, float)) and fixed >= 0 else LAUNCHED)


def tried(
    encoder: Encoder, passes: Sequence[Forward], run: Run, clock: Callable[[], float] = time.perf_counter
) -> Found:
    """Return the positions that a batch shall have: doubled as long as that makes a model faster and memory holds it.

    Batches of a trial are of the longest inputs, which need most for as many positions. Each is run twice, and the
    second time counts: at first, kernels are chosen and memory is taken. What a batch takes whatever is in it is told
    by the line through the smallest and the largest one: seconds = a + b * positions, and `fixed` is a / b.

    Args:
        encoder: the model, which says how long inputs are.
        passes: inputs, all different.
        run: the model.
        clock: says seconds.
    """
    lengths = _longest(encoder, passes)
    encoder.ahead([each.example for _, each in lengths])
    best, rate, positions = 0, 0.0, FIRST
    measured: list[tuple[float, float]] = []  # positions, seconds
    while lengths:
        count = max(min(int(positions // lengths[0][0]), len(lengths)), 1)
        held, seconds = _timed(encoder, [each for _, each in lengths[:count]], run, clock)
        if held is None:
            lengths = _taken(lengths[:count], run) + lengths[count:]
            continue
        if not held:
            free_memory()
            if best or count == 1:
                break
            positions //= 2
            continue
        measured.append((sum(length for length, _ in lengths[:count]), max(seconds, 1e-9)))
        reached = measured[-1][0] / measured[-1][1]
        if positions < FIRST or reached < GAIN * rate:
            break
        best, rate = positions, reached
        if count == len(lengths):
            break
        positions *= 2
    return Found(best or positions, _fixed(measured, best or positions))


def _timed(
    encoder: Encoder, batch: Sequence[Forward], run: Run, clock: Callable[[], float]
) -> tuple[bool | None, float]:
    """Return whether memory holds a batch, None where an input of it is bad; and the seconds that the model takes.

    Images are read before, as they are ahead of the model in a run.
    """
    examples = [each.example for each in batch]
    try:
        for _ in range(2):
            encoder.ahead(examples)
            encoder.await_images()
            start = clock()
            run(batch)
        return True, clock() - start
    except BadRow:
        return None, 0.0
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False, 0.0


def _taken(lengths: Sequence[tuple[float, Forward]], run: Run) -> list[tuple[float, Forward]]:
    """Return the inputs that a model takes, each tried alone."""
    found = []
    for one in lengths:
        try:
            run([one[1]])
        except BadRow:  # the run tells
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        found.append(one)
    return found


def _fixed(measured: Sequence[tuple[float, float]], most: float) -> float:
    """Return a / b of the line through the smallest and the largest batch, as (positions, seconds), within bounds."""
    (small, quick), (large, slow) = min(measured, default=(0.0, 0.0)), max(measured, default=(0.0, 0.0))
    if large == small:
        return LAUNCHED
    slope = (slow - quick) / (large - small)
    # Where the larger one took no longer, all that was run was waiting.
    return float(min(max(quick / slope - small, 0.0), most)) if slope > 0 else float(most)


def _longest(encoder: Encoder, passes: Sequence[Forward]) -> list[tuple[float, Forward]]:
    """Return (positions, input) from the longest on, of the inputs with those modalities that take most positions."""
    alike: dict[tuple[bool, bool], list[tuple[float, Forward]]] = {}
    for length, each in zip(encoder.lengths([each.example for each in passes]), passes, strict=True):
        key = each.example.text is None, each.example.image is None
        alike.setdefault(key, []).append((max(length, 1.0), each))
    found = max(sorted(alike.items()), key=lambda item: sum(length for length, _ in item[1]))[1]
    return sorted(found, key=lambda item: (-item[0], item[1].name))
