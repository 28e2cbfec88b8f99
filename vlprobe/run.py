"""Running a plan: representations, probes, controls, results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Protocol

from vlprobe.cells import Cell
from vlprobe.engines import Engine
from vlprobe.errors import VlprobeError
from vlprobe.extraction import left_out
from vlprobe.extraction.encoding import manifest
from vlprobe.extraction.jobs import Asked, Jobs, Shelf, at_hand, jobs, work
from vlprobe.extraction.passes import lacking
from vlprobe.findings import find, find_reliance, write_findings, write_reliance
from vlprobe.plan import Plan
from vlprobe.probing import probe
from vlprobe.results import Results
from vlprobe.similarity.measure import tell_similarity
from vlprobe.store import Damaged, Gone, Store
from vlprobe.streams import Passing, buckets, folder, passes_of
from vlprobe.streams.fitting import forget, go_by
from vlprobe.streams.passing import pass_by
from vlprobe.study_file import StudyFile
from vlprobe.types import Result


@dataclass(frozen=True)
class Workplace:
    """Where a plan is run."""

    store: Store
    """Where representations go."""
    engine: Engine
    """Where models are run."""
    asked: Mapping[str, Asked]
    """What a cell's model is called -> what another process makes the same model of."""
    file: StudyFile
    """The study's settings."""
    shelf: Shelf
    """Holds the model of the jobs that run in this process."""


class Bars(Protocol):
    """Where progress is told."""

    def forward(self, count: int) -> None:
        """Say that so many inputs went through a model."""

    def probed(self, count: int) -> None:
        """Say that so many results were made."""


def run(plan: Plan, results: Results, workplace: Workplace, progress: bool) -> list[Result]:
    """Compute what a plan lacks and return all its results, those that were there included.

    What they tell goes to `findings.json` and `reliance.json`, also when the run is stopped on its way; at its end, how
    alike layers are to `similarity.json`.

    Args:
        plan: what to compute.
        results: where results go, one at a time as they are made.
        workplace: where representations are computed and kept.
        progress: show bars.

    Raises:
        VlprobeError: with model, task, condition and seed in its notes.
    """
    found: list[Result] = []
    notes: dict[str, dict[str, None]] = {"skipped_rows": {}, "computed_again": {}}
    try:
        with (
            _bars(progress, lambda: plan.forward_passes, plan.probes) as bars,
            at_hand(workplace.shelf, bars.forward),
        ):
            for _, same_model in groupby(plan.cells, key=lambda cell: cell.called):
                cells = list(same_model)
                _represent(cells, results, workplace, bars)
                for cell in cells:
                    found += _run_cell(cell, results, workplace, bars, notes)
    except (VlprobeError, KeyboardInterrupt):
        with suppress(VlprobeError):  # why the run stopped is what the user must read
            _tell(results, found, complete=False)
        raise
    _tell(results, found, complete=True)
    tell_similarity(plan.cells, workplace.file.seeds[0], results, workplace.store)
    if any(notes.values()):
        content = results.description()
        results.describe(content | {name: [*content.get(name, ()), *lines] for name, lines in notes.items()})
    return found


def _tell(results: Results, found: list[Result], complete: bool) -> None:
    write_findings(results, find(results, found), complete)
    write_reliance(results, find_reliance(results, found), complete)


@dataclass(frozen=True)
class Part:
    """What one of several processes did."""

    inputs: int
    """How many inputs it ran models on."""
    waits: tuple[str, ...] = ()
    """What it could not do yet, a line each: probes that answer on validation and test are fitted on train first."""


