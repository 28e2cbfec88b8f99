"""What a task asks, a row for every unit, beside what a condition shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlprobe.types import Example, Features


@dataclass(frozen=True)
class Rows:
    """One part of a task under a condition."""

    examples: tuple[Example, ...]
    """(row,) the example that the row belongs to, as the condition shows it."""
    index: np.ndarray
    """(row,) int32: which unit of its example the row is."""

    def __len__(self) -> int:
        return len(self.examples)

    def features(self) -> Features:
        """Return the rows as features of no width: ids, groups and targets alone."""
        pairs = list(zip(self.examples, self.index, strict=True))
        return Features(
            layer="",
            X=np.zeros((len(pairs), 0), dtype=np.float32),
            y=np.array([example.target[k] for example, k in pairs]),
            group=np.array([example.group for example, _ in pairs]),
            id=np.array([example.id for example, _ in pairs]),
            index=self.index,
            key="",
        )


def rows_of(examples: Sequence[Example]) -> Rows:
    """Return a row for every unit that is asked about, in the order of the examples and inside one of its units."""
    asked = [(example, k) for example in examples for k, target in enumerate(example.target) if target is not None]
    return Rows(tuple(example for example, _ in asked), np.array([k for _, k in asked], dtype=np.int32))
