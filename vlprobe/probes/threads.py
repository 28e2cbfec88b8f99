"""How many threads the matrix products of probes run on: one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's and SciPy's matrix products on one thread: sums come out the same on any number of cores.

    A fit is thousands of short products, and threads that share one wait for each other after each: on two idle cores,
    two threads took 0.8 to 3 times as long as one; where other processes have the cores, 8 times
    (benchmarks/threads.md).
    """
    with _pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _pools() -> ThreadpoolController:
    """Return the libraries' pools of threads, which takes milliseconds to find."""
    import numpy.linalg  # noqa: F401 (so that they are loaded by now)
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()
