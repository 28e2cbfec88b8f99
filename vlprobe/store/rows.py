"""The rows of one layer, from many shards: each is read, checked and put where it goes, several shards at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vlprobe.errors import DataError, did_you_mean
from vlprobe.store.index import Index
from vlprobe.store.shard import PIECE, Gone, Shard

AHEAD = 16
"""Shards that the system is told of before they are read: left to itself, it fetches other layers, too."""
READERS = 4
"""Threads that read and check shards, where there are as many cores."""


def fresh(shape: tuple[int, int]) -> np.ndarray:
    """Return (row, width) float32 that hold anything."""
    return np.empty(shape, np.float32)


@dataclass(frozen=True)
class Found:
    """What one shard holds of what is asked for."""

    shard: Shard
    """The shard."""
    there: np.ndarray
    """(row,) which of its rows are asked for, ascending; one may be asked for several times."""
    here: np.ndarray
    """(row,) where each goes."""

    @cached_property
    def neighbours(self) -> bool:
        """Say whether all rows between the first and the last are asked for, each once."""
        return bool((np.diff(self.there) == 1).all())

    def read(self, section: str, layer: str, X: np.ndarray, memory: np.ndarray) -> None:
        """Put the rows of one layer where they go.

        Args:
            section: its name.
            layer: its address.
            X: (row, width) float32: where rows go.
            memory: (byte,) uint8: what some of them lie in meanwhile.

        Raises:
            Damaged: the shard is not what was written.
        """
        begin = int(self.there[0])
        for first, rows in self.shard.pieces(section, layer, memory):
            if self.neighbours:  # copied once, else twice
                start, end = (min(max(at - begin, 0), len(self.here)) for at in (first, first + len(rows)))
                X[self.here[start:end]] = rows[begin + start - first : begin + end - first]
            else:
                start, end = np.searchsorted(self.there, (first, first + len(rows)))
                X[self.here[start:end]] = rows[self.there[start:end] - first]


@dataclass(frozen=True)
class Rows:
    """Where the rows of some questions are: the same for all layers."""

    found: Sequence[Found]
    """Shard by shard."""
    owner: np.ndarray
    """(row,) which question a row belongs to."""
    unit: np.ndarray
    """(row,) int32: which unit of its input."""

    def read(self, section: str, layer: str, memory: Callable[[tuple[int, int]], np.ndarray]) -> np.ndarray:
        """Return (row, width) float32: the rows of one layer.

        Args:
            section: its name.
            layer: its address.
            memory: gives what they lie in.

        Raises:
            DataError: there is no such layer.
            Damaged: a shard is not what was written.
        """
        if not self.found:  # all inputs were left out
            return np.zeros((0, 0), np.float32)
        for each in self.found:
            if layer not in (layers := each.shard.layers(section)):
                raise DataError(f"{each.shard.path} holds no layer {layer} of {section}{did_you_mean(layer, layers)}")
        X = memory((len(self.owner), self.found[0].shard.shape(section, layer)[1]))
        readers = min(READERS, os.cpu_count() or 1, len(self.found))

        def some(first: int) -> None:
            piece = np.empty(PIECE, np.uint8)
            for number in range(first, len(self.found), readers):
                for later in self.found[number + AHEAD : number + AHEAD + 1]:
                    later.shard.ahead(section, layer)
                self.found[number].read(section, layer, X, piece)

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
            ascending = np.argsort(there, kind="stable")
            found.append(Found(shard, there[ascending], here[ascending]))
    return Rows(found, np.repeat(np.arange(len(names)), count), unit)
