"""Own tasks without code: tables, CoNLL-U, folders of images, data sets of the hub."""

import json
import pickle
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from vlprobe.errors import DataError, StudyError
from vlprobe.tasks import load_task

LANGUAGE = {"name": "mine", "level": "language"}


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return put


@pytest.fixture
def load(tmp_path):
    def of(bad_rows="error", **spec):
        return load_task({**LANGUAGE, **spec}, folder=tmp_path, bad_rows=bad_rows)

    return of


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def picture(folder, name, size=(4, 2), **more):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **more)
    return path


# Tables


def test_a_csv_becomes_a_task(write, load):
    write("rows.csv", '\ufefftext,label\n"A, ""b""\nc",x\n\nd,y\nD ,y\n')
    task = load(table="rows.csv", citation="Me 2024", licence="CC0-1.0", revision="v2")
    assert [(e.text, e.target, e.place) for e in task.splits["all"]] == [
        ('A, "b"\nc', ("x",), "rows.csv, row 2"),
        ("d", ("y",), "rows.csv, row 5"),
        ("D ", ("y",), "rows.csv, row 6"),
    ]
    assert [e.group for e in task.splits["all"]] == ["rows#2", "rows#5", "rows#5"]
    assert (task.classes, task.unit, task.level) == (("x", "y"), "input", "language")
    assert (task.citation, task.licence, task.revision) == ("Me 2024", "CC0-1.0", "v2")
    assert len(task.source[0].sha256) == 64


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("r.tsv", "text\tlabel\na b\tx\n", {}),
        ("r.csv", 'text|label\na "b|x\n', {"delimiter": "|", "quotes": False}),
        ("r.jsonl", '{"text": "a \u2028 b", "label": "x"}\n\n', {}),
        ("R.CSV", "label;text\nx;a b\n", {"delimiter": ";"}),
    ],
)
def test_every_kind_of_text_table_is_read(write, load, name, content, more):
    (example,) = load(table=write(name, content), **more).splits["all"]
    assert example.target == ("x",)
    assert example.text.replace('"', "").replace("\u2028 ", "") == "a b"


def test_parts_come_from_files_or_from_a_column(write, load):
    for part in "train", "validation", "test":
        write(f"{part}/rows.csv", f"text,label,split\n{part} a,0,junk\n")
    task = load(table={part: f"{part}/rows.csv" for part in ("test", "train", "validation")})
    assert {name: [e.id for e in part] for name, part in task.splits.items()} == {
        "train": ["train#2"],
        "validation": ["validation#2"],
        "test": ["test#2"],
    }
    write("all.csv", "text,label,fold\na,0,TRAIN\nb,0,dev\nc,0,val\nd,1,test\n")
    task = load(table="all.csv", columns={"split": "fold"})
    assert {name: len(part) for name, part in task.splits.items()} == {"train": 1, "validation": 2, "test": 1}
    write("bad.csv", "text,label,split\na,0,train\nb,0,trian\n")
    with pytest.raises(DataError, match="row 3: the cell 'split' must be one of train, .*found 'trian'"):
        load(table="bad.csv")


def test_one_file_for_two_parts_stays_in_both(write, load):
    write("r.csv", "text,label\na,x\n")
    task = load(table={"train": "r.csv", "test": "r.csv"})
    assert task.splits["train"][0].group == task.splits["test"][0].group
    assert task.splits["train"][0].id != task.splits["test"][0].id


def test_a_stray_quote_says_how_far_it_reaches(write, load):
    write("r.csv", 'text,label\na,x\n"b,x\nc,x\nd,x\n')
    task = load("skip", table="r.csv")
    assert len(task.splits["all"]) == 1
    assert "row 3: cannot be parsed" in task.skipped[0]
    assert "reaches to line 5" in task.skipped[0]


def test_groups_and_ids_from_columns(write, load):
    write("r.jsonl", jsonl({"text": "a", "y": 1, "g": 7, "n": 5}, {"text": "a", "y": True, "g": 8, "n": 6}))
    task = load(table="r.jsonl", columns={"label": "y", "group": "g", "id": "n"})
    assert [(e.id, e.group, e.target) for e in task.splits["all"]] == [("5", "7", ("1",)), ("6", "8", ("true",))]


