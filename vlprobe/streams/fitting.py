"""Statistics -> probes -> what they made of a layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vlprobe.cells import Cell
from vlprobe.errors import DataError
from vlprobe.extraction.jobs import Asked
from vlprobe.listening import Heard
from vlprobe.probes import STREAMING
from vlprobe.probes.linear import Ridge, inverse_deviation
from vlprobe.probes.moments import Moments
from vlprobe.probes.streaming import (
    SHRINKAGES,
    Discriminant,
    DiscriminantPath,
    Plane,
    choose_plane,
)
from vlprobe.statistics import interval, score
from vlprobe.streams import AFTER, Passing, controls_of, files_of, lacking, passings, places_of
from vlprobe.streams.files import describe, moments_of, read, save
from vlprobe.types import Predictions

LITTLE = 1e-6
"""Variance inside classes that stands for none."""


def answering(name: str, fitted: Mapping[str, np.ndarray]) -> list[Discriminant] | list[Plane]:
    """Return the probes that a file holds for `layer|control`, none where it holds none."""
    if f"{name}|coef" not in fitted:
        return []
    mean, coef = fitted[f"{name}|mean"], fitted[f"{name}|coef"]
    intercept, strength = fitted[f"{name}|intercept"], fitted[f"{name}|strength"]
    if f"{name}|classes" in fitted:
        classes = fitted[f"{name}|classes"]
        return [Discriminant(classes, mean, *each) for each in zip(coef, intercept, strength.tolist(), strict=True)]
    return [Plane(mean, *each) for each in zip(coef, intercept.tolist(), strength.tolist(), strict=True)]


def _arrays(name: str, probes: Sequence[Discriminant | Plane]) -> dict[str, np.ndarray]:
    found = {"mean": probes[0].mean, "coef": np.stack([probe.coef for probe in probes])}
    for probe in probes[:1]:
        if isinstance(probe, Discriminant):
            found["classes"] = probe.classes
    found["intercept"] = np.stack([each.intercept if isinstance(each, Discriminant) else each.level for each in probes])
    strengths = [each.shrinkage if isinstance(each, Discriminant) else each.l2 for each in probes]
    return {f"{name}|{key}": array for key, array in found.items()} | {f"{name}|strength": np.array(strengths)}


def _merged(paths: Iterable[Path], name: str) -> Moments | None:
    """Return the moments of all buckets under a name, merged in their order."""
    whole: Moments | None = None
    for path in paths:
        there = moments_of(name, read(path, f"{name}|"))
        if there is not None:
            whole = there if whole is None else whole.merge(there)
    return whole


def _names(cell: Cell, labels: Iterable[str]) -> list[str]:
    return [f"{layer}|{control}" for layer in (*cell.layers, *cell.zeroth) for control in labels]


def fit(cell: Cell, place: Path, count: int) -> None:
    """Fit probes of every strength on what train has left."""
    controls = controls_of(cell)
    found: dict[str, np.ndarray] = {}
    for name in _names(cell, controls):
        whole = _merged(files_of(place, "train", count), name)
        if whole is None:
            continue  # the unit has no positions in this layer
        if cell.task.classes:  # ridge regression needs no more than moments of validation, too
            found |= _arrays(name, discriminants(whole, SHRINKAGES))
    save(place / AFTER["train"], found)


def discriminants(moments: Moments, shrinkages: Sequence[float]) -> list[Discriminant]:
    """Return linear discriminants at some strengths.

    Where the rows of each class are all the same (the [CLS] of a layer 0) there is no scatter to divide by. What is
    left is the class with the nearest mean, of equally near ones the commonest: the limit of ever smaller scatter.
    """
    try:
        path = DiscriminantPath(moments)
        return [path.fit(shrinkage) for shrinkage in shrinkages]
    except DataError:
        whole, rows = moments.together(), moments.count.sum()
        inverse = inverse_deviation(whole.mean[0], np.sqrt(np.diag(whole.scatter) / rows))
        centres = (moments.mean - whole.mean[0]) * inverse
        coef = centres * inverse / LITTLE
        intercept = np.log(moments.count / rows) - np.einsum("cw,cw->c", centres, centres) / 2 / LITTLE
        return [Discriminant(moments.classes, whole.mean[0], coef, intercept, each) for each in shrinkages]


def choose(cell: Cell, place: Path, count: int) -> None:
    """Choose each probe's strength by what validation has left, and fit it on train and validation together."""
    found: dict[str, np.ndarray] = {}
    trained, held = (files_of(place, part, count) for part in ("train", "validation"))
    for name in _names(cell, controls_of(cell)):
        fitted, held_out = _merged(trained, name), _merged(held, name)
        if fitted is None or held_out is None:
            continue
        if cell.task.classes:
            rights = [read(path, f"{name}|right").get(f"{name}|right") for path in held]
            right = sum(each for each in rights if each is not None)
            best = int(np.argmax(right))
            validation = float(right[best] / held_out.count.sum())  # type: ignore[index]
            probe: Discriminant | Plane = discriminants(fitted.merge(held_out), SHRINKAGES[best : best + 1])[0]
        else:
            chosen = choose_plane(fitted, held_out, Ridge.strengths)
            probe, validation = chosen.probe, chosen.validation
        found |= _arrays(name, [probe])
        found[f"{name}|validation"] = np.array(validation)
        found[f"{name}|rows"] = np.array(fitted.count.sum() + held_out.count.sum())
    save(place / AFTER["validation"], found | {"count": np.array(count)})


