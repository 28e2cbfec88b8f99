"""Positions to units, against a definition written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from toys import Toy, colour_task
from vlprobe.errors import BadRow, StudyError
from vlprobe.pooling import POOLINGS, check_pooling, pool
from vlprobe.types import ROLES, Example, Hidden

BATCH = [
    replace(
        colour_task().splits["all"][0], text="one two three", words=((0, 3), (4, 7), (8, 13)), target=("A", None, "B")
    ),
    replace(colour_task().splits["all"][1], text="four five", words=((0, 4), (5, 9)), target=("A", "C")),
]


def slowly(hidden, i, role, word=None):
    rows = [
        hidden.states[i, j].numpy()
        for j in range(hidden.states.shape[1])
        if ROLES[hidden.role[i, j]] == role and (word is None or hidden.word[i, j] == word)
    ]
    return np.array(rows)


def test_words_first_and_mean():
    hidden = Toy().encode(BATCH)[:2]
    for how, combine in (("first", lambda rows: rows[0]), ("mean", lambda rows: rows.mean(0))):
        for layer, pooled in zip(hidden, pool(hidden, BATCH, "word", how), strict=True):
            expected = [combine(slowly(layer, i, "word", k)) for i, k in ((0, 0), (0, 2), (1, 0), (1, 1))]
            np.testing.assert_allclose(pooled.rows.numpy(), np.array(expected), rtol=1e-6)
            assert pooled.example.tolist() == [0, 0, 1, 1]
            assert pooled.unit.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(("how", "role"), [("words", "word"), ("patches", "patch"), ("cls", "cls"), ("auto", "cls")])
def test_inputs(how, role):
    batch = [replace(e, target=("A",), words=()) for e in BATCH]
    hidden = Toy().encode(batch)[1:2]
    (pooled,) = pool(hidden, batch, "input", how)
    expected = [slowly(hidden[0], i, role).mean(0) for i in range(2)]
    np.testing.assert_allclose(pooled.rows.numpy(), np.array(expected), rtol=1e-5)
    assert pooled.how == ("cls" if how == "auto" else how)


def test_a_layer_without_such_positions_is_left_out():
    hidden = Toy().encode(BATCH)
    assert [p.layer for p in pool(hidden, BATCH, "word", "first")] == ["joint.0", "joint.1"]
    assert [p.layer for p in pool(hidden, [replace(e, target=("A",)) for e in BATCH], "input", "auto")] == list(
        Toy.layers
    )


def grid_hidden():
    """Return 2 x 2 patches whose state is their number, after a position that is nothing."""
    box = np.array(
        [[(np.nan,) * 4, (0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)]], np.float32
    )
    role = np.array([[0, 3, 3, 3, 3]], np.int8)
    states = torch.arange(5.0).reshape(1, 5, 1)
    return Hidden("vision.0", states, role, np.full((1, 5), -1, np.int32), box)


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 0.5, 0.5), 1.0), ((0, 0, 1, 1), 2.5), ((0.25, 0, 0.75, 0.5), 1.5), ((0.6, 0.25, 0.9, 1), (2 + 2 * 4) / 3)],
)
def test_a_box_takes_patches_by_shared_area(box, expected):
    example = Example("e", "g", None, b"", ("A",), (), (box,))
    (pooled,) = pool([grid_hidden()], [example], "region", "box")
    assert pooled.rows.item() == pytest.approx(expected, rel=1e-6)


def test_of_regions_the_best_overlap_counts():
    hidden = replace(grid_hidden(), role=np.array([[0, 4, 4, 4, 4]], np.int8))
    hidden.box[0, 2] = (0, 0, 1, 1)  # holds the box too, with a smaller overlap ratio
    example = Example("e", "g", None, b"", ("A",), (), ((0.05, 0, 0.5, 0.5),))
    (pooled,) = pool([hidden], [example], "region", "box")
    assert pooled.rows.item() == 1.0


def test_a_word_without_a_piece_is_named():
    hidden = Toy().encode(BATCH)
    hidden[0].word[hidden[0].word == 2] = -1
    with pytest.raises(BadRow, match=r"toy.csv, row 2: example e0 has no piece for word 3 \('three'\)"):
        pool(hidden, BATCH, "word", "first")


def test_unknown_pooling():
    with pytest.raises(StudyError, match="did you mean 'first'"):
        check_pooling("word", "frist")
    for unit, hows in POOLINGS.items():
        assert all(check_pooling(unit, how) == how for how in hows)
