"""Which shard answers which question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vlprobe.ledger import Ledger, keys_of
from vlprobe.store.shard import Shard

_PLACE = 2**32


class Index(Mapping[str, tuple[Shard, int]]):
    """Question -> the shard that answers it, and its place there; of several shards, the first by name.

    About 24 bytes of memory a question.
    """

    def __init__(self) -> None:
        self._ledger, self._shards = Ledger(), list[Shard]()

    def add(self, shard: Shard, section: str) -> None:
        """Add the questions of a section that one more shard answers.

        Raises:
            Damaged: the shard cannot be read.
        """
        keys = keys_of(shard.addresses(section))
        numbers = np.arange(len(keys)) + len(self._shards) * _PLACE
        known = self._ledger.find(keys)
        of, wins = known // _PLACE, known < 0
        for number in np.unique(of[~wins]).tolist():  # not of all: they would take the square of their number
            wins[of == number] = shard.path < self._shards[number].path
        self._shards.append(shard)
        self._ledger.put(keys[wins], numbers[wins])

    def find(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (question,) numbers of shards, -1 where none answers it, and places there.

        Args:
            names: (question, 16) uint8: content addresses.
        """
        numbers = self._ledger.find(keys_of(names))
        return np.where(numbers < 0, -1, numbers // _PLACE), numbers % _PLACE

    def shard(self, number: int) -> Shard:
        """Return a shard by its number."""
        return self._shards[number]

    def __getitem__(self, question: str) -> tuple[Shard, int]:
        number = self._ledger.get(bytes.fromhex(question))
        if number < 0:
            raise KeyError(question)
        return self._shards[number // _PLACE], number % _PLACE

    def __contains__(self, question: object) -> bool:
        return isinstance(question, str) and bytes.fromhex(question) in self._ledger

    def __iter__(self) -> Iterator[str]:
        keys = self._ledger.keys().view(np.uint8).reshape(-1, 16)
        return (key.tobytes().hex() for key in keys)

    def __len__(self) -> int:
        return len(self._ledger)
