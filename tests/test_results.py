"""The results folder: predictions beside every result, written first, made again where they are lost."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from test_study import study
from toys import Toy
from vlprobe.errors import DataError
from vlprobe.predictions import KINDS
from vlprobe.results import Results, write_result
from vlprobe.statistics import score
from vlprobe.types import Predictions, Result, Sent

RESULT = Result(
    task="t", level="language", model="m", stage="pretrained", revision="r", condition="matched", layer="language.0",
    unit="input: cls", probe="logistic", seed=0, control="", metric="accuracy", score=0.5, interval=(0.2, float("nan")),
    validation=float("nan"), l2=1.0, n_train=4, n_test=2, key="abc",
)  # fmt: skip
ANSWERS = Predictions(
    id=np.array(["é", "b"]), index=np.array([0, 3], np.int32), group=np.array(["g", "h"]),
    target=np.array(["x", "y"]), predicted=np.array(["x", "x"]),
)  # fmt: skip


def equal(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in KINDS
    )


def test_predictions_come_back_as_they_were(tmp_path):
    Results(tmp_path).add(RESULT, ANSWERS)
    again = Results(tmp_path)
    assert equal(again.predictions("abc"), ANSWERS)
    numbers = replace(ANSWERS, target=np.array([1.5, -2.0]), predicted=np.array([1e-300, np.pi]))
    again.add(replace(RESULT, key="def"), numbers)
    assert equal(Results(tmp_path).predictions("def"), numbers)


def test_what_was_sent_comes_back_with_its_bits(tmp_path):
    sent = Sent(**vars(ANSWERS), bits=np.array([2.0, 0.125]))
    Results(tmp_path).add(RESULT, sent)
    again = Results(tmp_path).predictions("abc")
    assert isinstance(again, Sent) and equal(again, ANSWERS) and (again.bits == sent.bits).all()
    with pytest.raises(DataError, match="'bits' is int64"):
        Results(tmp_path).add(replace(RESULT, key="def"), replace(sent, bits=np.array([1, 2])))


def test_predictions_are_there_before_their_result(tmp_path, monkeypatch):
    results = Results(tmp_path)
    monkeypatch.setattr(
        "vlprobe.results.write_result", lambda result: (tmp_path / "predictions" / "abc.npz").read_bytes()
    )
    with pytest.raises(TypeError):  # bytes and a newline: the file was there when the line was made
        results.add(RESULT, ANSWERS)
    assert equal(results.predictions("abc"), ANSWERS)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_that_could_not_be_written_leaves_no_result(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match=r"No space left.*what is finished is kept.*--output"):
        Results(tmp_path).add(RESULT, ANSWERS)
    assert Results(tmp_path).all() == []
    assert not list((tmp_path / "predictions").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["results.jsonl", "study.json"])
def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, monkeypatch, name):
    results = Results(tmp_path)
    results.add(RESULT, ANSWERS)
    results.describe({"kept": 1})
    other = replace(RESULT, key="def")
    opened = Path.open

    def full(path, mode="r", *given, **settings):
        aside = name == "study.json" and path.suffix == ".tmp"
        writes = (aside or path.name == name) and mode != "r"
        return opened(Path("/dev/full") if writes else path, mode, *given, **settings)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"No space left.*what is finished is kept.*--output"):
        results.describe({"kept": 2}) if name == "study.json" else results.add(other, ANSWERS)
    monkeypatch.undo()
    again = Results(tmp_path)
    assert [result.key for result in again.all()] == ["abc"] and again.description() == {"kept": 1}
    again.add(other, ANSWERS)
    assert [result.key for result in Results(tmp_path).all()] == ["abc", "def"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_killed_runs_left_goes_when_the_next_one_starts(tmp_path):
    results = Results(tmp_path)
    results.add(RESULT, ANSWERS)
    places = [folder / name for folder in (tmp_path, tmp_path / "predictions") for name in ("old.tmp", "young.tmp")]
    for path in places:
        path.write_bytes(b"half")
        if path.stem == "old":
            os.utime(path, (time.time() - 7200,) * 2)
    results.describe({})
    assert [path.exists() for path in places] == [False, True, False, True]


def test_two_processes_write_the_same_bytes(tmp_path):
    one, other = Results(tmp_path), Results(tmp_path)
    one.add(RESULT, ANSWERS)
    before = (tmp_path / "predictions" / "abc.npz").read_bytes()
    other.add(RESULT, ANSWERS)
    assert (tmp_path / "predictions" / "abc.npz").read_bytes() == before
    assert [result.key for result in Results(tmp_path).all()] == ["abc"]


def test_a_torn_last_line_is_left_alone_by_a_reader_and_cut_off_by_a_writer(tmp_path):
    results = Results(tmp_path)
    results.add(RESULT, ANSWERS)
    line, other = results.file.read_text(), replace(RESULT, model="other")
    for torn in (line[:40].encode(), line.encode() + line[:40].encode(), line.encode() + "{ä".encode()[:2]):
        results.file.write_bytes(torn)
        known = Results(tmp_path).all()
        assert results.file.read_bytes() == torn
        assert len(known) == torn.count(b"\n")
        Results(tmp_path).add(other)
        assert results.file.read_bytes() == torn[: torn.rfind(b"\n") + 1] + write_result(other).encode() + b"\n"


@pytest.mark.parametrize("spoilt", [b"{", b'"\xc3"'])
def test_a_line_that_is_no_result_is_named(tmp_path, spoilt):
    results = Results(tmp_path)
    results.add(RESULT, ANSWERS)
    results.file.write_bytes(results.file.read_bytes() + spoilt + b"\n")
    with pytest.raises(DataError, match=r"results.jsonl, line 2: not a result of this version.*move the file away"):
        Results(tmp_path)


def test_a_line_ends_where_json_lines_do(tmp_path):
    Results(tmp_path).add(replace(RESULT, task="a\u2028b\x85c"), ANSWERS)
    assert [result.task for result in Results(tmp_path).all()] == ["a\u2028b\x85c"]


def test_the_later_of_two_lines_counts(tmp_path):
    results = Results(tmp_path)
    results.add(RESULT, ANSWERS)
    results.add(RESULT)
    assert len(results.file.read_text().splitlines()) == 1
    results.add(replace(RESULT, score=0.75))
    (result,) = Results(tmp_path).all()
    assert result.score == 0.75


def test_twenty_five_thousand_rows_are_small(tmp_path):
    rng = np.random.default_rng(0)
    sentence = np.sort(rng.integers(0, 2000, 25_000))
    tags = np.array("NOUN VERB ADJ ADV DET PRON PROPN ADP AUX CCONJ SCONJ PUNCT NUM PART INTJ SYM X".split())
    target = rng.choice(tags, len(sentence))
    name = np.array([f"en_ewt-ud-test-{number:05d}" for number in sentence])
    predicted = np.where(rng.random(len(target)) < 0.9, target, rng.choice(tags, len(target)))
    index = np.arange(len(sentence), dtype=np.int32) % 30
    Results(tmp_path).add(RESULT, Predictions(name, index, name, target, predicted))
    assert (tmp_path / "predictions" / "abc.npz").stat().st_size < 200_000


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a flipped byte": lambda path: path.write_bytes(_flip(path.read_bytes())),
    "not an archive": lambda path: path.write_bytes(b"hello"),
    "objects": lambda path: np.savez(path, **dict.fromkeys(KINDS, np.array([{}], dtype=object))),
    "uneven": lambda path: np.savez(path, **_arrays(path) | {"target": np.array(["a"])}),
    "a column too few": lambda path: np.savez(path, id=np.array(["a"])),
}


def _flip(data):
    at = data.index(b"predicted.npy") + 60
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def _arrays(path):
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "missing"])
def test_damaged_predictions_are_an_error_that_names_the_file(tmp_path, kind):
    Results(tmp_path).add(RESULT, ANSWERS)
    DAMAGE[kind](tmp_path / "predictions" / "abc.npz")
    with pytest.raises(DataError, match=r"abc\.npz.*run the study again"):
        Results(tmp_path).predictions("abc")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, study(folder, conditions=["matched", "mismatched"]).run()


@pytest.mark.parametrize("kind", DAMAGE)
def test_lost_predictions_are_made_again(finished, kind):
    folder, results = finished
    key = next(r.key for r in results if r.layer == "joint.1" and not r.control and r.condition == "mismatched")
    path = folder / "predictions" / f"{key}.npz"
    before, lines = path.read_bytes(), (folder / "results.jsonl").read_bytes()
    DAMAGE[kind](path)
    model = Toy()
    assert study(folder, [model], conditions=["matched", "mismatched"]).run() == results
    assert path.read_bytes() == before
    assert (folder / "results.jsonl").read_bytes() == lines
    assert not model.seen  # from the features that are there
    said = json.loads((folder / "study.json").read_text())["computed_again"]
    assert said == ["colour, toy, mismatched, seed 0, joint.1: its predictions were missing or damaged"]


def test_a_folder_from_before_predictions_is_computed_again(tmp_path, finished):
    folder, results = finished
    (tmp_path / "results.jsonl").write_bytes((folder / "results.jsonl").read_bytes())
    old = Results(tmp_path)
    assert (old.all(), old.known, len(old.bare)) == ([], {}, len({result.key for result in results}))
    opened = study(tmp_path, conditions=["matched", "mismatched"])
    assert opened.plan().probes == len(old.bare)
    assert opened.run() == results


def test_every_result_has_the_answers_that_it_was_scored_on(finished):
    folder, results = finished
    there = Results(folder)
    for result in results:
        answers = there.predictions(result.key)
        assert score(answers.target, answers.predicted, result.metric) == result.score
        assert len(answers.id) == result.n_test == len(set(zip(answers.id, answers.index, strict=True)))
    assert {result.control for result in results} == {
        "", "majority", "bag-of-words", "n-grams", "pixels", "shuffled-labels",
    }  # fmt: skip
    matched, mismatched = (
        there.predictions(next(r.key for r in results if r.condition == condition and r.layer == "joint.1"))
        for condition in ("matched", "mismatched")
    )
    assert np.array_equal(matched.id, mismatched.id) and np.array_equal(matched.target, mismatched.target)