def test_groups_reach_over_images_and_texts(write, load, tmp_path):
    for name in "1.png", "2.png", "3.png":
        picture(tmp_path, f"pics/{name}", size=(int(name[0]), 2))
    write("r.csv", "text,image,label\na,1.png,0\nb,./1.png,1\nB ,2.png,0\nc,3.png,1\n")
    task = load(level="multimodal", table="r.csv", images="pics")
    assert [e.group for e in task.splits["all"]] == ["r#2", "r#2", "r#2", "r#5"]
    assert task.splits["all"][0].image == tmp_path / "pics" / "1.png"


def test_labels_that_are_shown_alike_are_one_class(write, load):
    said = [1, 1.0, "1", 0, 0.0, "café", "cafe\u0301", " café ", True, "true", 0.5]
    write("r.jsonl", jsonl(*({"text": f"text {i}", "label": label} for i, label in enumerate(said))))
    assert load(level="language", table="r.jsonl").classes == ("0", "0.5", "1", "café", "true")


def test_numbers_are_a_regression(write, load):
    write("r.csv", "text,label\na, 1.5\nb,-2e3\nc,nan\nd,inf\ne,1_000\nf,\n")
    with pytest.raises(DataError) as caught:
        load(table="r.csv", target="number")
    assert "4 of 6 rows" in str(caught.value)
    assert "r.csv, row 4: the cell 'label' must be a finite number, found 'nan'" in str(caught.value)
    task = load("skip", table="r.csv", target="number")
    assert [e.target for e in task.splits["all"]] == [(1.5,), (-2000.0,)]
    assert (task.classes, len(task.skipped)) == ((), 4)


def test_parquet_holds_images_as_bytes_or_paths(load, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    raw = picture(tmp_path, "a.png").read_bytes()
    images = [{"bytes": raw, "path": "x"}, {"bytes": raw, "path": None}, {"bytes": None, "path": "a.png"}]
    parquet.write_table(pa.table({"image": images, "label": [1, 2, 1]}), tmp_path / "r.parquet")
    task = load(level="vision", table="r.parquet")
    held = task.splits["all"][0].image
    assert [e.image for e in task.splits["all"]] == [held, held, tmp_path / "a.png"]
    assert held.read() == raw
    assert [e.group for e in task.splits["all"]] == ["r#1", "r#1", "r#1"]
    assert [e.place for e in task.splits["all"]][0] == "r.parquet, row 1"
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="broken.parquet cannot be read as Parquet"):
        load(level="vision", table="broken.parquet")


# Words, masks, regions


def test_words_are_found_in_the_text_by_offsets(write, load):
    rows = [
        {
            "text": "The cat isn't  a cat",
            "words": ["cat", "is", "n't", "a", "cat"],
            "labels": ["N", "V", "", None, "_"],
        },
        {"words": ["New York", "sleeps"], "labels": ["N", "V"], "text": "New York sleeps"},
    ]
    task = load(table=write("r.jsonl", jsonl(*rows)), unit="word")
    first, second = task.splits["all"]
    assert first.words == ((4, 7), (8, 10), (10, 13), (15, 16), (17, 20))
    assert first.target == ("N", "V", None, None, None)
    assert second.words == ((0, 8), (9, 15))
    assert (task.unit, task.classes) == ("word", ("N", "V"))


