"""Which entry of a feature file belongs to an image: the ways in which published files spell an image's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SUFFIX = re.compile(r"\.(npz|jpe?g|png|webp|gif|bmp|tiff?)\Z", re.IGNORECASE)
_COCO = re.compile(r"coco_([a-z]+[0-9]{4})_([0-9]+)", re.IGNORECASE)
_COLLECTION = re.compile(r"(flickr30k|vg)_([0-9]+)", re.IGNORECASE)
_NLVR2 = re.compile(r"nlvr2_(.+)", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a name without its folder and the ending of an image or an npz file."""
    return _SUFFIX.sub("", name.replace("\\", "/").rpartition("/")[2])


@dataclass(frozen=True)
class ImageName:
    """What a name says about the image: in which collection, which part of it, which image."""

    collection: str
    """`coco`, `flickr30k`, `vg`, `nlvr2`; empty: it does not say."""
    part: str
    """`val2014` and the like; empty: it does not say."""
    image: str
    """A number without leading zeros, or any other text as it stands."""

    @classmethod
    def parse(cls, name: str) -> ImageName:
        """Take a name apart.

        `COCO_val2014_000000000007.jpg` (COCO), `coco_val2014_000000000007.npz`, `flickr30k_001000092795.npz`,
        `vg_2315353.npz`, `nlvr2_dev-1-0-img0.npz` (UNITER, scripts/create_imgdb.sh); bare numbers (bottom-up-attention,
        tools/generate_tsv.py; the image files of Flickr30K and Visual Genome) and anything else.
        """
        bare = stem(name)
        if found := _COCO.fullmatch(bare):
            return cls("coco", found[1].lower(), _number(found[2]))
        if found := _COLLECTION.fullmatch(bare):
            return cls(found[1].lower(), "", _number(found[2]))
        if found := _NLVR2.fullmatch(bare):
            return cls("nlvr2", "", found[1])
        return cls("", "", _number(bare) if re.fullmatch("[0-9]+", bare) else bare)

    def may_be(self, other: ImageName) -> bool:
        """Say whether two names contradict each other in nothing; one that does not say its collection fits any."""
        return (
            self.image == other.image
            and (self.collection == other.collection or not (self.collection and other.collection))
            and (self.part == other.part or not (self.part and other.part))
        )


def _number(digits: str) -> str:
    return digits.lstrip("0") or "0"


class NameIndex:
    """Finds the entries that an image's file name may mean.

    Args:
        names: of the entries, as the file spells them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, list[str]] = {}
        self._parsed: dict[str, list[str]] = {}
        for name in names:
            self._exact.setdefault(stem(name), []).append(name)
            self._parsed.setdefault(ImageName.parse(name).image, []).append(name)

    def find(self, image: str) -> list[str]:
        """Return the entries whose name is the image's, else those whose name may mean it; several: it is not clear."""
        exact = self._exact.get(stem(image))
        return exact if exact else list(self._similar(ImageName.parse(image)))

    def _similar(self, wanted: ImageName) -> Iterator[str]:
        for name in self._parsed.get(wanted.image, ()):
            if wanted.may_be(ImageName.parse(name)):
                yield name
