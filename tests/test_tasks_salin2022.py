"""The eight tasks: on a small made-up release, and on the authors' files where they are at hand."""

import csv
import pickle
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vlprobe.errors import DataError, StudyError
from vlprobe.tasks import PLACES, TASKS, load_task

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "salin2022"
HEADER = "image_name|comment_number|comment|original|target"


@pytest.fixture(autouse=True)
def no_places(monkeypatch):
    for place in PLACES.values():
        monkeypatch.delenv(place.variable, raising=False)


@pytest.fixture
def real():
    if not REAL.is_dir():
        pytest.skip(f"the released files of Salin et al. are absent: {REAL}")
    return {"salin2022": str(REAL)}


def write_csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\r\n".join([HEADER, *rows]) + "\r\n").encode())


@pytest.fixture
def release(tmp_path):
    """A made-up clone with bigram-shift, colour, flowers, POS and adversarial captions."""
    root = tmp_path / "clone"
    lists = root / "probing_tasks" / "split"
    lists.mkdir(parents=True)
    write_csv(
        root / "datasets" / "flickr_3000_bshift.csv",
        '1.jpg|0| A "red dog runs .| A "red dog runs .|0',
        "2.jpg|0| A runs dog .| A dog runs .|1",
        "3.jpg|0| Two cats sit .| a  DOG runs . |0",
        "4.jpg|0| Sit two cats .| Two cats sit .|1",
    )
    (lists / "bshift_test.txt").write_text("3\n4.jpg\n")
    write_csv(
        root / "datasets" / "flickr_3000_colors.csv",
        "1.jpg|0| A cove[MASK] dog in a [MASK] coat .| A covered dog in a red coat .|red",
        "2.jpg|0| A [MASK]-haired boy| A red-haired boy|red",
    )
    (lists / "colors_val_fnames.txt").write_text("2.jpg\n")
    write_csv(root / "datasets" / "flickr_3000.csv", "1.jpg|0| Dogs don't bark .| Dogs don't bark .|3")
    write_csv(root / "datasets" / "flower_data.csv", *(f"image_{i:05d}.jpg|0| | |0" for i in range(1, 5)))
    savemat(lists / "imagelabels.mat", {"labels": np.array([[102, 1, 10, 2]], np.uint8)})
    savemat(
        lists / "setid.mat",
        {
            "trnid": np.array([[2]], np.uint16),
            "valid": np.array([[4]], np.uint16),
            "tstid": np.array([[1, 3]], np.uint16),
        },
    )
    for part, rows in {
        "train": ("coco_val2014_000000000007.jpg|0|a cat|a cat|0", "coco_val2014_000000000008.jpg|0|a bus|A cat |1"),
        "val": ("coco_val2014_000000000007.jpg|0|a dog|a cat|1",),
    }.items():
        write_csv(root / "datasets" / f"coco_altercap_uniter_{part}.csv", *rows)
    return root


def load(release, spec, **more):
    data = {"salin2022": "clone", **more.pop("data", {})}
    return load_task(spec, data=data, folder=release.parent, **more)


# The made-up release


def test_a_listed_image_is_in_test_with_and_without_jpg(release):
    task = load(release, "bigram-shift")
    assert [e.id for e in task.splits["train"]] == ["1.jpg#0", "2.jpg#0"]
    assert [e.id for e in task.splits["test"]] == ["3.jpg#0", "4.jpg#0"]
    assert (task.level, task.unit, task.classes) == ("language", "input", ("0", "1"))


def test_quotes_stay_and_the_leading_blank_goes(release):
    example = load(release, "bigram-shift").splits["train"][0]
    assert example.text == 'A "red dog runs .'
    assert example.place == "flickr_3000_bshift.csv, row 2"


def test_group_joins_equal_originals_whatever_their_capitals_and_blanks(release):
    groups = {e.id: e.group for part in load(release, "bigram-shift").splits.values() for e in part}
    assert groups == {"1.jpg#0": "1.jpg", "2.jpg#0": "2.jpg", "3.jpg#0": "2.jpg", "4.jpg#0": "4.jpg"}


def test_grouped_hands_all_rows_to_the_cut(release):
    assert {k: len(v) for k, v in load(release, {"name": "bigram-shift", "split": "grouped"}).splits.items()} == {
        "all": 4
    }


def test_the_mask_that_stands_alone_carries_the_colour(release):
    task = load(release, "color")
    train, test = task.splits["train"][0], task.splits["test"][0]
    assert [train.text[a:b] for a, b in train.words] == ["A", "cove", "[MASK]", "dog", "in", "a", "[MASK]", "coat", "."]
    assert train.target == (None, None, None, None, None, None, "red", None, None)
    assert [test.text[a:b] for a, b in test.words] == ["A", "[MASK]", "-haired", "boy"]
    assert test.target == (None, "red", None, None)


