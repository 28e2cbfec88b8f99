"""Data sets of the Hugging Face hub, through the optional library `datasets`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlprobe.errors import DataError, StudyError
from vlprobe.settings import resolve_path
from vlprobe.stored import StoredImage
from vlprobe.tasks.arrow import Place, places
from vlprobe.tasks.parquet_stream import parquet_streams
from vlprobe.tasks.rows import SPLIT_NAMES, Row
from vlprobe.tasks.spool import unbroken

_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_COMMIT = re.compile(r"@([0-9a-f]{40})(/|$)")

FIRST_SAFE = 4
"""Older versions of `datasets` can run code that a data set brings along."""


@dataclass(frozen=True)
class HubPart:
    """One split."""

    name: str
    """How messages call it."""
    held: Any
    """The `datasets.Dataset`; of a stream the `datasets.IterableDataset`, or what reads its Parquet files."""
    streamed: bool = False
    """Whether it is a stream."""
    told: int = 0
    """Rows that the data set says a stream has; 0: it does not say."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns; of a stream that does not know them, those of its first row."""
        known = self.held.column_names
        return tuple(next(unbroken(self.held, self.name), ()) if known is None else known)

    def rows(self, columns: Collection[str]) -> Iterator[Row]:
        """Yield the rows: class numbers as class names, images as {bytes, path}, not decoded.

        Bytes that lie in a file of the cache of `datasets` are left there: a reference stands for them.

        Args:
            columns: those that are used; the others may hold sounds and films and are not touched.

        Raises:
            DataError: a stream breaks off.
        """
        import datasets

        wanted = sorted(set(columns))
        # A stream that does not know its features decodes nothing, and some of its rows may lack a column.
        held = self.held.select_columns(wanted) if self.held.features else self.held
        features = dict(held.features or {})
        files = [Path(file["filename"]) for file in getattr(self.held, "cache_files", ())]
        stored: dict[str, Iterator[Place | None]] = {}
        for column, feature in features.items():
            if isinstance(feature, datasets.Image):
                held = held.cast_column(column, datasets.Image(decode=False))
                stored[column] = places(files, column)
        names = {column: _class_names(features.get(column), datasets) for column in wanted}
        rows = unbroken(held, self.name, self.told) if self.streamed else held
        for number, values in enumerate(rows, start=1):
            named = {column: _named(values.get(column), names[column]) for column in wanted}
            for column, found in stored.items():
                named[column] = _left(named[column], next(found, None))
            yield Row(f"{self.name}, row {number}", number, named)


@dataclass(frozen=True)
class HubDataset:
    """A data set that is open for reading."""

    parts: Mapping[str, HubPart]
    """By `train`, `validation`, `test`, or `all`."""
    folders: tuple[Path, ...]
    """Where its image files may lie."""
    revision: str
    """Its commit, or what the study says, or empty."""