@pytest.mark.parametrize("content", ["words,labels\na b,X _\n", 'words,labels\n"[""a"",""b""]","[""X"",null]"\n'])
def test_words_of_a_csv_without_text_are_joined(write, load, content):
    (example,) = load(table=write("r.csv", content), unit="word").splits["all"]
    assert (example.text, example.words, example.target) == ("a b", ((0, 1), (2, 3)), ("X", None))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["a", "b"], "labels": ["X"]}, "there are 2 words but 1 labels in 'labels'"),
        ({"words": ["cat"], "labels": ["X"], "text": "catch"}, r"the word 'cat' \(number 1\) is not found"),
        ({"words": ["cat"], "labels": ["X"], "text": "bobcat"}, r"the word 'cat' \(number 1\) is not found"),
        ({"words": ["b", "a"], "labels": ["X", "Y"], "text": "a b"}, "the word 'a' .*is not found after 'b'"),
        ({"words": [], "labels": [], "text": "a"}, "the list in 'words' is empty"),
        ({"words": ["a", ""], "labels": ["X", "Y"], "text": "a"}, "the cell 'words' is empty"),
        ({"words": 3, "labels": ["X"], "text": "a"}, "the cell 'words' must be a list"),
        ({"words": ["a"], "labels": [{}], "text": "a"}, "a label in 'labels' must be a text or a number"),
    ],
)
def test_words_that_do_not_fit_are_bad_rows(write, load, row, message):
    good = {"words": ["a"], "labels": ["X"], "text": "a"}
    write("r.jsonl", jsonl(good, {"text": "a b", **row}))
    with pytest.raises(DataError, match=f"r.jsonl, row 2: .*{message}"):
        load(table="r.jsonl", unit="word")
    assert len(load("skip", table="r.jsonl", unit="word").splits["all"]) == 1


def test_a_mask_is_a_word_task(write, load):
    write("r.csv", "text,label\nA cove[MASK] [MASK] car,red\nno mask,red\n")
    with pytest.raises(DataError, match=r"r.csv, row 3: the text 'no mask' holds no \[MASK\]"):
        load(table="r.csv", unit="mask")
    task = load("skip", table="r.csv", unit="mask")
    assert task.unit == "word"
    assert task.splits["all"][0].target == (None, None, None, "red", None)


def test_regions_in_fractions_and_in_pixels(write, load, tmp_path):
    picture(tmp_path, "a.png", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # lying: shown as 4 wide and 8 high
    picture(tmp_path, "b.jpg", (8, 4), exif=exif)
    region = {"level": "vision", "unit": "region"}
    write("f.jsonl", jsonl({"image": "a.png", "boxes": [[0, 0, 0.5, 1]], "labels": ["cat"]}))
    assert load(table="f.jsonl", **region).splits["all"][0].boxes == ((0, 0, 0.5, 1),)
    write(
        "p.jsonl",
        jsonl(
            {"image": "a.png", "boxes": [[4, 0, 8, 4], [0, 1, 2, 2]], "labels": ["cat", None]},
            {"image": "b.jpg", "boxes": [[0, 0, 2, 8]], "labels": ["dog"]},
        ),
    )
    first, second = load(table="p.jsonl", box_unit="pixel", **region).splits["all"]
    assert first.boxes == ((0.5, 0, 1, 1), (0, 0.25, 0.25, 0.5))
    assert first.target == ("cat", None)
    assert second.boxes == ((0, 0, 0.5, 1),)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1.2, 1]], "reaches out of the image of 1 x 1; boxes in pixels need box_unit: pixel"),
        ([[0.5, 0, 0.5, 1]], "is empty: x2 must exceed x1"),
        ([[-0.1, 0, 0.5, 1]], "reaches out"),
        ([[0, 0, 1]], r"must be \[x1, y1, x2, y2\]"),
        ([[0, 0, "one", 1]], "must be a finite number, found 'one'"),
        ([[0, 0, 1, 1], [0, 0, 1, 1]], "there are 2 boxes but 1 labels"),
        ([], "the list in 'boxes' is empty"),
    ],
)
def test_bad_boxes_are_bad_rows(write, load, tmp_path, boxes, message):
    picture(tmp_path, "a.png")
    write("r.jsonl", jsonl({"image": "a.png", "boxes": boxes, "labels": ["cat"]}))
    with pytest.raises(DataError, match=message):
        load(level="vision", unit="region", table="r.jsonl")


def test_pixel_boxes_of_a_file_that_is_no_image_are_a_bad_row(write, load):
    write("a.png", "no image")
    write("r.jsonl", jsonl({"image": "a.png", "boxes": [[0, 0, 1, 1]], "labels": ["cat"]}))
    with pytest.raises(DataError, match="r.jsonl, row 1: .*a.png cannot be opened"):
        load(level="vision", unit="region", box_unit="pixel", table="r.jsonl")


