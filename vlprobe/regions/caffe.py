"""Reading a .caffemodel: a protobuf NetParameter, of which only names, types and blobs of layers are looked at.

Field numbers are those of caffe's src/caffe/proto/caffe.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlprobe.errors import CheckpointError

NET_LAYER, NET_OLD_LAYER = 100, 2
LAYER_NAME, LAYER_BLOBS = 1, 7
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Damaged(ValueError):
    """The bytes are not a protobuf message of this kind."""


def read_caffemodel(path: Path) -> dict[str, list[np.ndarray]]:
    """Return the blobs of every layer that has some: name -> arrays, float32, copied out of the file.

    Raises:
        CheckpointError: the file cannot be read, is cut short, or is not a .caffemodel.
    """
    try:
        with path.open("rb") as file:
            layers = dict(_layers(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped: ValueError
        raise CheckpointError(
            f"{path} cannot be read as a .caffemodel: {error}. If it was cut short or damaged, fetch it again"
        ) from None
    if not layers:
        raise CheckpointError(f"{path} holds no layer with weights; is it a .caffemodel of the detector?")
    return layers


def _layers(net: memoryview) -> Iterator[tuple[str, list[np.ndarray]]]:
    for number, value in _fields(net):
        if number == NET_OLD_LAYER and isinstance(value, memoryview):
            raise _Damaged("its layers are of the format before 2015; save it again with a newer caffe")
        if number != NET_LAYER:
            continue
        name, blobs = "", []
        for inner, content in _fields(_bytes(value, "layer")):
            if inner == LAYER_NAME:
                name = str(_bytes(content, "layer name"), "utf-8", "replace")
            elif inner == LAYER_BLOBS:
                blobs.append(_blob(_bytes(content, "blob"), name))
        if blobs:
            yield name, blobs


def _blob(message: memoryview, layer: str) -> np.ndarray:
    """Return one array of weights."""
    shape: list[int] | None = None
    old: dict[int, int] = {}
    data = np.zeros(0, dtype=np.float32)
    for number, value in _fields(message):
        if number == BLOB_SHAPE:
            shape = [size for inner, dims in _fields(_bytes(value, "shape")) if inner == 1 for size in _sizes(dims)]
        elif number in BLOB_OLD_SHAPE and isinstance(value, int):
            old[number] = value
        elif number in (BLOB_DATA, BLOB_DOUBLES):
            kind = np.dtype("<f4" if number == BLOB_DATA else "<f8")
            content = _bytes(value, "data")
            if len(content) % kind.itemsize:
                raise _Damaged(f"a blob of layer '{layer}' ends inside a number")
            data = np.frombuffer(content, dtype=kind).astype(np.float32)  # a copy: the file is closed afterwards
    shape = [old.get(axis, 1) for axis in BLOB_OLD_SHAPE] if shape is None else shape
    if int(np.prod(shape, dtype=np.float64)) != len(data):
        raise _Damaged(f"a blob of layer '{layer}' has {len(data)} numbers, its shape says {tuple(shape)}")
    return data.reshape(shape)


def _sizes(dims: int | memoryview) -> Iterator[int]:
    """Yield the numbers of a repeated varint field, packed or not."""
    if isinstance(dims, int):
        yield dims
        return
    place = 0
    while place < len(dims):
        size, place = _varint(dims, place)
        yield size


def _bytes(value: int | memoryview, what: str) -> memoryview:
    if isinstance(value, int):
        raise _Damaged(f"a {what} is a number, not bytes")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of a message's fields: a number for a varint, bytes for everything else."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise _Damaged(f"wire type {kind} at byte {place} is none that caffe writes")
        if place + length > len(message):
            raise _Damaged(f"a field of {length:,} bytes starts {len(message) - place:,} bytes before the end")
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return a base-128 number, low digits first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _Damaged("it ends inside a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Damaged("a number is longer than ten bytes")
