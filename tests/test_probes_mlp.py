"""The probe with one hidden layer: finds what no line can, nothing where nothing is, the same each time."""

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from vlprobe.errors import DataError
from vlprobe.probes.linear import Logistic, Split, Standardise, probe
from vlprobe.probes.mlp import mlp
from vlprobe.probes.salin2022 import Protocol, salin2022
from vlprobe.statistics import score

pytestmark = pytest.mark.usefixtures("one_thread")


def crossed(rows, seed, width=6):
    """Return labels that say whether two signs agree: no line tells."""
    X = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return Split(X * [1, 100, 1, 1, 1e-3, 1] + 50, np.where(X[:, 0] * X[:, 1] > 0, "same", "other"))


def parts(make, rows=500):
    return [make(rows, seed=1), make(150, seed=2), make(300, seed=3)]


def test_it_finds_what_no_line_can():
    train, validation, test = parts(crossed)
    found = mlp(train, validation, test, seed=0)
    reached = score(test.y, found.predicted, "accuracy")
    assert reached > 0.85 > 0.6 > score(test.y, probe(Logistic, train, validation, test).predicted, "accuracy")
    assert found.validation > 0.8
    scale = Standardise(train.X)
    referee = MLPClassifier((128,), alpha=0, early_stopping=True, max_iter=200, random_state=0)
    theirs = score(test.y, referee.fit(scale(train.X), train.y).predict(scale(test.X)), "accuracy")
    assert reached > theirs - 0.03


def test_it_finds_nothing_where_nothing_is():
    def null(rows, seed):
        rng = np.random.default_rng(seed)
        return Split(rng.normal(size=(rows, 10)).astype(np.float32), rng.choice(["a", "b"], rows))

    train, validation, test = parts(null)
    scores = [score(test.y, mlp(train, validation, test, seed).predicted, "accuracy") for seed in range(3)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.06)


def test_numbers():
    def squares(rows, seed):
        X = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
        return Split(X, 1000 + 50 * (X[:, 0] ** 2).astype(float))

    train, validation, test = parts(squares)
    found = mlp(train, validation, test, seed=0)
    assert score(test.y, found.predicted, "r2") > 0.85
    assert 0.8 < found.validation <= 1
    nothing = Split(train.X, np.random.default_rng(0).permutation(train.y))
    wrong = Split(validation.X, np.random.default_rng(1).permutation(validation.y))
    assert -0.2 < score(test.y, mlp(nothing, wrong, test, 0).predicted, "r2") < 0.1


def test_a_seed_gives_the_same_answers_and_another_one_others():
    rows = [Split(part.X, np.random.default_rng(9).permutation(part.y)) for part in parts(crossed, 200)]
    first, again, other = (mlp(*rows, seed=seed).predicted for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("trained", ["mlp", "salin2022"])
def test_it_trains_on_one_thread_and_gives_the_others_back(monkeypatch, trained):
    train, validation, test = parts(crossed, 100)
    seen = []
    monkeypatch.setattr(f"vlprobe.probes.{trained}.score", lambda *_: seen.append(torch.get_num_threads()) or 0.5)
    torch.set_num_threads(2)
    if trained == "mlp":
        mlp(train, validation, test, seed=0)
    else:
        salin2022(train, test, 0, Protocol(epochs=1))
    assert set(seen) == {1} and torch.get_num_threads() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_what_the_processor_finds():
    train, validation, test = parts(crossed)
    for answer in (
        lambda device: mlp(train, validation, test, seed=0, device=device).predicted,
        lambda device: salin2022(train, test, 0, Protocol(epochs=5), device).predicted,
    ):
        assert (answer("cuda") == answer("cpu")).mean() > 0.95


def test_test_targets_take_no_part_and_the_global_generator_is_left_alone():
    train, validation, test = parts(crossed, 200)
    before = torch.random.get_rng_state()
    first = mlp(train, validation, test, seed=0)
    turned = mlp(train, validation, Split(test.X, test.y[::-1]), seed=0)
    assert (first.predicted == turned.predicted).all() and first.validation == turned.validation
    assert (torch.random.get_rng_state() == before).all()


def test_what_cannot_be_learnt_is_said():
    train, validation, test = parts(crossed, 200)
    bad = Split(train.X.copy(), train.y)
    bad.X[7, 2] = np.nan
    with pytest.raises(DataError, match="features of the train part, row 7, column 2: nan"):
        mlp(bad, validation, test, seed=0)
    one = [Split(part.X, np.full(len(part.y), "a")) for part in (train, validation, test)]
    with pytest.raises(DataError, match="one class only: all 350 rows are 'a'"):
        mlp(*one, seed=0)