# Bad rows and bad files


def test_all_bad_rows_are_collected(write, load):
    write(
        "r.csv",
        'text,label,id\na,x,1\nb,x\nc,x,2,z\n ,x,3\nd, ,4\ne,y,1\n"f"g,x,5\n../h,y,6\n',
    )
    with pytest.raises(DataError) as caught:
        load(table="r.csv")
    message = str(caught.value)
    assert "6 of 8 rows of task mine cannot be used" in message
    for part in (
        "r.csv, row 3: has 2 columns where the header has 3",
        "r.csv, row 4: has 4 columns where the header has 3",
        "r.csv, row 5: the cell 'text' is empty",
        "r.csv, row 6: the cell 'label' is empty",
        "r.csv, row 7: the id '1' is already that of r.csv, row 2",
        "... and 1 more",
        "set bad_rows: skip in the study to leave them out and count them",
    ):
        assert part in message
    assert "row 8" not in message
    task = load("skip", table="r.csv")
    assert len(task.splits["all"]) == 2
    assert "r.csv, row 8: cannot be parsed" in task.skipped[5]
    assert "quotes: false" in task.skipped[5]


def test_images_that_are_missing_or_outside_are_bad_rows(write, load, tmp_path):
    picture(tmp_path, "pics/a.png")
    picture(tmp_path, "secret.png")
    (tmp_path / "pics" / "link.png").symlink_to(tmp_path / "secret.png")
    write("r.csv", f"image,label\na.png,x\nb.png,x\n../secret.png,x\nlink.png,x\n{tmp_path}/secret.png,x\n,x\n")
    task = load("skip", level="vision", table="r.csv", images="pics")
    assert len(task.splits["all"]) == 1
    assert [line.split(": ")[0] for line in task.skipped] == [f"r.csv, row {n}" for n in range(3, 8)]
    assert "b.png does not exist" in task.skipped[0]
    assert all("leaves its folder" in line for line in task.skipped[1:4])
    assert "the cell 'image' is empty" in task.skipped[4]


def test_json_lines_that_do_not_parse_are_bad_rows(write, load):
    write("r.jsonl", '{"text": "a", "label": "x"}\n{"text": \n[1]\n' + "[" * 100_000 + '\n{"text": "b"}\n')
    task = load("skip", table="r.jsonl")
    assert len(task.splits["all"]) == 1
    assert [line.split(":")[0] for line in task.skipped] == [f"r.jsonl, row {n}" for n in (2, 3, 4, 5)]
    assert "must be a JSON object" in task.skipped[1]
    assert "the cell 'label' is empty" in task.skipped[3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"text,label\na,x\ncaf\xe9,x\n", "r.csv, line 3: byte 0xe9 is not UTF-8; save the file"),
        ("r.jsonl", b'{"text": "\xff"}\n', "r.jsonl, line 1: byte 0xff is not UTF-8"),
        ("r.csv", "", "r.csv is empty: its first row must hold the names of the columns"),
        ("r.csv", "text,label\n", "task mine: r.csv holds no usable row"),
        ("r.jsonl", "", "r.jsonl holds no usable row"),
        ("r.csv", "text,text,label\na,b,x\n", "two columns named 'text'"),
        ("r.csv", "txt,label\na,x\n", "r.csv has no column 'text', which level language.*did you mean 'txt'"),
        ("r.xlsx", "", "a table is one of .csv, .tsv, .jsonl, .parquet, not '.xlsx'"),
        ("r.tar", "", "not '.tar'; write shards: in the place of table:"),
        ("rows", "", "not 'a file without ending'"),
    ],
)
def test_files_that_cannot_be_used(write, load, name, content, message):
    write(name, content)
    with pytest.raises(DataError, match=message):
        load(table=name)


