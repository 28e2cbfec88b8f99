"""One model on one task under one condition with one seed: the unit of planning, and the results it is to bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.controls.surface import Surface
from vlprobe.digest import digest
from vlprobe.errors import DataError
from vlprobe.extraction import Extraction, Reader, layers_of
from vlprobe.listening import CONTROL_TASK, HAVE_CONTROL_TASK
from vlprobe.splits import Parts
from vlprobe.store import Store
from vlprobe.types import SPLITS, Features, Task

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Profile

STREAMING = "streaming"
"""What the probe of representations that are not kept is called while it is planned."""
ELSEWHERE = ("layer-0", "random-init")
"""Controls that are the probe itself, on another layer or another model."""


@dataclass(frozen=True)
class Wanted:
    """One result that a cell is to bring."""

    layer: str
    """Layer address; empty for a control that looks at no layer."""
    probe: str
    """As the study calls it: `linear`, ...; empty for a control that looks at no layer."""
    control: str
    """As in `Result`."""
    key: str
    """Content address of the result."""

    @property
    def trained_on(self) -> str:
        """Return the control whose labels the probe is trained on; empty: the true ones."""
        return "" if self.control in ELSEWHERE else self.control


@dataclass(frozen=True)
class Cell:
    """One model on one task under one condition with one seed: the unit of planning."""

    model: Profile
    """What is known of the encoder."""
    task: Task
    """The task."""
    condition: str
    """As the study names it: `matched`, `matched>mismatched`, ..."""
    seed: int
    """One of the study's seeds."""
    trained: Extraction
    """Inputs of the condition that the probe is trained on, all parts."""
    tested: Extraction
    """Inputs of the condition that it is tested on, all parts."""
    parts: Parts
    """Train, validation and test."""
    layers: tuple[str, ...]
    """Addresses to probe."""
    zeroth: tuple[str, ...]
    """Addresses of layers 0 of their streams, where they are not among them."""
    probes: tuple[str, ...]
    """How to listen to each of them."""
    controls: tuple[str, ...]
    """What stands beside them; of a model with random weights: `random-init`, as which it stands beside its own."""
    surfaces: Mapping[str, Surface]
    """Control -> itself, of those that look at no layer."""
    drawn: Mapping[tuple[str, int], str]
    """(example id, unit) -> label of the control task; empty: there is none."""
    keys: Mapping[str, str]
    """Side, as in `Extraction.sides` -> content address of its inputs, of targets, parts and seed."""
    streaming: bool = False
    """Whether its representations go by and are not kept: then one probe listens, `streaming`."""

    @property
    def key(self) -> str:
        """Return the content address of all its inputs, of targets, parts and seed."""
        return self.keys[""] if "" in self.keys else digest(dict(self.keys))

    @property
    def part(self) -> Mapping[str, str]:
        """Example id -> train, validation or test."""
        return self.parts.of

    def wanted(self, store: Store) -> list[Wanted]:
        """Return the results that this cell is to bring.

        Which layers a unit can be pooled from is known for sure once the store holds features of the cell.
        """
        poolable = layers_of(self.trained, store)
        layers, zeroth = ([x for x in each if x in (poolable or each)] for each in (self.layers, self.zeroth))
        if self.untrained:
            return [self._want(layer, self._main, "random-init") for layer in layers]
        wanted = [Wanted("", "", name, surface.key) for name, surface in self.surfaces.items()]
        wanted += [self._want(layer, p, c) for layer in layers for p in self._listening for c in self._trained_on(p)]
        return wanted + [self._want(layer, self._main, "layer-0") for layer in zeroth]

    @property
    def untrained(self) -> bool:
        """Whether its model is the control `random-init` of the one whose name it bears."""
        return self.controls == ("random-init",)

    @property
    def called(self) -> str:
        """Return the model's name, for messages."""
        return untrained(self.model.name) if self.untrained else self.model.name

    @property
    def _listening(self) -> tuple[str, ...]:
        return (STREAMING,) if self.streaming else self.probes

    @property
    def _main(self) -> str:
        return STREAMING if self.streaming else "linear"

    def _trained_on(self, probe: str) -> list[str]:
        there = [CONTROL_TASK] if self.drawn and probe in HAVE_CONTROL_TASK else []
        return ["", *(["shuffled-labels"] if "shuffled-labels" in self.controls else []), *there]

    def _want(self, layer: str, probe: str, control: str) -> Wanted:
        return Wanted(layer, probe, control, self._address(layer, probe, "" if control in ELSEWHERE else control))

    def _address(self, layer: str, probe: str, control: str) -> str:
        """Return the content address of one result; `linear` is not named, being what there is where none is."""
        named = () if probe in ("", "linear") else (probe,)
        key = self.keys["" if "" in self.keys else self.trained.side(layer)]
        return digest(key, layer, control, *named)


class Layers:
    """Reads the layers of a cell from the store, one after another, cut into parts; see `Reader`.

    Args:
        cell: one model on one task under one condition.
        store: holds its representations.
        parts: those that are wanted.
    """

    def __init__(self, cell: Cell, store: Store, parts: Sequence[str] = SPLITS) -> None:
        same = cell.tested.pairs == cell.trained.pairs
        tested = [name for name in parts if name == "test" or same]
        sides = [(cell.trained, [name for name in parts if name not in tested]), (cell.tested, tested)]
        self._readers = [
            (names, Reader(extraction, store, _rows(extraction, cell.part, names)))
            for extraction, names in sides
            if names
        ]

    def read(self, layer: str) -> dict[str, Features]:
        """Return the features of one layer by part: train and validation of one condition, test of the other.

        Raises:
            DataError: no row of some part is left.
            Damaged: a shard is not what was written.
        """
        found: dict[str, Features] = {}
        for names, reader in self._readers:
            found |= dict(zip(names, reader.read(layer), strict=True))
        for name, part in found.items():
            if not len(part.X):
                raise DataError(f"no row of the {name} part is left for layer {layer}: all were left out as bad rows")
        return found


def _rows(extraction: Extraction, part: Mapping[str, str], names: Sequence[str]) -> list[np.ndarray]:
    """Return (example,) the examples of each part, in their order."""
    of = np.array([part[example.id] for example in extraction.examples])
    return [np.flatnonzero(of == name) for name in names]


def untrained(name: str) -> str:
    """Return what the twin of a model with random weights is called."""
    return f"{name} (random-init)"
