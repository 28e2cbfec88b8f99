"""Which entry of a feature file belongs to an image: by name, under the rules of those who published such files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vlprobe.errors import BadRow, DataError, did_you_mean
from vlprobe.types import Example


def plain_name(name: str) -> str:
    """Return what two names of one image have in common.

    The files of UNITER write `coco_val2014_000000000042.npz` and `flickr30k_001000092795.npz` for
    `COCO_val2014_000000000042.jpg` and `1000092795.jpg`; those of bottom-up attention the bare number 42.
    """
    stem = re.sub(r"\.(npz|jpe?g|png|webp)$", "", Path(name).name, flags=re.IGNORECASE)
    numbered = re.fullmatch(r"(?:coco_(?:train|val|test)20\d\d|flickr30k|vg|gqa)_0*(\d+)|0*(\d+)", stem, re.IGNORECASE)
    if numbered:
        return numbered.group(1) or numbered.group(2)
    return re.sub(r"^nlvr2_", "", stem)


def by_plain_name(names: Iterable[str], place: str) -> dict[str, str]:
    """Return plain name -> name in the file.

    Raises:
        DataError: two entries of the file would be one image.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(plain_name(name), name)
        if other != name:
            raise DataError(f"{place}: its entries '{other}' and '{name}' would be the same image; split the file")
    if not known:
        raise DataError(f"{place} holds no image")
    return known


def entry_of(example: Example, known: Mapping[str, str], place: str) -> str:
    """Return the name of the entry that belongs to an example's image.

    Raises:
        BadRow: the image has no name, or the file has no features for it.
    """
    if not isinstance(example.image, Path):
        raise BadRow(
            example.place, f"example {example.id}: {place} is looked up by the image's file name, and it has none"
        )
    entry = known.get(plain_name(example.image.name))
    if entry is None:
        first = next(iter(known.values()))
        raise BadRow(
            example.place,
            f"{place} has no features for image {example.image.name} (its {len(known)} entries are named like "
            f"'{first}'{did_you_mean(plain_name(example.image.name), list(known)[:1000])})",
        )
    return entry
