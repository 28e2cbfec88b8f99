"""Reading tables row by row: CSV and TSV, JSON lines, Parquet. Nothing is executed, nothing is guessed."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlprobe.errors import BadRow, DataError, did_you_mean
from vlprobe.tasks.rows import Row
from vlprobe.types import Source

OnBadRow = Callable[[BadRow], None]

PIECE = 2**20
"""Bytes of a column of a Parquet table that are read at once."""
AT_ONCE = 16
"""Rows of a Parquet table with embedded images that are in memory at once."""


@dataclass(frozen=True)
class Table:
    """A table that is open for reading."""

    columns: tuple[str, ...]
    """Names of its columns."""
    rows: Iterator[Row]
    """Its rows; a row that cannot be parsed is handed to `on_bad_row` instead."""
    source: Source
    """The file."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV or TSV file is written."""

    delimiter: str | None = None
    """Between cells. None: a comma in .csv, a tab in .tsv."""
    quotes: bool = True
    """Whether a cell may stand in double quotes; False: a quote is a character as any other."""


def read_text(path: Path, shown: str) -> tuple[str, Source]:
    r"""Return the text of a small UTF-8 file (a byte order mark is dropped) and its source.

    Args:
        path: the file.
        shown: how messages call it.

    Raises:
        DataError: missing, not readable, or not UTF-8; then with the number of the line.
    """
    source = checked_text(path, shown)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return file.read(), source


def read_table(path: Path, shown: str, on_bad_row: OnBadRow, dialect: Dialect | None = None) -> Table:
    """Open a table; the ending of its name says which kind it is.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file.
        shown: how messages call it.
        on_bad_row: called with every row that cannot be parsed.
        dialect: how a CSV or TSV is written.

    Raises:
        DataError: of another kind, missing, not UTF-8, without a header, or with two columns of one name.
    """
    ending = path.suffix.lower()
    if ending not in READERS:
        kinds = ", ".join(READERS)
        cure = "; write shards: in the place of table:" if ending == ".tar" else ""
        raise DataError(f"{shown}: a table is one of {kinds}, not '{ending or 'a file without ending'}'{cure}")
    if not path.is_file():
        raise DataError(f"{shown}: there is no such file ({path})")
    table = READERS[ending](path, shown, on_bad_row, dialect or Dialect())
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if twice:
        raise DataError(f"{shown} has two columns named '{twice[0]}'; rename one of them")
    return table


def require_columns(wanted: Mapping[str, str], columns: tuple[str, ...], shown: str) -> None:
    """Check that a file has the columns that a task names.

    Args:
        wanted: column by what it is used for.
        columns: of the file.
        shown: how messages call the file.

    Raises:
        DataError: with the nearest name.
    """
    for use, name in wanted.items():
        if name not in columns:
            raise DataError(f"{shown} has no column '{name}' (wanted for {use}){did_you_mean(name, columns)}")


def checked_text(path: Path, shown: str) -> Source:
    """Return the source of a UTF-8 file, read through once and not kept.

    Args:
        path: the file.
        shown: how messages call it.

    Raises:
        DataError: missing, not readable, or not UTF-8; then with the number of the line.
    """
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                sha256.update(line)
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{shown}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file in the "
                        "encoding UTF-8"
                    ) from None
    except FileNotFoundError:
        raise DataError(f"{shown}: there is no such file ({path})") from None
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error}") from None
    return Source(str(path), sha256.hexdigest())


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, each without its end: a line feed, not what else JSON allows inside a text."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _read_csv(path: Path, shown: str, on_bad_row: OnBadRow, dialect: Dialect) -> Table:
    source = checked_text(path, shown)
    settings: dict[str, Any] = {
        "delimiter": dialect.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","),
        "quoting": csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
        "strict": True,
    }
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, **settings), [])
    except csv.Error as error:
        raise DataError(f"{shown}, row 1: the header cannot be parsed: {error}") from None
    if not any(name.strip() for name in header):
        raise DataError(f"{shown} is empty: its first row must hold the names of the columns")

    def rows() -> Iterator[Row]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, **settings)
            next(reader)
            yield from _csv_rows(reader, header, shown, on_bad_row)

    return Table(tuple(header), rows(), source)


def _csv_rows(reader: Any, header: list[str], shown: str, on_bad_row: OnBadRow) -> Iterator[Row]:
    while True:
        number = reader.line_num + 1  # where the row begins: a quoted cell may hold line breaks
        place = f"{shown}, row {number}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cure = "check its quotes, or set quotes: false where they are plain characters"
            on_bad_row(BadRow(place, f"cannot be parsed ({error}){_reach(number, reader.line_num)}; {cure}"))
            continue
        if not cells:  # an empty line
            continue
        if len(cells) != len(header):
            reach = _reach(number, reader.line_num)
            on_bad_row(BadRow(place, f"has {len(cells)} columns where the header has {len(header)}{reach}"))
            continue
        yield Row(place, number, dict(zip(header, cells, strict=True)))


def _reach(first: int, last: int) -> str:
    """Say how many lines a row has swallowed: one stray quote can take the rest of the file along."""
    return f", and reaches to line {last} since a quote is open" if last > first else ""


def _read_jsonl(path: Path, shown: str, on_bad_row: OnBadRow, dialect: Dialect) -> Table:
    source = checked_text(path, shown)
    # Twice: every row may have a column that none before it had.
    found = dict.fromkeys(name for row in _json_rows(path, shown, lambda problem: None) for name in row.values)
    return Table(tuple(found), _json_rows(path, shown, on_bad_row), source)


def _json_rows(path: Path, shown: str, on_bad_row: OnBadRow) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        place = f"{shown}, row {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            on_bad_row(BadRow(place, f"is not valid JSON: {error}"))
            continue
        if isinstance(values, dict):
            yield Row(place, number, values)
        else:
            on_bad_row(BadRow(place, f"must be a JSON object {{...}}, found {type(values).__name__}"))


def _read_parquet(path: Path, shown: str, on_bad_row: OnBadRow, dialect: Dialect) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    from vlprobe.digest import file_digest

    try:
        # Either alone would read a row group's column, or all of them, at once.
        file = parquet.ParquetFile(path, buffer_size=PIECE, pre_buffer=False)
        columns = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {error}") from None

    at_once = AT_ONCE if _embedded(file.schema_arrow) else 256

    def rows() -> Iterator[Row]:
        number = 0  # the first row is row 1: there is no header row
        try:
            for group in range(file.metadata.num_row_groups):
                for batch in file.iter_batches(at_once, row_groups=[group], use_threads=False):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(f"{shown}, row {number}", number, values)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{shown} is damaged after row {number}: {error}") from None

    return Table(columns, rows(), Source(str(path), file_digest(path)))


def _embedded(schema: Any) -> bool:
    """Say whether a column holds bytes, or structs {bytes, path}."""
    import pyarrow as pa

    kinds = [part.type for each in schema for part in (each.type if pa.types.is_struct(each.type) else [each])]
    return any(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds)


READERS: dict[str, Callable[[Path, str, OnBadRow, Dialect], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""Reader by the ending of the file's name."""
