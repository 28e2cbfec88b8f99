"""Which number a key was given: about 24 bytes of memory a key, where a dictionary takes two hundred."""

from __future__ import annotations

import hashlib

import numpy as np

WIDTH = 16
"""Bytes of a key: a digest, so that two different things share one in no run that anyone will see."""
KEY = np.dtype(f"S{WIDTH}")
NEW = 2**13
"""Keys that wait in a dictionary before they are sorted in."""
APART = 4
"""A sorted run of keys is at least so many times as long as the next one: there are few of them to look through."""


def key_of(*parts: str) -> bytes:
    """Return the key of some texts."""
    said = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=WIDTH).digest()


def keys_of(raw: np.ndarray) -> np.ndarray:
    """Return (key,) `KEY` of (key, 16) uint8, in the same memory."""
    return np.ascontiguousarray(raw).view(KEY).reshape(len(raw))


class Ledger:
    """Key -> number: sorted runs of keys, each much longer than the next, and a few that are not yet sorted in."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        self._new: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._new) + sum(len(keys) for keys, _ in self._runs)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) >= 0

    def get(self, key: bytes) -> int:
        """Return the number of a key, or -1."""
        if key in self._new:
            return self._new[key]
        wanted = np.array([key], KEY)
        for keys, numbers in self._runs:
            place = int(np.searchsorted(keys, wanted)[0])
            if place < len(keys) and keys[place] == wanted[0]:
                return int(numbers[place])
        return -1

    def setdefault(self, key: bytes, number: int) -> int:
        """Return the number of a key, which is `number` if it had none."""
        found = self.get(key)
        if found >= 0:
            return found
        self._new[key] = number
        if len(self._new) >= NEW:
            self._sort_in()
        return number

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return (key,) int64: the numbers of (key,) `KEY`, -1 where there is none."""
        self._sort_in()
        found = np.full(len(keys), -1, np.int64)
        for run, numbers in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            there = run[places] == keys
            found[there] = numbers[places[there]]
        return found

    def put(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Give keys a number, whatever they had.

        Args:
            keys: (key,) `KEY`, each of them once.
            numbers: (key,) int64, not negative.
        """
        self._sort_in()
        absent = np.ones(len(keys), bool)
        for run, held in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            there = run[places] == keys
            held[places[there]] = numbers[there]
            absent &= ~there
        self._add(keys[absent], numbers[absent])

    def keys(self) -> np.ndarray:
        """Return (key,) `KEY`: all keys, sorted."""
        self._sort_in()
        return np.sort(np.concatenate([keys for keys, _ in self._runs])) if self._runs else np.zeros(0, KEY)

    def _sort_in(self) -> None:
        if self._new:
            new, self._new = self._new, {}
            self._add(np.array(list(new), KEY), np.fromiter(new.values(), np.int64, len(new)))

    def _add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Add keys that are not there; shorter runs are merged with the new one."""
        if not len(keys):
            return
        while self._runs and len(self._runs[-1][0]) < APART * len(keys):
            before = self._runs.pop()
            keys, numbers = np.concatenate([before[0], keys]), np.concatenate([before[1], numbers])
            del before
        order = np.argsort(keys, kind="stable")
        keys = keys[order]  # one after the other: what was unsorted is not held any longer than it must be
        self._runs.append((keys, numbers[order]))
