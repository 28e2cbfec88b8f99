"""Where the bytes of a column lie in Arrow files, as the library `datasets` keeps its data sets on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlprobe.stored import Span


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell's bytes are."""

    file: Path
    """The Arrow file."""
    span: Span
    """In it."""
    mapped: Any
    """The `pyarrow.Buffer` of the whole file."""

    def holds(self, value: bytes) -> bool:
        """Say whether just these bytes lie there."""
        import pyarrow as pa

        return bool(self.mapped.slice(self.span.offset, self.span.size).equals(pa.py_buffer(value)))


def places(files: Iterable[Path], column: str) -> Iterator[Place | None]:
    """Yield where each cell of a column of bytes, or of structs {bytes, path}, lies; None: nowhere as it is.

    An Arrow file is mapped into memory, and not read: an array's buffer that begins so far behind the file's first byte
    begins there in the file as well. Compressed buffers lie elsewhere.

    Args:
        files: Arrow streams, whose rows follow one another.
        column: its name.
    """
    import pyarrow as pa

    for file in files:
        with pa.memory_map(str(file)) as opened:
            mapped = opened.read_buffer(opened.size())
            opened.seek(0)
            for batch in pa.ipc.open_stream(opened):
                array = batch.column(column)
                array = array.field("bytes") if pa.types.is_struct(array.type) else array
                for span in _spans(array, mapped):
                    yield Place(file, span, mapped) if span else None


def _spans(array: Any, mapped: Any) -> Iterator[Span | None]:
    import numpy as np
    import pyarrow as pa

    widths = ((pa.types.is_binary, np.int32), (pa.types.is_large_binary, np.int64))
    width = next((width for is_it, width in widths if is_it(array.type)), None)
    _, offsets, values = array.buffers() if width else (None, None, None)
    if width is None or offsets is None or values is None:
        yield from [None] * len(array)
        return
    start = values.address - mapped.address
    if not 0 <= start <= start + values.size <= mapped.size:
        yield from [None] * len(array)
        return
    edges = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].tolist()
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        yield Span(start + first, last - first)
