"""The zoo's tokenizer: one piece for every word of the small world, written as BERT's vocabularies are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlprobe.scenes.captions import NAMES, vocabulary

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, CLS, SEP, MASK = range(len(SPECIALS))
PIECES = (*SPECIALS, *vocabulary(), *NAMES)
"""Names twice, small and capital: UNITER's tokenizer keeps capitals, the others' make them small."""
_IDS = {piece: number for number, piece in enumerate(PIECES)}


def ids_of(words: Sequence[str], cased: bool) -> np.ndarray:
    """Return (word,) int64 token ids, exactly those that the tokenizer in a zoo folder gives.

    Raises:
        KeyError: a word that the small world does not have.
    """
    return np.array([_IDS[word if cased or word in SPECIALS else word.lower()] for word in words], dtype=np.int64)


def write_tokenizer(folder: Path, cased: bool, longest: int) -> None:
    """Write `vocab.txt` and `tokenizer_config.json`.

    Args:
        folder: of the checkpoint.
        cased: whether capitals are kept.
        longest: tokens that the model takes.
    """
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased, "model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
