"""The published protocol: as its authors ran it, and by how much choosing on the test part flatters it."""

import numpy as np
import pytest
import torch

from vlprobe.digest import generator
from vlprobe.errors import DataError
from vlprobe.probes.linear import Logistic, Split, probe
from vlprobe.probes.salin2022 import PUBLISHED, RUNS, Protocol, salin2022
from vlprobe.statistics import score

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(count, seed, width=20, classes="abc", signal=1.0):
    X = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32) * 2 + 0.5
    weights = np.random.default_rng(99).normal(size=(width, len(classes)))
    noise = np.random.default_rng(seed + 1).gumbel(size=(count, len(classes)))
    return Split(X, np.array(list(classes))[(signal * (X - 0.5) @ weights + noise).argmax(1)])


def slowly(train, test, seed, protocol, numbers=False):
    """Run the protocol one run at a time with torch's own layer, its weights and batches as the probe drew them."""
    classes = np.unique(train.y)
    width, columns = train.X.shape[1], 1 if numbers else len(classes)
    draw, orders = generator(seed, "salin2022", "weights"), generator(seed, "salin2022", "batches")
    weights, bias = (draw.uniform(-1, 1, (RUNS, *shape)) * width**-0.5 for shape in ((width, columns), (1, columns)))
    order = [[orders.permutation(len(train.y)) for _ in range(RUNS)] for _ in range(protocol.epochs)]
    y = torch.from_numpy(train.y.astype(np.float32) if numbers else np.searchsorted(classes, train.y))
    answers = []
    for run in range(RUNS):
        layer = torch.nn.Linear(width, columns)
        layer.weight.data = torch.from_numpy(weights[run].T.astype(np.float32))
        layer.bias.data = torch.from_numpy(bias[run, 0].astype(np.float32))
        optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
        best = []
        for epoch in range(protocol.epochs):
            for batch in torch.from_numpy(order[epoch][run]).split(protocol.batch):
                outputs = layer(torch.from_numpy(train.X)[batch])
                loss = (
                    torch.nn.MSELoss()(outputs[:, 0], y[batch])
                    if numbers
                    else torch.nn.CrossEntropyLoss()(outputs, y[batch])
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            outputs = layer(torch.from_numpy(test.X)).detach().numpy()
            answer = outputs[:, 0] if numbers else classes[outputs.argmax(1)]
            loss = np.mean((answer - test.y) ** 2) if numbers else np.mean(answer != test.y)
            best.append((loss, epoch + 1, answer))
        answers.append(min(best, key=lambda each: each[:2]))
    return answers


@pytest.mark.parametrize("numbers", [False, True])
def test_it_is_the_published_protocol(numbers):
    train, test = rows(90, 0), rows(60, 5)
    if numbers:
        train, test = (Split(part.X, (part.y == "a") + part.X[:, 0].astype(float)) for part in (train, test))
    protocol = Protocol(epochs=8, batch=16)
    ours, theirs = salin2022(train, test, 3, protocol), slowly(train, test, 3, protocol, numbers)
    assert ours.epochs == tuple(epoch for _, epoch, _ in theirs)
    for run in range(RUNS):
        if numbers:
            np.testing.assert_allclose(ours.predicted[run], theirs[run][2], rtol=1e-4, atol=1e-5)
            assert ours.scores[run] == pytest.approx(1 - theirs[run][0] / test.y.var(), rel=1e-4)
        else:
            assert (ours.predicted[run] == theirs[run][2]).all()
            assert ours.scores[run] == pytest.approx(1 - theirs[run][0])


def test_hyperparameters_are_the_papers():
    assert (Protocol().epochs, Protocol().batch, RUNS) == (30, 16, 5)
    assert {task: (each.epochs, each.batch) for task, each in PUBLISHED.items()} == {
        "flowers": (30, 56), "pos-tagging": (50, 256),
    }  # fmt: skip


def test_it_finds_what_is_there():
    found = salin2022(rows(400, 0), rows(200, 5), 0, Protocol())
    assert min(found.scores) > 0.8


def test_on_null_data_it_is_above_chance_and_the_linear_probe_is_not():
    """Labels are independent of the features: whatever is above one half was gained by choosing on the test part."""
    published, last, ours = [], [], []
    for repetition in range(24):
        train, validation, test = (
            rows(count, 1000 * repetition + seed, width=100, classes="ab", signal=0.0)
            for count, seed in ((96, 0), (32, 10), (50, 20))
        )
        both = Split(np.concatenate([train.X, validation.X]), np.concatenate([train.y, validation.y]))
        runs = salin2022(both, test, repetition, Protocol())
        published.append(np.mean(runs.scores))
        last.append(np.mean(runs.last))
        ours.append(score(test.y, probe(Logistic, train, validation, test).predicted, "accuracy"))
    error = (0.25 / 50 / len(ours)) ** 0.5  # of a mean of accuracies on 50 coins
    assert np.mean(published) > 0.5 + 3 * error
    assert abs(np.mean(ours) - 0.5) < 2 * error
    assert abs(np.mean(last) - 0.5) < 2 * error
    gained = np.subtract(published, last)
    assert (gained >= 0).all() and gained.mean() > 0.04 > 5 * gained.std() / len(gained) ** 0.5


def test_a_seed_gives_the_same_answers_and_runs_differ():
    train, test = rows(90, 0, signal=0.1), rows(60, 5, signal=0.1)
    first, again, other = (salin2022(train, test, seed, Protocol(epochs=3)) for seed in (0, 0, 1))
    assert (first.predicted == again.predicted).all()
    assert (first.predicted != other.predicted).any()
    assert len({tuple(run) for run in first.predicted}) > 1


def test_what_cannot_be_learnt_is_said():
    train, test = rows(90, 0), rows(60, 5)
    bad = Split(train.X.copy(), train.y)
    bad.X[7, 2] = np.inf
    with pytest.raises(DataError, match="features of the train part, row 7, column 2: inf"):
        salin2022(bad, test, 0, Protocol())
    with pytest.raises(DataError, match="one class only, 'a'"):
        salin2022(Split(train.X, np.full(90, "a")), test, 0, Protocol())
    with pytest.raises(DataError, match="no epoch of a run of salin2022 has a score"):
        salin2022(Split(train.X, np.zeros(90)), Split(test.X, np.ones(60)), 0, Protocol(epochs=2))
