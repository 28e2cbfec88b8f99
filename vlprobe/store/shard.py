"""One shard: a safetensors file whose every tensor has a checksum.

Read with our own few lines. `safe_open` pages a cold file in several times slower; and read from a memory map, a disk
that fails, or a file that is cut short, would end the process without a word, where `read` says what happened. Written
with our own few lines, too: `save_file` writes what nobody but its user may read, under a name of its own, which stays
where it is killed.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_128, xxh3_128_hexdigest

from vlprobe.aside import aside
from vlprobe.errors import DataError, unwritable

FORMAT = 4
"""Part of where a home lies: what another version has written is not found, and never misread."""
TYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I64": np.int64, "I32": np.int32}
"""safetensors' names of the number formats that a shard may hold."""
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
"""Number format -> its name there."""
LOST = (errno.EIO, errno.ENOENT, errno.ESTALE)
"""Errors of a file whose content is no more: the disk fails, or somebody has removed it. Others say nothing of it, as
where too many files are open, or another user's may not be read."""
HEADER = 100_000_000
"""Bytes of the longest header that is read."""
ANOTHER = "`store` in the study or VLPROBE_CACHE"
"""How another store is named."""
PIECE = 2**21
"""Bytes that are read, hashed and copied at a time: the processor's cache holds them, and most layers of a shard are
one such piece."""


class Damaged(DataError):
    """A shard is not what was written.

    Args:
        path: its file.
        problem: what is wrong.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}; remove it, and what it held is computed again")
        self.path = path


class Gone(Damaged):
    """Shards that were there when they were looked for are no more.

    Args:
        path: the folder that they were in.
    """

    def __init__(self, path: Path) -> None:
        DataError.__init__(
            self, f"{path}: representations that were there are gone; let nothing remove them while a study runs"
        )
        self.path = path


class Outdated(Damaged):
    """A shard of another version of vlprobe.

    Args:
        path: its file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "it was written by another version of vlprobe")


@dataclass(frozen=True)
class Section:
    """What one model answered to some questions that are pooled in one way."""

    questions: tuple[str, ...]
    """(question,) content addresses, 32 hexadecimal digits each."""
    start: np.ndarray
    """(question + 1,) int64: rows start[q] to start[q + 1] belong to question q."""
    unit: np.ndarray
    """(row,) int32: which unit of its input a row is."""
    layers: Mapping[str, np.ndarray]
    """Layer address -> (row, width) float32, or float16 where that was asked for and holds the numbers."""
    how: Mapping[str, str]
    """Layer address -> the pooling that was done. A stream that has no positions to pool from -> empty."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Question that the model could not take -> why; it has no rows."""


def write_shard(path: Path, sections: Mapping[str, Section]) -> None:
    """Write one shard: all of it, or nothing.

    Args:
        path: its file, in the folder of the model that answered.
        sections: by name.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    tensors: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {}
    for name, section in sections.items():
        questions = np.frombuffer(bytes.fromhex("".join(section.questions)), np.uint8).reshape(-1, 16)
        arrays = {"question": questions, "start": section.start, "unit": section.unit, **section.layers}
        tensors |= {f"{name}/{key}": np.ascontiguousarray(array) for key, array in arrays.items()}
        told[name] = {"layers": dict(section.how), "skipped": dict(section.skipped)}
    checks = {name: checksum(array) for name, array in tensors.items()}
    notes = {"format": FORMAT, "home": path.parent.name, "sections": told, "checksums": checks}
    try:
        with aside(path, first=True) as temporary:  # another process may do the same work
            _save(temporary, tensors, {"vlprobe": json.dumps(notes)})
    except OSError as error:
        raise unwritable("representations", path.parent, error, ANOTHER) from error


def _save(path: Path, tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Write a safetensors file: the length of its header, the header, and the tensors, the widest numbers first."""
    header: dict[str, Any] = {"__metadata__": notes}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))  # so that each lies aligned
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(array.reshape(-1).view(np.uint8).data)


