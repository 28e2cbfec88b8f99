"""Parquet files of a streamed data set, read a few rows at a time.

`datasets` reads them with Arrow's scanner, which runs ahead of whoever takes the rows, whatever it is told of reading
ahead: of a file of 300 MB it held 230 (github.com/apache/arrow/issues/39808). Here a page of a column is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlprobe.tasks.tables import AT_ONCE, PIECE


@dataclass(frozen=True)
class ParquetStream:
    """One split, as much of a `datasets.IterableDataset` as is asked for: rows are the same, images are not decoded."""

    features: Mapping[str, Any]
    """Column -> its `datasets` feature."""
    files: Sequence[str]
    """Paths or addresses, in their order."""
    opened: Callable[[str], Any]
    """Opens one for reading."""

    @property
    def column_names(self) -> list[str]:
        """Return the names of its columns."""
        return list(self.features)

    def select_columns(self, names: Sequence[str]) -> ParquetStream:
        """Return the same rows with some of their columns."""
        return replace(self, features={name: self.features[name] for name in names})

    def cast_column(self, name: str, feature: Any) -> ParquetStream:
        """Return the same rows with another feature for a column."""
        return replace(self, features={**self.features, name: feature})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import datasets
        import pyarrow as pa
        from datasets.table import table_cast
        from pyarrow import parquet

        schema = datasets.Features(self.features).arrow_schema
        for name in self.files:
            with self.opened(name) as opened:
                file = parquet.ParquetFile(opened, buffer_size=PIECE, pre_buffer=False)
                for batch in file.iter_batches(AT_ONCE, columns=self.column_names, use_threads=False):
                    yield from table_cast(pa.Table.from_batches([batch]), schema).to_pylist()


def parquet_streams(builder: Any, held: Mapping[str, Any], datasets: Any) -> dict[str, ParquetStream]:
    """Return split -> stream of a data set of Parquet files; empty where it is something else.

    Args:
        builder: a `datasets.DatasetBuilder`.
        held: its splits, as it streams them itself: they know their features.
        datasets: the library.
    """
    files = {str(split): list(map(str, found)) for split, found in (builder.config.data_files or {}).items()}
    plain = all(name.endswith(".parquet") for found in files.values() for name in found)
    if not hasattr(builder.config, "fragment_scan_options") or builder.config.filters is not None or not plain:
        return {}
    if files.keys() != held.keys() or not all(each.features for each in held.values()):
        return {}
    from datasets.utils.file_utils import xopen  # tries again where a connection breaks

    how = datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    return {
        split: ParquetStream(dict(held[split].features), found, lambda name: xopen(name, "rb", download_config=how))
        for split, found in files.items()
    }
