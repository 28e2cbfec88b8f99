"""What a study would compute: which model is shown what, and which results are still missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np

from vlprobe import listening
from vlprobe.cells import Cell
from vlprobe.controls.control_task import ControlTask, control_task
from vlprobe.controls.pixels import Looks
from vlprobe.controls.surface import MADE_OF, Shown, Surface, surfaces
from vlprobe.digest import digest
from vlprobe.errors import BadRow, DataError, StudyError, VlprobeError, did_you_mean
from vlprobe.examples import Examples, of_one_origin, together
from vlprobe.extraction import Extraction, Forward, ImageDigests, Passes, Put, addressed, forwards, put, reads
from vlprobe.pairing import obstacle, pair, read_condition
from vlprobe.pooling import SIDES, WHOLE, check_pooling
from vlprobe.splits import Parts, cut
from vlprobe.store import Store
from vlprobe.streams import buckets, folder, passes_of, statistics_lacking
from vlprobe.study_file import StudyFile
from vlprobe.types import SPLITS, Task, Unit

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Profile

PROBE_VERSION = 5
"""Part of every result's key: raise it when the same features would no longer give the same result."""


@dataclass(frozen=True)
class Waiting:
    """What one model would still be run on."""

    called: str
    """As in `Cell`."""
    passes: Sequence[Forward]
    """The inputs."""
    stored: int
    """Other inputs that are asked for, whose representations are in the store."""
    size: int
    """Bytes that the pooled rows would take on disk."""


@dataclass(frozen=True)
class Plan:
    """What a study would compute."""

    cells: tuple[Cell, ...]
    """In the order in which they run: model by model."""
    notes: tuple[str, ...]
    """Combinations that cannot be asked, and why."""
    skipped: tuple[str, ...]
    """Rows left out, and why."""
    images: Mapping[str, str]
    """Image file -> sha256, of all that models are shown."""
    waiting: tuple[Waiting, ...]
    """What the models of cells that lack results would still be run on."""
    asked: Mapping[str, bool]
    """Key of every result that it asks for, controls counted -> whether the result is there already."""
    damaged: tuple[str, ...] = ()
    """A line for every shard that was there and damaged: it has been removed."""
    statistics: int = 0
    """Bytes of disk that the statistics of representations that are not kept still take: of the model that has most,
    for one model's are gone before the next one's come."""
    statistics_together: int = 0
    """The same of all models: those that a job array makes wait for each other."""

    @property
    def done(self) -> int:
        """Results that are there already."""
        return sum(self.asked.values())

    @property
    def probes(self) -> int:
        """Results that are still to be computed."""
        return len(self.asked) - self.done

    @property
    def forward_passes(self) -> int:
        """Inputs that the models would still be run on."""
        return sum(len(each.passes) for each in self.waiting)

    @property
    def streaming(self) -> bool:
        """Whether representations go by and are not kept."""
        return any(cell.streaming for cell in self.cells)

    @property
    def feature_bytes(self) -> int:
        """Disk that their pooled rows would take."""
        return sum(each.size for each in self.waiting)


