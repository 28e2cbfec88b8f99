"""What a study found: results and predictions -> tests, corrected together -> sentences and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vlprobe.findings.answers import Answer, Reader, answering_layers, best_layer, choose, of_linear
from vlprobe.findings.compared import CONTROLS, Compared, architectures_of, compare_all, unseeing
from vlprobe.findings.finding import FILE, KINDS, Finding, count, read_findings, write_findings
from vlprobe.findings.reliance import RELIANCE_FILE, Reliance, find_reliance, read_reliance, write_reliance
from vlprobe.findings.verdicts import VERDICTS, verdict
from vlprobe.findings.wording import layer_of, sentence, unseeing_sentence, verdict_sentence
from vlprobe.results import Results
from vlprobe.types import Result

__all__ = [
    "FILE",
    "KINDS",
    "RELIANCE_FILE",
    "VERDICTS",
    "Finding",
    "Reliance",
    "answering_layers",
    "best_layer",
    "count",
    "find",
    "find_reliance",
    "headlines",
    "of_linear",
    "read_findings",
    "read_reliance",
    "unbeaten",
    "write_findings",
    "write_reliance",
]

BESIDE = tuple(kind for kind in CONTROLS if kind != "random")
"""Kinds of controls that stand beside every number; `random` compares with a model that the study lists."""
BENEATH = ("majority", "mismatched", "rest", "unseen")
"""Kinds that a verdict is made of."""


def find(results: Results, chosen: Iterable[Result] | None = None) -> list[Finding]:
    """Return all that results tell, the most important first: what was shown, large before small; then the rest.

    Every model answers at the layer chosen on the validation part. Holm's correction runs over all tests of a family
    (see `compared.CONTROLS`). The same results give the same findings, whatever their order in the file.

    Args:
        results: the folder, with the predictions.
        chosen: results of one run; None: all that the folder holds.

    Raises:
        DataError: predictions are missing or damaged, or `chosen` mixes runs that differ in limit or data.
    """
    answers = choose(results.all() if chosen is None else chosen)
    described = results.description() if (results.folder / "study.json").exists() else {}
    tests = compare_all(answers, Reader(results), architectures_of(described))
    blind = unseeing(answers)
    findings = [_of_test(test) for test in tests] + [_of_unseeing(answer) for answer in blind]
    by_model: dict[tuple[str, str, str], dict[str, Compared]] = {}
    for test in tests:
        if test.kind in BENEATH:
            by_model.setdefault(_whose(test.first), {})[test.kind] = test
    unread = {_whose(answer) for answer in blind}
    for whose, inside in by_model.items():
        if "majority" in inside and (whose in unread or {"mismatched", "rest"} <= inside.keys()):
            findings.append(_of_verdict(inside))
    return sorted(findings, key=_importance)


def headlines(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that say something of their own, in their order: a verdict stands for what it is made of."""
    judged = {_whose(each) for each in findings if each.verdict}
    known = {_whose(each) for each in findings if each.kind == "majority" and each.significant}

    def told(finding: Finding) -> bool:
        if finding.kind in BESIDE:
            return unbeaten(finding) and _whose(finding) in known
        return finding.kind not in BENEATH or _whose(finding) not in judged

    return [finding for finding in findings if told(finding)]


def unbeaten(finding: Finding) -> bool:
    """Say whether a probe was not shown to be better than a control: news where it beats the majority class."""
    return finding.kind in BESIDE and not (finding.significant and finding.effect > 0)


def _whose(each: Answer | Finding) -> tuple[str, str, str]:
    return each.task, each.model, each.stage


def _importance(finding: Finding) -> tuple[object, ...]:
    """Return what sorts findings: of a verdict, the size is how far the probe is above the majority."""
    scores = finding.scores
    size = scores["matched"] - scores["majority"] if finding.verdict else finding.effect
    known = (not finding.significant, 0.0 if math.isnan(size) else -abs(size))
    return *known, *_whose(finding), finding.kind, finding.statement


def _of_test(test: Compared) -> Finding:
    found = test.comparison
    control = test.second.words if test.control == "words" else test.control
    names = (test.first.condition, control or test.second.condition)
    if test.kind in ("stage", "stage-loss", "random"):
        names = (f"{test.first.model} ({test.first.stage})", f"{test.second.model} ({test.second.stage})")
    return Finding(
        task=test.first.task,
        model=test.first.model,
        stage=test.first.stage,
        kind=test.kind,
        statement=sentence(test),
        effect=found.difference,
        interval=found.interval,
        p=found.p,
        corrected=test.corrected,
        smallest=found.smallest,
        scores=dict(zip(names, found.scores, strict=True)),
        layers=(*filter(None, (test.first.layer, layer_of(test))), *(each.layer for each in test.wrong)),
        n=found.n,
        groups=found.groups,
        significant=bool(test.sign),
    )


def _of_unseeing(matched: Answer) -> Finding:
    return Finding(
        task=matched.task,
        model=matched.model,
        stage=matched.stage,
        kind="unseen",
        statement=unseeing_sentence(matched),
        effect=math.nan,
        interval=(math.nan, math.nan),
        p=math.nan,
        corrected=math.nan,
        smallest=math.nan,
        scores={},
        layers=(matched.layer,),
        n=0,
        groups=0,
        significant=False,
    )


def _of_verdict(tests: Mapping[str, Compared]) -> Finding:
    """Return a verdict with the numbers of matched against mismatched, or against the majority where that is all."""
    word = verdict(tests)
    scores = [_of_test(tests[kind]).scores for kind in ("rest", "mismatched", "majority") if kind in tests]
    return replace(
        _of_test(tests["mismatched" if "mismatched" in tests else "majority"]),
        kind="verdict",
        statement=verdict_sentence(word, tests),
        scores={name: score for each in scores for name, score in each.items()},
        significant=tests["majority"].sign > 0,
        verdict=word,
    )
