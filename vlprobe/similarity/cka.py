"""Linear CKA: how alike two representations of the same items are, whatever rotation or scale they stand in.

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K = X X' and L = Y Y' (Kornblith, Norouzi, Lee & Hinton
2019). As published, HSIC is the biased estimate: where there are not many more items than features, layers that have
nothing in common seem alike. The debiased CKA puts the unbiased estimate (Song et al. 2012, equation 4) in its place,
as Nguyen, Raghu & Kornblith (2021) do: near 0 where nothing is in common, by chance a little below.

Both are an inner product of two vectors of length 1, one a layer (Székely & Rizzo 2014, for the unbiased one): so all
layers are compared with all by one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VARIES = 1e-10
"""A layer whose rows differ by less than this share of their squares is one vector repeated, but for rounding."""


def cka(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return (layer, layer) debiased CKA; NaN for a layer that is the same for all items.

    Args:
        layers: (item, width) each, row by row the same items, at least four.
    """
    return _products([_unbiased(_gram(X)) for X in layers])


def biased_cka(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return (layer, layer) CKA as first published; see `cka`."""
    return _products([_centred(_gram(X)) for X in layers])


def _gram(X: np.ndarray) -> np.ndarray:
    """Return (item, item) inner products of rows from which their mean was taken; NaN where no row differs."""
    rows = X.astype(np.float64)
    rows = rows / (np.sqrt((rows**2).mean()) or 1.0)  # so that no scale overflows
    rows -= rows.mean(axis=0)
    if not (rows**2).mean() > VARIES:
        return np.full((len(rows), len(rows)), np.nan)
    return rows @ rows.T


def _centred(gram: np.ndarray) -> np.ndarray:
    """Return the entries, as a vector: rows without their mean have a Gram matrix that is centred."""
    return _one(gram, np.diagonal(gram))


def _unbiased(gram: np.ndarray) -> np.ndarray:
    """Return the entries beside the diagonal, U-centred, as a vector: their products are n (n - 3) HSIC_1."""
    n = len(gram)
    beside = gram - np.diag(np.diagonal(gram))
    sums = beside.sum(axis=0)
    centred = beside - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return _one(centred, np.zeros(0))


def _one(symmetric: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """Return a symmetric matrix as a float32 vector of length 1: each entry beside the diagonal stands for two."""
    entries = np.concatenate([symmetric[np.triu_indices(len(symmetric), 1)] * np.sqrt(2), diagonal])
    return (entries / np.linalg.norm(entries)).astype(np.float32)


def _products(vectors: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(vectors)
    return (stacked @ stacked.T).astype(np.float64)
