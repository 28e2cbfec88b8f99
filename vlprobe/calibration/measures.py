"""Statements -> what was measured: an effect with its interval over the scenes of all worlds, right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from vlprobe.calibration.statements import SUBJECTS, Probe, Statement
from vlprobe.calibration.studies import Scale, studies, study_name, task_name
from vlprobe.comparisons import compare
from vlprobe.errors import DataError
from vlprobe.findings.answers import choose
from vlprobe.findings.compared import rightness
from vlprobe.listening import CONTROL_TASK
from vlprobe.statistics import interval, score
from vlprobe.study import Study
from vlprobe.types import Predictions, Result


@dataclass(frozen=True)
class Measured:
    """What was measured of one model."""

    model: str
    """As the study calls it."""
    effect: float
    """The difference of two scores; the score itself where nothing is compared."""
    interval: tuple[float, float]
    """95 % interval of the effect, over the scenes of all worlds."""
    scores: tuple[float, ...]
    """The score, and the one that it is compared with."""
    worlds: tuple[float, ...]
    """The effect in each world."""
    n: int
    """Items, over all worlds."""
    right: bool
    """Whether the interval is what was claimed."""


@dataclass(frozen=True)
class Checked:
    """A statement and what was measured of each of its models."""

    statement: Statement
    """What was claimed."""
    measured: tuple[Measured, ...]
    """In the order of the statement's models."""

    @property
    def right(self) -> bool:
        """Whether it holds for every model."""
        return all(each.right for each in self.measured)


def calibrate(
    statements: Sequence[Statement],
    scale: Scale,
    folder: Path,
    told: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> list[Checked]:
    """Run the studies that statements need, computing what is not there, and test each statement.

    Args:
        statements: what is known.
        scale: how many worlds and scenes.
        folder: where the studies' results folders are.
        told: called with a line as each study starts.
        progress: show bars.

    Raises:
        VlprobeError: see `Study.run`.
    """
    needed = studies(statements, scale, folder)
    answers: dict[str, _Answers] = {}
    for number, (name, study) in enumerate(needed.items(), start=1):
        size = f"{len(study.file.models)} models in {len(scale.worlds)} worlds"
        told(f"study {number} of {len(needed)}: {name}, {size}")
        answers[name] = _Answers(study, study.run(progress=progress))
    return [_judge(statement, scale, answers[study_name(statement)]) for statement in statements]


class _Answers:
    """What the probes of one study answered.

    Args:
        study: it has run.
        results: its results.
    """

    def __init__(self, study: Study, results: Sequence[Result]) -> None:
        self._folder = study.results()
        (self._seed,) = study.file.seeds
        self._results: dict[tuple[str, str, str], list[Result]] = {}
        for result in results:
            self._results.setdefault((result.task, result.model, result.condition), []).append(result)

    def __call__(self, task: str, model: str, probe: Probe) -> Predictions:
        """Return what one probe answered on the test part of one world."""
        layer = SUBJECTS[model].layer(probe.layer)
        rows = self._results.get((task, model, probe.condition), [])
        answers = choose(row for row in rows if layer in ("best", row.layer) or not row.layer)
        if not answers:
            raise DataError(f"task {task}, {model}, {probe.condition}: there is no result of layer {layer}")
        return self._folder.predictions(answers[0].keys[probe.control][self._seed])


def _judge(statement: Statement, scale: Scale, answers: _Answers) -> Checked:
    return Checked(statement, tuple(_measure(statement, model, scale, answers) for model in statement.models))


def _measure(statement: Statement, model: str, scale: Scale, answers: _Answers) -> Measured:
    sides = [
        {world: answers(task_name(statement, world), model + probe.twin, probe) for world in scale.worlds}
        for probe in statement.probes()
    ]
    if any(probe.control == CONTROL_TASK for probe in statement.probes()):
        sides = [{world: rightness(answered) for world, answered in side.items()} for side in sides]
    effect, (low, high), scores = _effect([_together(side) for side in sides])
    worlds = tuple(_effect([side[world] for side in sides])[0] for world in scale.worlds)
    n = sum(len(answered.id) for answered in sides[0].values())
    return Measured(model, effect, (low, high), scores, worlds, n, statement.holds(low, high))


def _together(worlds: Mapping[int, Predictions]) -> Predictions:
    """Return the answers on all worlds as one; scenes of the same number in two worlds are two scenes."""
    parts = [
        replace(one, **{name: np.char.add(f"{seed}:", getattr(one, name)) for name in ("id", "group")})
        for seed, one in worlds.items()
    ]
    return Predictions(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Predictions)))


def _effect(sides: Sequence[Predictions]) -> tuple[float, tuple[float, float], tuple[float, ...]]:
    """Return effect, interval and scores of one probe alone, or of two on the same items."""
    if len(sides) == 2:
        found = compare(sides[0], sides[1], 0)
        return found.difference, found.interval, found.scores
    (one,) = sides
    metric = "accuracy" if one.target.dtype.kind == "U" else "r2"
    reached = score(one.target, one.predicted, metric)
    return reached, interval(one.target, one.predicted, one.group, metric), (reached,)
