"""Layers in the order in which a reader expects them, the last of a stream, and which one answers in a cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def address(layer: str) -> tuple[str, float]:
    """Return (stream, index) of a layer address, which sorts layers; named extras have the index infinity."""
    stream, _, index = layer.partition(".")
    return stream, float(index) if index.isdecimal() else math.inf


STREAMS = ("language", "vision", "joint")
"""The order in which streams are shown."""


def in_order(layers: Iterable[str]) -> list[str]:
    """Return layers as a reader expects them: one stream after the other, numbers by size, named extras last."""

    def place(layer: str) -> tuple[int, str, float, str]:
        stream, index = address(layer)
        return (STREAMS.index(stream) if stream in STREAMS else len(STREAMS), stream, index, layer)

    return sorted(layers, key=place)


def probed(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the linear probe made of a cell of `summarise`, or, where there is none, the streaming one.

    That has its name under `probe`. Where no probe has scored a layer, there is no `layer`.
    """
    heard: Mapping[str, Any] = cell.get("streamed", cell)
    return heard


def named(chosen: Mapping[str, Any]) -> str:
    """Return the best layer of what `probed` returns, with the probe where that is not the linear one."""
    return ", ".join(filter(None, (chosen["layer"], chosen.get("probe"))))


def last_layer(cell: Mapping[str, Any]) -> str:
    """Return the last numbered layer of the stream that the best layer is of; the best one where none is numbered."""
    stream = address(cell["layer"])[0]
    there = [name for name in in_order(cell["layers"]) if address(name)[0] == stream and address(name)[1] < math.inf]
    return there[-1] if there else str(cell["layer"])