class Shard:
    """A shard that was opened: its header is known, its tensors are read when asked for.

    Args:
        path: its file.

    Raises:
        Damaged: it is no whole shard of this version and of the model whose folder it is in.
        DataError: the system does not let it be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb", buffering=0) as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length < HEADER:
                    raise Damaged(path, "it does not start as a safetensors file does")
                self._tensors: dict[str, Any] = json.loads(file.read(length))
                self.size = file.seek(0, os.SEEK_END)
            notes = json.loads(self._tensors.pop("__metadata__")["vlprobe"])
            if notes["format"] != FORMAT:
                raise Outdated(path)
            if notes["home"] != path.parent.name:
                raise Damaged(path, f"it holds what another model answered, whose folder is {notes['home']}")
            self._sections: dict[str, Any] = notes["sections"]
            self._checksums: dict[str, str] = notes["checksums"]
            self._first = 8 + length
            ends = [self._first + each["data_offsets"][1] for each in self._tensors.values()]
        except OSError as error:
            raise _unreadable(path, error) from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Damaged(path, f"its header cannot be read ({error})") from None
        if max(ends, default=self._first) != self.size:
            raise Damaged(path, "it is longer or shorter than its header says")
        for section in self._sections:  # so that a damaged one is noticed here
            self.addresses(section)
            self.rows(section)

    @property
    def sections(self) -> tuple[str, ...]:
        """Return the names of its sections."""
        return tuple(self._sections)

    def addresses(self, section: str) -> np.ndarray:
        """Return (question, 16) uint8: the questions of a section, none where it has no such section.

        Raises:
            Damaged: they are not what was written.
        """
        return self.read(section, "question") if section in self._sections else np.zeros((0, 16), np.uint8)

    def questions(self, section: str) -> tuple[str, ...]:
        """Return (question,) the same in hexadecimal digits."""
        return tuple(row.tobytes().hex() for row in self.addresses(section))

    def layers(self, section: str) -> dict[str, str]:
        """Return layer -> how it was pooled."""
        return self._sections.get(section, {}).get("layers", {})

    def skipped(self, section: str) -> dict[str, str]:
        """Return question -> why the model could not take it."""
        return self._sections.get(section, {}).get("skipped", {})

    def rows(self, section: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (question + 1,) where the rows of each question start, and (row,) their units.

        Raises:
            Damaged: they are not what was written.
        """
        return self.read(section, "start"), self.read(section, "unit")

    def shape(self, section: str, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return tuple(self._tensors[f"{section}/{name}"]["shape"])

    def kind(self, section: str, name: str) -> np.dtype:
        """Return the number format of one tensor."""
        return np.dtype(TYPES[self._tensors[f"{section}/{name}"]["dtype"]])

    def ahead(self, section: str, name: str) -> None:
        """Tell the system that a tensor is to be read soon: it fetches it while another one is looked at."""
        start, end = self._tensors[f"{section}/{name}"]["data_offsets"]
        with suppress(OSError, AttributeError), self.path.open("rb", buffering=0) as file:  # not every system has it
            os.posix_fadvise(file.fileno(), self._first + start, end - start, os.POSIX_FADV_WILLNEED)

    def read(self, section: str, name: str) -> np.ndarray:
        """Return one tensor of one section.

        Raises:
            Damaged: it is not what was written.
        """
        pieces = [rows for _, rows in self.pieces(section, name)]
        return pieces[0] if pieces else np.empty(self.shape(section, name), self.kind(section, name))

    def pieces(self, section: str, name: str, memory: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield a tensor some rows at a time, few enough to be hashed and copied while the processor's cache has them.

        Args:
            section: its name.
            name: of the tensor.
            memory: (byte,) uint8 for the rows, or for one where it is shorter than that; None: for all, as one piece.

        Yields:
            The number of the first row, and (row, ...) rows, whose memory the next ones take. None of them is to be
            believed before the last one was yielded: the checksum is one of all.

        Raises:
            Damaged: it is not what was written; after the last piece, where the checksum is another.
            DataError: the system does not let it be read.
        """
        key = f"{section}/{name}"
        try:
            about = self._tensors[key]
            kind, shape, (start, end) = np.dtype(TYPES[about["dtype"]]), about["shape"], about["data_offsets"]
            count, row = shape[0], math.prod(shape[1:]) * kind.itemsize
            if end - start != count * row:
                raise Damaged(self.path, f"tensor {key} is not as long as its shape says")
            if memory is None or len(memory) < row:
                memory = np.empty(end - start if memory is None else row, np.uint8)
            check, step = xxh3_128(), max(len(memory) // max(row, 1), 1)
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._first + start)
                for first in range(0, count, step):
                    part = memory[: min(step, count - first) * row]
                    self._fill(file, part.data, key)
                    check.update(part.data)
                    yield first, part.view(kind).reshape(-1, *shape[1:])
        except OSError as error:
            raise _unreadable(self.path, error) from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(self.path, f"tensor {key} cannot be read ({error})") from None
        if check.hexdigest() != self._checksums.get(key):
            raise Damaged(self.path, f"tensor {key} has changed since it was written (its checksum is another)")

    def _fill(self, file: BinaryIO, memory: memoryview, key: str) -> None:
        """Read as many bytes as memory holds."""
        done = 0
        while done < len(memory):
            if not (got := file.readinto(memory[done:])):  # type: ignore[attr-defined]
                raise Damaged(self.path, f"it ends inside tensor {key}")
            done += got

    def verify(self) -> None:
        """Read every tensor.

        Raises:
            Damaged: one is not what was written.
        """
        memory = np.empty(PIECE, np.uint8)
        for key in self._tensors:
            section, _, name = key.rpartition("/")
            for _ in self.pieces(section, name, memory):
                pass


def _unreadable(path: Path, error: OSError) -> DataError:
    """Return what is wrong where the system does not let a shard be read."""
    if error.errno in LOST:
        return Damaged(path, f"it cannot be read ({error.strerror})")
    return DataError(
        f"{path} cannot be read ({error.strerror}); nothing says that it is damaged, and it was left as it is. See to "
        f"it that it can be read, or name another store with {ANOTHER}"
    )


def checksum(array: np.ndarray) -> str:
    """Return the XXH3 of an array's bytes, 128 bits of it: several times faster than memory is read.

    It is there to notice what disks and killed machines do, not what an adversary would.
    """
    return xxh3_128_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