def test_flowers_swap_the_sets_as_the_authors_did_and_have_no_text(release):
    task = load(release, "flowers")
    assert [(e.id, e.target) for e in task.splits["train"]] == [
        ("image_00001.jpg#0", ("102",)),
        ("image_00003.jpg#0", ("010",)),
    ]
    assert [(e.id, e.target) for e in task.splits["test"]] == [("image_00002.jpg#0", ("001",))]
    assert task.options["unused_rows"] == 1
    assert {e.text for part in task.splits.values() for e in part} == {None}
    assert len({e.group for part in task.splits.values() for e in part}) == 3  # the blank caption ties nothing
    assert len(load(release, {"name": "flowers", "split": "grouped"}).splits["all"]) == 4


def test_adversarial_groups_reach_over_image_and_original(release):
    task = load(release, "adversarial-caption")
    examples = [e for part in task.splits.values() for e in part]
    assert len({e.group for e in examples}) == 1
    assert [e.id for e in examples] == [
        "COCO_val2014_000000000007.jpg#0",
        "COCO_val2014_000000000008.jpg#0",
        "COCO_val2014_000000000007.jpg#0#row2",
    ]


def test_pos_tags_from_a_file_are_found_by_offsets(release):
    lines = ["# sent_id = 1", "1\tDogs\t_\tNOUN\tNNS\t_\t_\t_\t_\t_", "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_"]
    lines += [
        f"{i}\t{w}\t_\t{u}\t{x}\t_\t_\t_\t_\t_"
        for i, w, u, x in (
            (2, "do", "AUX", "VBP"),
            (3, "n't", "PART", "RB"),
            (4, "bark", "VERB", "VB"),
            (5, ".", "PUNCT", "_"),
        )
    ]
    tags = release.parent / "tags.conllu"
    tags.write_text("\n".join(lines) + "\n\n")
    task = load(release, {"name": "pos-tagging", "tags": "tags.conllu"})
    (example,) = task.splits["all"]
    assert [example.text[a:b] for a, b in example.words] == ["Dogs", "do", "n't", "bark", "."]
    assert example.target == ("NNS", "VBP", "RB", "VB", None)
    assert task.classes == ("NNS", "RB", "VB", "VBP")
    assert load(release, {"name": "pos-tagging", "tags": "tags.conllu", "column": "upos"}).classes[0] == "AUX"
    tags.write_text(re.sub(r"\b(NNS|VBP|RB|VB)\b", "_", told := tags.read_text()))
    with pytest.raises(DataError, match="not one word of its 1 captions has a tag; .*`column: upos`"):
        load(release, {"name": "pos-tagging", "tags": "tags.conllu"})
    tags.write_text(told.replace("bark", "barks"))
    with pytest.raises(
        DataError, match=r"flickr_3000.csv, row 2: tags.conllu, row 2 does not fit the caption.*'barks'"
    ):
        load(release, {"name": "pos-tagging", "tags": "tags.conllu"})
    tags.write_text(tags.read_text().replace("sent_id = 1", "sent_id = 9"))
    with pytest.raises(DataError, match="has no sentence whose sent_id is 1.jpg#0 or 1.jpg or 1"):
        load(release, {"name": "pos-tagging", "tags": "tags.conllu"})


def test_pos_tags_from_spacy_skip_white_space(release, monkeypatch):
    token = types.SimpleNamespace
    document = [
        token(idx=0, text="Dogs", tag_="NNS", is_space=False),
        token(idx=4, text=" ", tag_="_SP", is_space=True),
        token(idx=5, text="do", tag_="VBP", is_space=False),
    ]
    tagger = types.SimpleNamespace(meta={"version": "3.8.0"}, pipe=lambda texts: [document for _ in texts])
    fake = types.SimpleNamespace(load=lambda name, exclude: tagger, __version__="3.8.2")
    monkeypatch.setitem(sys.modules, "spacy", fake)
    task = load(release, "pos-tagging")
    assert task.splits["all"][0].words == ((0, 4), (5, 7))
    assert task.splits["all"][0].target == ("NNS", "VBP")
    assert task.options["tagger"] == "en_core_web_sm 3.8.0, spaCy 3.8.2"

    def absent(name, exclude):
        raise OSError("E050")

    monkeypatch.setattr(fake, "load", absent)
    with pytest.raises(DataError, match="spacy download en_core_web_sm, or name a file of tags"):
        load(release, "pos-tagging")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DataError, match=r"pip install 'vlprobe\[spacy\]'"):
        load(release, "pos-tagging")


