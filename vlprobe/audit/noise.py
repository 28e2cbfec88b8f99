"""Hints at wrong labels: texts whose words contradict theirs, and words that are tagged now so, now otherwise."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from vlprobe.audit.asked import Asked
from vlprobe.audit.fault import Case, Fault, NotRun, Said, share
from vlprobe.audit.subject import SEED, Subject, shortened
from vlprobe.controls.words import form_of
from vlprobe.digest import generator
from vlprobe.statistics import interval
from vlprobe.types import SPLITS, Example

FOLDS = 5
"""Each row is judged by a probe that saw no row of its group."""
SURE = 0.9
"""A row is contradicted if a probe gives another label at least this probability."""
STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
"""L2 of the mean loss, strong to weak, until probabilities become less true."""
CURE = "read them: a wrong label, or a text that misleads"


def contradicted(subject: Subject, asked: Asked, grams: int) -> Iterator[Said]:
    """Find rows whose words, by a probe trained on the other groups, surely go with another label.

    Only where words tell at all: elsewhere a contradiction says nothing. To be sure to 90 % is to be wrong now and
    then; how often is told beside the count. Probabilities are out of sample, as in Northcutt, Jiang & Chuang
    (2021), and of the strength of L2 that makes them truest (the least cross-entropy).

    Args:
        subject: the task.
        asked: its units.
        grams: what is counted of a text.
    """
    if not asked.whole:
        yield from _variation(subject)
        return
    if asked.metric == "r2":
        yield NotRun("label noise", "the labels are numbers")
        return
    held = [asked.parts[part].features() for part in SPLITS]
    y, group = (np.concatenate([getattr(each, name) for each in held]) for name in ("y", "group"))
    classes, place = np.unique(y, return_inverse=True)
    chances = _chances([words for part in SPLITS for words in asked.words(part, grams)], place, group)
    answer, sure = classes[chances.argmax(axis=1)], chances.max(axis=1)
    if not interval(y, answer, group, "accuracy")[0] > np.bincount(place).max() / len(y):
        yield NotRun("label noise", "words do not tell the labels, so they cannot contradict them")
        return
    wrong = np.flatnonzero((answer != y) & (sure >= SURE))
    if not len(wrong):
        return
    expected, bold = float((1 - sure[sure >= SURE]).sum()), int((sure >= SURE).sum())
    examples = [example for part in SPLITS for example in asked.parts[part].examples]
    cases = tuple(_case(examples[i], y[i], answer[i], sure[i]) for i in wrong[np.argsort(-sure[wrong], kind="stable")])
    statement = (
        f"the words of {share(len(wrong), len(y))} rows go with another label: a probe trained on other groups is sure "
        f"of that to {SURE:.0%} or more. It is so sure of {bold:,} rows, and should be wrong about {expected:.1f} times"
    )
    figures = {"sure": bold, "expected": expected}
    yield Fault("label noise", "note", len(wrong), len(y), statement, CURE, cases, figures)


def _case(example: Example, label: object, answer: object, sure: float) -> Case:
    told = f"{label}, but {answer} by its words ({sure:.3f}): {shortened(example.text or '')}"
    return Case(example.id, example.place, told)


def _chances(words: Sequence[list[str]], place: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return (row, class) probabilities: each row's from a probe that was trained without its fold of groups."""
    names = np.unique(group)
    order = generator(SEED, "audit", "folds").permutation(len(names)) % FOLDS
    fold = order[np.searchsorted(names, group)]
    best = np.inf, np.zeros(0)
    for l2 in STRENGTHS:
        chances = np.zeros((len(place), place.max() + 1))
        for k in range(FOLDS):
            _fill(chances, words, place, fold == k, l2)
        loss = -float(np.log(np.maximum(chances[np.arange(len(place)), place], 1e-12)).mean())
        if loss >= best[0]:
            break
        best = loss, chances
    return best[1]


def _fill(chances: np.ndarray, words: Sequence[list[str]], place: np.ndarray, asked: np.ndarray, l2: float) -> None:
    """Fill in the probabilities of the rows that are asked about, from a probe trained on the others."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    fitted, held_out = np.flatnonzero(~asked), np.flatnonzero(asked)
    if not len(held_out) or len(np.unique(place[fitted])) < 2:
        return
    counter = CountVectorizer(analyzer=list, dtype=np.float64, min_df=2)  # of a word seen once nothing is known
    try:
        X = counter.fit_transform([words[i] for i in fitted.tolist()])
    except ValueError:  # no word occurs twice
        return
    probe = LogisticRegression(C=1 / (l2 * len(fitted)), tol=1e-3, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hint needs no optimum
        probe.fit(X, place[fitted])
    chances[np.ix_(held_out, probe.classes_)] = probe.predict_proba(
        counter.transform([words[i] for i in held_out.tolist()])
    )


def _variation(subject: Subject) -> Iterator[Fault]:
    """Find words with two labels inside the same five words (Dickinson & Meurers 2003: variation n-grams)."""
    held: dict[tuple[str, ...], list[tuple[Example, int]]] = {}
    units = 0
    for row in subject.rows:
        example = row.example
        forms = ["", "", *(form_of(example, k) for k in range(len(example.words))), "", ""]
        for k, target in enumerate(example.target):
            if target is not None:
                units += 1
                held.setdefault(tuple(forms[k : k + 5]), []).append((example, k))
    cases: list[Case] = []
    for words, found in held.items():
        labels = Counter(str(example.target[k]) for example, k in found)
        usual = max(sorted(labels), key=labels.__getitem__)
        for example, k in found:
            if len(labels) > 1 and example.target[k] != usual:
                told = f"{words[2]!r} in {' '.join(filter(None, words))!r} is {example.target[k]} here, {usual} in "
                cases.append(Case(example.id, example.place, f"{told}{labels[usual]} of {len(found)}"))
    if cases:
        statement = (
            f"{share(len(cases), units)} words have another label than most that are the same word between the same "
            "two words on either side"
        )
        yield Fault("label noise", "note", len(cases), units, statement, CURE, tuple(cases))
