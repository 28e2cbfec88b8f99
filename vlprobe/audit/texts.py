"""Texts themselves: masks that are glued, doubled or missing, texts that are empty or long."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlprobe.audit.fault import Case, Fault, NotRun, Said, Severity, share
from vlprobe.audit.subject import Subject, shortened
from vlprobe.types import MASK

PIECE = re.compile(r"\[MASK\]|\w+|[^\w\s]")
"""A word, a sign or a mask: a tokenizer makes at least one piece of each."""
POSITIONS = {"ViLT": 40, "CLIP": 77, "BERT, UNITER and LXMERT": 512}
"""Tokens that published models take; two of them are specials."""


def masks(subject: Subject) -> Iterator[Said]:
    """Look whether every text holds one `[MASK]`, standing alone."""
    masked = [row for row in subject.rows if MASK in (row.example.text or "")]
    if not masked:
        yield NotRun("masks", subject.no_texts or f"no text holds a {MASK}")
        return
    found: dict[str, list[Case]] = {"missing": [], "doubled": [], "inside": [], "beside": []}
    for row in subject.rows:
        text = row.example.text or ""
        spots = [match.span() for match in re.finditer(re.escape(MASK), text)]
        around = [(text[start - 1 : start], text[end : end + 1]) for start, end in spots]
        found["missing"] += [row.case()] * (not spots)
        found["doubled"] += [row.case()] * (len(spots) > 1)
        inside = any(side.isalnum() for pair in around for side in pair)
        found["inside"] += [row.case()] * inside
        found["beside"] += [row.case()] * (not inside and any(side.strip() for pair in around for side in pair))
    for name, (severity, said, cure) in _MASKS.items():
        if found[name]:
            statement = f"{share(len(found[name]), len(subject.rows))} texts {said}"
            figures = {"kind": name}
            count, of = len(found[name]), len(subject.rows)
            yield Fault("masks", severity, count, of, statement, cure, tuple(found[name]), figures)


_MASKS: dict[str, tuple[Severity, str, str]] = {
    "missing": ("error", f"hold no {MASK}, where others do", "drop them"),
    "doubled": ("warning", f"hold more than one {MASK}", "asked about is the first that stands alone, else the first"),
    "inside": ("warning", f"hold a {MASK} inside a word: only a part of it was masked", "drop them, or mask the word"),
    "beside": ("note", f"hold a {MASK} that touches a sign, as in {MASK}-haired", ""),
}


def lengths(subject: Subject) -> Iterator[Said]:
    """Look for texts that are empty, or longer than models take.

    What is counted, words and signs, is the least number of pieces that a tokenizer makes: a text that is too long by
    this count is too long for sure.
    """
    if subject.no_texts:
        yield NotRun("lengths", subject.no_texts)
        return
    empty = [row.case("no text") for row in subject.rows if not row.text]
    if empty:
        statement = f"{share(len(empty), len(subject.rows))} rows have no text, where others do"
        yield Fault("lengths", "error", len(empty), len(subject.rows), statement, "drop them", tuple(empty))
    pieces = sorted(((len(PIECE.findall(row.example.text or "")), row) for row in subject.rows), key=lambda x: -x[0])
    counts = sorted(count for count, row in pieces if row.text)
    middle, longest = counts[len(counts) // 2], counts[-1]
    statement = f"texts have {counts[0]} to {longest} words and signs, half of them {middle} or fewer"
    figures = {"least": counts[0], "median": middle, "most": longest}
    yield Fault("lengths", "note", len(counts), len(subject.rows), statement, figures=figures)
    for models, positions in POSITIONS.items():
        long = [
            row.case(f"{count} words and signs: {shortened(row.example.text or '')}")
            for count, row in pieces
            if count > positions - 2
        ]
        if long:
            told = f"{share(len(long), len(subject.rows))} texts are longer than {models} can read ({positions} tokens)"
            cure = "a study that asks such a model stops at them, or leaves them out under bad_rows: skip"
            figures = {"positions": positions}
            yield Fault("lengths", "warning", len(long), len(subject.rows), told, cure, tuple(long), figures)
