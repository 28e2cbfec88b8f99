"""UNITER's image LMDBs: the arrays of its npz files, as msgpack or as compressed npz archives.

They come from scripts/convert_imgdir.py of ChenRocks/UNITER. msgpack's values may ask for objects to be made; here
only plain arrays of numbers are.
"""

from __future__ import annotations

import io
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlprobe.aside import aside
from vlprobe.errors import DataError
from vlprobe.regions.checks import most_confident
from vlprobe.regions.entries import Entries, EntryWriter
from vlprobe.regions.extras import extra
from vlprobe.regions.npz import ARRAYS, packed, read_arrays, uniter_arrays, uniter_name, uniter_regions
from vlprobe.types import Regions

NAMES = b"__keys__"
"""Key of the JSON list of all other keys."""
_NUMBERS = re.compile(r"[<>=|]?[fiu][1248]")
_OPEN = threading.Lock()  # LMDB forbids opening one file twice in a process; it is opened for each entry and closed
_PLAIN = "only plain arrays of numbers are read, because anything else could run code when loaded"


class LmdbEntries(Entries):
    """The values of a UNITER image LMDB, cut to the number of boxes that the JSON file beside it states.

    Args:
        path: the folder that holds data.mdb, e.g. `coco_val2014/feat_th0.2_max100_min10`.

    Raises:
        DataError: damaged, or an LMDB of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counts = _read_counts(counts_file(path))
        self.files = [path / "data.mdb", *([file] if (file := counts_file(path)) and file.exists() else [])]
        with _transaction(path) as (_, values):
            if values.get(NAMES) is None and values.get(b"keys") is not None:
                raise DataError(
                    f"{path} is a volta LMDB, whose values are pickles: they can run anything when loaded and are not "
                    "read. Use volta's .h5 file of the same features"
                )
            self.names = _names(path, values)

    def read(self, name: str) -> Regions:
        """Return one entry."""
        place = f"{self.path}, entry '{name}'"
        with _transaction(self.path) as (_, values):
            value = values.get(name.encode())
        if value is None:
            raise DataError(
                f"{place}: listed under {NAMES.decode()}, but there is no such entry; the file is not whole"
            )
        regions = uniter_regions(_unpack(value, place), place)
        count = self._counts.get(name, len(regions.boxes))
        if not 0 < count <= len(regions.boxes):
            raise DataError(
                f"{place}: {counts_file(self.path)} says {count} boxes, and the entry holds {len(regions.boxes)}"
            )
        return most_confident(regions, count, place)


@contextmanager
def _transaction(path: Path, *, write: bool = False, size: int = 1 << 30) -> Iterator[tuple[Any, Any]]:
    """Open an LMDB and a transaction in it.

    Yields:
        environment: of py-lmdb.
        transaction: of py-lmdb; written when the block ends well.
    """
    lmdb = extra("lmdb", f"{path} is an LMDB")
    with _OPEN:
        try:
            options: dict[str, Any] = (
                {"map_size": size} if write else {"readonly": True, "lock": False, "create": False}
            )
            environment = lmdb.open(str(path), readahead=False, **options)
        except lmdb.Error as error:
            raise DataError(
                f"{path} cannot be opened as an LMDB: {error}; it is damaged or in use, get it again"
            ) from None
        try:
            _check_whole(path, environment)
            with environment.begin(write=write) as values:
                yield environment, values
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError) as error:
            raise DataError(f"{path} is damaged: {error}; get it again") from None
        finally:
            environment.close()


def _check_whole(path: Path, environment: Any) -> None:
    """Refuse a file that ends before its last page: LMDB reads by memory map, and would end the process there."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = (path / "data.mdb").stat().st_size
    if found < needed:
        raise DataError(f"{path / 'data.mdb'} has {found:,} of {needed:,} bytes: it was cut off; get it again")


def _names(path: Path, values: Any) -> list[str]:
    listed = values.get(NAMES)
    try:
        if listed is None:  # a run that writes it was killed, or is not done
            return [bytes(key).decode() for key in values.cursor().iternext(keys=True, values=False)]
        names = json.loads(listed)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its list of names cannot be read ({error}); not a UNITER LMDB") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: {NAMES.decode()} must hold a JSON list of names; not a UNITER LMDB")
    return names


def counts_file(path: Path) -> Path | None:
    """Return the JSON file of box counts of a folder named as UNITER names them; None: it has another name."""
    found = re.fullmatch(r"feat_(th.+?)(_compressed)?", path.name)
    return path.parent / f"nbb_{found[1]}.json" if found else None


def _read_counts(file: Path | None) -> dict[str, int]:
    if file is None or not file.exists():
        return {}
    try:
        counts = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
        raise DataError(f"{file}: expected a mapping of entry names to numbers of boxes")
    return counts