def make_plan(
    file: StudyFile,
    models: Sequence[Profile],
    tasks: Sequence[Task],
    store: Store,
    done: Mapping[str, object],
    untrained: Sequence[Profile] = (),
) -> Plan:
    """Lay out a study and say what of it is missing.

    Args:
        file: its settings.
        models: what is known of them.
        tasks: loaded.
        store: what is in there need not be computed again.
        done: keys of the results that are there.
        untrained: twins of models, with random weights, that bear their names: the control `random-init`.

    Raises:
        StudyError: a layer that no model has, an unknown pooling.
        BadRow, DataError: see `cut`; an image that cannot be opened.
    """
    for unit in get_args(Unit):
        check_pooling(unit, getattr(file.pooling, unit))
    chosen = {model.name: _layers(file, models, model) for model in models}
    notes = [f"{name} has none of the layers {', '.join(file.layers)}" for name, layers in chosen.items() if not layers]
    notes += [f"{model.name}: assumed that {model.usage['assumed']}" for model in models if "assumed" in model.usage]
    images, looks = ImageDigests(), Looks()
    cells: list[Cell] = []
    skipped: dict[str, None] = {}
    for task in tasks:
        skipped |= dict.fromkeys(task.skipped)
        for seed in file.seeds:
            try:
                parts = _readable(cut(task, seed, file.limit, file.bad_rows), models, images, file.bad_rows)
                skipped |= dict.fromkeys(parts.skipped)
                able = [model for model in (*models, *untrained) if chosen[model.name]]
                asked = _Asked(task, seed, parts, images, looks)
                cells += _cells(file, chosen, able, asked, notes)
            except VlprobeError as error:
                error.add_note(f"while preparing task {task.name}, seed {seed}")
                raise
    place = {model.name: i for i, model in enumerate(models)}
    twins = {id(model) for model in untrained}
    cells = [replace(cell, controls=("random-init",)) if id(cell.model) in twins else cell for cell in cells]
    cells.sort(key=lambda cell: (place[cell.model.name], cell.untrained))
    wanted, unfinished = _progress(cells, store, done)
    waiting = _waiting(unfinished, store, file.numbers.kept)
    damaged = tuple(f"{path}: it was damaged" for path in store.damaged)
    return Plan(tuple(cells), tuple(dict.fromkeys(notes)), tuple(skipped), images, tuple(waiting), wanted, damaged)


def size_as(plan: Plan, dtype: str) -> int:
    """Return the bytes of disk that all pooled rows of a plan would take in another number format.

    All: what is in the store, and results that are there, are of the format that the study has.
    """
    numbers = sum(_forwards(inside).numbers(inside[0].model) for inside in by_model(plan.cells).values())
    return numbers * np.dtype(dtype).itemsize


def begun(plan: Plan, store: Store, done: Mapping[str, object]) -> bool:
    """Say whether representations of a plan have gone by already: statistics of some cell that lacks results are there.

    Args:
        plan: of the study, were they kept.
        store: where statistics are, too.
        done: keys of the results that are there.
    """
    if not (store.folder / "streams").is_dir():
        return False
    return any(folder(store.folder, cell).is_dir() for cell in _progress(plan.cells, store, done)[1])


def stream(plan: Plan, file: StudyFile, store: Store, done: Mapping[str, object]) -> Plan:
    """Return the plan of a study whose representations are not kept: one probe listens to those that are still lacking.

    Args:
        plan: of the same study, were they kept.
        file: its settings.
        store: says which layers there are.
        done: keys of the results that are there.
    """
    _, lacking = _progress(plan.cells, store, done)
    those = {id(cell) for cell in lacking}  # what the linear probe has answered stays as it is
    cells = tuple(replace(cell, streaming=id(cell) in those) for cell in plan.cells)
    wanted, unfinished = _progress(cells, store, done)
    waiting, sizes = [], [0]
    for inside in by_model(unfinished).values():
        count = buckets([cell for cell in cells if cell.called == inside[0].called])
        waiting.append(Waiting(inside[0].called, passes_of(inside, count, store.folder), 0, 0))
        sizes.append(statistics_lacking(inside, count, store.folder))
    lost = [name for name in file.probes if name != "linear"]
    lost += [listening.CONTROL_TASK] if any(cell.drawn and cell.streaming for cell in cells) else []
    notes = [f"{name}: not done, it needs representations that are kept" for name in lost]
    return replace(
        plan,
        cells=cells,
        notes=plan.notes + tuple(notes),
        waiting=tuple(waiting),
        asked=wanted,
        statistics=max(sizes),
        statistics_together=sum(sizes),
    )


def by_model(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return what a model is called -> its cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.called, []).append(cell)
    return found


def _layers(file: StudyFile, models: Sequence[Profile], model: Profile) -> tuple[str, ...]:
    if file.layers == "all":
        return tuple(model.layers)
    known = list(dict.fromkeys(layer for any_model in models for layer in any_model.layers))
    for layer in file.layers:
        if layer not in known:
            raise StudyError(f"layers: no model of this study has a layer '{layer}'{did_you_mean(layer, known)}")
    return tuple(layer for layer in model.layers if layer in file.layers)


