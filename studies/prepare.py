"""Turns NLVR v1 (dev) and coco128 into tables that study files can name, and makes small tokenizers.

Usage: python studies/prepare.py FOLDER, where FOLDER holds `nlvr1/dev` and `coco128`.
Writes `studies/data/nlvr1.jsonl`, `studies/data/coco128.jsonl`, and the tokenizers `studies/data/cased/` (word pieces),
`studies/data/clip/` and `studies/data/llama/` (pairs of bytes).
"""

import json
import sys
from pathlib import Path

NAMES = {"Yellow": "yellow", "Black": "black", "#0099ff": "blue"}


def nlvr1(folder: Path) -> list[dict]:
    """Return one row an NLVR v1 example, with its first image, on which the boxes stand in the file's order.

    A picture is 400 x 100: three squares of 100, 50 apart. Objects are placed inside their square, in pixels.
    """
    rows = []
    for line in (folder / "dev.json").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        objects = [(150 * i, thing) for i, square in enumerate(example["structured_rep"]) for thing in square]
        corners = [(left + o["x_loc"], o["y_loc"], o["size"]) for left, o in objects]
        rows.append(
            {
                "id": example["identifier"],
                "image": f"{example['directory']}/dev-{example['identifier']}-0.png",
                "sentence": example["sentence"].strip(),
                "label": example["label"],
                # Examples shown together when they were written are not independent: one directory holds them all.
                "presentation": example["identifier"].split("-")[0],
                "count": len(objects),
                "boxes": [[x, y, min(x + size, 400), min(y + size, 100)] for x, y, size in corners],
                "colours": [NAMES[o["color"]] for _, o in objects],
                "shapes": [o["type"] for _, o in objects],
            }
        )
    return rows


def coco128(folder: Path) -> list[dict]:
    """Return one row an image: its first caption, and how many annotated objects it holds."""
    lines = (folder / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    images = [json.loads(line) for line in lines]
    return [
        {"image": row["file"], "caption": row["captions"][0], "count": sum(row["object_counts"].values())}
        for row in images
    ]


def cased_tokenizer(sentences: list[str], folder: Path) -> None:
    """Learn a cased word piece vocabulary, such as UNITER reads: for networks of random weights, any will do."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=False)
    trained.train_from_iterator(sentences, vocab_size=2000, show_progress=False)
    BertTokenizerFast(vocab=trained.get_vocab(), do_lower_case=False).save_pretrained(folder)
    print(f"{folder}: {trained.get_vocab_size()} pieces")


def byte_pairs(sentences: list[str], folder: Path, template: str, special: dict[str, str], more: list[str]) -> None:
    """Learn a vocabulary of byte pairs, as CLIP's and Llama's.

    Args:
        sentences: learnt from.
        folder: where it goes.
        template: what stands around a text, `$A`.
        special: name -> token, as transformers calls them; their ids are 0, 1, ... in this order.
        more: special tokens without a name, with the ids that follow.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = [*dict.fromkeys([*special.values(), *more])]
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer, learnt.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=named, initial_alphabet=alphabet, show_progress=False)
    learnt.train_from_iterator(sentences, trainer)
    around = [token for token in template.split() if token != "$A"]  # noqa: S105
    learnt.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, learnt.token_to_id(token)) for token in around]
    )
    PreTrainedTokenizerFast(tokenizer_object=learnt, **special).save_pretrained(folder)
    print(f"{folder}: {learnt.get_vocab_size()} pieces")


def write(rows: list[dict], path: Path) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path(__file__).parent / "data"
    examples = nlvr1(source / "nlvr1" / "dev")
    write(examples, target / "nlvr1.jsonl")
    said = [row["sentence"] for row in examples]
    cased_tokenizer(said, target / "cased")
    start, end = "<|startoftext|>", "<|endoftext|>"
    ends = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    byte_pairs(said, target / "clip", f"{start} $A {end}", ends, [])
    llama = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    byte_pairs(said, target / "llama", "<s> $A", llama, ["<image>"])
    write(coco128(source / "coco128"), target / "coco128.jsonl")