def open_dataset(
    name: str,
    config: str | None,
    revision: str,
    splits: Mapping[str, str] | None,
    folder: Path,
    *,
    streaming: bool = False,
) -> HubDataset:
    """Open a data set of the hub, or one that lies in a folder of this machine.

    Args:
        name: `owner/name` on the hub; or a folder, written with a leading `.`, `/` or `~`.
        config: its configuration.
        revision: its commit, tag or branch; empty: the newest.
        splits: its split by part; None: they are called as in `SPLIT_NAMES`, or there is only one.
        folder: where relative paths start.
        streaming: whether rows are read as they come, once; else `datasets` fetches and prepares all of them first.

    Raises:
        StudyError: not a hub id.
        DataError: `datasets` is missing or too old, or the data set cannot be loaded, or its splits are unclear.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"dataset: {name}: the library `datasets` is not installed: pip install 'vlprobe[hub]'"
        ) from None
    version = datasets.__version__
    if int(version.split(".")[0]) < FIRST_SAFE:
        raise DataError(
            f"dataset: {name}: datasets {version} may run code that a data set brings along; "
            f"pip install 'datasets>={FIRST_SAFE}'"
        )
    where, folders = _where(name, folder, datasets)
    try:
        held, told, files = (_stream if streaming else _prepared)(datasets, where, config, revision or None)
    except Exception as error:  # noqa: BLE001 (datasets hands on whatever network, files and parsers raise)
        problem = str(error).strip().split("\n")[0]
        raise DataError(
            f"dataset: {name} cannot be loaded: {type(error).__name__}: {problem}; check its id, config and revision"
        ) from error
    chosen = _parts(held, splits, name)
    parts = {
        part: HubPart(f"{name} ({split})", held[split], streaming, told.get(split, 0)) for part, split in chosen.items()
    }
    return HubDataset(parts, folders, _commit(files) or revision)


Opened = tuple[Mapping[str, Any], dict[str, int], list[Any]]
"""Data by split, how many rows each is said to have where nobody has counted, and the files that they come from."""


def _prepared(datasets: Any, where: str, config: str | None, revision: str | None) -> Opened:
    held = datasets.load_dataset(where, config, revision=revision)
    return held, {}, list(next(iter(held.values())).info.download_checksums or {})


def _stream(datasets: Any, where: str, config: str | None, revision: str | None) -> Opened:
    builder = datasets.load_dataset_builder(where, config, revision=revision)
    held = builder.as_streaming_dataset()
    told = {split: said.num_examples for split, said in (builder.info.splits or {}).items()}
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    return parquet_streams(builder, held, datasets) or held, told, files


def _where(name: str, folder: Path, datasets: Any) -> tuple[str, tuple[Path, ...]]:
    """Return what to load, and where its image files may lie."""
    if name.startswith((".", "/", "~", "$", "package:")):
        path = resolve_path(name, folder)
        if not path.is_dir():
            raise DataError(f"dataset: {name} is not a folder ({path})")
        return str(path), (path,)
    if not _ID.fullmatch(name):
        raise StudyError(f"dataset: expected owner/name as on the hub, or a folder such as ./{name}; found {name!r}")
    if Path(name).exists():
        # datasets would read the folder and not the hub, without a word.
        raise StudyError(f"dataset: {name} is also a folder here; write ./{name} if that is meant, else move it away")
    return name, (Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE))


def _parts(held: Mapping[str, Any], splits: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Return the split by part."""
    present = sorted(held)
    if splits is not None:
        absent = [split for split in splits.values() if split not in held]
        if absent:
            raise DataError(f"dataset: {name} has no split '{absent[0]}'; it has {', '.join(present)}")
        return dict(splits)
    if len(present) == 1:
        return {"all": present[0]}
    parts = {SPLIT_NAMES[split.lower()]: split for split in present if split.lower() in SPLIT_NAMES}
    if len(parts) < len(present):
        raise DataError(
            f"dataset: {name} has the splits {', '.join(present)}; say which is which, "
            f"splits: {{train: {present[0]}, test: {present[-1]}}}"
        )
    return parts


def _class_names(feature: Any, datasets: Any) -> tuple[str, ...]:
    """Return the names of the classes that a column holds as numbers, or nothing."""
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return _class_names(feature.feature, datasets)
    return ()


def _left(value: Any, place: Place | None) -> Any:
    """Return {bytes, path} with a reference for the bytes where they lie in a file as they are, else as it is."""
    held = value.get("bytes") if isinstance(value, Mapping) else None
    if not held or place is None or not place.holds(held):
        return value
    return {**value, "bytes": StoredImage.of(held, place.file, place.span, value.get("path"))}


def _named(value: Any, names: tuple[str, ...]) -> Any:
    if not names or value is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if 0 <= value < len(names) else None  # -1: not labelled, e.g. in a hidden test split


def _commit(files: Iterable[Any]) -> str:
    """Return the commit that the files are fetched from, which is written in their addresses, or nothing."""
    found = next((match for file in files if (match := _COMMIT.search(str(file)))), None)
    return found[1] if found else ""
