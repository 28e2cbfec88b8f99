"""What is wrong with a data set: every check finds the fault that was planted, in exact numbers, and nothing else."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vlprobe.audit import CHECKS, Fault, NotRun, audit
from vlprobe.audit.near_texts import find_near
from vlprobe.audit.pictures import APART, BITS, FLAT, GAIN, near, scan
from vlprobe.audit.subject import look_at
from vlprobe.tasks import load_task
from vlprobe.tasks.rows import Draft, grouped, plain
from vlprobe.types import Example, Task

RNG = np.random.default_rng(0)


def sentence(i, words=8):
    """A text that is like no other: its words are its own."""
    return " ".join(f"w{i}x{k}" for k in range(words))


def row(part, i, label, text=None, image="", original=None, group=None):
    """A draft as the readers make them."""
    text = sentence(i) if text is None else text
    picture = image if isinstance(image, bytes) else None
    ties = [] if group is None else [("group", group)]
    if group is None:
        ties += [("image", image)] if isinstance(image, str) and image else []
        ties += [("caption", plain(original))] if original else [("text", plain(text))] if text else []
    example = Example(f"r{i}", "", text or None, picture, (label,), place=f"rows.csv, row {i}")
    return Draft(part, example, f"r{i}", tuple(ties))


def made(rows, level="multimodal", images="", skipped=()):
    targets = {target for draft in rows for target in draft.example.target}
    classes = tuple(sorted(target for target in targets if isinstance(target, str)))
    return Task("made", level, "input", classes, grouped(rows), images=images, skipped=tuple(skipped))


def clean(train=80, test=60, label=lambda i: "ab"[i % 2], **more):
    """Rows with nothing wrong: every text, image and group once, labels in turn, which no text tells."""
    parts = ["train"] * train + ["test"] * test
    return [row(part, i, label(i), image=f"{i}.jpg", **more) for i, part in enumerate(parts)]


def found(task, check):
    """Return the faults of one check, by name of the fault."""
    return [said for said in CHECKS[check](look_at(task)) if isinstance(said, Fault)]


def wrong(task, check):
    """Return those that are more than notes."""
    return [fault for fault in found(task, check) if fault.severity != "note"]


def ids(fault):
    return [case.id for case in fault.cases]


def photo(seed, size=(96, 72)):
    """A picture with a pattern of its own, and as bytes of a PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image, form="PNG", **more):
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def test_nothing_is_wrong_with_a_clean_data_set():
    said = audit(made(clean(), images="no image is read: here"))
    assert [fault for fault in said.faults if fault.severity != "note"] == []
    assert said.rows == {"train": 80, "test": 60}
    assert {"shared images by content", "near images", "damaged images", "masks"} <= {n.check for n in said.not_run}
    json.dumps(said.plain(), allow_nan=False)


# What parts share


def test_shared_images_are_counted_with_their_labels():
    rows = clean()
    rows += [row("test", 200, "a", image="0.jpg"), row("test", 201, "b", image="0.jpg")]  # r0 is "a"
    rows += [row("test", 202, "a", image="2.jpg"), row("train", 203, "b", image="2.jpg")]
    (fault,) = wrong(made(rows), "shared")
    assert fault.severity == "error"
    assert (fault.count, fault.of) == (3, 63)
    assert fault.figures == {
        "kinds": ["image", "group"],
        "parts": ["train", "test"],
        "train_rows": 3,
        "other_label": 1,
        "both_label": 1,
        "same_label": 1,
    }
    assert ids(fault) == ["r201", "r202", "r200"]  # the opposite label first
    assert "'w201x0 w201x1" in fault.cases[0].told and "r0 (rows.csv, row 0)" in fault.cases[0].told


