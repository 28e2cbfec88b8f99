"""The feature file formats, one row each: how it is told from the others, what reads it, what writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlprobe.errors import DataError, StudyError, did_you_mean
from vlprobe.regions.entries import Entries, EntryWriter
from vlprobe.regions.lmdb_files import LmdbEntries, LmdbWriter
from vlprobe.regions.npz import NpzEntries, NpzWriter
from vlprobe.regions.tsv import BUTD, LXMERT, TsvEntries, TsvWriter
from vlprobe.regions.volta import VoltaEntries, VoltaWriter


@dataclass(frozen=True)
class Format:
    """A layout of feature files."""

    about: str
    """Whose it is and what it holds."""
    reader: Callable[[Path], Entries]
    """Opens a file or folder."""
    writer: Callable[[Path], EntryWriter]
    """Opens one to add entries to."""
    endings: tuple[str, ...] = ()
    """Endings of an output that mean this format; an output without any is a folder of npz files."""


FORMATS = {
    "lxmert-tsv": Format(
        "LXMERT: pixels, objects, attributes", TsvEntries, partial(TsvWriter, columns=LXMERT), (".tsv",)
    ),
    "butd-tsv": Format("bottom-up-attention: pixels", TsvEntries, partial(TsvWriter, columns=BUTD)),
    "uniter-npz": Format("UNITER: a folder of npz files, class probabilities", NpzEntries, NpzWriter, ("",)),
    "uniter-lmdb": Format(
        "UNITER: LMDB of msgpack, class probabilities", LmdbEntries, partial(LmdbWriter, compressed=False), (".lmdb",)
    ),
    "uniter-lmdb-compressed": Format(
        "UNITER: LMDB of compressed npz, class probabilities", LmdbEntries, partial(LmdbWriter, compressed=True)
    ),
    "volta-h5": Format("volta: pixels, objects, attributes", VoltaEntries, VoltaWriter, (".h5", ".hdf5")),
}


def format_of(output: Path, named: str | None = None) -> str:
    """Return the name of the format to write: the one named, else by the output's ending.

    Raises:
        StudyError: no such format, or the ending says nothing.
    """
    if named is not None:
        if named not in FORMATS:
            raise StudyError(f"feature file format '{named}' is unknown{did_you_mean(named, FORMATS)}")
        return named
    for name, row in FORMATS.items():
        if output.suffix.lower() in row.endings:
            return name
    raise StudyError(f"output {output}: its ending means no format; name one with --format: {', '.join(FORMATS)}")


def open_entries(path: Path) -> Entries:
    """Open a feature file of whatever format it is.

    Raises:
        DataError: absent, empty, of no known format, or damaged.
    """
    if not path.exists():
        raise DataError(f"feature file {path} does not exist")
    if path.is_dir():
        return _open_folder(path)
    for row in FORMATS.values():
        if path.suffix and path.suffix.lower() in row.endings:
            return row.reader(path)
    if path.name == "data.mdb":
        return LmdbEntries(path.parent)
    if path.suffix == ".npz":
        raise DataError(f"{path} is one image's features; name the folder it is in: {path.parent}")
    raise DataError(
        f"{path} is no feature file that vlprobe knows; it reads .tsv (LXMERT, bottom-up-attention), .h5 (volta), "
        "folders of .npz files and folders with data.mdb (UNITER)"
    )


def _open_folder(path: Path) -> Entries:
    if (path / "data.mdb").exists():
        return LmdbEntries(path)
    if next(path.glob("*.npz"), None) is not None:
        return NpzEntries(path)
    inside = sorted(str(found.parent.relative_to(path)) for found in path.glob("*/data.mdb"))
    if inside:
        raise DataError(f"{path} holds several LMDBs; name one of them: {', '.join(inside)}")
    raise DataError(f"folder {path} holds neither data.mdb nor .npz files: no features in it")
