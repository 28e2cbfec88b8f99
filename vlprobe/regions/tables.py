"""The TSV files of LXMERT and of bottom-up attention: a line an image, arrays in base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vlprobe.errors import DataError
from vlprobe.regions.features import FeatureFile
from vlprobe.types import Regions

# airsplay/lxmert, src/utils.py, and peteanderson80/bottom-up-attention, tools/generate_tsv.py
LXMERT = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)
BUTD = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
TYPES = {"objects_id": "<i8", "attrs_id": "<i8"}


class Tsv(FeatureFile):
    """A TSV of either kind, told apart by the number of columns; only the place of each line is kept in memory."""

    def names(self) -> Iterable[str]:
        """Find where every line starts, and return the images' names."""
        self.start: dict[str, int] = {}
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                columns = line.count(b"\t") + 1
                if columns not in (len(LXMERT), len(BUTD)) or not line.endswith(b"\n"):
                    torn = "it is cut off" if not line.endswith(b"\n") else f"{columns} columns"
                    raise DataError(
                        f"{self.path}, line {number}: {torn}; LXMERT's files have {len(LXMERT)} columns, those of "
                        f"bottom-up attention {len(BUTD)}"
                    )
                self.columns = LXMERT if columns == len(LXMERT) else BUTD
                name = line.partition(b"\t")[0].decode("utf-8", "replace")
                if name in self.start:
                    raise DataError(f"{self.path}, line {number}: image {name} stands in the file twice")
                self.start[name] = offset
                offset += len(line)
        return list(self.start)

    def read(self, name: str) -> Regions:
        """Return one line as regions, boxes as fractions."""
        with self.path.open("rb") as file:
            file.seek(self.start[name])
            line = file.readline().rstrip(b"\r\n")  # the published files were written by csv, with \r\n
        cells = dict(zip(self.columns, line.split(b"\t"), strict=True))
        place = f"{self.path}, entry {name}"
        try:
            count, width, height = (
                (int(cells[key]) for key in ("num_boxes", "img_w", "img_h"))
                if (self.columns is LXMERT)
                else (int(cells[key]) for key in ("num_boxes", "image_w", "image_h"))
            )
            arrays = {key: _array(cells[key], key) for key in self.columns if key not in _NUMBERS}
            boxes = arrays["boxes"].reshape(count, 4) / np.array([width, height, width, height], np.float32)
            features = arrays["features"].reshape(count, -1)
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{place}: its columns cannot be read ({error})") from None
        for key in ("objects_id", "objects_conf", "attrs_id", "attrs_conf"):
            if key in arrays and len(arrays[key]) != count:
                raise DataError(f"{place}: {len(arrays[key])} values in {key} for {count} boxes")
        return Regions(
            boxes,
            features,
            (width, height),
            arrays.get("objects_conf"),
            arrays.get("objects_id"),
            arrays.get("attrs_id"),
            arrays.get("attrs_conf"),
        )

    def files(self) -> Sequence[Path]:
        """Return the one file."""
        return [self.path]


_NUMBERS = {"img_id", "img_h", "img_w", "image_id", "image_w", "image_h", "num_boxes"}


def _array(cell: bytes, key: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cell, validate=True), TYPES.get(key, "<f4")).copy()


def tsv_line(name: str, regions: Regions) -> bytes:
    """Return the line of LXMERT's format that holds an image's regions.

    Raises:
        DataError: objects, attributes or their scores are not known, or the image's size is not.
    """
    width, height = regions.size
    scores = (regions.objects, regions.confidence, regions.attributes, regions.attribute_confidence)
    if not width or any(array is None for array in scores) or "\t" in name or "\n" in name:
        raise DataError(f"{name}: LXMERT's format needs the image's size, objects, attributes and their scores")
    boxes = regions.boxes * np.array([width, height, width, height], np.float32)
    arrays = [*scores, boxes, regions.features]
    kinds = ["<i8", "<f4", "<i8", "<f4", "<f4", "<f4"]
    coded = [base64.b64encode(np.ascontiguousarray(a, k).tobytes()) for a, k in zip(arrays, kinds, strict=True)]
    numbers = [str(value).encode() for value in (name, height, width)]
    return b"\t".join([*numbers, *coded[:4], str(len(boxes)).encode(), *coded[4:]]) + b"\n"