def represent(plan: Plan, results: Results, workplace: Workplace, shard: tuple[int, int], progress: bool) -> Part:
    """Compute one part of the representations that a plan lacks, or of their statistics where they go by; no probes.

    Parts are of the same jobs, whoever computes them and however often: any number of processes may take one each.

    Args:
        plan: what to compute.
        results: what is there already.
        workplace: where jobs run.
        shard: (which part, of how many), from 1.
        progress: show bars.
    """
    part, parts = shard
    todo = Jobs(())
    for _, same_model in groupby(plan.cells, key=lambda cell: cell.called):
        kept = [cell for cell in same_model if not cell.streaming]
        todo += _jobs(kept, results, workplace) if kept else Jobs(())
    mine, told = todo[part - 1 :: parts], list[int]()
    shares = _shares(plan, results, workplace, shard) if plan.streaming else []

    def inputs() -> int:
        kept = sum(len(lacking(job.home, job.passes, workplace.store)) for job in mine)
        passing = (passes_of(cells, count, workplace.store.folder, own) for _, cells, count, own in shares)
        return kept + sum(map(len, passing))

    with _bars(progress, inputs, 0) as bars:

        def advance(count: int) -> None:
            bars.forward(count)
            told.append(count)

        with at_hand(workplace.shelf, advance):
            for count in workplace.engine.map(work, mine):
                advance(count)
            waits = _pass_part(shares, workplace, advance)
    return Part(sum(told), waits)


Share = tuple[str, list[Cell], int, list[int]]
"""A model, its cells whose representations go by, how many buckets there are, and which are of one part."""


def _pass_part(shares: Sequence[Share], workplace: Workplace, advance: Callable[[int], None]) -> tuple[str, ...]:
    """Let one part of the buckets go by, as far as what other processes do is there; return what is not.

    Once more over all models, as long as another process has brought something in the meantime.
    """

    def run_jobs(jobs: Sequence[Passing]) -> None:
        for count in workplace.engine.map(pass_by, jobs):
            advance(count)

    waits: tuple[str, ...] = ()
    before: tuple[str, ...] | None = None
    while waits != before:
        before, waits = waits, ()
        for called, passing, count, mine in shares:
            name, left = go_by(passing, count, workplace.asked[called], run_jobs, mine)
            if left:
                waits += (f"{called}, {name}: {left} of {count} buckets {'is' if left == 1 else 'are'} not there yet",)
    return waits


def _shares(plan: Plan, results: Results, workplace: Workplace, shard: tuple[int, int]) -> list[Share]:
    """Return what is of one part of every model."""
    part, parts = shard
    shares, first = list[Share](), 0
    for called, same_model in groupby(plan.cells, key=lambda cell: cell.called):
        cells = list(same_model)
        count = buckets(cells)
        mine = [number for number in range(count) if (first + number) % parts == part - 1]
        first += count
        passing = [cell for cell in cells if cell.streaming and _lacks(cell, results, workplace.store)]
        shares.append((called, passing, count, mine))
    return shares


def _jobs(cells: Sequence[Cell], results: Results, workplace: Workplace) -> Jobs:
    """Return the jobs of one model's cells that lack results, the same ones whatever the store holds by now."""
    unfinished = [cell for cell in cells if _lacks(cell, results, workplace.store)]
    extractions = list({each.key: each for cell in unfinished for each in (cell.trained, cell.tested)}.values())
    if extractions:  # also where what it describes is whole, and it was lost
        workplace.store.describe(extractions[0].home, manifest(cells[0].model, workplace.file.numbers))
    return jobs(workplace.asked[cells[0].called], extractions)


def _represent(cells: Sequence[Cell], results: Results, workplace: Workplace, bars: Bars) -> None:
    """Compute the representations that the cells of one model lack; what is not kept leaves its statistics."""
    try:
        kept = [cell for cell in cells if not cell.streaming]
        todo = _jobs(kept, results, workplace) if kept else Jobs(())
        if todo.waited_for(workplace.store):  # else no worker is started, and no model loaded, to find that out
            _count(workplace.engine.map(work, todo), bars)
        passing = [cell for cell in cells if cell.streaming and _lacks(cell, results, workplace.store)]
        if passing:
            asked, count = workplace.asked[cells[0].called], buckets(cells)
            go_by(passing, count, asked, lambda todo: _count(workplace.engine.map(pass_by, todo), bars))
        workplace.store.sweep(cells[0].trained.home)
        workplace.store.refresh(cells[0].trained.home)  # to see what the jobs have written
    except VlprobeError as error:
        tasks = ", ".join(dict.fromkeys(cell.task.name for cell in cells))
        error.add_note(f"while computing the representations of {cells[0].called} for {tasks}")
        raise