def test_texts_originals_and_chains_are_shared():
    rows = clean()
    rows += [row("test", 300, "a", text="W5x0 w5x1  w5x2 w5x3 w5x4 w5x5 w5x6 w5x7", image="300.jpg")]  # the text of r5
    by_kind = {tuple(fault.figures["kinds"]): fault for fault in wrong(made(rows), "shared")}
    assert list(by_kind) == [("text", "group")]
    rows = clean()
    rows += [
        row("train", 400, "b", image="400.jpg", original="A cat. "),
        row("test", 401, "b", image="401.jpg", original="a  CAT."),
    ]
    rows += [row("test", 402, "a", image="401.jpg")]  # tied to the train row through row 401
    by_kind = {tuple(fault.figures["kinds"]): fault for fault in wrong(made(rows), "shared")}
    assert {kinds: ids(fault) for kinds, fault in by_kind.items()} == {
        ("original",): ["r401"],
        ("group",): ["r402", "r401"],
    }


def test_a_text_that_the_groups_allow_to_recur_is_a_warning():
    rows = [row(part, i, "ab"[i % 2], group=f"g{i}") for i, part in enumerate(["train"] * 40 + ["test"] * 40)]
    rows.append(row("test", 100, "a", text=sentence(3), group="g100"))
    (fault,) = wrong(made(rows), "shared")
    assert (fault.severity, fault.figures["kinds"], fault.count) == ("warning", ["text"], 1)


