"""Examples made when they are looked at are those that were read; a ledger is a dictionary, records are a list."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toys import colour_task
from vlprobe import Example, Task
from vlprobe.digest import digest
from vlprobe.errors import DataError
from vlprobe.examples import BLOCK, BLOCKS, Examples, together
from vlprobe.ledger import KEY, Ledger, key_of
from vlprobe.pairing import derange, pair
from vlprobe.records import BUFFER, Records
from vlprobe.stored import Span, StoredImage
from vlprobe.tasks.rows import Draft, grouped

IMAGES = (
    None,
    Path("/a folder/x é.png"),
    b"\x00bytes\xff",
    StoredImage("ab" * 32, Path("shard.tar"), Span(5, 7), "x.png"),
    StoredImage("cd" * 32, Path("cache/cd"), Span(0, 4)),
)


def drafts(count, tied=True):
    made = []
    for i in range(count):
        text = f"text {i}\n \ud800 猫" if i % 3 else None
        boxes = ((0.1, 1 / 3, 1, 1.0),) * (i % 2)
        image = IMAGES[i % len(IMAGES)]
        example = Example(f"e{i}", "", text, image, ("a", None, 0.1 * i), ((0, 4), (5, 6)), boxes, f"t.csv, row {i}")
        ties = (("group", f"g{i * 7 % 40}"),) if tied else ()
        made.append(Draft(("train", "test", "validation")[i % 3], example, f"g{i * 7 % 40}" if tied else f"e{i}", ties))
    return made


@pytest.mark.parametrize("count", [7, 500, BLOCK * BLOCKS + 300])
@pytest.mark.parametrize("tied", [True, False])
def test_what_was_read_comes_back(count, tied):
    made = drafts(count, tied)
    splits = grouped(made)
    for name, examples in splits.items():
        here = [draft for draft in made if draft.split == name]
        expected = [replace(draft.example, group=draft.label, ties=draft.ties) for draft in here]
        assert list(examples) == expected
        assert [type(example.image) for example in examples] == [type(example.image) for example in expected]
        assert [examples[i].image for i in (0, -1)] == [expected[i].image for i in (0, -1)]
        for i in np.random.default_rng(0).permutation(len(expected))[:300]:
            assert examples[int(i)] == expected[i]
        for example, other in zip(examples, expected, strict=True):
            if isinstance(example.image, StoredImage):
                assert (example.image.file, example.image.where) == (other.image.file, other.image.where)
        names = sorted({draft.label for draft in made})
        assert [names[rank] for rank in examples.ranks] == [example.group for example in expected]


def test_groups_are_components_called_by_their_smallest_label():
    draw = np.random.default_rng(1)
    made = []
    for i in range(400):
        ties = tuple(("text", str(draw.integers(600))) for _ in range(2))
        made.append(Draft("all", Example(f"{i}", "", "t", None, ("a",)), f"{i}", ties))
    members = {i: {i} for i in range(400)}  # a slow definition: merge until nothing changes
    for i in range(400):
        for k in range(i):
            if set(made[i].ties) & set(made[k].ties) and members[i] is not members[k]:
                members[i] |= members[k]
                for each in members[i]:
                    members[each] = members[i]
    assert max(map(len, members.values())) > 10
    examples = grouped(made)["all"]
    assert [example.group for example in examples] == [min(map(str, members[i])) for i in range(400)]
    order = sorted({example.group for example in examples})
    assert examples.ranks.tolist() == [order.index(example.group) for example in examples]


@pytest.mark.parametrize("label", ["x" * 200, "end\0", "\ud800"])
def test_labels_of_any_kind_are_in_order(label):
    labels = ["b", label, "a", label + "b", "猫", label[:-1]]
    made = [Draft("all", Example(f"{i}", "", "t", None, ("a",)), name, ()) for i, name in enumerate(labels)]
    assert grouped(made)["all"].ranks.tolist() == [sorted(labels).index(name) for name in labels]


def test_a_view_shows_what_a_list_would():
    task = colour_task()
    examples = grouped([Draft("all", e, e.group, ()) for e in task.splits["all"]])["all"]
    assert examples == task.splits["all"]
    assert examples != task.splits["all"][:-1] and examples != (*task.splits["all"][1:], task.splits["all"][0])
    for condition in ("matched", "mismatched", "text-only", "image-only"):
        for level in ("multimodal", "vision"):
            assert pair(examples, condition, level, 3, "test") == pair(task.splits["all"], condition, level, 3, "test")
    some = examples[10:200:3]
    assert some == task.splits["all"][10:200:3]
    halves = [pair(part, "mismatched", "multimodal", 0, "test") for part in (examples[:100], examples[100:])]
    assert together(halves) == (*halves[0], *halves[1])
    with pytest.raises(IndexError):
        some[len(some)]


def test_names_and_their_numbers_draw_the_same_mismatch():
    draw = np.random.default_rng(2)
    for seed in range(50):
        groups = [f"g{i}" for i in draw.integers(15, size=40)]
        texts = [f"t{i}" for i in draw.integers(30, size=40)]
        numbers = np.unique(groups, return_inverse=True)[1]
        contents = np.unique(texts, return_inverse=True)[1]
        donors = derange(groups, texts, seed, "test")
        np.testing.assert_array_equal(donors, derange(numbers, contents, seed, "test"))
        for receiver, donor in enumerate(donors):
            assert groups[receiver] != groups[donor] and texts[receiver] != texts[donor]


def test_facts_are_of_all_splits():
    examples = colour_task().splits["all"]
    task = Task("t", "multimodal", "word", ("a",), {"train": examples, "test": Examples.of(examples[:3])})
    facts = task.facts
    assert (facts.text, facts.image, facts.one_target, facts.masked) == (True, True, True, True)
    other = replace(task, splits={"train": [replace(examples[0], text="no mask", image=None, target=("a", "b"))]})
    facts = other.facts
    assert (facts.text, facts.image, facts.one_target, facts.masked) == (True, False, False, False)


def test_a_ledger_is_a_dictionary(monkeypatch):
    monkeypatch.setattr("vlprobe.ledger.NEW", 50)
    draw = np.random.default_rng(3)
    ledger, known = Ledger(), {}
    for turn in range(3000):
        key = key_of(str(draw.integers(1500)))
        assert ledger.get(key) == known.get(key, -1) and (key in ledger) == (key in known)
        assert ledger.setdefault(key, turn) == known.setdefault(key, turn)
        if turn % 500 == 0:
            keys = [key_of(str(i)) for i in draw.choice(1500, 200, replace=False)]
            ledger.put(np.array(keys, KEY), np.arange(200) + turn)
            known |= dict(zip(keys, range(turn, turn + 200), strict=True))
    assert len(ledger) == len(known)
    asked = [*known, key_of("never")]
    assert ledger.find(np.array(asked, KEY)).tolist() == [known.get(key, -1) for key in asked]
    assert [bytes(key) for key in ledger.keys().view(np.uint8).reshape(-1, 16)] == sorted(known)
    assert len(ledger._runs) < 8


def test_a_key_may_end_in_zeros():
    ledger = Ledger()
    keys = [b"a" * 15 + b"\0", b"a" * 14 + b"\0\0", b"\0" * 16]
    for number, key in enumerate(keys):
        assert ledger.setdefault(key, number) == number
    assert ledger.find(np.array(keys, KEY)).tolist() == [0, 1, 2]
    assert [ledger.get(key) for key in keys] == [0, 1, 2]


def test_records_are_a_list_also_beyond_memory():
    draw = np.random.default_rng(4)
    records, held = Records(), []
    while sum(map(len, held)) < 3 * BUFFER:
        record = draw.bytes(int(draw.integers(0, 5000)))
        assert records.add(record) == len(held)
        held.append(record)
        i = int(draw.integers(len(held)))
        assert records[i] == held[i]
    assert len(records) == len(held)
    assert records.between(3, len(held) - 2) == held[3:-2]
    assert records.between(5, 5) == []
    assert records._file is not None and records[0] == held[0] and records[len(held) - 1] == held[-1]


def test_records_without_room_say_where(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLPROBE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="examples cannot be kept in .*file.*VLPROBE_CACHE"):
        Records().add(bytes(BUFFER + 1))


def test_a_digest_of_what_is_not_held_is_that_of_a_list():
    rows = [[f"é{i}", i, None, ("a", 0.1)] for i in range(1000)]
    assert digest(1, iter(rows), {"b": [1], "a": None}) == digest(1, rows, {"a": None, "b": [1]})
    assert digest({"b": iter(rows), "a": iter(())}, "x") == digest({"a": [], "b": rows}, "x")
    assert digest(iter(())) == digest([]) != digest()
    said = json.dumps([1, rows], sort_keys=True, separators=(",", ":"))
    assert digest(1, iter(rows)) == hashlib.sha256(said.encode()).hexdigest()