def go_by(
    cells: Sequence[Cell],
    count: int,
    asked: Asked,
    run: Callable[[Sequence[Passing]], None],
    mine: Collection[int] | None = None,
) -> tuple[str, int]:
    """Let the parts of one model's cells go by one after the other, and fit between them; what is there is not redone.

    Whoever finds all buckets of a part fits; of the same files, all fit the same.

    Args:
        cells: that lack results.
        count: of the buckets.
        asked: the model.
        run: runs jobs, with `pass_by`.
        mine: buckets to run, where other processes have the others; None: all.

    Returns:
        The first part that lacks buckets of others, and how many; "" and 0: everything has gone by.
    """
    places = places_of(cells, asked.store)
    for place, cell in places.items():
        describe(place, cell)
    for part, then in (("train", fit), ("validation", choose), ("test", None)):
        left = lacking(places, part, count)
        run(passings(cells, part, count, asked, [number for number in left if mine is None or number in mine]))
        left = lacking(places, part, count)
        if left:
            return part, len(left)
        for place, cell in places.items():
            if then is not None and not (place / AFTER[part]).exists():
                then(cell, place, count)
    return "", 0


def forget(place: Path) -> None:
    """Remove the statistics of a cell whose results are there."""
    shutil.rmtree(place, ignore_errors=True)


def hear(cell: Cell, place: Path) -> dict[tuple[str, str], Heard]:
    """Return (layer, control) -> what the probe made of it, by the answers that test has left."""
    chosen = read(place / AFTER["validation"])
    count = int(chosen["count"])
    parts = [read(path) for path in files_of(place, "test", count)]
    at = {example.id: number for number, example in enumerate(cell.tested.examples)}
    heard = {}
    for name in _names(cell, controls_of(cell)):
        layer, _, control = name.partition("|")
        there = [part for part in parts if f"{name}|predicted" in part]
        if f"{name}|coef" not in chosen or not there:
            continue
        rows = {
            each: np.concatenate([part[f"{layer}|{each}"] for part in there]) for each in ("id", "index", "group", "y")
        }
        order = np.lexsort((rows["index"], np.array([at[each] for each in rows["id"].tolist()])))
        predicted = np.concatenate([part[f"{name}|predicted"] for part in there])[order]
        name_, index, group, y = (rows[each][order] for each in ("id", "index", "group", "y"))
        metric, strength = ("accuracy" if cell.task.classes else "r2"), float(chosen[f"{name}|strength"][0])
        said = (f"shrinkage {strength:g} of the covariance was chosen on the validation part",)
        heard[layer, control] = Heard(
            probe=STREAMING[0 if cell.task.classes else 1],
            metric=metric,
            score=score(y, predicted, metric),
            interval=interval(y, predicted, group, metric),
            validation=float(chosen[f"{name}|validation"]),
            l2=None if cell.task.classes else strength,
            n_train=int(chosen[f"{name}|rows"]),
            n_test=len(y),
            warnings=said if cell.task.classes else (),
            predictions=Predictions(name_, index, group, y, predicted),
        )
    return heard