def test_the_same_bytes_under_two_names_are_one_image(tmp_path):
    lines = ["image,text,label,split"]
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(encoded(photo(min(i, 6))))  # 6 and 7 are the same
        lines.append(f"{i}.png,{sentence(i)},{'ab'[i % 2]},{'train' if i < 7 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    task = load_task({"name": "t", "level": "multimodal", "table": "t.csv"}, folder=tmp_path)
    (fault,) = wrong(task, "shared")
    assert (fault.severity, fault.figures["kinds"], ids(fault)) == ("error", ["image", "group"], ["t#9"])
    assert "bad_rows: skip" in fault.cure


# Duplicates


@pytest.mark.parametrize(("level", "repeated"), [("language", 3), ("vision", 2), ("multimodal", 1)])
def test_duplicates_are_those_of_the_side_that_carries_the_label(level, repeated):
    rows = clean()
    rows += [row("train", 500, "a", text=sentence(0), image="0.jpg")]  # r0 again
    rows += [row("train", 501, "a", text=sentence(2), image="501.jpg"), row("train", 502, "a", sentence(2), "502.jpg")]
    rows += [row("train", 503, "a", image="4.jpg")]
    (fault,) = wrong(made(rows, level), "duplicates")
    assert (fault.check, fault.count, fault.of) == ("duplicates", repeated, 84)


def test_conflicting_labels_bound_the_score():
    rows = clean()
    rows += [row("train", 500, "b", text=sentence(0), image="0.jpg"), row("test", 501, "b", sentence(0), "0.jpg")]
    faults = {fault.check: fault for fault in wrong(made(rows), "duplicates")}
    conflict = faults["conflicts"]
    assert (conflict.severity, conflict.count, conflict.figures) == ("error", 3, {"inputs": 1, "best": 2})
    assert ids(conflict) == ["r0", "r500", "r501"]
    assert ids(faults["duplicates"]) == ["r500"]


# Labels and groups


def test_classes_that_a_part_lacks_and_rare_ones():
    rows = clean(label=lambda i: "ab"[i % 2])
    rows += [row("test", 600, "c", image="600.jpg"), row("test", 601, "c", image="601.jpg")]
    rows += [row("train", 602, "d", image="602.jpg")]
    faults = wrong(made(rows), "balance")
    assert [(fault.severity, fault.count, ids(fault)) for fault in faults] == [
        ("error", 2, ["c"]),
        ("warning", 1, ["d"]),
        ("warning", 1, ["d"]),
    ]
    assert "classes that train lacks: 'c'" in faults[0].statement
    assert "fewer than 10 units in train" in faults[2].statement
    assert found(made(rows), "balance")[0].figures["test"] == {"a": 30, "b": 30, "c": 2}


def test_one_class_that_is_nearly_all_is_told():
    rows = clean(label=lambda i: "ab"[i % 7 == 0])
    (fault,) = wrong(made(rows), "balance")
    assert (fault.count, fault.of) == (52, 60)
    assert wrong(made(clean()), "balance") == []


def test_numbers_have_their_range():
    rows = clean(label=lambda i: float(i % 5))
    assert wrong(made(rows), "balance") == []
    rows += [row("test", 700, 9.0, image="700.jpg")]
    (fault,) = wrong(made(rows), "balance")
    assert (fault.count, fault.of) == (1, 61)


def test_classes_that_look_like_numbers_are_told():
    (_, fault) = [fault for fault in found(made(clean(train=300, label=lambda i: str(i % 25))), "balance")
                  if fault.severity == "note"]  # fmt: skip
    assert "all 25 classes are numbers, from 0 to 24" in fault.statement
    padded = made(clean(train=300, label=lambda i: f"{i % 25:03d}"))
    assert len([fault for fault in found(padded, "balance") if fault.severity == "note"]) == 1


def test_few_groups_and_one_that_is_large_are_told():
    rows = [row("train", i, "ab"[i % 2], group=f"g{i}") for i in range(80)]
    rows += [row("test", 100 + i, "ab"[i % 2], group=f"t{min(i, 20)}") for i in range(40)]
    few, large = wrong(made(rows), "groups")
    assert (few.count, few.of) == (21, 40)
    assert (large.count, large.of, ids(large)) == (20, 40, ["r120"])
    assert wrong(made(clean()), "groups") == []


# Texts


def test_masks_that_are_missing_doubled_or_glued():
    texts = {
        "alone": "a [MASK] dog",
        "last": "a dog is [MASK]",
        "doubled": "a [MASK] dog and a [MASK] cat",
        "inside": "a cove[MASK] dog",
        "beside": "a [MASK]-haired dog",
        "missing": "a dog",
    }
    rows = [row("train", i, "a", text=text) for i, text in enumerate(texts.values())]
    faults = {fault.figures["kind"]: (fault.severity, ids(fault)) for fault in found(made(rows), "masks")}
    assert faults == {
        "missing": ("error", ["r5"]),
        "doubled": ("warning", ["r2"]),
        "inside": ("warning", ["r3"]),
        "beside": ("note", ["r4"]),
    }
    assert found(made(rows[:2]), "masks") == []
    assert [type(said) for said in CHECKS["masks"](look_at(made(clean())))] == [NotRun]


def test_texts_that_are_missing_or_longer_than_models_take():
    rows = clean()
    rows += [
        row("train", 800 + i, "a", text=sentence(800 + i, words), image=f"8{i}.jpg")
        for i, words in enumerate((38, 39, 75, 76, 511))
    ]
    rows += [row("test", 810, "a", text="", image="810.jpg")]
    empty, vilt, clip, bert = wrong(made(rows), "lengths")
    assert (empty.severity, ids(empty)) == ("error", ["r810"])
    assert ids(vilt) == ["r804", "r803", "r802", "r801"]
    assert ids(clip) == ["r804", "r803"]
    assert ids(bert) == ["r804"]
    assert wrong(made(clean()), "lengths") == []


def test_a_text_that_names_its_label():
    colours = ["red", "green", "blue", "ice cream"]
    rows = clean(label=lambda i: colours[i % 4])
    assert found(made(rows), "giveaways") == []
    told = [
        row("train", 900 + i, colours[i % 4], text=f"{sentence(900 + i)} {colours[i % 4].upper()}, yes")
        for i in range(12)
    ]
    others = [row("train", 950 + i, colours[i % 4], text=f"{sentence(950 + i)} redder greens") for i in range(12)]
    (fault,) = wrong(made(rows + told + others), "giveaways")
    assert (fault.count, fault.of, fault.figures["naming"]) == (12, 164, 12)
    assert fault.figures["expected"] == pytest.approx(3.0)
    assert ids(fault) == [f"r{900 + i}" for i in range(12)]
    by_chance = [row("train", 900 + i, colours[i % 4], text=f"{sentence(900 + i)} red") for i in range(40)]
    assert found(made(rows + by_chance), "giveaways") == []


def test_a_text_that_names_its_number():
    rows = clean(label=lambda i: float(i % 6))
    rows += [
        row("train", 900 + i, float(n), text=f"{sentence(900 + i)} {w}")
        for i, (n, w) in enumerate([(2, "two"), (3, "3"), (5, "Five")] * 4)
    ]
    (fault,) = wrong(made(rows, "vision"), "giveaways")
    assert fault.count == 12


# Near duplicates


def test_near_texts_differ_in_one_word_or_in_order():
    base = "a small dog runs over the green grass"
    texts = {
        "base": base,
        "signs": "A small dog runs over the green grass .",
        "replaced": "a small cat runs over the green grass",
        "added": "a small dog runs over the very green grass",
        "lacking": "a small dog runs over the grass",
        "order": "a dog small runs over the green grass",
        "two": "a large cat runs over the green grass",
        "elsewhere": "small dog a runs over the cat green grass",
        "shifted": "a dog very runs over the green grass",
    }
    drafts = [row("train", i, "a", text=text, group=f"g{i}") for i, text in enumerate(texts.values())]
    rows = look_at(made(drafts)).rows
    seen = find_near(rows)
    names = dict(zip([r.example.id for r in rows], texts, strict=True))
    twins = {names[twin.example.id] for twin in seen.of(rows[0])}
    # By the definition, slowly: `signs` is the same words, which is not nearly but the same.
    assert twins == {"replaced", "added", "lacking", "order"}
    assert {names[twin.example.id] for twin in seen.of(rows[6])} == {"replaced"}
    together = look_at(made([row("train", i, "a", text=text, group="g") for i, text in enumerate(texts.values())])).rows
    assert [find_near(together).of(each) for each in together] == [[]] * len(texts)


def test_near_texts_across_parts_and_with_other_labels():
    rows = clean()
    rows += [row("test", 1000, "a", text=f"{sentence(0)} more"), row("test", 1001, "a", text=sentence(1, 7) + " other")]
    across, labels = found(made(rows), "near texts")
    assert (across.severity, across.count, across.of) == ("warning", 2, 62)
    assert ids(across) == ["r1001", "r1000"]  # r1 is "b", r0 "a"
    assert across.figures["other_label"] == 1
    assert (labels.severity, ids(labels)) == ("note", ["r1", "r1001"])
    assert found(made(clean()), "near texts") == []


def test_a_template_is_told_and_not_compared_pair_by_pair():
    rows = [row("train", i, "ab"[i % 2], text=f"this is picture number {i} of the set") for i in range(150)]
    said = list(CHECKS["near texts"](look_at(made(rows))))
    assert [type(each) for each in said] == [NotRun]
    assert "150 texts are a template filled in" in said[0].why


def test_near_images_are_found_across_parts():
    def rows(*copies):
        pictures = [encoded(photo(i)) for i in range(30)]
        labelled = [row("train" if i < 20 else "test", i, "ab"[i % 2], image=image) for i, image in enumerate(pictures)]
        return labelled + [row("test", 100 + i, "a", image=image) for i, image in enumerate(copies)]

    assert found(made(rows(), "vision"), "near images") == []
    original = photo(3)
    copies = [
        encoded(original, "JPEG", quality=40),
        encoded(original.resize((48, 36))),
        encoded(ImageEnhance.Brightness(original).enhance(0.7)),
        encoded(original.resize((64, 64))),
    ]
    turned = encoded(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    spoilt = original.copy()
    spoilt.paste((255, 0, 255), (40, 30, 56, 42))
    across, inside = found(made(rows(*copies, turned, encoded(spoilt)), "vision"), "near images")
    assert (across.severity, across.figures["parts"]) == ("warning", ["train", "test"])
    assert sorted(ids(across)) == ["r100", "r101", "r102", "r103"]
    assert all("as r3 " in case.told and "b there" in case.told for case in across.cases)
    assert (inside.severity, sorted(ids(inside))) == ("note", ["r100", "r101", "r102", "r103"])


def test_near_is_what_its_definition_says():
    """Against every pair, one at a time."""
    pictures = [photo(seed) for seed in range(12)]
    pictures += [ImageEnhance.Contrast(picture).enhance(1.2) for picture in pictures[:6]]
    pictures += [Image.new("RGB", (20, 20), (80, 80, 80)), Image.new("RGB", (20, 20), (90, 90, 90))]
    slope = np.linspace(0, 250, 72)[:, None, None] + np.zeros((72, 9, 3))
    for seed in range(2):  # alike to the eye; half of the hash is the same, the other half is not
        noise = [np.random.default_rng(each).integers(0, 5, (1, 9, 1)) for each in (9, seed)]
        pictures.append(Image.fromarray((slope + np.repeat(np.concatenate(noise), 36, axis=0)).astype(np.uint8)))
    known = scan([Example(str(i), "", None, encoded(picture), ("a",)) for i, picture in enumerate(pictures)])
    expected = set()
    others = 0
    for i in range(len(known.order)):
        for j in range(i):
            a, b = (known.thumbnails[k].astype(float) for k in (i, j))
            bits = bin(int(known.hashes[i]) ^ int(known.hashes[j])).count("1")
            if min(a.std(), b.std()) <= FLAT:
                continue
            fits = [np.polyfit(x, y, 1) for x, y in ((a, b), (b, a))]
            apart = max(np.abs(np.polyval(fit, x) - y).max() for fit, x, y in zip(fits, (a, b), (b, a), strict=True))
            alike = apart <= APART and all(1 / GAIN <= fit[0] <= GAIN for fit in fits)
            others += alike and bits > BITS
            if alike and bits <= BITS:
                expected.add(frozenset((known.order[i], known.order[j])))
    assert (len(expected), others) == (6, 1)
    assert {frozenset(pair[:2]) for pair in near(known)} == expected


# Rows and images that cannot be used


def test_rows_that_cannot_be_used_and_damaged_images_are_counted(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(photo(1)))
    (tmp_path / "cut.png").write_bytes(encoded(photo(2))[:200])
    lines = [
        "image,text,label",
        "good.png,a b c,x",
        "cut.png,d e f,y",
        "gone.png,g h i,x",
        "good.png,,x",
        "good.png,j k l,y",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    task = load_task({"name": "t", "level": "multimodal", "table": "t.csv"}, folder=tmp_path, bad_rows="skip")
    left_out, damaged = wrong(task, "unusable")
    assert (left_out.count, left_out.of) == (2, 5)
    assert [(case.place, case.told) for case in left_out.cases] == [
        ("t.csv, row 4", f"image file {tmp_path / 'gone.png'} does not exist"),
        ("t.csv, row 5", "the cell 'text' is empty"),
    ]
    assert (damaged.count, damaged.of, ids(damaged)) == (1, 3, ["t#3"])
    assert "cannot be decoded" in damaged.cases[0].told


def test_a_task_that_cannot_be_cut_says_what_could_not_be_looked_at():
    rows = [row("all", i, "ab"[i % 2], group="one") for i in range(10)]
    said = audit(made(rows))
    assert said.rows == {"all": 10}
    assert any(each.check == "shared" and "at least two groups are needed" in each.why for each in said.not_run)


def test_without_a_test_part_that_of_seed_0_is_looked_at():
    rows = [row("all", i, "ab"[i % 2]) for i in range(90)]
    said = audit(made(rows))
    assert said.rows == {"train": 60, "test": 30}
    assert said.read == ("the data bring no test part: audited is the one that seed 0 draws, by groups",)
