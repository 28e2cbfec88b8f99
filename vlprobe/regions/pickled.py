"""Reading arrays out of a pickle that others made, without running anything it names.

A pickle is a program: it names functions and calls them. Here every name is looked up in one short table of stand-ins
written in this file, which only put an array's parts aside; numpy itself never sees an unchecked value, and a name
that is not in the table ends the reading. (`encoders/torch_files.py` puts a placeholder there and reads on: the
checkpoints of training code hold such names beside the weights. These files were made to hold arrays alone.)
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from vlprobe.errors import CheckpointError

KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
"""Types of numbers that an array may hold."""


class _Forbidden(pickle.UnpicklingError):
    """The pickle names something that is not an array."""


class _Dtype:
    """Stands for numpy.dtype: remembers its name and byte order."""

    def __init__(self, kind: Any, *flags: Any) -> None:
        self.kind = str(kind).lstrip("<>=|")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def real(self) -> np.dtype[Any]:
        """Return the numpy type.

        Raises:
            _Forbidden: it is not a type of plain numbers.
        """
        if self.kind not in KINDS or self.order not in "<>=|":
            raise _Forbidden(f"it holds an array of type '{self.kind}', not of numbers")
        return np.dtype(self.kind).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Stands for numpy.ndarray: remembers what the array is made of."""

    def __init__(self, *ignored: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, data = state
        # Python 2 wrote bytes as text, which is read as latin-1.
        content = data.encode("latin-1") if isinstance(data, str) else data
        if not isinstance(content, bytes) or not isinstance(dtype, _Dtype):
            raise _Forbidden("it holds an array of objects")
        self.array = _shaped(np.frombuffer(content, dtype.real()), shape, bool(columns_first))


class _Scalar:
    """Stands for numpy's scalars: numbers beside the arrays, which nothing reads."""

    def __init__(self, *ignored: Any) -> None:
        pass


def _shaped(flat: np.ndarray, shape: Any, columns_first: bool) -> np.ndarray:
    return flat.reshape(tuple(int(size) for size in shape), order="F" if columns_first else "C")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stand for numpy._core.numeric._frombuffer, which protocol 5 calls."""
    if not isinstance(dtype, _Dtype):
        raise _Forbidden("it holds an array of objects")
    made = _Array()
    made.array = _shaped(np.frombuffer(bytes(buffer), dtype.real()), shape, order == "F")
    return made


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand for _codecs.encode, by which protocol 2 writes bytes."""
    return str(text).encode("latin-1")


def _no_bytes(*content: Any) -> bytes:
    """Stand for bytes, which protocol 2 calls for those of an empty array."""
    if content:
        raise _Forbidden("it calls bytes, which no array of numpy does")
    return b""


def _reconstruct(*ignored: Any) -> _Array:
    """Stand for numpy.core.multiarray._reconstruct, which makes an array without content."""
    return _Array()


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
"""What a pickle may name, and what stands for it here."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; nothing is imported."""
        if (module, name) not in STAND_INS:
            raise _Forbidden(f"it asks for {module}.{name}, and only numpy arrays are read; nothing of it was run")
        return STAND_INS[module, name]


def read_arrays(path: Path) -> dict[str, Any]:
    """Return a pickled dict, its arrays as numpy arrays, nested dicts included.

    Raises:
        CheckpointError: the file cannot be read, is cut short, holds anything that is not plain data or an array, or
            is not a dict.
    """
    try:
        with path.open("rb") as file:
            loaded = _Reader(file, encoding="latin1").load()
    except _Forbidden as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle makes its reader raise anything at all
        raise CheckpointError(
            f"{path} cannot be read as a pickle: {type(error).__name__}: {error}. If it was cut short or damaged, "
            "fetch it again"
        ) from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict of arrays; is it the detector's?")
    return _opened(loaded)


def _opened(value: Any) -> Any:
    """Return a value with every stand-in replaced by its array."""
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    return value.array if isinstance(value, _Array) else value
