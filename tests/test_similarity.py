"""How alike layers are: CKA against its slow definition, both controls, and the same items in the same order."""

import itertools
import json
import math

import numpy as np
import pytest

from test_study import study
from toys import Toy, colour_task
from vlprobe.cells import Layers
from vlprobe.errors import DataError
from vlprobe.similarity import measure
from vlprobe.similarity.alike import read_similarity
from vlprobe.similarity.cka import biased_cka, cka
from vlprobe.similarity.measure import chosen_items, items_of, rows_of
from vlprobe.store import Damaged
from vlprobe.types import Features


def draw(rows, *widths, seed=0):
    numbers = np.random.default_rng(seed)
    return [numbers.normal(size=(rows, width)) for width in widths]


def hsic(K, L):
    """The unbiased estimate as it is defined: over all quadruples of different items (Song et al. 2012, equation 3)."""
    quadruples = list(itertools.permutations(range(len(K)), 4))
    return sum(K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in quadruples) / len(quadruples)


def test_it_is_the_definition():
    X, Y = draw(9, 3, 5)
    Y[:, 0] += 2 * X[:, 1]
    K, L = X @ X.T, Y @ Y.T
    expected = hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))
    assert cka([X, Y])[0, 1] == pytest.approx(expected, abs=1e-6)


def test_the_biased_one_is_as_published():
    X, Y = draw(30, 4, 50)
    Y[:, :4] += X
    A, B = X - X.mean(axis=0), Y - Y.mean(axis=0)
    norm = np.linalg.norm
    expected = norm(B.T @ A) ** 2 / (norm(A.T @ A) * norm(B.T @ B))  # Kornblith et al. 2019, equation 5
    assert biased_cka([X, Y])[0, 1] == pytest.approx(expected, abs=1e-6)


def test_a_rotation_a_scale_and_a_shift_change_nothing():
    (X,) = draw(40, 12)
    turned = 1e6 * X @ np.linalg.qr(draw(12, 12, seed=1)[0])[0] + 1e7
    wider = np.concatenate([X, np.zeros((40, 30))], axis=1)
    for made in (cka, biased_cka):
        assert made([X, turned.astype(np.float64), wider]) == pytest.approx(np.ones((3, 3)), abs=1e-5)
    stretched = X * np.geomspace(1, 30, 12)
    assert cka([X, stretched])[0, 1] < 0.9  # other directions count for more


@pytest.mark.parametrize("width", [5, 300])
def test_where_nothing_is_in_common_it_is_near_zero(width):
    """On average over 60 draws, with fewer and with many more features than items; the biased one is far from it."""
    pairs = [draw(60, width, width, seed=seed) for seed in range(60)]
    found = np.array([cka(pair)[0, 1] for pair in pairs])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(60) and found.std() < 0.1
    biased = np.mean([biased_cka(pair)[0, 1] for pair in pairs])
    assert biased > (0.75 if width == 300 else 0.05)


def test_what_is_in_common_is_found_whatever_the_number_of_items():
    """Half of the variance is shared: 0.5 of many items, and of few ones; the biased one sees more in few."""
    wide = {}
    for rows in (40, 2000):
        shared, own, other = draw(rows, 20, 20, 20)
        pair = [np.hstack([shared, own]), np.hstack([shared, other])]
        wide[rows] = cka(pair)[0, 1], biased_cka(pair)[0, 1]
    assert wide[2000] == pytest.approx((0.5, 0.5), abs=0.03)
    assert abs(wide[40][0] - 0.5) < 0.12 and wide[40][1] > 0.65


def test_a_layer_that_is_the_same_for_all_items_is_told():
    (X,) = draw(20, 4)
    same = np.ones((20, 4), np.float32)
    noisy = same + 1e-7 * draw(20, 4, seed=1)[0].astype(np.float32)  # batches of other shapes round otherwise
    found = cka([X, same, noisy, np.zeros((20, 4))])
    assert found[0, 0] == pytest.approx(1) and np.isnan(found).sum() == 15


def part(ids, index=None, group=None, seed=0):
    ids = np.array(ids)
    index = np.zeros(len(ids), np.int32) if index is None else np.array(index, np.int32)
    X = np.random.default_rng(seed).normal(size=(len(ids), 3)).astype(np.float32)
    return Features("joint.1", X, ids, ids if group is None else np.array(group), ids, index, "k")


def test_rows_are_the_same_items_in_the_same_order():
    ids = [f"e{i}" for i in range(30)]
    first, second = part(ids), part(ids[:4] + ids[5:][::-1], seed=1)
    names = chosen_items([first, second], True, 0, "t")
    assert sorted(names) == sorted({*ids} - {"e4"})
    for each in (first, second):
        rows = rows_of(each, names, True)
        assert all((row == each.X[each.id.tolist().index(name)]).all() for row, name in zip(rows, names, strict=True))
    mine = cka([rows_of(first, names, True), rows_of(second, names, True)])[0, 1]
    assert mine != pytest.approx(cka([first.X[:29], second.X])[0, 1], abs=1e-3)  # as they lie, they are others


