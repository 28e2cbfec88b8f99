"""Which probes of a study are compared with which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlprobe.comparisons import Comparison, compare, compare_losses, holm, shared
from vlprobe.findings.answers import Answer, Reader
from vlprobe.statistics import LEVEL
from vlprobe.types import Predictions

CONTROLS = ("shuffled-labels", "words", "pixels", "control-task", "layer-0", "random-init", "random")
"""Kinds that ask whether a number is worth anything: a family of their own for the correction, so that a study that
looks at more controls does not see less of where a model takes what it knows from."""


@dataclass(frozen=True)
class Compared:
    """Two probes, or a probe and a control, on the items that both answered."""

    kind: str
    """One of `KINDS`."""
    first: Answer
    """The first probe."""
    second: Answer
    """The second; where `control` is not empty, the probe whose control it is."""
    control: str
    """The second is this control; empty: it is the probe itself."""
    comparison: Comparison
    """What was found."""
    asked: int
    """Items that the first answered."""
    wrong: tuple[Answer, ...] = ()
    """Where losses are compared: what the first and the second answered with another's image (vision tasks: text)."""
    corrected: float = math.nan
    """p, corrected for the number of tests of its family: those of `CONTROLS`, or the others."""

    @property
    def sign(self) -> int:
        """1: the first was shown to be better; -1: to be worse; 0: neither was shown."""
        if not self.corrected <= LEVEL:
            return 0
        return 1 if self.comparison.difference > 0 else -1


def compare_all(answers: Sequence[Answer], read: Reader, architectures: Mapping[str, object]) -> list[Compared]:
    """Return every comparison of a study, p corrected by Holm's method for the number in each of two families.

    Args:
        answers: one for every model, task and condition.
        read: gives what they answered.
        architectures: model name -> what two models share that are one architecture at two stages of training.

    Raises:
        DataError: predictions are missing or damaged, or disagree on an item.
    """
    matched = [answer for answer in answers if answer.condition == "matched"]
    under = {(each.task, each.model, each.stage, each.condition): each for each in answers}
    asked = [each for answer in matched for each in _inside(answer, under)]
    asked += [each for first in matched for each in _between(first, matched, architectures)]
    made = []
    for kind, first, second, control in asked:
        wrong = _wrong(first, second, under) if kind == "stage-loss" else ()
        if kind == "stage-loss" and not wrong:
            continue
        given = [read(first), read(second, control), *map(read, wrong)]
        same, seed = shared(*given), min(first.keys[""])
        if control == "control-task":
            same = tuple(rightness(each) for each in same)
        if len(same[0].id):  # else a run was stopped before they had a seed in common
            trained = 0.0 if control == "majority" else max(first.trained, second.trained)
            if wrong:
                found = compare_losses((same[0], same[2]), (same[1], same[3]), seed, trained)
            else:
                found = compare(same[0], same[1], seed, trained)
            made.append(Compared(kind, first, second, control, found, len(given[0].id), wrong))
    return _corrected(made, True) + _corrected(made, False)


def _corrected(made: Sequence[Compared], controls: bool) -> list[Compared]:
    family = [each for each in made if (each.kind in CONTROLS) == controls]
    corrected = holm([each.comparison.p for each in family])
    return [replace(each, corrected=p) for each, p in zip(family, corrected, strict=True)]


def rightness(predictions: Predictions) -> Predictions:
    """Return whether each answer was right, as an answer: probes of different labels are compared by that."""
    right = np.where(predictions.predicted == predictions.target, "right", "wrong")
    return replace(predictions, target=np.full(len(right), "right"), predicted=right)


_Asked = tuple[str, Answer, Answer, str]
_Under = Mapping[tuple[str, str, str, str], Answer]


def _inside(matched: Answer, under: _Under) -> Iterator[_Asked]:
    """Yield (kind, first, second, control) of the comparisons inside one model on one task."""
    for control, keys in matched.keys.items():
        if control in ("", "bag-of-words", "n-grams"):
            continue  # of the last two, the better one is asked about: `words`
        if control == "layer-0" and keys == matched.keys[""]:
            continue  # it is the best layer itself
        yield control, matched, matched, control
    for condition in ("mismatched", "text-only", "image-only"):
        other = under.get((matched.task, matched.model, matched.stage, condition))
        if other is None or same_input(matched, other):
            continue
        yield condition, matched, other, ""
        if condition == "mismatched" and "majority" in other.keys:
            yield "rest", other, other, "majority"


def _between(first: Answer, matched: Sequence[Answer], architectures: Mapping[str, object]) -> Iterator[_Asked]:
    """Yield the comparisons of a model with earlier stages of its architecture."""
    for second in matched:
        if first.task == second.task and _stage(first) > _stage(second) and _kin(first, second, architectures):
            yield "random" if second.stage == "random" else "stage", first, second, ""
            if second.stage != "random":
                yield "stage-loss", first, second, ""


def _wrong(first: Answer, second: Answer, under: _Under) -> tuple[Answer, ...]:
    """Return what two models answered with another's image (text); nothing where one lacks it, or does not see it."""
    found = [under.get((each.task, each.model, each.stage, "mismatched")) for each in (first, second)]
    seen = [wrong for own, wrong in zip((first, second), found, strict=True) if wrong and not same_input(own, wrong)]
    return tuple(seen) if len(seen) == 2 else ()


def unseeing(answers: Sequence[Answer]) -> list[Answer]:
    """Return the matched answers of models that do not see what a mismatch replaces."""
    wrong = {(each.task, each.model, each.stage): each for each in answers if each.condition == "mismatched"}
    matched = [each for each in answers if each.condition == "matched"]
    pairs = [(each, wrong.get((each.task, each.model, each.stage))) for each in matched]
    return [each for each, other in pairs if other and same_input(each, other)]


def same_input(first: Answer, second: Answer) -> bool:
    """Say whether a model was given the very same inputs: it does not read what the condition changes.

    Of a model that does, single layers may not: their results are shared, and where the best layer is one of them, the
    difference that is tested is none.
    """
    seeds = first.inputs.keys() & second.inputs.keys()
    return bool(seeds) and all(first.inputs[seed] == second.inputs[seed] for seed in seeds)


def _stage(answer: Answer) -> tuple[int, str]:
    """Return what orders stages of training: untrained, pretrained, then those that were trained further."""
    return {"random": 0, "pretrained": 1}.get(answer.stage, 2), answer.stage


def _kin(first: Answer, second: Answer, architectures: Mapping[str, object]) -> bool:
    """Say whether two models are one architecture at two stages."""
    if first.model == second.model:
        return True
    shape = architectures.get(first.model)
    return shape is not None and shape == architectures.get(second.model)


def architectures_of(description: Mapping[str, Any]) -> dict[str, object]:
    """Return model name -> its encoder's class and the widths of its layers, as `study.json` tells them."""
    models = description.get("models", ())
    return {model["name"]: [model["family"], model["layers"]] for model in models if "family" in model}
