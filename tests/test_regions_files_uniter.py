"""UNITER's npz files and LMDBs: plain arrays of numbers, and nothing else of what they could hold."""

import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_regions import OUTPUTS, example, made, read, write, write_npz

from vlprobe.errors import BadRow, DataError
from vlprobe.regions import open_regions
from vlprobe.regions.formats import FORMATS


def test_an_independent_reading_of_uniters_databases_agrees(tmp_path):
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    wanted = made(3, count=12)
    for form in ("uniter-lmdb", "uniter-lmdb-compressed"):
        path = write(form, tmp_path / OUTPUTS[form], ("COCO_val2014_000000000042", wanted))
        with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as values:
            assert json.loads(values.get(b"__keys__")) == ["coco_val2014_000000000042.npz"]
            value = values.get(b"coco_val2014_000000000042.npz")
        if form == "uniter-lmdb":
            packed = msgpack.unpackb(value)
            arrays = {
                name: np.frombuffer(held[b"data"], held[b"type"]).reshape(held[b"shape"])
                for name, held in packed.items()
            }
        else:
            arrays = dict(np.load(io.BytesIO(value)))
        sides = wanted.boxes[:, 2:] - wanted.boxes[:, :2]
        np.testing.assert_array_equal(arrays["norm_bb"], np.concatenate([wanted.boxes, sides], 1))
        np.testing.assert_array_equal(arrays["features"], wanted.features)
        np.testing.assert_array_equal(arrays["conf"], wanted.confidence)
        np.testing.assert_array_equal(arrays["soft_labels"], wanted.probabilities)
        assert json.loads((tmp_path / "nbb_th0.2_max100_min10.json").read_text()) == {
            "coco_val2014_000000000042.npz": 12
        }


def test_float16_is_widened(tmp_path):
    half = made(1).features.astype(np.float16)
    write_npz(tmp_path, "1.npz", made(1), features=half)
    found = read(tmp_path).features
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.astype(np.float64))


def test_box_counts_beside_a_database_cut_it(tmp_path):
    path = write("uniter-lmdb", tmp_path / OUTPUTS["uniter-lmdb"], ("1", made(1, count=12)))
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"1.npz": 10}')
    assert len(read(path).boxes) == 10
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"1.npz": 13}')
    with pytest.raises(DataError, match="says 13 boxes, and the entry holds 12"):
        read(path)
    turned = made(2, count=12)
    turned = replace(turned, confidence=turned.confidence[::-1].copy())
    write("uniter-lmdb", path, ("2", turned), ("3", replace(turned, confidence=None)))
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text('{"2.npz": 10, "3.npz": 10}')
    np.testing.assert_array_equal(read(path, "2.jpg").features, turned.features[2:])
    with pytest.raises(BadRow, match="entry '3.npz': 12 boxes without confidences"):
        read(path, "3.jpg")


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_pickles_in_archives_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "1.npz", norm_bb=np.array([Evil()], dtype=object), features=np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"1.npz holds Python objects \(a pickle\)"):
        open_regions(".", folder=tmp_path)
    (tmp_path / "1.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"1.npz holds Python objects \(a pickle\)"):
        open_regions(".", folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-40], "is not a whole npz archive"),
        (lambda data: data[:200] + bytes(60) + data[260:], "is not a whole npz archive"),
        (lambda _: b"", "is not a whole npz archive"),
    ],
)
def test_a_damaged_npz_is_told(tmp_path, spoil, said):
    for name in ("1.npz", "2.npz"):
        write_npz(tmp_path, name, made(1))
    (tmp_path / "2.npz").write_bytes(spoil((tmp_path / "2.npz").read_bytes()))
    with pytest.raises(BadRow, match=rf"t.csv, row 2: .*2.npz {said}"):
        read(tmp_path, "2.jpg")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"norm_bb": np.zeros((4, 6))}, "lengths differ: 4 boxes and 5 features"),
        ({"norm_bb": np.zeros(5)}, "norm_bb has shape"),
        ({"norm_bb": np.zeros((0, 6)), "features": np.zeros((0, 6))}, "at least one"),
        ({"features": np.array(["a"] * 5)[:, None]}, "features are <U1; expected numbers"),
        ({"features": np.zeros((5, 6), complex)}, "features are complex128"),
        ({"conf": np.zeros((5, 2))}, "confidence have shape"),
        ({"soft_labels": np.zeros((3, 2))}, "lengths differ: 5 boxes and 3 probabilities"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, changed, said):
    write_npz(tmp_path, "1.npz", made(1))
    write_npz(tmp_path, "2.npz", made(1), **changed)
    with pytest.raises(BadRow, match=said):
        read(tmp_path, "2.jpg")