# Images


def test_without_images_the_task_says_which_setting_gives_them(release):
    task = load(release, "bigram-shift")
    assert "data: flickr30k" in task.images
    assert "FLICKR30K" in task.images
    assert task.splits["train"][0].image is None


def test_images_are_found_and_a_missing_one_is_a_bad_row(release, monkeypatch):
    folder = release.parent / "flickr"
    folder.mkdir()
    for name in "1", "2", "4":
        (folder / f"{name}.jpg").touch()
    monkeypatch.setenv("FLICKR30K", str(folder))
    with pytest.raises(
        DataError, match=r"1 of 4 rows of task bigram-shift.*\n.*bshift.csv, row 4: image file 3.jpg is not"
    ):
        load(release, "bigram-shift")
    task = load(release, "bigram-shift", bad_rows="skip")
    assert task.splits["train"][0].image == folder / "1.jpg"
    assert (task.images, len(task.skipped), len(task.splits["test"])) == ("", 1, 1)


def test_coco_images_are_found_under_their_real_name_in_val2014(release):
    folder = release.parent / "coco" / "val2014"
    folder.mkdir(parents=True)
    for number in 7, 8:
        (folder / f"COCO_val2014_{number:012d}.jpg").touch()
    task = load(release, "adversarial-caption", data={"coco": "coco"})
    assert task.splits["test"][0].image == folder / "COCO_val2014_000000000007.jpg"


def test_a_link_or_a_name_that_leaves_the_folder_of_images_is_refused(release):
    folder = release.parent / "flickr"
    folder.mkdir()
    (release.parent / "secret.jpg").touch()
    (folder / "1.jpg").symlink_to(release.parent / "secret.jpg")
    write_csv(
        release / "datasets" / "flickr_3000_colors.csv",
        "1.jpg|0|a [MASK] x|a red x|red",
        "../secret.jpg|0|a [MASK] y|a red y|red",
    )
    with pytest.raises(DataError) as caught:
        load(release, {"name": "color", "split": "grouped"}, data={"flickr30k": "flickr"})
    assert "row 2: the image name '1.jpg' leaves its folder" in str(caught.value)
    assert "row 3: the image name '../secret.jpg' leaves its folder" in str(caught.value)


def test_a_place_that_is_no_folder_is_an_error(release, monkeypatch):
    with pytest.raises(DataError, match="data: coco: nowhere: .*is not a folder; it must hold the images of COCO 2014"):
        load(release, "adversarial-caption", data={"coco": "nowhere"})
    monkeypatch.setenv("COCO", "/nowhere")
    with pytest.raises(DataError, match="environment variable COCO=/nowhere"):
        load(release, "adversarial-caption")


# What is wrong with the files


def test_bad_rows_are_collected_and_the_cure_is_named(release):
    write_csv(
        release / "datasets" / "flickr_3000_bshift.csv",
        "1.jpg|0|a b|a b|0",
        "2.jpg|0|a b",
        "3.jpg|0| |a b|0",
        "4.jpg|0|a b|a b|2",
        "|0|a b|a b|1",
        "5.jpg|0|x|y|1|more",
        "6.jpg|0|a b||",
    )
    with pytest.raises(DataError) as caught:
        load(release, {"name": "bigram-shift", "split": "grouped"})
    message = str(caught.value)
    assert "6 of 7 rows of task bigram-shift cannot be used" in message
    assert "row 3: has 3 columns where the header has 5" in message
    assert "row 4: the cell 'comment' is empty" in message
    assert "row 5: the target must be 0 or 1, found '2'" in message
    assert message.count(", row ") == 5
    assert "... and 1 more" in message
    assert "bad_rows: skip" in message
    task = load(release, {"name": "bigram-shift", "split": "grouped"}, bad_rows="skip")
    assert len(task.splits["all"]) == 1
    assert len(task.skipped) == 6


def test_a_caption_without_mask_and_an_unknown_colour_are_bad_rows(release):
    write_csv(release / "datasets" / "flickr_3000_colors.csv", "1.jpg|0|a x|a red x|red", "2.jpg|0|a [MASK]|a rd|whit")
    with pytest.raises(DataError) as caught:
        load(release, {"name": "color", "split": "grouped"})
    assert "row 2: the text 'a x' holds no [MASK]" in str(caught.value)
    assert "row 3: the target 'whit' is not a colour; did you mean 'white'?" in str(caught.value)


