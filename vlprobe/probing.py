"""Probes on the representations of one cell that the store holds: its results, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from vlprobe.cells import Cell, Layers, Wanted
from vlprobe.errors import DataError, VlprobeError
from vlprobe.extraction import layers_of
from vlprobe.listening import LISTENERS, Heard, Layer
from vlprobe.results import Results
from vlprobe.store import Store
from vlprobe.streams import folder
from vlprobe.streams.fitting import hear
from vlprobe.types import Result


def probe(cell: Cell, results: Results, store: Store, device: str, advance: Callable[[], object]) -> None:
    """Bring the results that a cell lacks.

    Args:
        cell: one model on one task.
        results: where results go, one at a time as they are made.
        store: holds the cell's representations, or what they left as they went by.
        device: where probes are fitted, as `pick_device` reads it.
        advance: called after each result.

    Raises:
        DataError: no row of some part is left.
        Damaged: representations are not what was written.
        VlprobeError: a probe cannot be fitted; with probe and layer in its notes.
    """

    def bring(wanted: Wanted, unit: str, heard: Heard) -> None:
        results.add(_result(cell, wanted, unit, heard), heard.predictions)
        advance()

    by_layer: dict[str, list[Wanted]] = {}
    for wanted in cell.wanted(store):
        if wanted.key not in results.known:
            by_layer.setdefault(wanted.layer, []).append(wanted)
    for wanted in by_layer.pop("", ()):
        bring(wanted, cell.task.unit, cell.surfaces[wanted.control].hear())
    units = {layer: f"{cell.trained.unit}: {how}" for layer, how in layers_of(cell.trained, store).items()}
    if cell.streaming:
        passed = hear(cell, folder(store.folder, cell)) if by_layer else {}
        for wanted in (each for inside in by_layer.values() for each in inside):
            if (wanted.layer, wanted.trained_on) not in passed:
                raise DataError(f"no row of some part is left for layer {wanted.layer}: all were left out as bad rows")
            bring(wanted, units[wanted.layer], passed[wanted.layer, wanted.trained_on])
        return
    if by_layer:
        layers = Layers(cell, store)
        for name, asked in by_layer.items():
            for wanted, heard in _listen(cell, name, layers, device, asked):
                bring(wanted, units[name], heard)


def _listen(
    cell: Cell, name: str, layers: Layers, device: str, asked: Sequence[Wanted]
) -> Iterator[tuple[Wanted, Heard]]:
    """Yield what is heard of one layer, whose rows nobody looks at any more afterwards."""
    layer = Layer(cell.task, cell.seed, layers.read(name), device, cell.drawn)
    heard: dict[str, Mapping[str, Heard]] = {}
    for wanted in asked:
        if wanted.probe not in heard:
            try:
                heard[wanted.probe] = LISTENERS[wanted.probe](layer)
            except VlprobeError as error:
                error.add_note(f"while {wanted.probe} listened to layer {name}")
                raise
        yield wanted, heard[wanted.probe][wanted.trained_on]


def _result(cell: Cell, wanted: Wanted, unit: str, heard: Heard) -> Result:
    return Result(
        task=cell.task.name,
        level=cell.task.level,
        model=cell.model.name,
        stage=cell.model.stage,
        revision=cell.model.revision if wanted.layer else "",
        condition=cell.condition,
        layer=wanted.layer,
        unit=unit,
        probe=heard.probe,
        seed=cell.seed,
        control=wanted.control,
        metric=heard.metric,
        score=heard.score,
        interval=heard.interval,
        validation=heard.validation,
        l2=heard.l2,
        n_train=heard.n_train,
        n_test=heard.n_test,
        key=wanted.key,
        warnings=heard.warnings,
    )