def test_a_word_among_many_is_an_item_of_its_own():
    one = part(["a", "a", "b"], [0, 3, 0])
    assert items_of(one, False) == ["a\x1f0", "a\x1f3", "b\x1f0"]
    text, picture = part(["a", "b"], [2, 5]), part(["a", "b"], [0, 0])
    assert chosen_items([text, picture], True, 0, "t") == ["a", "b"]


def test_one_item_of_a_group_and_no_more_than_are_useful(monkeypatch):
    ids = [f"e{i:03}" for i in range(100)]
    grouped = part(ids, group=[f"g{i // 4}" for i in range(100)])
    names = chosen_items([grouped], True, 0, "t")
    assert len(names) == 25 == len({int(name[1:]) // 4 for name in names})
    assert names == chosen_items([grouped], True, 0, "t") != chosen_items([grouped], True, 1, "t")
    assert any(int(name[1:]) % 4 for name in names)
    monkeypatch.setattr(measure, "MOST", 10)
    few = chosen_items([grouped], True, 0, "t")
    assert len(few) == 10 and set(few) < set(names)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    models = [Toy(), Toy("twin"), Toy("reader", ("text",)), Toy("viewer", ("image",))]
    opened = study(folder, models, conditions=["matched", "mismatched"], seeds=[3, 4], controls=["majority"])
    opened.run()
    return opened


def test_a_run_tells_how_alike_layers_are(finished):
    (found,) = read_similarity(finished.output).tasks
    names = [(each.model, each.layer) for each in found.layers]
    assert names == [
        (model, layer) for model in ("toy", "twin", "reader", "viewer") for layer in ("joint.0", "joint.1")
    ] + [("viewer", "joint.pooler")]  # the viewer is asked about the whole image, a word has no pooler
    matrix = np.array(found.cka)
    at = {name: place for place, name in enumerate(names)}
    assert matrix == pytest.approx(matrix.T, nan_ok=True)
    assert matrix[at["toy", "joint.1"], at["twin", "joint.1"]] == pytest.approx(1, abs=1e-5)
    assert matrix[at["toy", "joint.1"], at["viewer", "joint.1"]] > 0.5  # both hold the image's colour
    assert abs(matrix[at["reader", "joint.1"], at["viewer", "joint.1"]]) < 0.2  # nothing in common
    assert math.isnan(matrix[at["toy", "joint.0"], 0])  # the embedding of [MASK] is that of every text
    assert (found.seed, found.task) == (3, "colour") and 15 <= found.n <= 25  # a third of 60 groups


def test_what_is_there_is_not_computed_again(finished, monkeypatch):
    before = (finished.output / "similarity.json").stat().st_mtime_ns
    monkeypatch.setattr(measure, "cka", None)
    finished.run()
    assert (finished.output / "similarity.json").stat().st_mtime_ns == before


def test_what_the_store_lacks_is_named(finished):
    path = finished.output / "similarity.json"
    before = read_similarity(finished.output)
    path.unlink()
    viewer = next(home for home in finished.store().homes() if "viewer" in (home / "manifest.json").read_text())
    moved = viewer.rename(viewer.with_suffix(".away"))
    try:
        finished.run()
        after = read_similarity(finished.output)
        assert after.lacking == ("colour, viewer: its representations are no longer in the store",)
        assert {each.model for each in after.tasks[0].layers} == {"toy", "twin", "reader"}
    finally:
        moved.rename(viewer)
    finished.run()  # they are there again
    assert str(read_similarity(finished.output)) == str(before)


def test_a_damaged_shard_is_named(finished, monkeypatch):
    """The probes are done by then: a run does not fail over it."""
    path = finished.output / "similarity.json"
    text, read = path.read_text(), Layers.read

    def damaged(self, layer):
        if layer == "joint.0":
            raise Damaged(finished.output / "x.safetensors", "its checksum is another")
        return read(self, layer)

    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Layers, "read", damaged)
        finished.run()
    found = read_similarity(finished.output)
    assert (
        not found.tasks
        and found.lacking[0].startswith("colour: ")
        and "x.safetensors: its checksum" in found.lacking[0]
    )
    path.write_text(text)


def test_a_damaged_file_is_made_anew(finished):
    path = finished.output / "similarity.json"
    text = path.read_text()
    path.write_text(text[:100])
    with pytest.raises(DataError, match=r"similarity.json: cannot be read .* run the study again"):
        read_similarity(finished.output)
    finished.run()
    assert path.read_text() == text and "NaN" not in text and None in json.loads(text)["tasks"][0]["cka"][0]


def test_too_few_items_are_told(tmp_path):
    opened = study(tmp_path, tasks=[colour_task(60, 12)], controls=["majority"])
    opened.run()
    found = read_similarity(opened.output)
    assert not found.tasks and found.lacking == ("colour: its layers have items of 4 groups in common; 8 are needed",)