def test_a_count_that_is_no_number_is_a_bad_row(release):
    rows = (f"COCO_val2014_00000000000{i}.jpg|0|t|t{i}|{n}" for i, n in enumerate(("3", "nan", "inf", "many", "1_0")))
    write_csv(release / "datasets" / "coco_lxmert.csv", *rows)
    spec = {"name": "object-count", "variant": "lxmert", "split": "grouped"}
    with pytest.raises(DataError, match="4 of 5 rows"):
        load(release, spec)
    task = load(release, spec, bad_rows="skip")
    assert task.splits["all"][0].target == (3.0,)
    assert task.classes == ()


def test_no_usable_row_is_an_error_under_skip_too(release):
    write_csv(release / "datasets" / "flickr_3000_bshift.csv", "1.jpg|0|a b|a b|7")
    with pytest.raises(DataError, match="flickr_3000_bshift.csv holds no usable row"):
        load(release, {"name": "bigram-shift", "split": "grouped"}, bad_rows="skip")


def test_a_split_file_that_names_none_of_the_images_is_an_error(release):
    (release / "probing_tasks" / "split" / "bshift_test.txt").write_text("77\n")
    with pytest.raises(DataError, match="bshift_test.txt names the images of 0 of 4 rows"):
        load(release, "bigram-shift")


def test_a_missing_column_and_latin_1_name_the_place(release):
    path = release / "datasets" / "flickr_3000_bshift.csv"
    path.write_text("image_name|comment_number|coment|original|target\n1|0|a|a|0\n")
    with pytest.raises(DataError, match=r"no column 'comment' .*did you mean 'coment'"):
        load(release, "bigram-shift")
    path.write_bytes(f"{HEADER}\n1.jpg|0|caf".encode() + b"\xe9|a|0\n")
    with pytest.raises(DataError, match=r"flickr_3000_bshift.csv, line 2: byte 0xe9 is not UTF-8"):
        load(release, "bigram-shift")


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_a_pickle_in_place_of_a_matlab_file_is_refused_and_not_run(release, name):
    trace = release.parent / "ran"
    (release / "probing_tasks" / "split" / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError, match=f"{name} cannot be read as a MATLAB file"):
        load(release, "flowers")
    assert not trace.exists()


def test_labels_that_are_not_whole_numbers_are_refused(release):
    savemat(release / "probing_tasks" / "split" / "imagelabels.mat", {"labels": np.array([[0.5]])})
    with pytest.raises(DataError, match="imagelabels.mat holds no vector of whole numbers 'labels'"):
        load(release, "flowers")
    savemat(release / "probing_tasks" / "split" / "imagelabels.mat", {"labels": np.array([[103, 0]], np.uint8)})
    with pytest.raises(DataError, match="holds no label from 1 to 102 for image_00001.jpg"):
        load(release, "flowers")


# What is wrong with the study


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("colour", "there is no task 'colour'; did you mean 'color'"),
        ({"name": "color", "variant": "uniter"}, "unknown key 'variant'"),
        ({"name": "color", "splitt": "grouped"}, "unknown key 'splitt'; did you mean 'split'"),
        ({"name": "object-count", "variant": "vilt"}, "variant: Input should be 'uniter' or 'lxmert'"),
        ({"name": "mine", "level": "vision", "tabel": "x.csv"}, "unknown key 'tabel'; did you mean 'table'"),
        ({"level": "vision"}, "a task needs a name"),
        ({"name": "color", "table": "x.csv"}, "this is the name of a task that vlprobe brings"),
        (["color"], "a task is a name or a mapping"),
    ],
)
def test_a_wrong_study_is_explained(release, spec, message):
    with pytest.raises(StudyError, match=message):
        load(release, spec)


def test_unknown_places_and_missing_data_are_explained(tmp_path):
    with pytest.raises(StudyError, match="data: unknown key 'flickr'; did you mean 'flickr30k'"):
        load_task("color", data={"flickr": "."})
    with pytest.raises(DataError, match="clone https://github.com/ejsalin/vlm-probing and point `data: salin2022`"):
        load_task("color")
    with pytest.raises(DataError, match="must hold the folder `datasets`"):
        load_task("color", data={"salin2022": str(tmp_path)})


def test_the_import_is_light():
    code = (
        "import sys, vlprobe.tasks; print([m for m in ('pandas','pyarrow','scipy','PIL','torch') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


# The authors' files


def rows_of(name):
    with (REAL / "datasets" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE))


SIZES = {
    "bigram-shift": (2000, 1000),
    "object-count": (1800, 624),
    "flowers": (6149, 1020),
    "color": (2000, 1000),
    "position": (1800, 826),
    "size": (1800, 752),
    "adversarial-caption": (500, 200),
}


