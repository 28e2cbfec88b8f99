"""The rows of one layer, from many shards: each is read, checked and put where it goes, several shards at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlprobe.errors import DataError, did_you_mean
from vlprobe.store.index import Index
from vlprobe.store.shard import Gone, Shard

AHEAD = 16
"""Shards that the system is told of before they are read: left to itself, it fetches other layers, too."""
READERS = 4
"""Threads that read and check shards, where there are as many cores."""

Places = slice | np.ndarray
"""(row,) which rows; a slice where they are neighbours."""


@dataclass(frozen=True)
class Found:
    """What one shard holds of what is asked for."""

    shard: Shard
    """The shard."""
    there: Places
    """Which of its rows are asked for."""
    here: Places
    """Where they go."""

    def read(self, section: str, layer: str, X: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Put the rows of one layer where they go.

        Args:
            section: its name.
            layer: its address.
            X: (row, width) float32: where rows go.
            memory: (byte,) uint8 that may be used: fresh memory costs time.

        Returns:
            Memory for the next shard.

        Raises:
            Damaged: the shard is not what was written.
        """
        count, width = self.shard.shape(section, layer)
        whole = all(isinstance(places, slice) for places in (self.there, self.here)) and self.there == slice(0, count)
        if whole and self.shard.kind(section, layer) == X.dtype:
            self.shard.read(section, layer, X[self.here].reshape(-1).view(np.uint8))
            return memory
        if len(memory) < count * width * X.itemsize:
            memory = np.empty(count * width * X.itemsize, np.uint8)
        X[self.here] = self.shard.read(section, layer, memory)[self.there]
        return memory


@dataclass(frozen=True)
class Rows:
    """Where the rows of some questions are: the same for all layers."""

    found: Sequence[Found]
    """Shard by shard."""
    owner: np.ndarray
    """(row,) which question a row belongs to."""
    unit: np.ndarray
    """(row,) int32: which unit of its input."""

    def read(self, section: str, layer: str) -> np.ndarray:
        """Return (row, width) float32: the rows of one layer.

        Raises:
            DataError: there is no such layer.
            Damaged: a shard is not what was written.
        """
        if not self.found:  # all inputs were left out
            return np.zeros((0, 0), np.float32)
        for each in self.found:
            if layer not in (layers := each.shard.layers(section)):
                raise DataError(f"{each.shard.path} holds no layer {layer} of {section}{did_you_mean(layer, layers)}")
        X = np.empty((len(self.owner), self.found[0].shard.shape(section, layer)[1]), np.float32)
        readers = min(READERS, os.cpu_count() or 1, len(self.found))

        def some(first: int) -> None:
            memory = np.empty(0, np.uint8)
            for number in range(first, len(self.found), readers):
                for later in self.found[number + AHEAD : number + AHEAD + 1]:
                    later.shard.ahead(section, layer)
                memory = self.found[number].read(section, layer, X, memory)

        for each in self.found[:AHEAD]:
            each.shard.ahead(section, layer)
        with ThreadPoolExecutor(readers) as pool:
            list(pool.map(some, range(readers)))
        return X


def find(known: Index, section: str, names: np.ndarray, folder: Path) -> Rows:
    """Return where the rows of some questions are.

    Args:
        known: which shard answers which question of the section.
        section: its name.
        names: (question, 16) uint8: content addresses.
        folder: of the shards, for messages.

    Raises:
        Gone: no shard answers one of them.
        Damaged: a shard is not what was written.
    """
    of, inside = known.find(names)
    if (of < 0).any():
        raise Gone(folder)
    order = np.argsort(of, kind="stable")
    by_shard = [part for part in np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if len(part)]
    shards = [known.shard(int(of[part[0]])) for part in by_shard]
    tables = [shard.rows(section) for shard in shards]
    first, count = np.zeros((2, len(names)), np.int64)
    for part, (start, _) in zip(by_shard, tables, strict=True):
        first[part], count[part] = start[inside[part]], start[inside[part] + 1] - start[inside[part]]
    goes = np.cumsum(count) - count
    found, unit = [], np.empty(count.sum(), np.int32)
    for part, shard, (_, units) in zip(by_shard, shards, tables, strict=True):
        turn = np.arange(count[part].sum()) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        there, here = (turn + np.repeat(begin[part], count[part]) for begin in (first, goes))
        unit[here] = units[there]
        if len(here):
            found.append(Found(shard, _together(there), _together(here)))
    return Rows(found, np.repeat(np.arange(len(names)), count), unit)


def _together(places: np.ndarray) -> Places:
    """Return a slice where places are neighbours."""
    neighbours = bool((np.diff(places) == 1).all())
    return slice(int(places[0]), int(places[0]) + len(places)) if neighbours else places
