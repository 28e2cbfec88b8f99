"""Images that are nearly the same; see `pictures.py` for what that means."""

from __future__ import annotations

from collections.abc import Iterator

from vlprobe.audit.fault import Case, Fault, NotRun, Said, share
from vlprobe.audit.pictures import near, pairs_by_row
from vlprobe.audit.subject import Row, Subject


def near_images(subject: Subject) -> Iterator[Said]:
    """Find images that are near duplicates of another image of the same part, and of an earlier part."""
    if subject.no_images:
        yield NotRun("near images", subject.no_images)
        return
    pairs = pairs_by_row(list(near(subject.pictures)))
    shown: dict[str, list[Row]] = {}
    for row in subject.rows:
        shown.setdefault(row.image, []).append(row)
    names = list(subject.parts)
    for i, part in enumerate(names):
        for other in names[: i + 1]:
            cases = _cases(subject.parts[part], other, pairs, shown)
            if cases:
                yield _fault(part, other, cases, len(subject.parts[part]))


def _cases(
    rows: tuple[Row, ...], other: str, pairs: dict[str, list[tuple[str, float]]], shown: dict[str, list[Row]]
) -> list[Case]:
    cases: list[tuple[float, Case]] = []
    for row in rows:
        twins = [
            (apart, twin)
            for digest, apart in pairs.get(row.image, ())
            for twin in shown[digest]
            if twin.part == other and not (other == row.part and twin.example.group == row.example.group)
        ]
        if twins:
            apart, twin = twins[0]
            told = f"as {twin.example.id} ({twin.example.place}), at most {apart:.0f} of 255 apart"
            cases.append((apart, row.case(f"{told}: {row.answer} here, {twin.answer} there")))
    return [case for _, case in sorted(cases, key=lambda case: case[0])]


def _fault(part: str, other: str, cases: list[Case], of: int) -> Fault:
    inside = part == other
    where = "another image of that part and of another group" if inside else f"an image of {other}"
    statement = f"{share(len(cases), of)} {part} rows show an image that is nearly {where}"
    cure = "look at them; where they are the same picture, give both one group"
    return Fault(
        "near images",
        "note" if inside else "warning",
        len(cases),
        of,
        statement,
        cure,
        tuple(cases),
        {"parts": list(dict.fromkeys([other, part]))},
    )
