"""Text and image -> the prompt of a model that goes on writing, and what every position of it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlprobe.encoders.sight import Seen
from vlprobe.encoders.text import control_tokens, refuse_controls, without_marks, word_of_piece
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.types import MASK, ROLES, Example

IMAGE, TEXT, BEGIN = "{image}", "{text}", "{bos}"
"""Where a template has the image, the text, and the tokenizer's token for a beginning."""


@dataclass(frozen=True)
class Template:
    """How a model was trained to be asked: what stands around an image and a text."""

    seeing: str
    """With an image: holds `{image}` and `{text}`."""
    blind: str
    """Without one: holds `{text}`."""

    def begun(self, bos: str | None) -> Template:
        """Return the template with the tokenizer's token for a beginning written out."""
        return Template(self.seeing.replace(BEGIN, bos or ""), self.blind.replace(BEGIN, bos or ""))

    def write(self, text: str, image: str | None) -> tuple[str, int]:
        """Return a prompt, and the character at which the text begins in it.

        Args:
            text: the user's words.
            image: the tokens that stand for the image; None: there is none.
        """
        before, _, after = (self.blind if image is None else self.seeing.replace(IMAGE, image)).partition(TEXT)
        return before + text + after, len(before)


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, cut into pieces and padded on the right."""

    ids: torch.Tensor
    """(batch, position) int64 token ids."""
    mask: torch.Tensor
    """(batch, position) bool: False is padding."""
    image: torch.Tensor
    """(batch, position) bool: True is an image token, newline tokens of an image included."""
    role: np.ndarray
    """(batch, position) int8: index into `ROLES`."""
    word: np.ndarray
    """(batch, position) int32: index into `Example.words`, or -1."""
    box: np.ndarray
    """(batch, position, 4) float32: as in `Hidden`."""


class PromptReader:
    """A tokenizer with its model's template.

    Args:
        tokenizer: a fast tokenizer of transformers (it must know character offsets).
        template: how the model is asked.
        limit: tokens that the model takes.
        image: id of the token that an image's features are put in place of.
        place: the checkpoint, for messages.
    """

    def __init__(self, tokenizer: Any, template: Template, limit: int, image: int, place: str) -> None:
        self.tokenizer, self.limit, self.image, self.place = tokenizer, limit, image, place
        # A template that writes the beginning itself is not given a second one.
        self.specials = BEGIN not in template.seeing
        self.template = template.begun(tokenizer.bos_token)
        self.controls = control_tokens(tokenizer) | {image}

    def lengths(self, batch: Sequence[Example]) -> list[int]:
        """Return the tokens of each prompt, without those of its image."""
        prompts = [self.template.write(example.text or "", None)[0] for example in batch]
        encoded = self.tokenizer(
            prompts, padding=False, truncation=False, add_special_tokens=self.specials, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    def read(self, batch: Sequence[Example], seen: Sequence[Seen]) -> Prompts:
        """Write and cut the prompts of a batch; no text is read as an empty one.

        Args:
            batch: examples.
            seen: their images; empty: they have none.

        Raises:
            BadRow: a prompt is longer than the model takes; a text has a masked word, or what the model reads as a
                control token.
            CheckpointError: the tokenizer does not cut an image into the tokens that the model has for it.
        """
        blocks: list[str | None] = [image.block for image in seen] if seen else [None] * len(batch)
        written = [self.template.write(_maskless(example), block) for example, block in zip(batch, blocks, strict=True)]
        encoded = self.tokenizer(
            [prompt for prompt, _ in written],
            padding=False,
            truncation=False,
            add_special_tokens=self.specials,
            return_offsets_mapping=True,
            verbose=False,
        )
        shape = (len(batch), max(len(ids) for ids in encoded["input_ids"]))
        ids = np.full(shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        role = np.zeros(shape, dtype=np.int8)
        word = np.full(shape, -1, dtype=np.int32)
        box = np.full((*shape, 4), np.nan, dtype=np.float32)
        for row, (example, (_, start)) in enumerate(zip(batch, written, strict=True)):
            tokens = np.array(encoded["input_ids"][row], dtype=np.int64)
            end = len(tokens)
            offsets = encoded["offset_mapping"][row]
            self._check(example, tokens)
            inside = [start <= first < last <= start + len(example.text or "") for first, last in offsets]
            refuse_controls(example, tokens[inside], self.controls, self.tokenizer)
            ids[row, :end], mask[row, :end] = tokens, True
            text = word_of_piece(offsets, [(start, start + len(example.text or ""))]) == 0
            role[row, :end][text] = ROLES.index("word")
            letters = without_marks(encoded.tokens(row), offsets, written[row][0])
            word[row, :end] = word_of_piece(letters, [(start + a, start + b) for a, b in example.words])
            if seen:
                places = np.flatnonzero(tokens == self.image)
                self._place(places, seen[row])
                box[row, places] = seen[row].tokens
                role[row, places] = np.where(np.isnan(seen[row].tokens[:, 0]), 0, ROLES.index("patch"))
            role[row, end - 1] = ROLES.index("cls")
        image = torch.from_numpy((ids == self.image) & mask)
        return Prompts(torch.from_numpy(ids), torch.from_numpy(mask), image, role, word, box)

    def _place(self, places: np.ndarray, image: Seen) -> None:
        if len(places) != len(image.tokens):
            raise CheckpointError(
                f"{self.place}: its tokenizer makes {len(places)} image tokens of a prompt, where the model makes "
                f"{len(image.tokens)} of the image; tokenizer and config.json do not belong together"
            )

    def _check(self, example: Example, tokens: np.ndarray) -> None:
        """Refuse a prompt that is too long.

        Raises:
            BadRow: it is.
        """
        if len(tokens) > self.limit:
            raise BadRow(
                example.place or example.id,
                f"the prompt of example {example.id} has {len(tokens)} tokens (those of the image and the template "
                f"included); the model takes at most {self.limit}: shorten the text, or leave the row out",
            )


def _maskless(example: Example) -> str:
    """Return the text of an example, empty for none.

    Raises:
        BadRow: it has a masked word.
    """
    text = example.text or ""
    if MASK in text:
        raise BadRow(
            example.place or example.id,
            f"the text of example {example.id} has a masked word, but this model was trained without a mask token; "
            "probe it with a task that masks nothing",
        )
    return text