def test_other_archives_are_told_from_uniters(tmp_path):
    np.savez(tmp_path / "1.npz", x=np.zeros((2, 3)), bbox=np.zeros((2, 4)))
    with pytest.raises(DataError, match="no array 'norm_bb'.*this one none of them"):
        open_regions(".", folder=tmp_path)


def put(path, **values):
    lmdb = pytest.importorskip("lmdb")
    path.mkdir(exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


def nd(key=b"nd", value=True):
    """Return msgpack of two arrays of one region; something about them may be said otherwise."""
    msgpack = pytest.importorskip("msgpack")
    array = {b"nd": True, b"type": b"<f4", b"kind": b"", b"shape": [1, 6], b"data": bytes(24), key: value}
    return msgpack.packb({"norm_bb": array, "features": array})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: nd() + b"x", "is not whole msgpack"),
        (lambda: nd()[:-4], "is not whole msgpack"),
        (lambda: pickle.dumps(Evil()), "is a pickle"),
        (lambda: pytest.importorskip("msgpack").packb({"norm_bb": 3}), "expected a mapping of names to arrays"),
        (
            lambda: pytest.importorskip("msgpack").packb(pytest.importorskip("msgpack").ExtType(4, b"x")),
            "expected a map",
        ),
        (lambda: nd(b"type", b"O"), "an array of type 'O'"),
        (lambda: nd(b"type", b"|O8"), r"an array of type '\|O8'"),
        (lambda: nd(b"type", b"<U4"), "an array of type '<U4'"),
        (lambda: nd(b"type", [["a", "O"]]), "an array of type"),
        (lambda: nd(b"type", b"<f1"), "an array of type '<f1'"),
        (lambda: nd(b"kind", b"O"), "an array of type '<f4'"),
        (lambda: nd(b"nd", False), "an array of type"),
        (lambda: nd(b"shape", [2, 6]), "has 24 bytes, expected 48"),
        (lambda: nd(b"shape", [-1, 6]), "an array of shape"),
        (lambda: nd(b"shape", [2**62, 2**62]), "expected"),
    ],
)
def test_what_a_database_may_not_hold(tmp_path, monkeypatch, value, said):
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "db", **{"__keys__": b'["1.npz"]', "1.npz": value()})
    with pytest.raises(DataError, match=said):
        open_regions(str(path), folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_voltas_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "db", keys=pickle.dumps([b"1"]), **{"1": pickle.dumps(Evil())})
    with pytest.raises(DataError, match=r"volta LMDB, whose values are pickles.*Use volta.s .h5 file"):
        open_regions(str(path), folder=tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_the_extra_array_of_old_archives_is_no_trouble(tmp_path):
    buffer = io.BytesIO()
    regions = made(1)
    norm = np.concatenate([regions.boxes, regions.boxes[:, :2]], 1)
    arrays = {"norm_bb": norm, "features": regions.features, "conf": regions.confidence}
    np.savez_compressed(buffer, **arrays, **{"allow_pickle2": np.array(False)})
    value = buffer.getvalue().replace(b"allow_pickle2", b"allow_pickle_")
    path = put(tmp_path / "db", **{"__keys__": b'["1.npz"]', "1.npz": value})
    np.testing.assert_array_equal(read(path).features, regions.features)


def test_a_database_that_was_cut_off_does_not_end_the_process(tmp_path):
    path = write("uniter-lmdb", tmp_path / "feat.lmdb", *((str(n), made(n, width=600)) for n in range(6)))
    whole = (path / "data.mdb").read_bytes()
    for length in (len(whole) // 2, 8192, 100):
        (path / "data.mdb").write_bytes(whole[:length])
        code = f"from pathlib import Path; import vlprobe.regions as r; r.open_regions({str(path)!r}, folder=Path())"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ended.returncode == 1
        assert "DataError" in ended.stderr
        assert "cut off" in ended.stderr or "cannot be opened as an LMDB" in ended.stderr


def test_a_database_without_its_list_of_names_is_read(tmp_path):
    path = put(tmp_path / "db", **{"1.npz": nd(), "2.npz": nd()})
    assert open_regions(str(path), folder=tmp_path).entries.names == ["1.npz", "2.npz"]


def test_one_database_may_be_open_twice(tmp_path):
    path = write("uniter-lmdb", tmp_path / "db", ("1", made(1)))
    one, two = (open_regions(str(path), folder=tmp_path) for _ in range(2))
    np.testing.assert_array_equal(
        one.regions([example(Path("1.jpg"))])[0].features, two.regions([example(Path("1.jpg"))])[0].features
    )


def test_a_database_grows_past_its_first_map(tmp_path, monkeypatch):
    pytest.importorskip("lmdb")
    writer = FORMATS["uniter-lmdb"].writer(tmp_path / "db")
    writer._size = 1 << 16
    with writer:
        for number in range(8):
            writer.write(str(number), made(number, width=2048))
    assert len(open_regions("db", folder=tmp_path).entries.names) == 8