def test_a_part_without_usable_rows_is_named(write, load):
    write("a.csv", "text,label\na,x\n")
    write("b.csv", "text,label\nb,\n")
    with pytest.raises(
        DataError, match=r"(?s)b.csv .test. holds no usable row.*b.csv, row 2: the cell 'label' is empty"
    ):
        load("skip", table={"train": "a.csv", "test": "b.csv"})


def test_no_label_at_all_is_an_error(write, load):
    with pytest.raises(DataError, match="not one of its 1 examples has a label"):
        load(table=write("r.csv", "words,labels\na b,_ _\n"), unit="word")


def test_a_pickle_is_no_table(load, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    for name in "r.pkl", "r.parquet", "r.csv":
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DataError):
            load(table=name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"columns": {"txt": "a"}}, r"unknown key 'columns.txt'; did you mean 'text'"),
        ({"columns": {"words": "w"}}, "the task does not use 'words', since its unit is input"),
        ({"unitt": "word"}, "unknown key 'unitt'; did you mean 'unit'"),
        ({"unit": "sentence"}, "unit: Input should be 'input', 'word', 'region' or 'mask'"),
        ({"level": "audio"}, "level: Input should be"),
        ({"conllu": "x"}, "has the keys table and conllu; keep one"),
        ({"box_unit": "pixel"}, "box_unit is for unit region"),
        ({"delimiter": "||"}, "delimiter: String should have at most 1"),
        ({"table": {"train": "r.csv", "tset": "r.csv"}}, "unknown key 'tset'; did you mean 'test'"),
        ({"table": {"train": "r.csv"}}, "key 'test' is missing"),
        (
            {"table": {"train": "r.csv", "test": "r.csv"}, "columns": {"split": "s"}},
            "the files say which part they are",
        ),
        ({"table": 5}, "expected a file, or"),
    ],
)
def test_a_wrong_study_is_explained(write, load, spec, message):
    write("r.csv", "text,label\na,x\n")
    with pytest.raises(StudyError, match=message):
        load(**{"table": "r.csv", **spec})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"columns": {"label": "lable"}}, "has no column 'lable' .wanted for columns: label.; did you mean 'label'"),
        ({"table": "no.csv"}, "no.csv: there is no such file"),
        ({"images": "nowhere"}, "images: nowhere is not a folder"),
        ({"level": "vision"}, "has no column 'image', which level vision"),
        ({"unit": "word"}, "has no column 'words', which level language with unit word needs"),
    ],
)
def test_what_the_study_names_and_the_data_lack_is_explained(write, load, spec, message):
    write("r.csv", "text,label\na,x\n")
    with pytest.raises(DataError, match=message):
        load(**{"table": "r.csv", **spec})


# CoNLL-U


def word(number, form, upos="X", xpos="_"):
    return f"{number}\t{form}\t_\t{upos}\t{xpos}\t_\t_\t_\t_\t_"


def test_conllu_words_are_spans_of_the_joined_forms(write, load):
    lines = ["# newdoc", "# sent_id = s1", "# text = Don't go", word("1-2", "Don't", "_"), word(1, "Do", "AUX", "VBP")]
    lines += [word(2, "n't", "PART", "RB"), word("2.1", "gone", "VERB"), word(3, "go", "_", "VB"), ""]
    lines += [
        "# sent_id = s2",
        word(1, "do", "AUX"),
        word(2, "N'T", "PART"),
        word(3, "go", "VERB"),
        "",
        "",
        word(1, "A"),
        "",
    ]
    write("a.conllu", "\r\n".join(lines))
    task = load(conllu="a.conllu")
    first, second, third = task.splits["all"]
    assert (first.text, first.words) == ("Do n't go", ((0, 2), (3, 6), (7, 9)))
    assert first.target == ("AUX", "PART", None)
    assert (first.id, first.group, second.group, third.id) == ("s1", "s1", "s1", "a#16")
    assert first.place == "a.conllu, row 5"
    assert (task.unit, task.classes) == ("word", ("AUX", "PART", "VERB", "X"))
    assert load(conllu="a.conllu", column="xpos").splits["all"][0].target == ("VBP", "RB", "VB")


