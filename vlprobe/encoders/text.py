"""Text -> token ids, and for every position which word it is a piece of."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlprobe.encoders.distinct import Distinct
from vlprobe.errors import BadRow
from vlprobe.types import MASK, ROLES, Example

Span = tuple[int, int]
MARKS = ("▁", "Ġ")
"""How vocabularies of SentencePiece and of bytes write the space before a word."""
Positions = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Role, word and box of every position, as in `Hidden`."""


@dataclass(frozen=True)
class Pieces:
    """A batch of texts, cut into pieces and padded on the right: to the longest, or to one length."""

    ids: torch.Tensor
    """(batch, position) int64 token ids."""
    mask: torch.Tensor
    """(batch, position) bool: False is padding."""
    role: np.ndarray
    """(batch, position) int8: index into `ROLES`."""
    word: np.ndarray
    """(batch, position) int32: index into `Example.words`, or -1."""

    def once(self, texts: Distinct) -> Pieces:
        """Return each text once; what its words are is then that of the first example that has it."""
        return Pieces(*(texts.once(rows) for rows in vars(self).values()))


@dataclass(frozen=True, slots=True)
class _Cut:
    """One text, cut into pieces."""

    ids: Sequence[int]
    """(piece,) token ids."""
    offsets: Sequence[Span]
    """(piece,) characters of the text."""
    special: Sequence[int]
    """(piece,) 1: put around the text by the tokenizer."""


def of_text(pieces: Pieces) -> Positions:
    """Return what the positions of a text are."""
    return pieces.role, pieces.word, np.full((*pieces.role.shape, 4), np.nan, dtype=np.float32)


