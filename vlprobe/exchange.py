"""The exchange (sign-flip) test: how often swapping the answers of whole groups brings as large a difference."""

from __future__ import annotations

import numpy as np

from vlprobe.digest import generator

ENUMERATED = 12
"""Up to so many groups that differ, every exchange is tried."""
DRAWS = 100_000
"""Exchanges drawn where there are more: p then is at least 1e-5, which leaves room for correction over many tests."""


def exact_p(gain: np.ndarray) -> float:
    """Return the exact two-sided p of the sign-flip test of whole numbers, however many.

    The share of all 2^groups sums of ±gain that are as large as the one observed, either way. They are counted, not
    listed: the sum of the sizes that keep a plus sign has few values, and each group is added to its distribution.

    Args:
        gain: (group,) int: by how many rows more the first probe is right.
    """
    sizes = np.abs(gain[gain != 0])
    chance = np.zeros(sizes.sum() + 1)
    chance[0], reach = 1.0, 0
    for size in sizes.tolist():
        half = chance[: reach + 1] / 2
        chance[: reach + 1] = half
        chance[size : size + reach + 1] += half
        reach += size
    at_least = (reach + abs(int(gain.sum()))) // 2  # plus sizes of so much make a sum that large
    return min(1.0, 2 * float(chance[at_least:].sum()))


def drawn_p(gain: np.ndarray, seed: int) -> float:
    """Return the two-sided p of the sign-flip test of any numbers.

    All sums of ±gain are tried for up to 12 groups that differ; beyond, `DRAWS` of them, and the observed one is
    counted among them: (b + 1) / (m + 1), Phipson & Smyth (2010).

    R² of both probes has the same total sum of squares, whatever is exchanged, so that the difference of residual
    sums of squares is all of the statistic that an exchange can change.

    Args:
        gain: (group,) by how much the residual sum of squares of the second exceeds that of the first.
        seed: draws the signs.
    """
    sizes = np.abs(gain[gain != 0])
    enough = abs(float(gain.sum())) * (1 - 1e-9)  # equal sums may round apart
    if len(sizes) <= ENUMERATED:
        every = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1
        return float((np.abs(2 * (every @ sizes) - sizes.sum()) >= enough).mean())
    rng, reached = generator(seed, "sign-flip"), 0
    for _ in range(DRAWS // 1000):
        bits = np.frombuffer(rng.bytes(1000 * -(-len(sizes) // 8)), np.uint8).reshape(1000, -1)
        signs = np.unpackbits(bits, axis=1, count=len(sizes))
        reached += int((np.abs(2 * (signs @ sizes) - sizes.sum()) >= enough).sum())
    return (reached + 1) / (DRAWS + 1)