def test_bad_sentences_are_bad_rows(write, load):
    write("a.conllu", "\n".join([word(1, "A"), "", "1\tB\tX", "", word("x", "C"), "", "# sent_id = s", word(1, "D"), "",
                                 "# sent_id = s", word(1, "E"), ""]))  # fmt: skip
    with pytest.raises(DataError) as caught:
        load(conllu="a.conllu")
    assert "3 of 5 rows" in str(caught.value)
    assert "a.conllu, row 3: a word line has 10 columns parted by tabs, this one has 3" in str(caught.value)
    assert "a.conllu, row 5: expected a word's number and its form, found 'x' and 'C'" in str(caught.value)
    assert "row 11: the id 's' is already that of a.conllu, row 8" in str(caught.value)
    with pytest.raises(StudyError, match="its level is language, not vision"):
        load(level="vision", conllu="a.conllu")
    with pytest.raises(StudyError, match="unknown key 'unit'"):
        load(conllu="a.conllu", unit="word")


def test_real_treebank_parts():
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ud_ewt"
    if not folder.is_dir():
        pytest.skip(f"Universal Dependencies English-EWT is absent: {folder}")
    files = {"train": "en_ewt-ud-dev.conllu", "test": "en_ewt-ud-test.conllu"}
    task = load_task({**LANGUAGE, "conllu": files}, folder=folder)
    assert {name: len(part) for name, part in task.splits.items()} == {"train": 2001, "test": 2077}
    words = [e.text[a:b] for part in task.splits.values() for e in part for a, b in e.words]
    lines = [line.split("\t") for file in files.values() for line in (folder / file).read_text("utf-8").split("\n")]
    assert words == [fields[1] for fields in lines if fields[0].isdigit()]


# Folders of images


def folder_task(tmp_path, bad_rows="error", **more):
    spec = {"name": "mine", "level": "vision", "image_folder": "pics", **more}
    return load_task(spec, folder=tmp_path, bad_rows=bad_rows)


def test_classes_are_folders(tmp_path):
    for name in "b/2.JPG", "a/1.png", "a/.hidden.png":
        picture(tmp_path / "pics", name)
    (tmp_path / "pics" / ".DS_Store").touch()
    task = folder_task(tmp_path)
    assert [(e.id, e.target, e.place) for e in task.splits["all"]] == [
        ("a/1.png", ("a",), "pics/a/1.png"),
        ("b/2.JPG", ("b",), "pics/b/2.JPG"),
    ]
    assert (task.classes, task.splits["all"][0].text) == (("a", "b"), None)


def test_parts_are_folders_above_the_classes(tmp_path):
    for name in "train/1/x.png", "val/1/x.png", "test/2/x.png":
        picture(tmp_path / "pics", name)
    task = folder_task(tmp_path, target="number")
    assert {part: [e.target for e in examples] for part, examples in task.splits.items()} == {
        "train": [(1.0,)],
        "validation": [(1.0,)],
        "test": [(2.0,)],
    }
    picture(tmp_path / "pics", "cats/y.png")
    with pytest.raises(DataError, match="holds the part 'test' beside the folder 'cats'"):
        folder_task(tmp_path)


def test_what_is_no_image_of_the_folder_is_a_bad_row(tmp_path):
    root = tmp_path / "pics"
    picture(root, "a/1.png")
    picture(root, "a/deep/2.png")
    picture(tmp_path, "secret.png")
    (root / "a" / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "a" / "notes.txt").touch()
    (root / "loose.png").touch()
    with pytest.raises(DataError, match="5 of 6 rows"):
        folder_task(tmp_path)
    task = folder_task(tmp_path, "skip")
    assert [e.id for e in task.splits["all"]] == ["a/1.png"]
    found = dict(line.split(": ", 1) for line in task.skipped)
    assert "beside the folders" in found["pics/loose.png"]
    assert "is a folder inside the folder of a class" in found["pics/a/deep"]
    assert "leaves its folder" in found["pics/a/link.png"]
    assert "no file" in found["pics/a/gone.png"]
    assert "is no image" in found["pics/a/notes.txt"]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="image_folder: pics is not a folder"):
        folder_task(tmp_path)
    (tmp_path / "pics").mkdir()
    with pytest.raises(DataError, match="pics holds no folders"):
        folder_task(tmp_path)
    (tmp_path / "pics" / "a").mkdir()
    with pytest.raises(DataError, match="pics holds no usable row"):
        folder_task(tmp_path)
    with pytest.raises(StudyError, match="its level is vision, not multimodal"):
        folder_task(tmp_path, level="multimodal")