class TextReader:
    """A tokenizer with the length that its model takes.

    Args:
        tokenizer: a fast tokenizer of transformers (it must know character offsets).
        limit: tokens that the model takes, [CLS] and [SEP] among them.
        pooled: (position,) ids of a text with its padding -> the position that stands for the text, of role `cls`;
            None: its first [CLS].
        fill: whether every text is padded to `limit`, by a model that was trained to see the padding.
    """

    def __init__(
        self, tokenizer: Any, limit: int, pooled: Callable[[np.ndarray], int] | None = None, fill: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.controls = control_tokens(tokenizer) - {tokenizer.mask_token_id}
        ends = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
        if tokenizer.unk_token_id not in [getattr(tokenizer, end) for end in ends]:  # CLIP's is the end of a text
            self.controls -= {tokenizer.unk_token_id}  # a word that is not known is one
        self.limit = limit
        self.pooled = pooled
        self.fill = fill
        self._known: dict[str, _Cut] = {}

    def lengths(self, batch: Sequence[Example]) -> list[int]:
        """Return the tokens of each text, with the padding that is read; `read` need not cut these texts again."""
        texts = [self._lenient(example) for example in batch]
        self._known = {}
        self._known = dict(zip(texts, self._cut(texts), strict=True))
        return [self.limit if self.fill else len(self._known[text].ids) for text in texts]

    def read(self, batch: Sequence[Example]) -> Pieces:
        """Cut the texts of a batch into pieces; no text is read as an empty one.

        Raises:
            BadRow: a text is longer than the model takes (it is never cut), has no tokens, holds what the model reads
                as a control token, or has a masked word that the tokenizer has no token for.
        """
        texts, spans = zip(*(self._own_notation(example) for example in batch), strict=True)
        cuts = self._cut(texts)
        for example, cut in zip(batch, cuts, strict=True):
            if len(cut.ids) > self.limit:
                raise BadRow(
                    example.place or example.id,
                    f"the text of example {example.id} has {len(cut.ids)} tokens (specials included); the model takes "
                    f"at most {self.limit}: shorten it, or leave the row out",
                )
            if not cut.ids:  # GPT-2's tokenizer sets nothing around a text
                raise BadRow(example.place or example.id, f"the text of example {example.id} is empty: no tokens")
        longest = self.limit if self.fill else max(len(cut.ids) for cut in cuts)
        shape = (len(batch), longest)
        ids = np.full(shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        role = np.zeros(shape, dtype=np.int8)
        word = np.full(shape, -1, dtype=np.int32)
        for row, cut in enumerate(cuts):
            end = len(cut.ids)
            special = np.array(cut.special, dtype=bool)
            refuse_controls(batch[row], np.array(cut.ids)[~special], self.controls, self.tokenizer)
            ids[row, :end], mask[row, :end] = cut.ids, True
            role[row, :end] = np.where(special, ROLES.index(""), ROLES.index("word"))
            role[row, self._pooled(ids[row], special)] = ROLES.index("cls")
            owner = word_of_piece(cut.offsets, spans[row])
            word[row, :end] = np.where(special, -1, owner)
        return Pieces(torch.from_numpy(ids), torch.from_numpy(mask), role, word)

    def _cut(self, texts: Sequence[str]) -> list[_Cut]:
        """Return texts cut into pieces."""
        found = dict(self._known)
        if new := [text for text in dict.fromkeys(texts) if text not in found]:
            # verbose=False: the length is our own business; padding is done in `read` because a tokenizer.json may
            # bring truncation and a fixed padding of its own (MiniLM's does: 128).
            encoded = self.tokenizer(
                new,
                padding=False,
                truncation=False,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
                verbose=False,
            )
            for row, text in enumerate(new):
                offsets = without_marks(encoded.tokens(row), encoded["offset_mapping"][row], text)
                found[text] = _Cut(encoded["input_ids"][row], offsets, encoded["special_tokens_mask"][row])
        return [found[text] for text in texts]

    def _lenient(self, example: Example) -> str:
        """Return the text as the tokenizer writes it; of one that `read` refuses, nothing."""
        try:
            return self._own_notation(example)[0]
        except BadRow:
            return ""

    def _pooled(self, ids: np.ndarray, special: np.ndarray) -> np.ndarray:
        """Return the position of role `cls`, or none.

        Args:
            ids: (position,) of a text with its padding.
            special: (piece,) bool: tokens that the tokenizer has put around the text.
        """
        if self.pooled is not None:
            return np.array([self.pooled(ids)])
        return np.flatnonzero(special & (ids[: len(special)] == self.tokenizer.cls_token_id))[:1]

    def _own_notation(self, example: Example) -> tuple[str, tuple[Span, ...]]:
        """Return the text with [MASK] as the tokenizer writes it, and the word spans in that text."""
        text = example.text or ""
        if MASK not in text:
            return text, example.words
        if self.tokenizer.mask_token is None:
            raise BadRow(
                example.place or example.id,
                f"the text of example {example.id} has a masked word, but this model's tokenizer has no mask token; "
                "probe it with a task that masks nothing",
            )
        return replace_mask(text, example.words, self.tokenizer.mask_token)


def control_tokens(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that say what a text is, and are no part of one: beginning, end, padding, ..."""
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def refuse_controls(example: Example, tokens: np.ndarray, controls: Collection[int], tokenizer: Any) -> None:
    """Refuse a text in which somebody has written a control token, `</s>` say: it would end there, to the model.

    Args:
        example: whose text it is.
        tokens: (piece,) ids of the text alone.
        controls: ids of control tokens.
        tokenizer: knows their names.

    Raises:
        BadRow: it holds one.
    """
    for token in tokens.tolist():
        if token in controls:
            raise BadRow(
                example.place or example.id,
                f"the text of example {example.id} holds {tokenizer.convert_ids_to_tokens(token)!r}, "
                "which this model reads as a control token, not as words; take it out of the text",
            )


def need_text(batch: Sequence[Example]) -> None:
    """Refuse an example without a text.

    Raises:
        BadRow: there is one.
    """
    for example in batch:
        if example.text is None:
            place = example.place or example.id
            raise BadRow(place, f"example {example.id} has no text, and this model reads text")


def need_text_or_image(batch: Sequence[Example]) -> None:
    """Refuse an example with nothing to read.

    Raises:
        BadRow: there is one.
    """
    for example in batch:
        if example.text is None and example.image is None:
            raise BadRow(example.place or example.id, f"example {example.id} has neither text nor image")


def replace_mask(text: str, words: Sequence[Span], token: str) -> tuple[str, tuple[Span, ...]]:
    """Return `text` with every [MASK] written as `token`, and the spans of `words` in the new text.

    The white space before a [MASK] goes: RoBERTa was trained with a mask token that swallows it, and not every
    tokenizer file says so, which leaves an extra piece "Ġ". To BERT and ELECTRA white space means nothing.
    """
    moved = np.zeros(len(text) + 1, dtype=int)  # old character boundary -> new one
    pieces: list[str] = []
    done = length = 0
    for found in re.finditer(r"\s*" + re.escape(MASK), text):
        start, end = found.span()
        moved[done : start + 1] = length + np.arange(start + 1 - done)
        length += start - done
        pieces += [text[done:start], token]
        # Boundaries in the white space fall together; those inside "[MASK]" go to their place inside the token.
        inside = np.arange(start, end + 1) - (end - len(MASK))
        moved[start : end + 1] = length + np.clip(inside, 0, len(token))
        length += len(token)
        moved[end] = length
        done = end
    moved[done:] = length + np.arange(len(text) + 1 - done)
    pieces.append(text[done:])
    return "".join(pieces), tuple((int(moved[start]), int(moved[end])) for start, end in words)


def without_marks(tokens: Sequence[str], offsets: Sequence[Span], text: str) -> list[Span]:
    """Return the offsets of pieces; those of a mark of a beginning word that is a piece of its own are empty.

    Inside a text such a mark is the space before the word. The one that SentencePiece and some byte pairs set in front
    of a text is said by tokenizers to be its first letter: the first piece of the first word alone would be a mark.

    Args:
        tokens: (piece,) as the vocabulary has them.
        offsets: (start, end) characters of every piece.
        text: that was cut.
    """
    marked = (
        (start, start) if piece in MARKS and text[start:end] != piece else (start, end)
        for piece, (start, end) in zip(tokens, offsets, strict=True)
    )
    return list(marked)


def word_of_piece(offsets: Sequence[Span], words: Sequence[Span]) -> np.ndarray:
    """(position,) int32: the word that each piece overlaps most, the first of equals; -1 where it overlaps none.

    Args:
        offsets: (start, end) characters of every piece.
        words: (start, end) characters of every word.
    """
    if not words:
        return np.full(len(offsets), -1, dtype=np.int32)
    piece, word = np.array(offsets).reshape(-1, 1, 2), np.array(words).reshape(1, -1, 2)
    overlap = np.minimum(piece[..., 1], word[..., 1]) - np.maximum(piece[..., 0], word[..., 0])  # (position, word)
    return np.where(overlap.max(axis=1) > 0, overlap.argmax(axis=1), -1).astype(np.int32)
