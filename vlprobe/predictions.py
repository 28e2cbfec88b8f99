"""What probes answered: `predictions/KEY.npz` beside the results of a study, arrays of text and numbers, one a row."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vlprobe.aside import aside
from vlprobe.errors import DataError, unwritable
from vlprobe.types import Predictions, Sent

KINDS = {"id": "U", "index": "i", "group": "U", "target": "Uf", "predicted": "Uf"}
"""Array of a predictions file -> the dtype kinds that it may have: text, whole numbers, floats; never objects."""
SENT = KINDS | {"bits": "f"}
"""The same, of a probe that sends labels."""

PACKED = "predictions.zip"
"""The same files in one, as which they come from the hub, where folders hold thousands of files at most."""

ANOTHER = "`output` or --output, and run the same study again"
"""How another results folder is named."""

UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What numpy raises over files that are no archive of arrays."""


class PredictionFiles:
    """The predictions in a results folder, each in a file of its own, or all in one archive.

    Args:
        folder: the results folder; `predictions` in it is created when first written to.

    Raises:
        DataError: the archive is there and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.results, self.folder = folder, folder / "predictions"
        self._packed = self._open_packed()

    def keys(self) -> set[str]:
        """Return the keys of the results whose predictions are there, damaged or not."""
        names = {path.name for path in self.folder.glob("*.npz")}
        names |= set(self._packed.namelist()) if self._packed else set()
        return {name.removesuffix(".npz") for name in names}

    def read(self, key: str) -> Predictions:
        """Return the answers of one result.

        Raises:
            DataError: they are missing or damaged.
        """
        path = self._path(key)
        try:
            with self._open(path) as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (SENT if "bits" in file else KINDS)}
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read ({error}); run the study again, which makes it anew") from None
        _check(arrays, path)
        return Sent(**arrays) if "bits" in arrays else Predictions(**arrays)

    def packed(self, key: str) -> bytes:
        """Return the file of one result's answers as it is.

        Raises:
            DataError: it is missing or damaged.
        """
        self.read(key)
        with self._open(self._path(key)) as opened:
            return opened.read()

    def write(self, key: str, predictions: Predictions) -> None:
        """Write all of a file or nothing; two processes that write the same key write the same bytes.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        path = self._path(key)
        arrays = {name: getattr(predictions, name) for name in (SENT if isinstance(predictions, Sent) else KINDS)}
        _check(arrays, path)
        try:
            with aside(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise unwritable("results", self.results, error, ANOTHER) from error

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _open_packed(self) -> zipfile.ZipFile | None:
        """Open the archive, where there is one: for good, since its table of contents is long."""
        path = self.results / PACKED
        if not path.exists():
            return None
        try:
            return zipfile.ZipFile(path)
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read ({error}); fetch it again") from None

    def _open(self, path: Path) -> BinaryIO:
        """Open a predictions file, that of the folder rather than the one that was packed."""
        if self._packed is None or path.exists():
            return path.open("rb")
        return BytesIO(self._packed.read(path.name))


def _check(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) != len(arrays["id"]) or array.dtype.kind not in SENT[name]:
            raise DataError(
                f"{path}: '{name}' is {array.dtype} of shape {array.shape} beside {len(arrays['id'])} ids; "
                "it must be text or numbers, one a row. Remove the file and run the study again"
            )