def _readable(parts: Parts, models: Sequence[Profile], images: ImageDigests, bad_rows: str) -> Parts:
    """Open every image that a model will be shown; leave out the rows whose image is damaged, if that is asked for."""
    if not any("image" in model.modalities for model in models):
        return parts
    skipped = list(parts.skipped)
    kept: dict[str, Examples] = {}
    for name, examples in parts.named().items():
        good = np.ones(len(examples), bool)
        for i, example in enumerate(examples):
            try:
                images(example)
            except BadRow as error:
                if bad_rows == "error":
                    raise BadRow(
                        error.place, f"{error.problem}. Or set bad_rows: skip in the study to leave such rows out"
                    ) from None
                skipped.append(str(error))
                good[i] = False
        if not good.any():
            raise DataError(f"no row of the {name} part has an image that can be opened")
        kept[name] = examples.take(good)
    return replace(parts, **kept, skipped=tuple(skipped))


@dataclass(frozen=True)
class _Asked:
    """One task with one seed, ready to be put to models."""

    task: Task
    """The task."""
    seed: int
    """The seed."""
    parts: Parts
    """Its cut."""
    images: ImageDigests
    """Shared by all."""
    looks: Looks
    """Shared by all."""

    @cached_property
    def order(self) -> np.ndarray:
        """(example,) where examples stand among those of train, validation and test, in the order of the task's file.

        That order is the same whatever the seed's cut, so seeds share what is extracted.
        """
        splits = list(of_one_origin(self.task.splits).values())
        file = np.concatenate([part.rows for part in splits])
        place = np.empty(len(splits[0].origin), np.int32)
        place[file] = np.arange(len(file), dtype=np.int32)
        return np.argsort(place[together(list(self.parts.named().values())).rows]).astype(np.int32)

    @cached_property
    def part(self) -> np.ndarray:
        """(example,) uint8: index into `SPLITS`, in the same order."""
        sizes = [len(examples) for examples in self.parts.named().values()]
        return np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)[self.order]

    def shown(self, condition: str) -> Examples:
        """Return all parts as a simple condition pairs them, in the order of the task's file."""
        paired = [
            pair(examples, condition, self.task.level, self.seed, name) for name, examples in self.parts.named().items()
        ]
        return together(paired).take(self.order)


def _cells(
    file: StudyFile, chosen: Mapping[str, tuple[str, ...]], models: Sequence[Profile], asked: _Asked, notes: list[str]
) -> list[Cell]:
    """Return the cells of one task and seed; what cannot be asked goes to `notes`."""
    task = asked.task
    how = getattr(file.pooling, task.unit)
    groups = len(np.unique(together([asked.parts.train, asked.parts.validation]).ranks))
    read = {side for model in models for side in model.modalities}
    surface = [name for name in file.controls if MADE_OF.get(name) is None or MADE_OF[name] in read]
    random_labels = _control_task(file, asked, read, notes)
    shown: dict[str, Examples] = {}
    was_put: dict[tuple[object, ...], Put] = {}
    cells = []
    for condition in file.conditions:
        simple = read_condition(condition)
        beside: Mapping[str, Surface] = {}
        for model in models:
            reasons = [obstacle(each, task, model.modalities, model.needs, model.masks) for each in simple]
            if any(reasons):
                notes.append(f"{task.name}, {model.name}, {condition}: not done, {next(filter(None, reasons))}")
                continue
            for each in simple:
                shown[each] = shown[each] if each in shown else asked.shown(each)
            here = Shown(task, asked.seed, asked.part, *(shown[each] for each in simple))
            beside = beside or surfaces(surface, here, asked.images, asked.looks)
            inputs: dict[str, Extraction] = {}
            for each in dict.fromkeys(simple):
                alike = each, *reads(model)
                was_put[alike] = was_put.get(alike) or put(model, shown[each], task.unit, how, asked.images)
                inputs[each] = addressed(model, was_put[alike], file.numbers)
            trained, tested = (inputs[each] for each in simple)
            known = [layer for layer in model.layers if trained.knows(layer) and tested.knows(layer)]
            layers = tuple(layer for layer in chosen[model.name] if layer in known)
            if trained.unit != "input":  # a pooler is one vector for the whole input
                layers = tuple(layer for layer in layers if not layer.endswith(WHOLE))
            lost = _unpooled(trained) or _unpooled(tested) or ("" if layers else "it gives none of the layers anything")
            if lost:
                notes.append(f"{task.name}, {model.name}, {condition}: not done, {lost}")
                continue
            why_not = {probe: listening.obstacle(probe, task, condition, groups) for probe in file.probes}
            notes += filter(None, why_not.values())
            seen = random_labels.side in model.modalities and here.shows(random_labels.side)
            cells.append(
                Cell(
                    model=model,
                    task=task,
                    condition=condition,
                    seed=asked.seed,
                    trained=trained,
                    tested=tested,
                    parts=asked.parts,
                    layers=layers,
                    zeroth=_zeroth(layers, known) if "layer-0" in file.controls else (),
                    probes=tuple(probe for probe, why in why_not.items() if not why),
                    controls=tuple(file.controls),
                    surfaces={k: each for k, each in beside.items() if each.stands_beside(model.modalities)},
                    drawn=random_labels.labels if seen else {},
                    keys=_keys(trained, tested, asked),
                )
            )
    return cells