def _count(counts: Iterable[int], bars: Bars) -> None:
    for count in counts:
        bars.forward(count)


def _lacks(cell: Cell, results: Results, store: Store) -> bool:
    """Say whether results of a cell are missing, damaged ones included."""
    keys = [wanted.key for wanted in cell.wanted(store)]
    for key in keys:
        results.check(key)
    return any(key not in results.known for key in keys)


def _run_cell(
    cell: Cell, results: Results, workplace: Workplace, bars: Bars, notes: Mapping[str, dict[str, None]]
) -> list[Result]:
    store, file = workplace.store, workplace.file
    if _lacks(cell, results, store):
        try:
            for extraction in (cell.trained, cell.tested):
                lines = left_out(cell.model, extraction, store, file.bad_rows)
                notes["skipped_rows"].update(dict.fromkeys(lines))
            notes["computed_again"].update(dict.fromkeys(_bare(cell, results, store)))
            try:
                probe(cell, results, store, file.device, partial(bars.probed, 1))
            except Damaged as damaged:
                what = "it was removed while the study ran" if isinstance(damaged, Gone) else "it was damaged"
                notes["computed_again"][f"{damaged.path}: {what}"] = None
                _represent([cell], results, workplace, bars)
                probe(cell, results, store, file.device, partial(bars.probed, 1))
        except VlprobeError as error:
            error.add_note(f"while running {cell.called} on {cell.task.name}, {cell.condition}, seed {cell.seed}")
            raise
    found = []
    for wanted in cell.wanted(store):
        # A result of the same inputs under another name (a text model does not see the mismatch) is not made twice.
        labelled = replace(
            results.known[wanted.key],
            model=cell.model.name,
            stage=cell.model.stage,
            condition=cell.condition,
            control=wanted.control,
        )
        results.add(labelled)
        found.append(labelled)
    if cell.streaming:  # also where a run was killed between its last result and here
        forget(folder(store.folder, cell))
    return found


def _bare(cell: Cell, results: Results, store: Store) -> list[str]:
    """Return one line for every result of a cell that is on disk without its predictions."""
    where = f"{cell.task.name}, {cell.model.name}, {cell.condition}, seed {cell.seed}"
    bare = [wanted for wanted in cell.wanted(store) if wanted.key in results.bare]
    names = [" ".join(filter(None, (each.layer, each.probe.removeprefix("linear"), each.control))) for each in bare]
    return [f"{where}, {name}: its predictions were missing or damaged" for name in names]


class _Silent:
    """Tells nobody."""

    def forward(self, count: int) -> None:
        """Do nothing."""

    def probed(self, count: int) -> None:
        """Do nothing."""


@contextmanager
def _bars(progress: bool, inputs: Callable[[], int], probes: int) -> Iterator[Bars]:
    """Yield bars with counts and time left on the terminal; silent ones where there is none, or nothing to do.

    Args:
        progress: show them.
        inputs: counts what is to go through models; it is asked only where that is shown.
        probes: results that are to be made.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    totals = (inputs(), probes) if progress and console.is_terminal else (0, 0)
    if not any(totals):
        yield _Silent()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as display:
        forward, made = (
            display.add_task(name, total=total, visible=total > 0)
            for name, total in zip(("representations", "probes"), totals, strict=True)
        )

        class _Shown:
            def forward(self, count: int) -> None:
                display.advance(forward, count)

            def probed(self, count: int) -> None:
                display.advance(made, count)

        yield _Shown()
