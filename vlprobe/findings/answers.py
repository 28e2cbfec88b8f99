"""Which probe answers for a model: the layer chosen on the validation part, and its test answers over all seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vlprobe.comparisons import pool
from vlprobe.errors import DataError
from vlprobe.probes import LINEAR
from vlprobe.results import Results
from vlprobe.types import Predictions, Result


@dataclass(frozen=True)
class Answer:
    """One model on one task under one condition."""

    task: str
    """Task name."""
    level: str
    """Task level."""
    metric: str
    """`accuracy` or `r2`."""
    model: str
    """Model name."""
    stage: str
    """The checkpoint's stage."""
    condition: str
    """As the study names it."""
    layer: str
    """Chosen on the validation part."""
    keys: Mapping[str, Mapping[int, str]]
    """Control (empty: the probe) -> seed -> key of the result; of the chosen layer, and of the majority."""


def of_linear(results: Iterable[Result]) -> list[Result]:
    """Return the results of the linear probe and of the controls beside it: the others do not answer for a model."""
    return [result for result in results if not result.probe or result.probe in LINEAR]


def best_layer(results: Sequence[Result]) -> str:
    """Return the layer where the linear probe has the best mean validation score over seeds; of equal ones, the first.

    Layers that lack a seed which others have (a run that was stopped) are not in the choice.

    Args:
        results: of one model on one task under one condition; controls and other probes are passed over.
    """
    by_layer: dict[str, dict[int, float]] = {}
    for result in of_linear(results):
        if not result.control:
            by_layer.setdefault(result.layer, {})[result.seed] = result.validation
    most = max(len(scores) for scores in by_layer.values())
    layers = sorted((name for name, scores in by_layer.items() if len(scores) == most), key=_place)

    def mean(layer: str) -> float:
        value = fmean(score for _, score in sorted(by_layer[layer].items()))
        return -math.inf if math.isnan(value) else value

    return max(layers, key=mean)


def _place(layer: str) -> tuple[str, int, str]:
    """Return what sorts layers: `vision.2` before `vision.10`, named extras last."""
    stream, _, index = layer.partition(".")
    return (stream, int(index), "") if index.isdecimal() else (stream, 10**6, index)


def choose(results: Iterable[Result]) -> list[Answer]:
    """Return one answer for every model, stage, task and condition of which at least one linear probe is there.

    Raises:
        DataError: two results for the same probe and seed: of two runs with another limit or other data.
    """
    return [_answer(rows, best_layer(rows)) for rows in _cells(results)]


def at_every_layer(results: Iterable[Result]) -> list[Answer]:
    """Return one answer for every layer that the linear probe was trained on, in the layers' order.

    Raises:
        DataError: as `choose` does.
    """
    return [
        _answer(rows, layer)
        for rows in _cells(results)
        for layer in sorted({row.layer for row in rows if not row.control}, key=_place)
    ]


def _cells(results: Iterable[Result]) -> list[list[Result]]:
    """Return the results of every model, stage, task and condition of which at least one linear probe is there."""
    cells: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in of_linear(results):
        cells.setdefault((result.task, result.model, result.stage, result.condition), []).append(result)
    return [rows for _, rows in sorted(cells.items()) if any(not row.control for row in rows)]


def _answer(rows: Sequence[Result], layer: str) -> Answer:
    first = rows[0]
    keys: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.layer not in (layer, ""):
            continue
        seeds = keys.setdefault(row.control, {})
        if seeds.get(row.seed, row.key) != row.key:
            raise DataError(
                f"task {row.task}, {row.model}, {row.condition}, seed {row.seed}: two results for {row.layer or 'the'} "
                f"{row.control or 'probe'}. They are of two runs, with another limit or other data; give each run a "
                "results folder of its own, or pass the results of one run"
            )
        seeds[row.seed] = row.key
    return Answer(first.task, first.level, first.metric, first.model, first.stage, first.condition, layer, keys)


class Reader:
    """Reads what probes answered, each file once.

    Args:
        results: where the predictions are.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._known: dict[tuple[tuple[int, str], ...], Predictions] = {}

    def __call__(self, answer: Answer, control: str = "") -> Predictions:
        """Return the pooled answers of a probe, or of a control beside it.

        Raises:
            DataError: predictions are missing or damaged.
        """
        wanted = tuple(sorted(answer.keys[control].items()))
        if wanted not in self._known:
            self._known[wanted] = pool({seed: self._results.predictions(key) for seed, key in wanted})
        return self._known[wanted]
