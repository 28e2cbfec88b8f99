"""The same input twice in one part, and the same input with two labels."""

from __future__ import annotations

from collections.abc import Iterator

from vlprobe.audit.fault import Fault, NotRun, Said, share
from vlprobe.audit.subject import Row, Subject, commonest, shortened

SIDES = {
    "language": "text (the side that carries the label of a language task)",
    "vision": "image (the side that carries the label of a vision task)",
    "multimodal": "image and text",
}


def duplicates(subject: Subject) -> Iterator[Said]:
    """Find inputs that occur twice in a part, and inputs with two labels in all parts together.

    What counts is the side that carries the label: a caption of two images is two inputs to a multimodal task.
    """
    held: dict[tuple[str, ...], list[Row]] = {}
    for row in subject.rows:
        inputs = subject.inputs(row)
        if inputs is not None:
            held.setdefault(inputs, []).append(row)
    if not held:
        yield NotRun("duplicates", "no row says which image it shows" if subject.no_texts else subject.no_images)
        return
    if subject.task.level != "language" and not any(row.image for row in subject.rows):
        yield NotRun("duplicates by image", f"{subject.no_images}; rows are compared by their texts alone")
    yield from _repeated(subject, held)
    yield from _conflicting(subject, held)


def _repeated(subject: Subject, held: dict[tuple[str, ...], list[Row]]) -> Iterator[Fault]:
    for part, rows in subject.parts.items():
        seen: dict[tuple[str, ...], Row] = {}
        again = []
        for row in rows:
            inputs = subject.inputs(row)
            if inputs is None:
                continue
            if inputs in seen:
                first = seen[inputs]
                again.append(row.case(f"as {first.example.id} ({first.example.place}): {_shown(row)}"))
            seen.setdefault(inputs, row)
        if again:
            statement = f"{share(len(again), len(rows))} {part} rows repeat the {SIDES[subject.task.level]} of another"
            cure = "drop them: a row that is there twice counts twice"
            yield Fault("duplicates", "warning", len(again), len(rows), statement, cure, tuple(again), {"part": part})


def _conflicting(subject: Subject, held: dict[tuple[str, ...], list[Row]]) -> Iterator[Fault]:
    clashing = [rows for rows in held.values() if len({row.answers for row in rows}) > 1]
    if not clashing:
        return
    count = sum(len(rows) for rows in clashing)
    # Whoever sees nothing but the input must answer alike each time.
    lost = sum(len(rows) - commonest([row.answer for row in rows])[1] for rows in clashing)
    statement = (
        f"{share(count, len(subject.rows))} rows have the same {SIDES[subject.task.level]} as a row with another "
        f"label; no probe can have more than {count - lost:,} of them right"
    )
    cases = tuple(row.case(f"{_shown(row)} is {shortened(row.answer, 40)} here") for rows in clashing for row in rows)
    figures = {"inputs": len(clashing), "best": count - lost}
    yield Fault(
        "conflicts",
        "error",
        count,
        len(subject.rows),
        statement,
        "correct the labels, or drop the rows",
        cases,
        figures,
    )


def _shown(row: Row) -> str:
    return repr(shortened(row.example.text)) if row.example.text else "its image"
