"""How each probe of a study listens to one layer, and to the same layer with shuffled labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vlprobe.device import pick_device
from vlprobe.digest import generator
from vlprobe.probes.linear import L2Path, Logistic, Probed, Ridge, Split, probe_sets
from vlprobe.probes.mdl import PERCENT, online_code
from vlprobe.statistics import LEVEL, by_group, interval, jackknife, score, student
from vlprobe.types import SPLITS, Features, Predictions, Sent, Task

SHUFFLED = ("", "shuffled-labels")
"""What every probe is trained on: the true labels, and, as a control, shuffled ones."""
CONTROL_TASK = "control-task"
"""What some are trained on besides, where the task has types: random labels of types."""
HAVE_CONTROL_TASK = ("linear", "mlp")
"""Probes that are. The others are a code of the true labels, and a protocol that is followed as it was published."""


@dataclass(frozen=True)
class Layer:
    """One layer of one cell, ready to be listened to."""

    task: Task
    """The task."""
    seed: int
    """Draws whatever is drawn."""
    parts: Mapping[str, Features]
    """Train, validation and test."""
    device: str = "cpu"
    """Where probes are fitted, as `pick_device` reads it."""
    drawn: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """(example id, unit) -> label of the control task; empty: there is none."""

    @property
    def controls(self) -> tuple[str, ...]:
        """What probes are trained on: true labels, shuffled ones, and those of the control task if there is one."""
        return (*SHUFFLED, CONTROL_TASK) if self.drawn else SHUFFLED

    @property
    def kind(self) -> type[L2Path]:
        """The linear probe that the targets ask for."""
        return Logistic if self.task.classes else Ridge

    def labels(self, control: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets of train and validation: as they are, shuffled inside each, or of the control task."""
        if control == CONTROL_TASK:
            return self._drawn("train"), self._drawn("validation")
        train, validation = self.parts["train"].y, self.parts["validation"].y
        if control != "shuffled-labels":
            return train, validation
        return self._shuffled(train, "train"), self._shuffled(validation, "validation")

    def tested(self, control: str) -> np.ndarray:
        """Return the targets of the test part: those of the control task for it, else the true ones."""
        return self._drawn("test") if control == CONTROL_TASK else self.parts["test"].y

    def _drawn(self, part: str) -> np.ndarray:
        rows = self.parts[part]
        return np.array([self.drawn[unit] for unit in zip(rows.id.tolist(), rows.index.tolist(), strict=True)])

    def _shuffled(self, y: np.ndarray, part: str) -> np.ndarray:
        return generator(self.seed, "shuffled-labels", self.task.name, part).permutation(y)


@dataclass(frozen=True)
class Heard:
    """What one probe made of one layer: the fields of `Result` that it brings, and its answers."""

    probe: str
    """As in `Result`."""
    metric: str
    """As in `Result`."""
    score: float
    """As in `Result`."""
    interval: tuple[float, float]
    """As in `Result`."""
    validation: float
    """As in `Result`."""
    l2: float | None
    """As in `Result`."""
    n_train: int
    """As in `Result`."""
    n_test: int
    """As in `Result`."""
    warnings: tuple[str, ...]
    """As in `Result`."""
    predictions: Predictions
    """Its answers."""


def obstacle(probe: str, task: Task, condition: str, groups: int) -> str:
    """Return where and why a probe cannot be asked, or nothing.

    Args:
        probe: as the study calls it.
        task: the task.
        condition: as the study names it.
        groups: of train and validation.
    """
    if probe != "mdl":
        return ""
    if not task.classes:
        return f"{task.name}: mdl not done, a code is of classes, and the targets are numbers"
    if ">" in condition:
        return f"{task.name}, {condition}: mdl not done, it codes labels of train and is not tested on anything"
    if groups < len(PERCENT):
        return f"{task.name}: mdl not done, train has {groups} groups, and {len(PERCENT)} blocks are to be coded"
    return ""


def majority(layer: Layer) -> Heard:
    """Answer the commonest class of train and validation (the mean, for numbers), whatever the input."""
    y, held_out = np.concatenate([layer.parts["train"].y, layer.parts["validation"].y]), layer.parts["validation"].y
    if layer.task.classes:
        values, counts = np.unique(y, return_counts=True)
        answer = values[counts.argmax()]
    else:
        answer = y.mean()
    validation = score(held_out, np.full(len(held_out), answer), layer.kind.metric)
    return on_test(layer, "", "", Probed(np.full(len(layer.parts["test"].y), answer), validation, None, ()))