@pytest.mark.parametrize("name", SIZES)
def test_released_splits_have_the_sizes_of_the_paper(real, name):
    variants = ("uniter", "lxmert") if name in ("object-count", "adversarial-caption") else (None,)
    for variant in variants:
        task = load_task({"name": name} | ({"variant": variant} if variant else {}), data=real)
        assert (len(task.splits["train"]), len(task.splits["test"])) == SIZES[name]
        assert task.level == TASKS[name].level
        assert task.skipped == ()
        ids = [e.id for part in task.splits.values() for e in part]
        assert len(set(ids)) == len(ids)
        assert all(source.sha256 and Path(source.path).is_file() for source in task.source)


@pytest.mark.parametrize(
    ("name", "file"),
    [("bigram-shift", "flickr_3000_bshift"), ("position", "flickr_3000_pos"), ("size", "flickr_3000_size"),
     ("color", "flickr_3000_colors"), ("object-count", "coco_uniter")],
)  # fmt: skip
def test_labels_and_texts_are_those_of_the_file(real, name, file):
    task = load_task({"name": name, "split": "grouped"}, data=real)
    examples, rows = task.splits["all"], rows_of(file)
    found = Counter(target for e in examples for target in e.target if target is not None)
    told = Counter(float(row["target"]) if name == "object-count" else row["target"] for row in rows)
    assert found == told
    assert [e.text for e in examples] == [row["comment"].strip() for row in rows]
    assert any('"' in e.text for e in examples)


def test_every_flower_label_agrees_with_the_list(real):
    from scipy.io import loadmat

    labels = loadmat(REAL / "split" / "imagelabels.mat")["labels"].ravel()
    task = load_task({"name": "flowers", "split": "grouped"}, data=real)
    assert all(int(e.target[0]) == labels[int(e.id[6:11]) - 1] for e in task.splits["all"])
    assert list(task.classes) == sorted(task.classes)
    assert [int(name) for name in task.classes] == list(range(1, 103))


def test_both_variants_share_the_test_images_of_object_count(real):
    ids = [
        {e.id for e in load_task({"name": "object-count", "variant": v}, data=real).splits["test"]}
        for v in ("uniter", "lxmert")
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("variant", ["uniter", "lxmert"])
def test_adversarial_groups_cross_the_released_split(real, variant):
    train, test = (rows_of(f"coco_altercap_{variant}_{part}") for part in ("train", "val"))
    images = {row["image_name"] for row in train}
    assert sum(row["image_name"] in images for row in test) == 107
    task = load_task({"name": "adversarial-caption", "variant": variant}, data=real)
    groups = {e.group for e in task.splits["train"]}
    assert sum(e.group in groups for e in task.splits["test"]) == 108  # one more by its original caption
    rows = train + test
    examples = [*task.splits["train"], *task.splits["test"]]
    by_image, by_caption = {}, {}
    for row, example in zip(rows, examples, strict=True):
        assert by_image.setdefault(row["image_name"].lower(), example.group) == example.group
        assert by_caption.setdefault(" ".join(row["original"].lower().split()), example.group) == example.group


def test_the_masked_word_is_where_the_colour_was(real):
    task = load_task({"name": "color", "split": "grouped"}, data=real)
    glued = 0
    for example, row in zip(task.splits["all"], rows_of("flickr_3000_colors"), strict=True):
        (index,) = (i for i, target in enumerate(example.target) if target)
        start, end = example.words[index]
        assert example.text[start:end] == "[MASK]"
        before = example.text[:start].split()
        assert row["original"].split()[len(before)].lower() == example.target[index]
        glued += len(example.words) > len(example.text.split())
    assert glued == 18


def test_pos_tagging_on_the_real_captions_needs_spacy_or_tags(real, tmp_path):
    rows = rows_of("flickr_3000")
    lines = []
    for row in rows:
        lines.append(f"# sent_id = {row['image_name'].removesuffix('.jpg')}")
        for i, word in enumerate(row["comment"].split(), start=1):
            lines.append(f"{i}\t{word}\t_\tX\tT{len(word)}\t_\t_\t_\t_\t_")
        lines.append("")
    (tmp_path / "tags.conllu").write_text("\n".join(lines), encoding="utf-8")
    task = load_task({"name": "pos-tagging", "tags": "tags.conllu"}, data=real, folder=tmp_path)
    assert len(task.splits["all"]) == 3000
    for example in task.splits["all"]:
        words = [example.text[a:b] for a, b in example.words]
        assert words == example.text.split()
        assert list(example.target) == [f"T{len(word)}" for word in words]