def _unpooled(extraction: Extraction) -> str:
    """Say that its pooling reads a side that no example has, as the model sees it; empty: it does not."""
    side = SIDES.get(extraction.how)
    if side is None or any(getattr(example, side) is not None for example in extraction.examples):
        return ""
    return f"pooling '{extraction.how}' reads the {side}, which the model is not given"


def _control_task(file: StudyFile, asked: _Asked, read: Collection[str], notes: list[str]) -> ControlTask:
    """Return the control task of a task; where there is none, `notes` says why."""
    if listening.CONTROL_TASK not in file.controls:
        return ControlTask("text", {})
    found = control_task(asked.task, asked.parts, asked.seed, asked.looks, read)
    if found.reason:
        notes.append(f"{asked.task.name}, {listening.CONTROL_TASK}: not done, {found.reason}")
    return found


def _zeroth(layers: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the layers 0 of the streams of some layers, where they are known and not among them."""
    first = dict.fromkeys(f"{layer.partition('.')[0]}.0" for layer in layers)
    return tuple(layer for layer in first if layer in known and layer not in layers)


def _keys(trained: Extraction, tested: Extraction, asked: _Asked) -> dict[str, str]:
    """Return side -> content address of what its probes depend on: conditions share what does not differ."""
    rows = (
        [example.id, SPLITS[part], example.group, example.target]
        for example, part in zip(trained.examples, asked.part.tolist(), strict=True)
    )
    name, classes = asked.task.name, bool(asked.task.classes)
    if "" in (*trained.sides, *tested.sides):
        return {"": digest(PROBE_VERSION, trained.pairs, tested.pairs, rows, asked.seed, name, classes)}
    same = digest(rows, asked.seed, name, classes)
    return {
        side: digest(PROBE_VERSION, paired, tested.paired[side], same)
        for side, paired in trained.paired.items()
        if side in tested.paired
    }


def _progress(cells: Sequence[Cell], store: Store, done: Mapping[str, object]) -> tuple[dict[str, bool], list[Cell]]:
    """Return key of every result that is asked for -> whether it is there, and the cells that lack some."""
    wanted: dict[str, bool] = {}
    lacking: list[Cell] = []
    for cell in cells:
        results = cell.wanted(store)
        wanted |= {result.key: result.key in done for result in results}
        if not all(result.key in done for result in results):
            lacking.append(cell)
    return wanted, lacking


def _waiting(cells: Sequence[Cell], store: Store, dtype: str) -> list[Waiting]:
    """Return, of each model, what its cells lack in the store."""
    found = []
    for called, inside in by_model(cells).items():
        every = _forwards(inside)
        passes = every.lacking(inside[0].trained.home, store)
        size = passes.numbers(inside[0].model) * np.dtype(dtype).itemsize
        found.append(Waiting(called, passes, len(every) - len(passes), size))
    return found


def _forwards(inside: Sequence[Cell]) -> Passes:
    """Return what one model is run on for its cells."""
    return forwards({each.key: each for cell in inside for each in (cell.trained, cell.tested)}.values())
