"""Which probe answers for a model: the layer chosen on the validation part, and its test answers over all seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """Control (empty: the probe) -> seed -> key of the result. Of controls of a layer, that of the chosen layer; of
    `layer-0`, the first of its stream; of `random-init`, the layer that is best there. `words` is the better of
    `bag-of-words` and `n-grams` on the validation part."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Control -> the layer that answers for it; empty where it looks at none."""
    words: str = ""
    """What `words` is."""
    inputs: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Seed -> keys of the results of all layers: what the model was given, whichever layer answers for it."""
    trained: float = 0.0
    """How many rows its probe is tested on for each that it was trained on, the mean over seeds."""


def of_linear(results: Iterable[Result]) -> list[Result]:
    """Return the results of the linear probe and of the controls beside it: the others do not answer for a model."""
    return [result for result in results if not result.probe or result.probe in LINEAR]


def best_layer(results: Sequence[Result], control: str = "", probes: Collection[str] = LINEAR) -> str:
    """Return the layer where the linear probe has the best mean validation score over seeds; of equal ones, the first.

    Layers that lack a seed which others have (a run that was stopped) are not in the choice.

    Args:
        results: of one model on one task under one condition; other probes are passed over.
        control: `random-init`: the best layer of the model with random weights; other controls are passed over.
        probes: what the probe may be called in a result, where it is not the linear one.
    """
    by_layer: dict[str, dict[int, float]] = {}
    for result in results:
        if result.control == control and result.probe in probes:
            by_layer.setdefault(result.layer, {})[result.seed] = result.validation
    return max(sorted(_whole(by_layer), key=_place), key=lambda layer: _mean(by_layer[layer]))


def words_of(results: Sequence[Result]) -> str:
    """Return which control on words has the better mean validation score over seeds, `bag-of-words` first; or ""."""
    by_name: dict[str, dict[int, float]] = {}
    for result in results:
        if result.control in ("bag-of-words", "n-grams"):
            by_name.setdefault(result.control, {})[result.seed] = result.validation
    return max(sorted(_whole(by_name)), key=lambda name: _mean(by_name[name]), default="")


def _whole(scores: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return the names that have as many seeds as any."""
    most = max(map(len, scores.values()), default=0)
    return [name for name, seeds in scores.items() if len(seeds) == most]


def _mean(scores: Mapping[int, float]) -> float:
    value = fmean(score for _, score in sorted(scores.items()))
    return -math.inf if math.isnan(value) else value


def first_layer(layer: str) -> str:
    """Return layer 0 of a layer's stream."""
    return f"{layer.partition('.')[0]}.0"


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
    first, layers = rows[0], answering_layers(rows, layer)
    keys: dict[str, dict[int, str]] = {}
    for row in rows:
        for control in _answers_for(row, layers):
            seeds = keys.setdefault(control, {})
            if seeds.get(row.seed, row.key) != row.key:
                raise DataError(
                    f"task {row.task}, {row.model}, {row.condition}, seed {row.seed}: two results for "
                    f"{row.layer or 'the'} {row.control or 'probe'}. They are of two runs, with another limit or other "
                    "data; give each run a results folder of its own, or pass the results of one run"
                )
            seeds[row.seed] = row.key
    inputs: dict[int, set[str]] = {}
    for row in rows:
        if row.layer and not row.control:
            inputs.setdefault(row.seed, set()).add(row.key)
    words = words_of(rows)
    if words:
        keys["words"] = keys[words]
    shares = [row.n_test / row.n_train for row in rows if row.layer == layer and not row.control]
    return Answer(
        task=first.task,
        level=first.level,
        metric=first.metric,
        model=first.model,
        stage=first.stage,
        condition=first.condition,
        layer=layer,
        keys=keys,
        layers=layers,
        words=words,
        inputs={seed: frozenset(keys) for seed, keys in inputs.items()},
        trained=fmean(shares),
    )


def answering_layers(rows: Sequence[Result], layer: str, probes: Collection[str] = LINEAR) -> dict[str, str]:
    """Return control (empty: the probe) -> the layer that answers for it.

    Args:
        rows: of one model, task and condition.
        layer: that answers for the probe, and for those controls that are of it.
        probes: as for `best_layer`.
    """
    layers = dict.fromkeys((row.control for row in rows if row.layer), layer)
    if any(row.layer == first_layer(layer) and row.control in ("", "layer-0") for row in rows):
        layers["layer-0"] = first_layer(layer)
    if "random-init" in layers:
        layers["random-init"] = best_layer(rows, "random-init", probes)
    return layers


def _answers_for(row: Result, layers: Mapping[str, str]) -> list[str]:
    """Return the controls (empty: the probe) that a result answers for: the probe may be its own layer 0."""
    if not row.layer:
        return [row.control]
    mine = [row.control] if layers.get(row.control) == row.layer else []
    return [*mine, *(["layer-0"] if not row.control and layers.get("layer-0") == row.layer else [])]


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