def _unpack(value: bytes, place: str) -> dict[str, np.ndarray]:
    if value[:2] == b"PK":
        return read_arrays(io.BytesIO(value), place, {"norm_bb", "features", *ARRAYS})
    if value[:1] == b"\x80" and value[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise DataError(f"{place} is a pickle; {_PLAIN}")
    return unpack_arrays(value, place)


def unpack_arrays(value: bytes, place: str) -> dict[str, np.ndarray]:
    """Return the arrays of a msgpack mapping in msgpack-numpy's form, {nd, type, shape, data}, and nothing else.

    Raises:
        DataError: not msgpack, not a mapping of arrays, or arrays of anything but numbers.
    """
    msgpack = extra("msgpack", f"{place} is msgpack")
    try:
        # raw: files written before msgpack 1.0 keep arrays in strings that are no text.
        held = msgpack.unpackb(value, raw=True, strict_map_key=True, object_hook=lambda made: _array(made, place))
    except DataError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise DataError(f"{place} is not whole msgpack ({error}); the file is damaged or of another kind") from None
    if not isinstance(held, dict) or not all(isinstance(array, np.ndarray) for array in held.values()):
        raise DataError(f"{place}: expected a mapping of names to arrays; {_PLAIN}")
    return {bytes(name).decode(errors="replace"): array for name, array in held.items()}


def _array(made: dict[bytes, Any], place: str) -> Any:
    if b"nd" not in made:
        return made
    kind, shape, data = made.get(b"type"), made.get(b"shape"), made.get(b"data")
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else repr(kind)
    if made[b"nd"] is not True or not _NUMBERS.fullmatch(kind) or made.get(b"kind", b"") not in (b"", b"V"):
        raise DataError(f"{place} holds an array of type {kind[:40]!r}; {_PLAIN}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise DataError(f"{place} holds an array of shape {shape!r}")
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise DataError(f"{place} holds an array of type {kind!r}; {_PLAIN}") from None
    needed = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != needed:
        found = len(data) if isinstance(data, bytes) else 0
        raise DataError(f"{place}: an array of shape {shape} has {found:,} bytes, expected {needed:,}; cut off?")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


class LmdbWriter(EntryWriter):
    """Adds entries to a UNITER image LMDB, each in a transaction of its own.

    Args:
        path: the folder; created when absent. Named as UNITER names it, it gets its JSON of box counts beside it.
        compressed: values are compressed npz archives instead of msgpack.
    """

    def __init__(self, path: Path, *, compressed: bool) -> None:
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file; an LMDB is a folder: name another output")
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.compressed = path, compressed
        self._size = max(1 << 26, 2 * (path / "data.mdb").stat().st_size if (path / "data.mdb").exists() else 0)
        with _transaction(path, write=True, size=self._size) as (_, values):
            keys = [bytes(key).decode() for key in values.cursor().iternext(keys=True, values=False)]
        self._names = {name for name in keys if name != NAMES.decode()}

    def holds(self, image: str) -> bool:
        """Say whether there is an entry of an image."""
        return uniter_name(image) in self._names

    def write(self, image: str, regions: Regions) -> None:
        """Add the entry of an image."""
        arrays = uniter_arrays(regions)
        self._put(uniter_name(image).encode(), packed(arrays, compressed=True) if self.compressed else _pack(arrays))
        self._names.add(uniter_name(image))

    def close(self) -> None:
        """Write the list of names, and the counts where the folder's name asks for them."""
        names = sorted(self._names)
        self._put(NAMES, json.dumps(names).encode())
        file = counts_file(self.path)
        if file is not None:
            known = _read_counts(file)
            entries = LmdbEntries(self.path) if set(names) - set(known) else None
            counts = {name: known.get(name) or len(entries.read(name).boxes) for name in names} if entries else known
            with aside(file) as temporary:
                temporary.write_text(json.dumps(counts), encoding="utf-8")

    def _put(self, key: bytes, value: bytes) -> None:
        lmdb = extra("lmdb", f"{self.path} is an LMDB")
        while True:
            try:
                with _transaction(self.path, write=True, size=self._size) as (_, values):
                    values.put(key, value)
                    return
            except lmdb.MapFullError:
                self._size *= 2  # the file grows as it is filled, whatever the size of the map
            except lmdb.BadValsizeError:
                raise DataError(
                    f"{self.path}: the name {key[:80]!r} is too long for an LMDB; rename the image"
                ) from None


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    msgpack = extra("msgpack", "UNITER's LMDBs hold msgpack")
    plain = {
        name: {
            b"nd": True,
            b"type": array.dtype.str,
            b"kind": b"",
            b"shape": list(array.shape),
            b"data": np.ascontiguousarray(array).tobytes(),
        }
        for name, array in arrays.items()
    }
    packed_bytes: bytes = msgpack.packb(plain)
    return packed_bytes
