"""Layers that are read back one after another, in parts."""

from dataclasses import replace

import numpy as np
import pytest

from toys import Toy, colour_task
from vlprobe.extraction import ImageDigests, Reader, compute, features, request
from vlprobe.extraction.reading import Memory
from vlprobe.store import Store

PARTS = (np.arange(59, 20, -2), np.array([3, 1, 4, 15]), np.arange(5))
FIELDS = ("X", "y", "group", "id", "index")


def held(folder, asked_of):
    """Return an extraction, computed, of examples that are asked about some of their words each."""
    examples = colour_task(60).splits["all"]
    targets = [tuple(f"{i} {k}" if k < asked_of(i) else None for k in range(5)) for i in range(len(examples))]
    examples = [replace(each, target=target) for each, target in zip(examples, targets, strict=True)]
    extraction = request(Toy(), examples, "word", "first", ImageDigests())
    compute(Toy(), [extraction], Store(folder))
    return extraction


@pytest.mark.parametrize("asked_of", [lambda i: 1, lambda i: 1 + i % 5], ids=["one-word", "some-words"])
def test_parts_are_the_rows_of_their_examples_in_their_order(tmp_path, asked_of):
    extraction = held(tmp_path, asked_of)
    reader = Reader(extraction, Store(tmp_path), PARTS)
    for layer in ("joint.0", "joint.1", "joint.0"):
        whole = features(extraction, Store(tmp_path), layer)
        for part, found in zip(PARTS, reader.read(layer), strict=True):
            ids = [extraction.examples[i].id for i in part.tolist()]
            rows = [row for name in ids for row in np.flatnonzero(whole.id == name)]
            assert len(rows) == sum(map(asked_of, part.tolist()))
            for field in FIELDS:
                np.testing.assert_array_equal(getattr(found, field), getattr(whole, field)[rows])
            assert (found.layer, found.key) == (layer, whole.key)
            assert found.X.flags.c_contiguous


def test_rows_that_somebody_looks_at_are_not_written_over(tmp_path):
    extraction = held(tmp_path, lambda i: 1)
    reader = Reader(extraction, Store(tmp_path))
    (first,) = reader.read("joint.1")
    kept, known = first.X[3:9].T, first.X[3:9].T.copy()
    del first
    (second,) = reader.read("joint.0")  # narrower: it would fit
    (third,) = reader.read("joint.1")
    np.testing.assert_array_equal(kept, known)
    assert not np.shares_memory(kept, third.X) and not np.shares_memory(second.X, third.X)


def test_memory_is_lent_again_when_nobody_looks():
    memory = Memory()
    rows = memory((10, 4))
    where, view = rows.ctypes.data, rows[2:].reshape(-1)[3:]
    assert memory((10, 4)).ctypes.data != where
    del rows
    assert memory((10, 4)).ctypes.data != where
    del view
    again = memory((4, 10))
    assert again.ctypes.data == where
    assert (again.shape, again.dtype, again.flags.writeable) == ((4, 10), np.float32, True)
    del again
    assert memory((20, 4)).shape == (20, 4)
    assert memory((0, 4)).shape == (0, 4)


def test_targets_cannot_be_changed_for_the_next_layer(tmp_path):
    (found,) = Reader(held(tmp_path, lambda i: 1), Store(tmp_path)).read("joint.0")
    with pytest.raises(ValueError, match="read-only"):
        found.y[0] = "x"
