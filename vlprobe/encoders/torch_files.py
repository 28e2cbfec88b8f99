"""PyTorch files: the tensors in them; whatever else they hold is neither imported nor built nor run."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vlprobe.encoders.checkpoint import first_line
from vlprobe.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which key a file that holds more than weights keeps them."""
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    AssertionError,
    NotImplementedError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What torch, pickle and zipfile raise over bytes that they cannot make sense of."""
RUNNERS = frozenset(
    "os posix nt subprocess sys shutil runpy importlib pty socket ctypes webbrowser code codeop commands".split()
)
"""Modules that no checkpoint needs: a file that names one of them was made to run something."""
RUNNING_BUILTINS = frozenset("eval exec execfile compile open __import__ breakpoint input".split())
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_tensors(path: Path, source: str) -> dict[str, torch.Tensor]:
    """Return name -> tensor of a .safetensors file, or of one that `torch.save` wrote, zipped or as before PyTorch 1.6.

    A Lightning checkpoint also holds the objects that its training was configured with. Where torch refuses such a
    file, its tensors are read here, and everything else in it becomes a placeholder without a meaning.

    Args:
        path: the file.
        source: as the study names it, for messages.

    Raises:
        CheckpointError: cut short or damaged, no checkpoint, or made to run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{source}: {path} cannot be read: it is cut short or damaged, no PyTorch checkpoint, or holds Python "
                "objects besides tensors, which are never run; fetch it again"
            ) from error
        loaded = _read_inert(path, source)
    except UNREADABLE as error:
        raise _damaged(path, source, error) from error
    return _state(loaded, path, source)


def _damaged(path: Path, source: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{source}: {path} cannot be read: {first_line(error)}; it is cut short, damaged, or no PyTorch checkpoint: "
        "fetch it again"
    )


def _state(loaded: Any, path: Path, source: str) -> dict[str, torch.Tensor]:
    """Return the weights among what a file holds."""
    loaded = _unwrapped(loaded)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{source}: {path} holds a {type(loaded).__name__}, not named tensors; it is no checkpoint of this model"
        )
    foreign = [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if foreign or not loaded:
        what = f"holds {len(foreign)} entries that are no tensors ({foreign[0]}, ...)" if foreign else "is empty"
        raise CheckpointError(
            f"{source}: {path} {what}; a checkpoint holds named tensors, under one of {', '.join(WRAPPERS)} where "
            "there is more in it. Python objects in it are never run"
        )
    return {str(name): value for name, value in loaded.items()}


def _unwrapped(loaded: Any) -> Any:
    """Take the weights out of whatever they were saved in."""
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    return loaded


@dataclass(frozen=True)
class _Storage:
    """Where the numbers of some tensors lie in the archive."""

    key: str
    """Name of the record."""
    dtype: torch.dtype
    """Of its numbers."""


@dataclass(frozen=True)
class _Stored:
    """A tensor that has not been read yet: optimizer states, twice the size of the weights, never are."""

    storage: _Storage
    """Its numbers."""
    offset: int
    """Of its first number."""
    size: tuple[int, ...]
    """Its shape."""
    stride: tuple[int, ...]
    """Numbers from one index to the next, by axis."""


class _Inert:
    """Stands for any object of a class that is not known here: accepts everything, does nothing."""

    def __new__(cls, *positional: Any, **named: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *positional: Any, **named: Any) -> None:
        pass

    def __call__(self, *positional: Any, **named: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Drop it."""

    def extend(self, items: Any) -> None:
        """Drop them."""


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> _Stored:
    return _Stored(storage, int(offset), tuple(size), tuple(stride))


def _rebuild_parameter(data: _Stored, *rest: Any) -> _Stored:
    return data


_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _InertUnpickler(pickle.Unpickler):
    """An unpickler that knows tensors and dicts, imports nothing, and calls nothing of the file's choosing."""

    place = ""
    """The file, for messages."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the pickle stands for here.

        Raises:
            CheckpointError: it names something that runs code.
        """
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        builtin = module in ("builtins", "__builtin__") and name in RUNNING_BUILTINS
        if builtin or module.split(".")[0] in RUNNERS:
            raise CheckpointError(
                f"{self.place} wants to run {module}.{name}, which no checkpoint needs; nothing of it was run. "
                "Do not use this file: fetch the released one"
            )
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        """Return the place of a storage: ("storage", type, key, location, count)."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of storage {kind}")
        return _Storage(str(key), dtype)


def _read_inert(path: Path, source: str) -> Any:
    """Return name -> tensor of a zipped checkpoint that torch refuses, or whatever else it holds.

    Raises:
        CheckpointError: damaged, or made to run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if index is None:
                raise zipfile.BadZipFile("the archive has no data.pkl")
            unpickler = _InertUnpickler(io.BytesIO(archive.read(index)))
            unpickler.place = f"{source}: {path}"
            state = _unwrapped(unpickler.load())
            if not isinstance(state, Mapping):
                return state
            root = index.removesuffix("data.pkl")
            return {
                name: _read_tensor(archive, root, value) if isinstance(value, _Stored) else value
                for name, value in state.items()
            }
    except UNREADABLE as error:
        raise _damaged(path, source, error) from error


def _read_tensor(archive: zipfile.ZipFile, root: str, stored: _Stored) -> torch.Tensor:
    if 0 in stored.size:
        return torch.empty(stored.size, dtype=stored.storage.dtype)
    numbers = torch.frombuffer(bytearray(archive.read(f"{root}data/{stored.storage.key}")), dtype=stored.storage.dtype)
    return torch.as_strided(numbers, stored.size, stored.stride, stored.offset).clone()
