"""Modality reliance: what every layer loses when one side of its input is replaced or taken away. `reliance.json`.

The sentences of `findings.json` speak of one layer a model, chosen on the validation part. Here every layer has its
number, so that one can see where in a model the image, or the text, begins to matter. These tests are a family of
their own for Holm's correction: they would make the study's own questions pay for some hundred layers that nobody
asked about, and uncorrected they would find something somewhere in every study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vlprobe.comparisons import compare, holm, shared
from vlprobe.findings.answers import Answer, Reader, at_every_layer
from vlprobe.findings.compared import same_input
from vlprobe.findings.finding import plain
from vlprobe.findings.verdicts import SIDES
from vlprobe.results import Results, read_made
from vlprobe.types import Result

RELIANCE_FILE = "reliance.json"

LOST = {
    "mismatched": "another group's image stands in for its own (vision tasks: another group's text)",
    "text-only": "there is no image",
    "image-only": "there is no text",
}
"""Condition -> what it takes away."""


@dataclass(frozen=True)
class Reliance:
    """What one layer of one model loses on a task when one side of the input is replaced or taken away."""

    task: str
    """Task name."""
    model: str
    """Model name, as the study calls it."""
    stage: str
    """The checkpoint's stage."""
    layer: str
    """Layer address, the same with and without."""
    condition: str
    """How the side is lost: one of `LOST`."""
    side: str
    """What is lost: `image` or `text`."""
    metric: str
    """`accuracy` or `r2`."""
    matched: float
    """Score with the input's own image and text, on the items that both answered, all seeds together."""
    without: float
    """Score under the condition, on the same items."""
    loss: float
    """matched - without."""
    interval: tuple[float, float]
    """95 % interval of the loss over groups, of this layer alone: not corrected for the number of layers."""
    p: float
    """Two-sided, of the exchange test."""
    corrected: float
    """p, corrected by Holm's method for all rows of the file."""
    smallest: float
    """The smallest loss that this test part would have shown four times out of five, before correction; NaN where it
    could show none."""
    n: int
    """Items compared, over all seeds."""
    groups: int
    """Groups that they belong to."""
    seeds: int
    """Seeds that both sides have."""


@dataclass(frozen=True)
class AllReliance:
    """What `reliance.json` holds."""

    complete: bool
    """Whether the study ran to its end."""
    tests: int
    """Rows, each of them a test: the family that their p are corrected for."""
    conditions: Mapping[str, str]
    """Condition -> what it takes away."""
    rows: tuple[Reliance, ...]
    """All of them."""


def find_reliance(results: Results, chosen: Iterable[Result] | None = None) -> list[Reliance]:
    """Return what every layer loses under every condition that takes a side away: by task, model, condition, layer.

    A model that does not read the side has no row: matched and mismatched are one input to it.

    Args:
        results: the folder, with the predictions.
        chosen: results of one run; None: all that the folder holds.

    Raises:
        DataError: predictions are missing or damaged, or `chosen` mixes runs that differ in limit or data.
    """
    answers = at_every_layer(results.all() if chosen is None else chosen)
    found = [row for matched, without in _pairs(answers) if (row := _row(matched, without, results))]
    corrected = holm([row.p for row in found])
    return [replace(row, corrected=p) for row, p in zip(found, corrected, strict=True)]


def _pairs(answers: Sequence[Answer]) -> Iterator[tuple[Answer, Answer]]:
    """Yield (matched, without) of the same layer."""
    under = {(each.task, each.model, each.stage, each.layer, each.condition): each for each in answers}
    for without in answers:
        matched = under.get((without.task, without.model, without.stage, without.layer, "matched"))
        if without.condition in LOST and matched and not same_input(matched, without):
            yield matched, without


def _row(matched: Answer, without: Answer, results: Results) -> Reliance | None:
    """Compare two answers of a layer; None where a run was stopped before they had a seed in common."""
    read = Reader(results)  # of its own: all layers at once need not fit into memory
    own, other = shared(read(matched), read(without))
    if not len(own.id):
        return None
    found = compare(own, other, min(matched.keys[""]), max(matched.trained, without.trained))
    side = {"text-only": "image", "image-only": "text"}.get(without.condition, SIDES[matched.level][1])
    return Reliance(
        task=matched.task,
        model=matched.model,
        stage=matched.stage,
        layer=matched.layer,
        condition=without.condition,
        side=side,
        metric=matched.metric,
        matched=found.scores[0],
        without=found.scores[1],
        loss=found.difference,
        interval=found.interval,
        p=found.p,
        corrected=math.nan,
        smallest=found.smallest,
        n=found.n,
        groups=found.groups,
        seeds=len(matched.keys[""].keys() & without.keys[""].keys()),
    )


def write_reliance(results: Results, rows: Sequence[Reliance], complete: bool) -> None:
    """Write `reliance.json`, all of it or nothing.

    Args:
        results: the folder to write to.
        rows: what `find_reliance` returned.
        complete: whether the study ran to its end.
    """
    results.write(RELIANCE_FILE, plain(asdict(AllReliance(complete, len(rows), LOST, tuple(rows)))))


def read_reliance(folder: str | Path) -> list[Reliance]:
    """Return what `reliance.json` of a results folder holds; `pandas.DataFrame` takes it as it is.

    Raises:
        DataError: it is missing, or not of this version.
    """
    return read_made(folder, RELIANCE_FILE, lambda content: [_read(row) for row in content["rows"]])


def _read(row: dict[str, object]) -> Reliance:
    whole = {name: math.nan if value is None else value for name, value in row.items()}
    low, high = (math.nan if bound is None else bound for bound in row["interval"])  # type: ignore[attr-defined]
    return Reliance(**whole | {"interval": (low, high)})  # type: ignore[arg-type]
