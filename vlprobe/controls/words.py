"""Controls made of words: what a bag of words, and one- and two-word n-grams, tell without any model.

A text's words are counted; for a word among many of its text, what counts is its own form and, for n-grams, its
neighbours: the most that a lookup table could do.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vlprobe.controls.rows import Rows
from vlprobe.probes.linear import PATIENCE, Probed
from vlprobe.statistics import score
from vlprobe.types import Example

WORD = re.compile(r"\[mask\]|\w+|[^\w\s]")
"""A word of a lower-cased text: letters and digits, a sign, or the mask."""
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2, tried strong to weak, of mean loss + l2/2 |W|²."""
DAMPINGS = (0.0, 0.5)
"""Counts of a word are divided by their root mean square to this power, half way to unit size or not at all. Left as
they are, rare words are heard only at weak L2; where rows are few, chance pairs of words must not be heard louder."""
TOLERANCE = 1e-4
"""scikit-learn's: of the gradient of the mean loss; of ridge regression, of the residual."""
ITERATIONS = 2000
"""At most so many for each fit."""


def words_of(rows: Rows, whole: bool, grams: int) -> list[list[str]]:
    """Return what is counted of each row.

    Args:
        rows: their texts must be shown.
        whole: count the words of the whole text; else the row is a word of it, and its own form is counted.
        grams: 1: words; 2: pairs of neighbours too.
    """
    if whole:
        return [_grams(WORD.findall((example.text or "").lower()), grams) for example in rows.examples]
    return [_around(example, int(k), grams) for example, k in zip(rows.examples, rows.index, strict=True)]


def _grams(words: list[str], grams: int) -> list[str]:
    return words if grams == 1 else [*words, *(" ".join(pair) for pair in pairwise(words))]


def _around(example: Example, k: int, grams: int) -> list[str]:
    """Return the form of word k; for two grams also its neighbours, and the pairs that it makes with them."""
    form = form_of(example, k)
    if grams == 1:
        return [form]
    before = form_of(example, k - 1) if k > 0 else ""
    after = form_of(example, k + 1) if k + 1 < len(example.words) else ""
    return [form, f"{before} <", f"> {after}", f"{before} {form} <", f"> {form} {after}"]


def form_of(example: Example, k: int) -> str:
    """Return word k of an example's text, in lower case."""
    start, end = example.words[k]
    return (example.text or "")[start:end].lower()


def probe_words(
    words: tuple[Sequence[list[str]], Sequence[list[str]], Sequence[list[str]]],
    labels: tuple[np.ndarray, np.ndarray],
    metric: str,
) -> Probed:
    """Probe counts of words as `probe` does features: L2 by the loss on the validation part, then both fitted together.

    The vocabulary is that of the rows that are fitted on; a word that they lack counts for nothing. How loud rare words
    are (`DAMPINGS`) is chosen by the loss there, too, unless more answers are right at the other by twice the standard
    error: a loss also weighs how sure the wrong ones are, and a score of few rows is luck.

    Args:
        words: of the rows of train, validation and test.
        labels: of train and validation.
        metric: `accuracy`: logistic regression; `r2`: ridge regression.
    """
    train, validation, test = words
    said: list[str] = []
    tried = [_chosen(train, validation, labels, damping, _line(metric), said) for damping in DAMPINGS]
    best, *others = sorted(tried, key=lambda each: each.loss)
    best = next((other for other in others if metric == "accuracy" and _surer(other, best, labels[1])), best)
    fitted, asked = _counts([*train, *validation], test, best.damping)
    line = _line(metric)
    _fit(line, fitted, np.concatenate(labels), best.l2, said)
    return Probed(line.predict(asked), score(labels[1], best.answers, metric), best.l2, tuple(said))


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What one strength comes to at one damping."""

    loss: float
    """On the validation part."""
    answers: np.ndarray
    """(row,) to the validation part."""
    l2: float
    """The strength."""
    damping: float
    """One of `DAMPINGS`."""


def _chosen(
    train: Sequence[list[str]],
    validation: Sequence[list[str]],
    labels: tuple[np.ndarray, np.ndarray],
    damping: float,
    line: Any,
    said: list[str],
) -> _Chosen:
    """Return the strength of least loss on the validation part, tried strong to weak until `PATIENCE` runs out."""
    fitted, held_out = _counts(train, validation, damping)
    tried: list[_Chosen] = []
    for l2 in STRENGTHS:
        _fit(line, fitted, labels[0], l2, said)
        tried.append(_Chosen(_loss(line, held_out, labels[1]), line.predict(held_out), l2, damping))
        best = min(tried, key=lambda each: each.loss)
        if len(tried) - tried.index(best) > PATIENCE:
            break
    return best


def _surer(one: _Chosen, other: _Chosen, labels: np.ndarray) -> bool:
    """Tell whether one answers more rows rightly than the other, by over two standard errors of the paired gain."""
    gain = (one.answers == labels).astype(float) - (other.answers == labels)
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)))


def _loss(line: Any, X: Any, y: np.ndarray) -> float:
    """Return the mean cross-entropy, to which labels that were not fitted add nothing, or the mean squared error."""
    if not hasattr(line, "classes_"):
        return float(np.square(line.predict(X) - y).mean())
    at = np.searchsorted(line.classes_, y).clip(max=len(line.classes_) - 1)
    own = line.predict_log_proba(X)[np.arange(len(y)), at]
    return float(np.where(line.classes_[at] == y, -own, 0.0).mean())


def _counts(fitted: Iterable[list[str]], asked: Iterable[list[str]], damping: float) -> tuple[Any, Any]:
    """Return sparse counts (row, word) of both, of the words that the first holds."""
    from scipy.sparse import diags_array
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=list, dtype=np.float64)
    X = vectorizer.fit_transform(fitted)
    scale = diags_array(np.asarray(X.multiply(X).mean(axis=0)).ravel() ** (-damping / 2))
    return (X @ scale).tocsr(), (vectorizer.transform(asked) @ scale).tocsr()


def _line(metric: str) -> Any:
    """Return scikit-learn's estimator; a logistic regression starts each fit where it ended the last."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if metric == "accuracy":
        return LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
    return Ridge(solver="sparse_cg", tol=TOLERANCE, max_iter=ITERATIONS)


def _fit(line: Any, X: Any, y: np.ndarray, l2: float, said: list[str]) -> None:
    """Fit at one strength; that it stopped early goes to `said`."""
    from sklearn.exceptions import ConvergenceWarning

    weight = l2 * len(y)  # scikit-learn sums the loss where we take its mean
    line.set_params(**({"alpha": weight} if "alpha" in line.get_params() else {"C": 1 / weight}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        line.fit(X, y)
    if any(issubclass(each.category, ConvergenceWarning) for each in caught):
        said.append(f"the fit on words at l2 = {l2:g} stopped after {ITERATIONS} iterations, short of its optimum")
