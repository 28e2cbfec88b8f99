"""Packages that only some feature file formats need."""

from __future__ import annotations

import importlib
from types import ModuleType

from vlprobe.errors import DataError


def extra(package: str, needed_for: str) -> ModuleType:
    """Import a package that is not installed with vlprobe itself.

    Args:
        package: its name, e.g. `lmdb`.
        needed_for: for the message, e.g. `coco/data.mdb is an LMDB`.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise DataError(
            f"{needed_for}, and the Python package '{package}' is not installed; pip install 'vlprobe[regions]'"
        ) from None
