"""Running a plan: representations, probes, controls, results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

import numpy as np

from vlprobe.digest import generator
from vlprobe.errors import DataError, VlprobeError
from vlprobe.extraction import compute, features, layers_of
from vlprobe.findings import find, write_findings
from vlprobe.plan import Cell, Plan, Wanted
from vlprobe.probes.linear import L2Path, Logistic, Probed, Ridge, probe_sets
from vlprobe.results import Results
from vlprobe.statistics import interval, score
from vlprobe.store import Store
from vlprobe.study_file import StudyFile
from vlprobe.types import SPLITS, Features, Predictions, Result


class Bars(Protocol):
    """Where progress is told."""

    def forward(self, count: int) -> None:
        """Say that so many inputs went through a model."""

    def probed(self, count: int) -> None:
        """Say that so many results were made."""


def run(plan: Plan, results: Results, store: Store, file: StudyFile, progress: bool) -> list[Result]:
    """Compute what a plan lacks and return all its results, those that were there included.

    What they tell goes to `findings.json`, also when the run is stopped on its way.

    Args:
        plan: what to compute.
        results: where results go, one at a time as they are made.
        store: where representations go.
        file: the study's settings.
        progress: show bars.

    Raises:
        VlprobeError: with model, task, condition and seed in its notes.
    """
    found: list[Result] = []
    notes: dict[str, dict[str, None]] = {"skipped_rows": {}, "computed_again": {}}
    try:
        with _bars(plan, progress) as bars:
            for cell in plan.cells:
                found += _run_cell(cell, results, store, file, bars, notes)
    except (VlprobeError, KeyboardInterrupt) as stopped:
        if isinstance(stopped, VlprobeError):
            where = f"{cell.model.name} on {cell.task.name}, {cell.condition}, seed {cell.seed}"
            stopped.add_note(f"while running {where}")
        with suppress(VlprobeError):  # why the run stopped is what the user must read
            write_findings(results, find(results, found), complete=False)
        raise
    write_findings(results, find(results, found), complete=True)
    if any(notes.values()):
        content = results.description()
        results.describe(content | {name: [*content.get(name, ()), *lines] for name, lines in notes.items()})
    return found


def _run_cell(
    cell: Cell, results: Results, store: Store, file: StudyFile, bars: Bars, notes: Mapping[str, dict[str, None]]
) -> list[Result]:
    for wanted in cell.wanted(store):
        results.check(wanted.key)
    if any(wanted.key not in results.known for wanted in cell.wanted(store)):
        for extraction in dict.fromkeys((cell.trained.key, cell.tested.key)):
            chosen = cell.trained if extraction == cell.trained.key else cell.tested
            lines = compute(cell.model, chosen, store, file.batch_size, file.bad_rows, bars.forward)
            notes["skipped_rows"].update(dict.fromkeys(lines))
        notes["computed_again"].update(dict.fromkeys(_bare(cell, results, store)))
        _compute_results(cell, results, store, bars)
    found = []
    for wanted in cell.wanted(store):
        # A result of the same inputs under another name (a text model does not see the mismatch) is not made twice.
        labelled = replace(
            results.known[wanted.key], model=cell.model.name, stage=cell.model.stage, condition=cell.condition
        )
        results.add(labelled)
        found.append(labelled)
    return found


def _bare(cell: Cell, results: Results, store: Store) -> list[str]:
    """Return one line for every result of a cell that is on disk without its predictions."""
    where = f"{cell.task.name}, {cell.model.name}, {cell.condition}, seed {cell.seed}"
    bare = [wanted for wanted in cell.wanted(store) if wanted.key in results.bare]
    names = [" ".join(filter(None, (wanted.layer, wanted.control))) for wanted in bare]
    return [f"{where}, {name}: its predictions were missing or damaged" for name in names]


def _compute_results(cell: Cell, results: Results, store: Store, bars: Bars) -> None:
    by_layer: dict[str, list[Wanted]] = {}
    for wanted in cell.wanted(store):
        if wanted.key not in results.known:
            by_layer.setdefault(wanted.layer, []).append(wanted)
    poolings = layers_of(cell.trained, store)
    for layer, wanted_here in by_layer.items():
        source = layer or next(iter(poolings))  # the majority needs targets, which every layer brings
        parts = _parts(cell, store, source)
        probes = _probes(cell, parts) if layer else {"majority": _majority(cell, parts)}
        for wanted in wanted_here:
            probed = probes[wanted.control]
            how = poolings[layer] if layer else ""
            result = _result(cell, wanted, parts, probed)
            test = parts["test"]
            answers = Predictions(test.id, test.index, test.group, test.y, probed.predicted)
            results.add(replace(result, unit=f"{cell.trained.unit}: {how}" if how else cell.trained.unit), answers)
            bars.probed(1)


def _parts(cell: Cell, store: Store, layer: str) -> dict[str, Features]:
    """Return the features of one layer by part: train and validation of one condition, test of the other."""
    trained = features(cell.trained, store, layer)
    tested = trained if cell.tested.pairs == cell.trained.pairs else features(cell.tested, store, layer)
    parts = {}
    for name in SPLITS:
        whole = tested if name == "test" else trained
        rows = np.array([cell.part[example] == name for example in whole.id], dtype=bool)
        if not rows.any():
            raise DataError(f"no row of the {name} part is left for layer {layer}: all were left out as bad rows")
        parts[name] = replace(
            whole, X=whole.X[rows], y=whole.y[rows], group=whole.group[rows], id=whole.id[rows], index=whole.index[rows]
        )
    return parts


def _kind(cell: Cell) -> type[L2Path]:
    return Logistic if cell.task.classes else Ridge


def _probes(cell: Cell, parts: Mapping[str, Features]) -> dict[str, Probed]:
    """Probe true and shuffled labels together: one factorisation serves both.

    Both are done even where one is wanted, so that a result does not depend on which others were there.
    """
    train, validation, test = (parts[name] for name in SPLITS)
    shuffled = (_shuffled(train.y, cell, "train"), _shuffled(validation.y, cell, "validation"))
    probed = probe_sets(_kind(cell), (train.X, validation.X, test.X), [(train.y, validation.y), shuffled])
    return dict(zip(("", "shuffled-labels"), probed, strict=True))


def _shuffled(y: np.ndarray, cell: Cell, part: str) -> np.ndarray:
    return generator(cell.seed, "shuffled-labels", cell.task.name, part).permutation(y)


def _majority(cell: Cell, parts: Mapping[str, Features]) -> Probed:
    y = np.concatenate([parts["train"].y, parts["validation"].y])
    if cell.task.classes:
        values, counts = np.unique(y, return_counts=True)
        answer = values[counts.argmax()]
    else:
        answer = y.mean()
    predicted = np.full(len(parts["test"].y), answer)
    held_out = np.full(len(parts["validation"].y), answer)
    return Probed(predicted, score(parts["validation"].y, held_out, _kind(cell).metric), None, ())


def _result(cell: Cell, wanted: Wanted, parts: Mapping[str, Features], probed: Probed) -> Result:
    kind, test = _kind(cell), parts["test"]
    return Result(
        task=cell.task.name,
        level=cell.task.level,
        model=cell.model.name,
        stage=cell.model.stage,
        revision=cell.model.revision,
        condition=cell.condition,
        layer=wanted.layer,
        unit=cell.trained.unit,
        probe="" if wanted.control == "majority" else kind.__name__.lower(),
        seed=cell.seed,
        control=wanted.control,
        metric=kind.metric,
        score=score(test.y, probed.predicted, kind.metric),
        interval=interval(test.y, probed.predicted, test.group, kind.metric),
        validation=probed.validation,
        l2=probed.l2,
        n_train=len(parts["train"].y) + len(parts["validation"].y),
        n_test=len(test.y),
        key=wanted.key,
        warnings=probed.warnings,
    )


class _Silent:
    """Tells nobody."""

    def forward(self, count: int) -> None:
        """Do nothing."""

    def probed(self, count: int) -> None:
        """Do nothing."""


@contextmanager
def _bars(plan: Plan, progress: bool) -> Iterator[Bars]:
    """Yield bars with counts and time left on the terminal; silent ones where there is none, or nothing to do."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not progress or not console.is_terminal or not plan.probes:
        yield _Silent()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as display:
        inputs = display.add_task("representations", total=plan.forward_passes)
        probes = display.add_task("probes", total=plan.probes)

        class _Shown:
            def forward(self, count: int) -> None:
                display.advance(inputs, count)

            def probed(self, count: int) -> None:
                display.advance(probes, count)

        yield _Shown()
