"""What L-BFGS remembers of its steps."""

from __future__ import annotations

import numpy as np

from vlprobe.probes.arrays import Array, Arrays
from vlprobe.probes.curvature import Curvature

ROOM = 3 * 10**7
"""Numbers that are remembered of each kind."""
FEWEST, MOST = 10, 100
"""Steps remembered; of a full memory the older half is forgotten. Many pay: under a weak penalty, 100 took half the
iterations that 16 did, and a step is small beside the features."""


class Memory:
    """The compact inverse BFGS matrix (Byrd, Nocedal and Schnabel 1994, eq. 3.1), of each set its own.

    Kept are the steps S, the gradient's changes Y along them, and V = H0 Y: steps and V meet a new gradient in one
    product, and Y outlasts H0.
    """

    def __init__(self, at: Arrays, sets: int, size: int) -> None:
        self.at = at
        self.count = 0
        self.room = int(min(max(ROOM // (sets * size), FEWEST), MOST))
        self.kept = at.zeros((sets, 3, self.room, size), at.single)  # S, V, Y
        self.curves = at.zeros((sets, 2, self.room, self.room), at.double)  # S Y' and V Y'

    def pick(self, sets: np.ndarray) -> None:
        """Keep some of the sets."""
        self.kept, self.curves = self.kept[sets], self.curves[sets]

    def add(self, step: Array, change: Array, solved: Array) -> None:
        """Take in one step, the change of the gradient along it, and H0 times that change; all (set, size)."""
        if self.count == self.room:
            half = self.room // 2
            self.kept[:, :, :half] = self.at.copy(self.kept[:, :, half : 2 * half])
            self.curves[:, :, :half, :half] = self.at.copy(self.curves[:, :, half : 2 * half, half : 2 * half])
            self.count = half
        new = self.count
        self.count += 1
        for place, array in enumerate((step, solved, change)):
            self.kept[:, place, new] = self.at.cast(array, self.at.single)
        meets = self._meet(change)
        self.curves[:, :, : self.count, new] = meets
        self.curves[:, 1, new, : self.count] = meets[:, 1]

    def rebase(self, curvature: Curvature, columns: int) -> None:
        """Go over to another H0."""
        m, sets = self.count, len(self.kept)
        for i in range(m):
            change = self.at.cast(self.kept[:, 2, i], self.at.double).reshape(sets, columns, -1)
            self.kept[:, 1, i] = self.at.cast(curvature.solve(change), self.at.single).reshape(sets, -1)
        both = self.kept[:, :2, :m].reshape(sets, 2 * m, -1)
        meets = self.at.cast(both @ self.kept[:, 2, :m].mT, self.at.double)
        self.curves[:, :, :m, :m] = meets.reshape(sets, 2, m, m)

    def apply(self, gradient: Array, solved: Array) -> Array:
        """Return the matrix times a gradient, given H0 times it; all (set, size)."""
        m, xp, at = self.count, self.at.xp, self.at
        if not m:
            return solved
        meets = self._meet(gradient)
        upper = xp.triu(self.curves[:, 0, :m, :m])
        inverse = xp.linalg.inv(upper)
        first = inverse @ meets[:, 0, :, None]
        middle = self.curves[:, 1, :m, :m] @ first
        middle += (upper * at.eye(m)) @ first
        a = inverse.mT @ (middle - meets[:, 1, :, None])
        narrow = at.cast(xp.concatenate([a[:, None], -first[:, None]], axis=1), at.single)
        mixed = (narrow.mT @ self.kept[:, :2, :m])[:, :, 0]
        return solved + mixed.sum(axis=1)

    def _meet(self, array: Array) -> Array:
        """Return (set, 2, count): the products of steps and V with (set, size)."""
        narrow = self.at.cast(array, self.at.single)[:, None, :, None]
        return self.at.cast((self.kept[:, :2, : self.count] @ narrow)[..., 0], self.at.double)
