"""What words alone tell: the controls `bag-of-words` and `n-grams` on the test part, and the words that they go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlprobe.audit.asked import LIMIT, Asked, asked_of
from vlprobe.audit.fault import Case, Fault, NotRun, Said, Severity, share
from vlprobe.audit.noise import contradicted
from vlprobe.audit.subject import SEED, Subject
from vlprobe.comparisons import compare
from vlprobe.controls.words import probe_words
from vlprobe.errors import DataError
from vlprobe.probes.linear import Probed
from vlprobe.statistics import LEVEL, interval, score
from vlprobe.types import SPLITS, Predictions

GRAMS = {"bag-of-words": 1, "n-grams": 2}
"""Longest run of words that is counted."""
TELLING = 5
"""So many words are named."""
SURE = 10.83
"""The 0.1 % point of a likelihood ratio with one degree of freedom; for the number of words, 2 log of it is added."""
MANY = 0.05
"""Share of test rows that leak, from which the scores with the leaking rows are told."""


def words(subject: Subject) -> Iterator[Said]:
    """Score what words tell on the test part, beside the majority; name the words; hint at labels that they contradict.

    Units are cut as a study does with seed 0 and `bad_rows: skip`, so that the scores are those of its controls. Where
    that leaves out train rows that share a group with many test rows, the scores with these rows are told, too.
    """
    try:
        asked = asked_of(subject)
        # What is learnt of one word by heart is no matter of leaks.
        leaking = (
            asked_of(subject, leaks=True) if isinstance(asked, Asked) and asked.whole and _leaks(subject) else None
        )
    except DataError as error:
        yield NotRun("words", str(error))
        return
    if isinstance(asked, NotRun):
        yield asked
        return
    told = {name: _probe(asked, grams) for name, grams in GRAMS.items()}
    figures = _figures(asked, told, asked.parts["test"].features().group)
    yield _fault(subject, asked, figures, "")
    if isinstance(leaking, Asked):
        loose = {name: _probe(leaking, grams) for name, grams in GRAMS.items()}
        kept = _figures(leaking, loose, _groups(subject, leaking))
        yield _fault(subject, leaking, kept, "with the train rows that share a group with test: ")
    if asked.whole and asked.metric == "accuracy" and figures["tells"]:
        yield from _telling(asked)
    yield from contradicted(subject, asked, GRAMS[max(told, key=lambda name: told[name].validation)])


def _leaks(subject: Subject) -> bool:
    """Whether many test rows share a group with train."""
    if subject.uncut:
        return False
    held = {row.example.group for row in subject.parts["train"]}
    tested = subject.parts["test"]
    return sum(row.example.group in held for row in tested) > MANY * len(tested)


def _groups(subject: Subject, asked: Asked) -> np.ndarray:
    """Return (row,) the groups of the test rows, which were taken from them."""
    group = {row.example.id: row.example.group for row in subject.parts["test"]}
    return np.array([group[example.id] for example in asked.parts["test"].examples])


def _probe(asked: Asked, grams: int) -> Probed:
    train, validation, test = (asked.words(part, grams) for part in SPLITS)
    return probe_words((train, validation, test), (asked.labels("train"), asked.labels("validation")), asked.metric)


def _figures(asked: Asked, told: Mapping[str, Probed], group: np.ndarray) -> dict[str, Any]:
    """Return score, interval and p by control, what the majority scores, and whether any is shown to differ from it.

    p is that of the exchange test against the majority's answers on the same units, times the number of controls.
    """
    test, metric = replace(asked.parts["test"].features(), group=group), asked.metric
    fitted = np.concatenate([asked.labels("train"), asked.labels("validation")])
    answer = fitted.mean() if metric == "r2" else _commonest(fitted)
    same = np.full(len(test.y), answer)
    majority = score(test.y, same, metric)
    figures: dict[str, Any] = {}
    for name, probed in told.items():
        answers = [Predictions(test.id, test.index, group, test.y, each) for each in (probed.predicted, same)]
        figures[name] = {
            "score": score(test.y, probed.predicted, metric),
            "interval": interval(test.y, probed.predicted, group, metric),
            "p": min(compare(answers[0], answers[1], SEED).p * len(told), 1.0),
        }
    shown = [figures[name]["score"] - majority for name in told if figures[name]["p"] <= LEVEL]
    more = {"majority": majority, "tells": any(gain > 0 for gain in shown), "misleads": any(gain < 0 for gain in shown)}
    return figures | more | {"metric": metric, "train_units": len(fitted), "test_units": len(test.y)}


def _fault(subject: Subject, asked: Asked, figures: Mapping[str, Any], opening: str) -> Fault:
    shown = ", ".join(
        f"{name} {figures[name]['score']:.3f} [{figures[name]['interval'][0]:.3f}, {figures[name]['interval'][1]:.3f}]"
        for name in GRAMS
    )
    called = {"accuracy": "accuracy", "r2": "R²"}[asked.metric]
    count = figures["test_units"]
    of = len(subject.parts["train"])
    opening += f"trained on {LIMIT:,} of {of:,} train rows: " if of > LIMIT else ""
    statement = f"{opening}{called} on test without any image: {shown}, majority {figures['majority']:.3f}"
    cure = ""
    if figures["misleads"]:
        cure = "text that train labels one way test labels the other way: what a probe learns by heart lowers its score"
    elif figures["tells"] and subject.task.level != "language":
        cure = "the text tells: hold probes against these, not against the majority"
    severity: Severity = "warning" if cure else "note"
    return Fault("words", severity, count, count, statement, cure, (), figures)


def _commonest(y: np.ndarray) -> str:
    values, counts = np.unique(y, return_counts=True)
    return str(values[counts.argmax()])


def _telling(asked: Asked) -> Iterator[Fault]:
    """Name the words that go with a label most: found on train and validation, counted on test."""
    fitted = [*asked.words("train", 1), *asked.words("validation", 1)]
    labels = np.concatenate([asked.labels("train"), asked.labels("validation")])
    tested, answers = asked.words("test", 1), asked.labels("test")
    shares = {name: count / len(labels) for name, count in Counter(labels.tolist()).items()}
    held = _counts(fitted, labels)
    ranked = sorted(
        ((_surprise(counts, name, shares[name]), word, name) for word, counts in held.items() for name in counts),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    best: dict[str, str] = {}
    for surprise, word, name in ranked:
        if len(best) < TELLING and surprise > SURE + 2 * np.log(len(held)):
            best.setdefault(word, name)
    seen = _counts(tested, answers)
    cases = tuple(Case(word, "", _often(name, held[word], seen.get(word, Counter()))) for word, name in best.items())
    if cases:
        statement = f"the words that go with a label most: {', '.join(repr(case.id) for case in cases)}"
        yield Fault("telling words", "note", len(cases), len(held), statement, "", cases)


def _often(name: str, fitted: Counter[str], tested: Counter[str]) -> str:
    counts = (f"{share(held[name], held.total())} in {part}" for part, held in (("train", fitted), ("test", tested)))
    return f"label {name}: {', '.join(counts)}"


def _counts(texts: Sequence[list[str]], labels: np.ndarray) -> dict[str, Counter[str]]:
    """Return word -> label -> number of texts with that label that hold the word."""
    held: dict[str, Counter[str]] = {}
    for words, label in zip(texts, labels.tolist(), strict=True):
        for word in sorted(set(words)):
            held.setdefault(word, Counter())[label] += 1
    return held


def _surprise(counts: Counter[str], name: str, expected: float) -> float:
    """Return G² = 2 n KL(share of the label among texts with the word, share among all), 0 where it is the lesser."""
    n = counts.total()
    met = counts[name] / n
    if met <= expected or expected >= 1:
        return 0.0
    rest = (1 - met) * np.log((1 - met) / (1 - expected)) if met < 1 else 0.0
    return float(2 * n * (met * np.log(met / expected) + rest))
