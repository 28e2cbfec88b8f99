"""A study: the door from Python. Its file, its plan, its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlprobe.errors import StudyError
from vlprobe.settings import parse, read_yaml, resolve_path
from vlprobe.study_file import StudyFile

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder, Profile
    from vlprobe.engines import Engine
    from vlprobe.extraction.jobs import Asked, Shelf
    from vlprobe.plan import Plan
    from vlprobe.results import Results
    from vlprobe.run import Part, Workplace
    from vlprobe.store import Store
    from vlprobe.types import Result, Task


@dataclass(frozen=True)
class Untrained:
    """The control `random-init`: models as they were before any training."""

    twins: tuple[Profile, ...]
    """Of models, whose names and stages they bear."""
    specs: Mapping[str, Mapping[str, Any]]
    """Model name -> what its twin is made of, as for `load_model`."""
    notes: tuple[str, ...]
    """Models that have none, and why."""


@dataclass
class Study:
    """A study, ready to be planned and run.

    Attributes:
        file: its settings.
        folder: where relative paths of the settings start.
    """

    file: StudyFile
    folder: Path
    _models: list[Profile] = field(default_factory=list, repr=False)
    _shelf: Shelf | None = field(default=None, repr=False)
    _tasks: list[Task] = field(default_factory=list, repr=False)
    _untrained: Untrained | None = field(default=None, repr=False)

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Study:
        """Read a study file.

        Args:
            path: the YAML file.
            overrides: settings that replace those of the file; None replaces nothing.

        Raises:
            StudyError: the file cannot be read, or a key or value is wrong.
        """
        path = Path(path)
        values = read_yaml(path) | {key: value for key, value in overrides.items() if value is not None}
        return cls(parse(StudyFile, values, path.name), path.resolve().parent)

    @classmethod
    def from_settings(cls, folder: str | Path = ".", **settings: Any) -> Study:
        """Make a study from keyword arguments that are named as the keys of a study file.

        Raises:
            StudyError: a key or value is wrong.
        """
        return cls(parse(StudyFile, settings, "study"), Path(folder).resolve())

    @property
    def output(self) -> Path:
        """Results folder: `output` of the settings, from the current folder on, or `results/NAME`."""
        return Path(self.file.output).expanduser() if self.file.output else Path("results") / self.file.name

    def models(self) -> list[Profile]:
        """Load the models, one after the other, and return what is known of them: no two are in memory at once.

        Raises:
            StudyError, CheckpointError: see `load_model`; two models of one name.
        """
        if not self._models:
            models = [self._profile(spec) for spec in self.file.models]
            _refuse_doubles("models", [model.name for model in models])
            self._models = models
        return self._models

    def untrained(self) -> Untrained:
        """Load the twins with random weights, once, where the study asks for the control `random-init`.

        Raises:
            StudyError, CheckpointError: see `load_model`.
        """
        if self._untrained is None:
            from vlprobe.encoders import untrained_spec

            twins, specs, notes = [], {}, []
            models = zip(self.file.models, self.models(), strict=True) if "random-init" in self.file.controls else ()
            for spec, model in models:
                drawn, reason = untrained_spec(spec)
                if reason:
                    notes.append(f"{model.name}, random-init: not done, {reason}")
                    continue
                twins.append(replace(self._profile(drawn), name=model.name, stage=model.stage))
                specs[model.name] = drawn
            self._untrained = Untrained(tuple(twins), specs, tuple(notes))
        return self._untrained

    def load(self, called: str) -> Encoder:
        """Return a model of the study, by what a plan calls it; the one before it is let go."""
        return self._held()(self._asked()[called])

    def _profile(self, spec: str | Mapping[str, Any]) -> Profile:
        from vlprobe.encoders.encoder import profile

        return profile(self._held()(self._asking(spec)))

    def _held(self) -> Shelf:
        from vlprobe.extraction.jobs import Shelf

        self._shelf = self._shelf or Shelf()
        return self._shelf

    def _asking(self, spec: str | Mapping[str, Any]) -> Asked:
        from vlprobe.extraction.jobs import Asked

        file = self.file
        return Asked(spec, self.folder, file.device, self.store().folder, file.batch_size, file.bad_rows, file.numbers)

    def _asked(self) -> dict[str, Asked]:
        """Return what a model is called -> what it is made of."""
        from vlprobe.cells import untrained

        specs: dict[str, str | Mapping[str, Any]] = {}
        specs |= {model.name: spec for model, spec in zip(self.models(), self.file.models, strict=True)}
        specs |= {untrained(name): spec for name, spec in self.untrained().specs.items()}
        return {called: self._asking(spec) for called, spec in specs.items()}

    def tasks(self) -> list[Task]:
        """Load the tasks, once.

        Raises:
            StudyError, DataError, BadRow: see `load_task`; two tasks of one name.
        """
        if not self._tasks:
            from vlprobe.tasks import load_task

            tasks = [
                load_task(spec, data=self.file.data, folder=self.folder, bad_rows=self.file.bad_rows)
                for spec in self.file.tasks
            ]
            _refuse_doubles("tasks", [task.name for task in tasks])
            self._tasks = tasks
        return self._tasks

    def results(self) -> Results:
        """Open the results folder."""
        from vlprobe.results import Results

        return Results(self.output)

    def store(self) -> Store:
        """Open the store of representations."""
        from vlprobe.store import Store, default_folder

        return Store(resolve_path(self.file.store, self.folder) if self.file.store else default_folder())

    def plan(self) -> Plan:
        """Say what would be computed, and compute nothing.

        Raises:
            VlprobeError: what `run` would raise about files, models, tasks, layers, images and splits.
        """
        from vlprobe import estimate
        from vlprobe.plan import begun, make_plan, size_as, stream

        untrained = self.untrained()
        known = self.results().known
        plan = make_plan(self.file, self.models(), self.tasks(), self.store(), known, untrained.twins)
        free, store = estimate.free_space(self.store().folder), self.store()
        said = ""
        if plan.feature_bytes > free:
            said = (
                f"the representations take {plan.feature_bytes / 1e9:.3g} GB, and {store.folder} has {free / 1e9:.3g} "
                "GB of room: they are not kept. streaming-lda (classes) and streaming-ridge (numbers) listen as they "
                "go by, in place of the linear probe, with which they are not to be compared"
            )
            if self.file.dtype != "float16" and (half := size_as(plan, "float16")) <= free:
                said += f". As `dtype: float16` they would take {half / 1e9:.3g} GB, for which there is room"
        elif begun(plan, store, known):  # tasks of a job array, and who gathers, must not be of two minds
            said = (
                f"representations of this study have gone by already, and left their statistics in {store.folder}: it "
                "goes on with streaming-lda and streaming-ridge. There is room to keep them now: for the linear probe, "
                "remove the statistics first, vlprobe store prune --model NAME"
            )
        if said:
            plan = stream(replace(plan, notes=(said, *plan.notes)), self.file, store, known)
        return replace(plan, notes=plan.notes + untrained.notes)

    def run(self, progress: bool = False, engine: Engine | None = None) -> list[Result]:
        """Compute what is missing, write it to the results folder, and return all results of this study.

        Args:
            progress: show bars.
            engine: where models are run; this machine if None: in this process, or, where it has several GPUs, in a
                process for each.

        Raises:
            VlprobeError: with the task, model and example in its notes.
        """
        from vlprobe.estimate import check_folder, check_space
        from vlprobe.provenance import describe
        from vlprobe.run import run

        results = self.results()
        plan = self.plan()
        if not plan.cells:
            raise StudyError("nothing of this study can be done:\n  " + "\n  ".join(plan.notes))
        check_folder(self.output, "the results folder", "name another `output` in the study, or with --output")
        if plan.forward_passes or plan.streaming:  # else it is only read, and may be another's
            check_folder(self.store().folder, "the store", "name another `store` in the study")
            check_space(plan, self.store().folder)
        results.describe(describe(self.file, self.models(), self.tasks(), plan, self.untrained().twins))
        with self._workplace(engine) as workplace:
            return run(plan, results, workplace, progress)

    def represent(self, shard: tuple[int, int], progress: bool = False, engine: Engine | None = None) -> Part:
        """Compute one part of the representations, or of their statistics, for a later `run` to gather.

        Args:
            shard: (which part, of how many), from 1: what one task of a job array does, as often as it likes.
            progress: show bars.
            engine: as for `run`.

        Raises:
            StudyError: a part that is not one of them.
            VlprobeError: with the task and model in its notes.
        """
        from vlprobe.estimate import check_folder, check_space
        from vlprobe.run import represent

        if not 1 <= shard[0] <= shard[1]:
            raise StudyError(f"shard {shard[0]}/{shard[1]}: give K/N with K from 1 to N, e.g. 3/16")
        plan = self.plan()
        check_folder(self.store().folder, "the store", "name another `store` in the study")
        check_space(plan, self.store().folder, shared=True)
        with self._workplace(engine) as workplace:
            return represent(plan, self.results(), workplace, shard, progress)

    @contextmanager
    def _workplace(self, engine: Engine | None) -> Iterator[Workplace]:
        """Yield where the models are run; workers that were started here are ended."""
        from vlprobe.device import gpus
        from vlprobe.engines import Here, Processes
        from vlprobe.run import Workplace

        asked, shelf = self._asked(), self._held()
        found = gpus(self.file.device)
        chosen = engine or (Processes(found) if found > 1 else Here())
        if not isinstance(chosen, Here):
            shelf.clear()  # others load models now
        try:
            yield Workplace(self.store(), chosen, asked, self.file, shelf)
        finally:
            if engine is None:
                chosen.close()


def _refuse_doubles(what: str, names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise StudyError(f"{what}: the name '{name}' is given twice; give one of them another `name`")