def _linear(layer: Layer) -> dict[str, Heard]:
    """Probe true and shuffled labels and those of the control task together: one factorisation serves all."""
    train, validation, test = (layer.parts[name].X for name in SPLITS)
    labels, name = [layer.labels(control) for control in layer.controls], layer.kind.__name__.lower()
    probed = probe_sets(layer.kind, (train, validation, test), labels, layer.device)
    return {control: on_test(layer, control, name, each) for control, each in zip(layer.controls, probed, strict=True)}


def on_test(layer: Layer, control: str, probe: str, probed: Probed) -> Heard:
    """Score what a probe, fitted on train and validation, answered on the test part.

    Args:
        layer: what it listened to.
        control: what it was trained on, which says what is right; as in `Result`.
        probe: its name, as in `Result`.
        probed: its answers.
    """
    test, metric, y = layer.parts["test"], layer.kind.metric, layer.tested(control)
    return Heard(
        probe=probe,
        metric=metric,
        score=score(y, probed.predicted, metric),
        interval=interval(y, probed.predicted, test.group, metric),
        validation=probed.validation,
        l2=probed.l2,
        n_train=len(layer.parts["train"].y) + len(layer.parts["validation"].y),
        n_test=len(y),
        warnings=probed.warnings,
        predictions=Predictions(test.id, test.index, test.group, y, probed.predicted),
    )


def _mlp(layer: Layer) -> dict[str, Heard]:
    """Train a network with one hidden layer on true and on shuffled labels, and on those of the control task."""
    from vlprobe.probes.mlp import mlp

    train, validation, test = (layer.parts[name] for name in SPLITS)
    heard = {}
    for control in layer.controls:
        y, held_out = layer.labels(control)
        rows = Split(train.X, y), Split(validation.X, held_out), Split(test.X, layer.tested(control))
        probed = mlp(*rows, layer.seed, pick_device(layer.device))
        heard[control] = on_test(layer, control, "mlp", probed)
    return heard


def _mdl(layer: Layer) -> dict[str, Heard]:
    """Send true and shuffled labels of train and validation; one factorisation of each block serves both."""
    train, validation = layer.parts["train"], layer.parts["validation"]
    X, group, name, index = (
        np.concatenate([getattr(part, each) for part in (train, validation)]) for each in ("X", "group", "id", "index")
    )
    labels = [np.concatenate(layer.labels(control)) for control in SHUFFLED]
    heard = {}
    for control, y, code in zip(SHUFFLED, labels, online_code(X, labels, group, layer.seed, layer.device), strict=True):
        heard[control] = Heard(
            probe="mdl",
            metric="compression",
            score=code.compression,
            interval=_interval(code.bits, code.uniform, group),
            validation=math.nan,
            l2=None,
            n_train=len(y),
            n_test=len(y),
            warnings=code.warnings,
            predictions=Sent(name, index, group, y, code.predicted, code.bits),
        )
    return heard


def _interval(bits: np.ndarray, uniform: float, group: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a compression: t times its jackknife error over groups, to both sides."""
    sums = by_group(np.stack([np.full(len(bits), uniform / len(bits)), bits], axis=1), group)
    compression = uniform / bits.sum()
    reach = student(len(sums), 1 - LEVEL / 2) * jackknife(sums, lambda some: some[:, 0] / some[:, 1])
    return compression - reach, compression + reach


def _salin2022(layer: Layer) -> dict[str, Heard]:
    """Follow the published protocol on true and on shuffled labels; each run's answers stand below those before it."""
    from vlprobe.probes.salin2022 import PUBLISHED, RUNS, Protocol, salin2022

    train, validation, test = (layer.parts[name] for name in SPLITS)
    X, protocol = np.concatenate([train.X, validation.X]), PUBLISHED.get(layer.task.name, Protocol())
    five = replace(layer, parts={**layer.parts, "test": _repeated(test, RUNS)})
    heard = {}
    for control in SHUFFLED:
        y = np.concatenate(layer.labels(control))
        runs = salin2022(Split(X, y), Split(test.X, test.y), layer.seed, protocol, pick_device(layer.device))
        epochs = ", ".join(map(str, runs.epochs))
        said = f"the best of {protocol.epochs} epochs was chosen on the test part (epochs {epochs}), which flatters it"
        answered = on_test(five, control, "salin2022", Probed(runs.predicted.ravel(), math.nan, None, (said,)))
        heard[control] = replace(answered, n_test=len(test.y))
    return heard


def _repeated(part: Features, times: int) -> Features:
    """Return a part several times over: an item that several runs answered stays in its one group."""
    y, group, name, index = (np.concatenate([each] * times) for each in (part.y, part.group, part.id, part.index))
    return replace(part, y=y, group=group, id=name, index=index)


LISTENERS: dict[str, Callable[[Layer], dict[str, Heard]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "mdl": _mdl,
    "salin2022": _salin2022,
}
"""Probe of a study -> what it hears, by control. All controls are done even where one is wanted, so that a result does
not depend on which others were there."""