# Data sets of the hub, with a stand-in for the library `datasets`


class FakeImage:
    def __init__(self, decode=True):
        self.decode = decode


class FakeNames:
    def __init__(self, names):
        self.names = names


class FakeList:
    def __init__(self, feature):
        self.feature = feature


class FakeDataset:
    def __init__(self, features, rows, files=()):
        self.features = features
        self.held = rows
        self.info = types.SimpleNamespace(download_checksums=dict.fromkeys(files))

    @property
    def column_names(self):
        return list(self.features)

    def select_columns(self, names):
        kept = [{name: row[name] for name in names} for row in self.held]
        return FakeDataset({name: self.features[name] for name in names}, kept)

    def cast_column(self, name, feature):
        return FakeDataset({**self.features, name: feature}, self.held)

    def __iter__(self):
        for name, feature in self.features.items():
            if isinstance(feature, FakeImage) and feature.decode:
                raise AssertionError(f"the images of {name} would be decoded")
        yield from self.held


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A `datasets` whose data sets are the entries of `hub.sets`; `hub.calls` are the arguments it was called with."""
    fake = types.SimpleNamespace(__version__="4.1.0", Image=FakeImage, ClassLabel=FakeNames, List=FakeList)
    fake.LargeList = FakeList
    fake.config = types.SimpleNamespace(
        HF_CACHE_HOME=str(tmp_path / "cache"), HF_DATASETS_CACHE=str(tmp_path / "cache")
    )
    fake.sets, fake.calls = {}, []

    def load_dataset(*given, **named):
        fake.calls.append((given, named))
        return fake.sets[given[0]]

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_hub_rows_are_read_undecoded_with_names_of_classes(hub, load, tmp_path):
    cached = picture(tmp_path / "cache", "a.png")
    features = {"image": FakeImage(), "label": FakeNames(["cat", "dog"]), "other": FakeImage()}
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub.sets["me/pets"] = {
        "train": FakeDataset(
            features,
            [{"image": {"bytes": b"1", "path": None}, "label": 0, "other": 0}] * 2,
            [f"hf://datasets/me/pets@{commit}/train.parquet"],
        ),
        "test": FakeDataset(features, [{"image": {"bytes": None, "path": str(cached)}, "label": 1, "other": 0}]),
    }
    task = load(level="vision", dataset="me/pets", config="small", revision="main")
    assert hub.calls == [(("me/pets", "small"), {"revision": "main"})]
    assert [(e.id, e.image.read(), e.target) for e in task.splits["train"]] == [
        ("train#1", b"1", ("cat",)),
        ("train#2", b"1", ("cat",)),
    ]
    assert len({e.group for e in task.splits["train"]}) == 1
    assert (task.splits["test"][0].image, task.splits["test"][0].target) == (cached, ("dog",))
    assert task.splits["test"][0].place == "me/pets (test), row 1"
    assert task.revision == commit


def test_hub_images_stay_in_the_file_that_datasets_keeps(hub, load, tmp_path):
    import pyarrow as pa

    raw = [picture(tmp_path, f"{k}.png", (4, 2 + k)).read_bytes() for k in range(3)]
    rows = [{"image": {"bytes": one, "path": f"a/{k}.png"}, "label": k % 2} for k, one in enumerate(raw)]
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(tmp_path / "pets.arrow", table.schema) as file:
        file.write_table(table)
    part = FakeDataset({"image": FakeImage(), "label": FakeNames(["cat", "dog"])}, rows)
    part.cache_files = [{"filename": str(tmp_path / "pets.arrow")}]
    hub.sets["me/pets"] = {"train": part}
    images = [example.image for example in load(level="vision", dataset="me/pets").splits["all"]]
    assert [(image.name, image.file.name) for image in images] == [(f"{k}.png", "pets.arrow") for k in range(3)]
    assert [image.read() for image in images] == raw
    part.held = [rows[0], rows[2]]  # what lies elsewhere in the file is not taken for what lies there
    images = [example.image for example in load(level="vision", dataset="me/pets").splits["all"]]
    assert [image.read() for image in images] == [raw[0], raw[2]]
    assert [image.file.name == "pets.arrow" for image in images] == [True, False]


def test_a_hub_path_outside_its_cache_and_a_hidden_label_are_bad_rows(hub, load, tmp_path):
    outside = picture(tmp_path, "secret.png")
    rows = [{"image": {"bytes": None, "path": str(outside)}, "label": 0}, {"image": {"bytes": b"1"}, "label": -1}]
    hub.sets["me/pets"] = {"train": FakeDataset({"image": FakeImage(), "label": FakeNames(["cat"])}, rows)}
    with pytest.raises(DataError) as caught:
        load(level="vision", dataset="me/pets")
    assert "row 1: the image name" in str(caught.value)
    assert "leaves its folder" in str(caught.value)
    assert "row 2: the cell 'label' is empty" in str(caught.value)


def test_hub_word_labels_get_their_names(hub, load):
    features = {"tokens": FakeList(None), "ner": FakeList(FakeNames(["O", "PER"]))}
    rows = [{"tokens": ["I", "am", "Al"], "ner": [0, -1, 1]}]
    hub.sets["me/ner"] = {"train": FakeDataset(features, rows)}
    task = load(dataset="me/ner", unit="word", columns={"words": "tokens", "labels": "ner"})
    assert task.splits["all"][0].target == ("O", None, "PER")


def test_hub_splits_of_other_names_must_be_told_apart(hub, load):
    part = FakeDataset({"text": None, "label": None}, [{"text": "a", "label": "x"}])
    hub.sets["me/x"] = {"train": part, "hard": part}
    with pytest.raises(DataError, match=r"has the splits hard, train; say which is which, splits: \{train:"):
        load(dataset="me/x")
    task = load(dataset="me/x", splits={"train": "train", "test": "hard"})
    assert sorted(task.splits) == ["test", "train"]
    with pytest.raises(DataError, match="has no split 'esay'; it has hard, train"):
        load(dataset="me/x", splits={"train": "train", "test": "esay"})


def test_hub_data_that_cannot_be_had(hub, load, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="dataset: me/none cannot be loaded: KeyError"):
        load(dataset="me/none")
    with pytest.raises(StudyError, match="expected owner/name"):
        load(dataset="https://example.org/x")
    with pytest.raises(DataError, match="dataset: ./none is not a folder"):
        load(dataset="./none")
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="pets is also a folder here; write ./pets"):
        load(dataset="pets")
    monkeypatch.setattr(hub, "__version__", "2.14.0")
    with pytest.raises(DataError, match="datasets 2.14.0 may run code that a data set brings along"):
        load(dataset="me/x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'vlprobe\[hub\]'"):
        load(dataset="me/x")


def test_images_false_reads_no_image_and_groups_by_its_name(tmp_path):
    (tmp_path / "a.csv").write_text("image,text,label\nx.jpg,one,a\nx.jpg,two,b\ny.jpg,three,a\n")
    spec = {"name": "mine", "level": "multimodal", "table": "a.csv", "images": False}
    task = load_task(spec, folder=tmp_path)
    examples = task.splits["all"]
    assert [e.image for e in examples] == [None] * 3
    assert [e.group for e in examples] == ["a#2", "a#2", "a#4"]
    assert examples[1].ties == (("image", "x.jpg"), ("text", "two"))
    assert task.images == "no image is read: the task says images: false"
    with pytest.raises(StudyError, match="boxes in pixels need the images' sizes"):
        load_task({**spec, "unit": "region", "box_unit": "pixel"}, folder=tmp_path)
