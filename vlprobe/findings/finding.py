"""What a study found, one sentence at a time: the noun, and its file `findings.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlprobe.findings.compared import CONTROLS
from vlprobe.findings.verdicts import VERDICTS
from vlprobe.results import Results, read_made

FILE = "findings.json"

KINDS = {
    "verdict": "where a model takes the target from: made of majority, mismatched and rest",
    "majority": "matched against the majority class (the mean, for numbers)",
    "shuffled-labels": "matched against the same probe trained on shuffled labels",
    "words": "matched against a bag of words or n-grams, whichever is better on the validation part",
    "pixels": "matched against a thumbnail and a colour histogram",
    "control-task": "matched against random labels of types, in accuracy: the probe's selectivity",
    "layer-0": "matched against the same probe on the input of the stream's first block",
    "random-init": "matched against the same model with random weights, at its own best layer",
    "mismatched": "matched against mismatched",
    "rest": "mismatched against the majority class: what is left with a wrong image (vision tasks: text)",
    "unseen": "matched and mismatched are the same input to the model: there is nothing to test",
    "text-only": "matched against the text alone",
    "image-only": "matched against the image alone",
    "stage": "one stage of training against another of the same architecture, matched",
    "stage-loss": "what a wrong image (vision tasks: text) costs one stage of training against what it costs another",
    "random": "a trained model against its untrained architecture, matched",
}


@dataclass(frozen=True)
class Finding:
    """One difference between two scores on the same items, or a verdict made of several, in words and in numbers."""

    task: str
    """Task name."""
    model: str
    """Model name, as the study calls it."""
    stage: str
    """The checkpoint's stage."""
    kind: str
    """One of `KINDS`."""
    statement: str
    """The finding as one sentence."""
    effect: float
    """First score minus second; of a verdict, matched minus mismatched (minus majority, where that is all there is)."""
    interval: tuple[float, float]
    """95 % interval of the effect, not corrected for the number of tests."""
    p: float
    """Two-sided, of the exchange test; NaN where nothing was tested."""
    corrected: float
    """p, corrected by Holm's method for all tests of the study that belong to its family: `CONTROLS`, or the others."""
    smallest: float
    """The smallest difference that this test part would have shown four times out of five, before correction; NaN
    where it could show none, or nothing was tested."""
    scores: Mapping[str, float]
    """The scores that it is made from, by name, on the items that both sides answered, all seeds together; of
    `stage-loss`, what each of the two loses."""
    layers: tuple[str, ...]
    """Layers of the two probes, chosen on the validation part, without those that look at none; of `stage-loss`, then
    those of the two with a wrong image (text)."""
    n: int
    """Items compared, over all seeds."""
    groups: int
    """Groups that they belong to."""
    significant: bool
    """corrected <= 0.05; of a verdict: the probe is above the majority, with corrected p <= 0.05."""
    verdict: str = ""
    """One of `VERDICTS`, for the kind `verdict`."""


@dataclass(frozen=True)
class AllFindings:
    """What `findings.json` holds."""

    complete: bool
    """Whether the study ran to its end."""
    tests: int
    """Tests of where a model takes it from: the family that their p are corrected for."""
    controls: int
    """Tests against controls, a family of their own."""
    kinds: Mapping[str, str]
    """Kind of finding -> what is compared."""
    verdicts: Mapping[str, str]
    """Verdict -> when it is given."""
    findings: tuple[Finding, ...]
    """All of them, those that found nothing included."""


def write_findings(results: Results, findings: Sequence[Finding], complete: bool) -> None:
    """Write `findings.json`, all of it or nothing.

    Args:
        results: the folder to write to.
        findings: what `find` returned.
        complete: whether the study ran to its end.
    """
    tests, controls = count(findings)
    results.write(FILE, plain(asdict(AllFindings(complete, tests, controls, KINDS, VERDICTS, tuple(findings)))))


def count(findings: Sequence[Finding]) -> tuple[int, int]:
    """Return how many tests there are in the family of where a model takes it from, and in that of controls."""
    tested = [each.kind in CONTROLS for each in findings if each.kind != "verdict" and not math.isnan(each.p)]
    return tested.count(False), tested.count(True)


def read_findings(folder: str | Path) -> list[Finding]:
    """Return what `findings.json` of a results folder holds.

    Raises:
        DataError: it is missing, or not of this version.
    """
    return read_made(folder, FILE, lambda content: [_finding(row) for row in content["findings"]])


def plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN, which JSON lacks, becomes null."""
    if isinstance(value, dict):
        return {name: plain(inside) for name, inside in value.items()}
    if isinstance(value, tuple):
        return [plain(inside) for inside in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _finding(row: dict[str, Any]) -> Finding:
    numbers = {name: math.nan if row[name] is None else row[name] for name in ("effect", "p", "corrected", "smallest")}
    low, high = (math.nan if bound is None else bound for bound in row["interval"])
    scores = {name: math.nan if score is None else score for name, score in row["scores"].items()}
    return Finding(**row | numbers | {"interval": (low, high), "layers": tuple(row["layers"]), "scores": scores})
