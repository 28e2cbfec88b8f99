"""Words are character spans of a text: found by offsets, never by splitting the text a second time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlprobe.errors import BadRow
from vlprobe.types import MASK

Span = tuple[int, int]

_PIECE = re.compile(r"\[MASK\]|(?:(?!\[MASK\])\S)+")


def masked_words(text: str, place: str) -> tuple[tuple[Span, ...], int]:
    """Return the spans of the words of a masked text, and which of them is asked about.

    Words are the stretches between white space, but a `[MASK]` is a word of its own even where it is glued to
    letters: Salin et al. (2022) masked by replacing the colour's letters, so that `covered` became `cove[MASK]`.
    Asked about is the first `[MASK]` that stands alone, else the first one.

    Raises:
        BadRow: there is no `[MASK]`.
    """
    spans = tuple(match.span() for match in _PIECE.finditer(text))
    masks = [i for i, (start, end) in enumerate(spans) if text[start:end] == MASK]
    if not masks:
        raise BadRow(place, f"the text {text!r} holds no {MASK}")
    alone = [i for i in masks if _is_space(text, spans[i][0] - 1) and _is_space(text, spans[i][1])]
    return spans, (alone or masks)[0]


def joined_words(words: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """Return the words joined by single spaces, and their spans."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), tuple(spans)


def covering_words(text: str, words: Sequence[str], place: str) -> tuple[Span, ...]:
    """Return the spans of words that make up the whole text, with nothing but white space between them.

    Raises:
        BadRow: they do not.
    """
    spans, at = [], 0
    for word in words:
        at = _next_letter(text, at)
        if not text.startswith(word, at):
            found = text[at : at + 20]
            raise BadRow(place, f"expected the word {word!r} at character {at + 1} of {text!r}, found {found!r}")
        spans.append((at, at + len(word)))
        at += len(word)
    at = _next_letter(text, at)
    if at < len(text):
        raise BadRow(place, f"the words end before the text does: {text[at:][:40]!r} is left over")
    return tuple(spans)


def listed_words(text: str, words: Sequence[str], place: str) -> tuple[Span, ...]:
    """Return the spans of some words of a text, which follow one another in it.

    A word is not found inside a longer one, `cat` in `catch`, unless the rest of the longer one is the next
    word of the list, `do` and `n't` in `don't`.

    Raises:
        BadRow: a word is not there, or not after the word before it.
    """
    spans: list[Span] = []
    at = 0
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else None
        start = _find(text, word, at, following, glued=bool(spans))
        if start < 0:
            after = f" after {words[i - 1]!r}" if i else ""
            raise BadRow(place, f"the word {word!r} (number {i + 1}) is not found{after} in the text {text!r}")
        at = start + len(word)
        spans.append((start, at))
    return tuple(spans)


def _find(text: str, word: str, at: int, following: str | None, glued: bool) -> int:
    start = text.find(word, at)
    while start >= 0:
        end = start + len(word)
        starts = (glued and start == at) or not _inside(text, start)
        ends = not _inside(text, end) or (following is not None and text.startswith(following, end))
        if starts and ends:
            return start
        start = text.find(word, start + 1)
    return -1


def _inside(text: str, at: int) -> bool:
    """Whether a cut before character `at` would part two letters."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _next_letter(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _is_space(text: str, at: int) -> bool:
    return at < 0 or at >= len(text) or text[at].isspace()
