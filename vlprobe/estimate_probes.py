"""How long the probes of a study will take: from a trial of some of them on features that are drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vlprobe.cells import Cell
from vlprobe.digest import generator
from vlprobe.examples import Examples
from vlprobe.listening import LISTENERS, Layer
from vlprobe.plan import Plan
from vlprobe.store import Store
from vlprobe.types import Features, Task

ROWS = 5000
"""Examples of a trial, at most; what more take grows with their number."""
FEWEST = 20
"""Examples of each part in a trial, if it has as many: a small part beside a large one would else be a row or two."""
APART = 3.0
"""Distance of the means of two classes, in deviations of one feature, in features that are drawn."""
PATIENCE = 10.0
"""Seconds after which no trial is begun any more: kinds that were not tried take as long as others, by their size."""


@dataclass
class _Kind:
    """Probes that take about the same time: of one sort, on one task, on layers of one width."""

    cell: Cell
    """One of those that ask for them."""
    probe: str
    """As the study calls it."""
    width: int
    """Of their layers."""
    count: int = 0
    """Layers that are to be listened to."""

    @property
    def size(self) -> int:
        """Return what the time of one grows with: numbers in its features."""
        return sum(map(len, self.cell.parts.named().values())) * self.width


def probe_seconds(plan: Plan, store: Store, device: str) -> float:
    """Return about how many seconds the probes of a plan take that are still to be fitted.

    They are tried on features whose classes lie `APART`, as hard to tell as in a network: a probe of what is told apart
    easily takes longer. How near that comes: benchmarks/estimates.md.

    Args:
        plan: of a study that keeps its representations.
        store: says which layers there are.
        device: where probes are fitted, as `pick_device` reads it.
    """
    waiting = sorted(_kinds(plan, store), key=lambda kind: kind.count * kind.size, reverse=True)
    known: dict[str, list[float]] = {}
    total, start = 0.0, time.perf_counter()
    for kind in waiting:
        if kind.probe not in known or time.perf_counter() - start < PATIENCE:
            seconds = _trial(kind, device)
            known.setdefault(kind.probe, []).append(seconds / kind.size)
        else:
            seconds = kind.size * float(np.mean(known[kind.probe]))
        total += kind.count * seconds
    return total


def _kinds(plan: Plan, store: Store) -> list[_Kind]:
    """Return what waits, the probes of a layer and their controls counted once: they are fitted together."""
    seen = {key for key, done in plan.asked.items() if done}
    kinds: dict[tuple[str, str, int, bool], _Kind] = {}
    for cell in plan.cells:
        lacking = [wanted for wanted in cell.wanted(store) if wanted.layer and wanted.key not in seen]
        seen |= {wanted.key for wanted in lacking}
        for layer, probe in dict.fromkeys((wanted.layer, wanted.probe) for wanted in lacking):
            width = cell.model.layers[layer]
            named = cell.task.name, probe, width, bool(cell.drawn)
            kinds.setdefault(named, _Kind(cell, probe, width)).count += 1
    return list(kinds.values())


def _trial(kind: _Kind, device: str) -> float:
    """Return the seconds that one probe takes."""
    cell, parts = kind.cell, kind.cell.parts.named()
    share = min(1.0, ROWS / sum(map(len, parts.values())))
    some = {name: _drawn(cell.task, _spread(part, share), kind.width) for name, part in parts.items()}
    layer = Layer(cell.task, cell.seed, some, device, cell.drawn)
    start = time.perf_counter()
    LISTENERS[kind.probe](layer)
    return (time.perf_counter() - start) / share


def _spread(part: Examples, share: float) -> Examples:
    """Return some examples of a part, as far from each other as they can be."""
    count = max(round(share * len(part)), min(FEWEST, len(part)))
    return part.take(np.linspace(0, len(part) - 1, count).astype(np.int32))


def _drawn(task: Task, part: Examples, width: int) -> Features:
    """Return features of some examples, a row for each unit that has a target."""
    rows = [
        (example.id, example.group, unit, target)
        for example in part
        for unit, target in enumerate(example.target)
        if target is not None
    ]
    name, group, unit, y = (np.array(column) for column in zip(*rows, strict=True))
    means = generator(0, "probe-time").standard_normal((max(len(task.classes), 1), width)) * APART / (2 * width) ** 0.5
    if task.classes:
        place = {each: number for number, each in enumerate(task.classes)}
        moved = means[[place[each] for each in y.tolist()]]
    else:
        moved = ((y - y.mean()) / (y.std() or 1))[:, None] * means
    X = (moved + generator(0, "probe-time", name[0]).standard_normal(moved.shape)).astype(np.float32)
    return Features("drawn", X, y, group, name, unit.astype(np.int32), "")
