"""One code for both kinds of machine: NumPy on the processor, PyTorch where a tensor or a device is given.

The solver keeps to what both spell alike; the rest is here. Both were measured on one x86-64 core, at the solver's
shapes: NumPy's products were up to a fifth faster and its exponentials twice as fast, so the processor is NumPy's.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any
"""A NumPy array, or a torch tensor on some device."""


class Arrays:
    """Where arrays live.

    Args:
        xp: the module `numpy`, or `torch`.
        device: of torch's tensors.
    """

    def __init__(self, xp: Any = np, device: Any = None) -> None:
        self.xp = xp
        self.device = device
        self.single, self.double, self.whole = xp.float32, xp.float64, xp.int64

    def put(self, values: Any, kind: Any) -> Array:
        """Return values as an array of a kind of number, here; not a copy where they are that already."""
        if self.xp is np:
            return np.asarray(values, dtype=kind)
        return self.xp.as_tensor(values, dtype=kind, device=self.device)

    def take(self, X: Any) -> Array:
        """Return features as an array here; of float32 or float64 as they were, other numbers as float64."""
        X = X.detach() if is_tensor(X) else np.asarray(X)
        if self.xp is np:
            X = X.cpu().numpy() if is_tensor(X) else X
            return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
        X = self.xp.as_tensor(X, device=self.device)
        return X if X.dtype in (self.single, self.double) else X.to(self.double)

    def cast(self, array: Array, kind: Any) -> Array:
        """Return an array in another kind of number."""
        return array.astype(kind, copy=False) if self.xp is np else array.to(kind)

    def host(self, array: Array) -> np.ndarray:
        """Return an array as NumPy's."""
        return array if self.xp is np else array.cpu().numpy()

    def inverse(self, matrix: Array) -> Array:
        """Return the inverse of a symmetric, positive definite float64 matrix, which may be written over."""
        if self.xp is not np:
            return self.xp.cholesky_inverse(self.xp.linalg.cholesky(matrix))
        from scipy.linalg.lapack import dpotrf, dpotri

        # The transpose is laid out as LAPACK wants it, and is the same matrix.
        triangle, wrong = dpotrf(matrix.T, lower=1, overwrite_a=1)
        if wrong:
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        half, _ = dpotri(triangle, lower=1, overwrite_c=1)
        lower = np.tril(half)
        return lower + np.tril(lower, -1).T

    def copy(self, array: Array) -> Array:
        """Return a copy."""
        return array.copy() if self.xp is np else array.clone()

    def empty(self, shape: tuple[int, ...], kind: Any) -> Array:
        """Return an array to be filled."""
        return np.empty(shape, kind) if self.xp is np else self.xp.empty(shape, dtype=kind, device=self.device)

    def zeros(self, shape: tuple[int, ...], kind: Any) -> Array:
        """Return an array of zeros."""
        return np.zeros(shape, kind) if self.xp is np else self.xp.zeros(shape, dtype=kind, device=self.device)

    def count(self, size: int) -> Array:
        """Return 0, 1, ..., size - 1."""
        return np.arange(size) if self.xp is np else self.xp.arange(size, device=self.device)

    def eye(self, size: int, kind: Any = None) -> Array:
        """Return the identity matrix, of float64 unless said."""
        kind = kind or self.double
        return np.eye(size, dtype=kind) if self.xp is np else self.xp.eye(size, dtype=kind, device=self.device)


def is_tensor(X: Any) -> bool:
    """Say whether something is a torch tensor, without loading torch for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(X, torch.Tensor)


def arrays_for(X: Any, device: str | None = None) -> Arrays:
    """Return where to work: on a device if one is named, else where the features are.

    Args:
        X: a NumPy array or a torch tensor.
        device: `cpu`: NumPy; `auto`: a CUDA GPU if there is one, else NumPy; else as `vlprobe.device.pick_device` has
            it. `mps` has no float64, which the certificate needs: there the processor does the work.

    Raises:
        StudyError: not a device, or one that this machine does not have.
    """
    if device == "cpu" or (device is None and not is_tensor(X)):
        return Arrays()
    import torch

    from vlprobe.device import pick_device

    picked = X.device if device is None else pick_device(device)
    if picked.type == "mps" or (picked.type == "cpu" and device is not None):
        return Arrays()
    return Arrays(torch, picked)
