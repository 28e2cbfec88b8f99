"""Minimum description length by online coding: how many bits the labels take, given the representations.

Voita & Titov (2020), arXiv 2003.12298, section 3.2: labels are sent block by block, each block coded by a probe that
was fitted on all blocks before it, the first by the uniform code. What is easy to find in a representation is found
from few rows, and takes few bits.

Every strength of the penalty is a code of its own; none is chosen. A block is sent by the mean of the probabilities
that all strengths give it. That takes at most log2(strengths) bits more than the best of them would have taken, and a
receiver, who has seen only the blocks before, can do as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlprobe.digest import generator
from vlprobe.errors import DataError
from vlprobe.probes.factor import check, factorise
from vlprobe.probes.linear import Standardise
from vlprobe.probes.logistic import Solver
from vlprobe.probes.threads import one_blas_thread

PERCENT = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50, 100)
"""Where blocks end, of all rows; Voita & Titov's."""
STRENGTHS = (1e4, 1e3, 1e2, 1e1, 1e0, 1e-1)
"""Of the penalty strength/2 |W|² beside the summed loss: the same whatever the number of rows, as a prior is."""


@dataclass(frozen=True)
class Code:
    """The labels of one set, sent."""

    bits: np.ndarray
    """(row,) float64: what each label took, in the order of the rows as they were given."""
    predicted: np.ndarray
    """(row,) the likeliest label before it was sent; of the first block, where all are as likely, the first class."""
    uniform: float
    """Bits of the uniform code: rows x log2(classes)."""
    warnings: tuple[str, ...]
    """Fits that stopped early."""

    @property
    def length(self) -> float:
        """Bits of the online code."""
        return float(self.bits.sum())

    @property
    def compression(self) -> float:
        """Uniform over online code: about 1 where nothing is found, or less; higher is easier to find."""
        return self.uniform / self.length


@one_blas_thread()
def online_code(
    X: np.ndarray, labels: Sequence[np.ndarray], group: np.ndarray, seed: int, device: str = "cpu"
) -> list[Code]:
    """Code several sets of labels, given the same features, which sender and receiver both have.

    Features are standardised over all rows. Groups come in an order drawn from the seed, and a block ends where a group
    does: the first end of a group at or after its share of the rows. A probe's probability p of a class, after n rows,
    is taken as (n p + 1 / classes) / (n + 1): as if one row more had been seen, of each class in equal parts. So no
    label takes endlessly many bits, and before the first row the code is the uniform one.

    Args:
        X: (row, width) features.
        labels: of each set, (row,).
        group: (row,) names; rows of one group are never on both sides of a block's end.
        seed: draws the order.
        device: where probes are fitted, see `arrays_for`.

    Raises:
        DataError: a feature that is not finite, one class only, fewer groups than blocks, labels or groups of another
            length than the features.
    """
    check(X)
    indexed = [np.unique(y, return_inverse=True) for y in labels]
    _refuse(X, labels, group, [classes for classes, _ in indexed])
    order, ends = blocks(group, seed)
    scaled = Standardise(X)(X)
    coders = [_Coder(classes, index) for classes, index in indexed]
    for start, end in zip([0, *ends], ends, strict=False):
        sent, coded = order[:start], order[start:end]
        if not start:
            for coder in coders:
                coder.send(coded, np.full((1, len(coded), len(coder.classes)), 1 / len(coder.classes)))
            continue
        solver = Solver(factorise(scaled[sent], device), [coder.index[sent] for coder in coders])
        chances: list[list[np.ndarray]] = [[] for _ in coders]
        for strength in STRENGTHS:
            for place, fit in solver.fit(dict.fromkeys(range(len(coders)), strength / start)).items():
                chances[place].append(coders[place].spread(fit.classes, fit.chances(scaled[coded]), start))
                if not fit.met:
                    coders[place].warnings.append(f"a probe of {start} rows, strength {strength:g}, stopped early")
        for coder, of_strengths in zip(coders, chances, strict=True):
            coder.send(coded, np.stack(of_strengths))
    return [coder.code() for coder in coders]


def blocks(group: np.ndarray, seed: int) -> tuple[np.ndarray, list[int]]:
    """Return the order of the rows (row,) and where blocks end in it; a block that would have no row is left out."""
    names, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    drawn = generator(seed, "mdl", "order").permutation(len(names))
    place = np.empty_like(drawn)
    place[drawn] = np.arange(len(names))
    order = np.argsort(place[member], kind="stable")
    ended = np.cumsum(sizes[drawn])
    wanted = np.array(PERCENT) / 100 * len(group)
    # Rounding must not push an end that is met exactly on to the next group.
    return order, np.unique(ended[np.searchsorted(ended, wanted * (1 - 1e-9))]).tolist()


class _Coder:
    """One set of labels on its way."""

    def __init__(self, classes: np.ndarray, index: np.ndarray) -> None:
        self.classes = classes
        self.index = index
        self.bits = np.zeros(len(index))
        self.likeliest = np.zeros(len(index), int)
        self.warnings: list[str] = []

    def spread(self, seen: np.ndarray, chances: np.ndarray, rows: int) -> np.ndarray:
        """Return (row, class): chances of the classes (places) that were seen, and of those that were not yet."""
        wide = np.full((len(chances), len(self.classes)), 1 / len(self.classes))
        wide[:, seen] += rows * chances
        return wide / (rows + 1)

    def send(self, rows: np.ndarray, chances: np.ndarray) -> None:
        """Send a block by the mean over strengths of (strength, row, class) chances of all its rows.

        Row by row: a strength's weight is the probability that it gave the block's rows before this one. So the bits of
        the rows add up to those of the block.
        """
        chosen = np.log(np.take_along_axis(chances, self.index[rows][None, :, None], axis=2)[..., 0])
        before = np.cumsum(chosen, axis=1) - chosen
        weight = np.exp(before - before.max(axis=0))
        mixed = np.einsum("sr,src->rc", weight / weight.sum(axis=0), chances)
        self.likeliest[rows] = mixed.argmax(axis=1)
        self.bits[rows] = -np.log2(mixed[np.arange(len(rows)), self.index[rows]])

    def code(self) -> Code:
        uniform = len(self.index) * float(np.log2(len(self.classes)))
        return Code(self.bits, self.classes[self.likeliest], uniform, tuple(self.warnings))


def _refuse(X: np.ndarray, labels: Sequence[np.ndarray], group: np.ndarray, classes: Sequence[np.ndarray]) -> None:
    for what, rows in (("group", group), *((f"labels of set {place}", y) for place, y in enumerate(labels))):
        if np.shape(rows) != (len(X),):
            raise DataError(f"{what} has shape {np.shape(rows)}, the features have {len(X)} rows")
    for place, (y, there) in enumerate(zip(labels, classes, strict=True)):
        if y.dtype.kind == "f":
            raise DataError(f"labels of set {place} are numbers: the length of a code is defined for classes only")
        if len(there) < 2:
            raise DataError(f"labels of set {place} are all '{there[0]}': a code needs at least two classes")
    groups = len(np.unique(group))
    if groups < len(PERCENT):
        raise DataError(
            f"the {len(X)} rows form {groups} groups, too few for the {len(PERCENT)} blocks of the online code; give "
            f"at least {len(PERCENT)} groups, or leave mdl out"
        )
