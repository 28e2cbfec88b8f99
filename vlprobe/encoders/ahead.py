"""Images read by other processes while the model is busy with those before them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any, Generic, TypeVar
from weakref import finalize

import torch

from vlprobe.device import WORKER
from vlprobe.engines import end_with_parent
from vlprobe.types import Example, ImageData

Made = TypeVar("Made")
MOST = 8
"""Processes that read."""
HELD = 256
"""Images that are read and wait for the model, at most: some megabytes each, in shared memory."""
ENOUGH = 64
"""Images to come for which no processes are started: they take seconds to begin."""
SHARE = 8
"""Cores of a model on the processor beside each that reads."""
DEATHS = 3
"""Times that readers may die before images are read without them."""


class Ahead(Generic[Made]):
    """Reads what will be asked for soon; what was not begun, or whose reader died, is read when it is asked for.

    Args:
        read: makes something of an example's image; another process must be able to import and unpickle it.
        workers: processes; 0: nothing is begun.
    """

    def __init__(self, read: Callable[[Example], Made], workers: int) -> None:
        self.read, self.workers = read, workers
        self._pool: ProcessPoolExecutor | None = None
        self._up: Future[int] | None = None
        self._deaths = 0
        self._coming: dict[ImageData, Example] = {}
        self._begun: dict[ImageData, Future[Made]] = {}

    def begin(self, coming: Sequence[Example]) -> None:
        """Start to read images; those that were begun and are not among them are let go.

        Args:
            coming: all examples that will be asked for, in that order.
        """
        images: dict[ImageData, Example] = {}
        for example in coming:
            if example.image is not None:
                images.setdefault(example.image, example)
        for image in [image for image in self._begun if image not in images]:
            self._begun.pop(image).cancel()
        self._coming = {image: example for image, example in images.items() if image not in self._begun}
        if self.workers and not self._pool and len(images) >= ENOUGH:
            self._pool = ProcessPoolExecutor(self.workers, _Apart(), _start, (self.read,))
            self._up = self._pool.submit(os.getpid)
            finalize(self, _end, self._pool)
        self._submit(HELD)

    def wait(self) -> None:
        """Wait until all that was begun, and is to come, is read."""
        if self._up is not None:
            wait([self._up])
        self._submit(len(self._coming) + len(self._begun))
        wait(self._begun.values())

    def take(self, example: Example) -> Made:
        """Return what `read` makes of an example, which need not have been begun.

        Raises:
            BadRow: what `read` raises.
        """
        if example.image is None:
            return self.read(example)
        self._coming.pop(example.image, None)
        begun = self._begun.pop(example.image, None)
        self._submit(HELD)
        if begun is None or begun.cancel():  # nobody has got to it: waiting would take longer
            return self.read(example)
        try:
            return begun.result()
        except BrokenProcessPool:
            self._died()
            return self.read(example)

    def _submit(self, held: int) -> None:
        """Give the readers something to do, as long as not more than so many images are held.

        Until the first of them is up, which takes seconds, there are none: what is asked for is read meanwhile.
        """
        while self._pool and self._up is not None and self._up.done() and self._coming and len(self._begun) < held:
            image, example = next(iter(self._coming.items()))
            try:
                self._begun[image] = self._pool.submit(_read, example)
            except BrokenProcessPool:
                self._died()
                return
            del self._coming[image]

    def _died(self) -> None:
        self._pool = None
        self._begun.clear()
        self._deaths += 1
        if self._deaths == DEATHS:
            self.workers = 0
            warnings.warn(
                f"the processes that read images ahead of the model died {DEATHS} times, for want of memory or of "
                "shared memory (in a container, give it a gigabyte); images are now read between batches, which "
                "takes longer",
                stacklevel=2,
            )


def readers(device: torch.device) -> int:
    """Return how many processes shall read images beside a model: the cores that it leaves.

    A model on a GPU keeps one busy, one on the processor as many as it has threads; of many, those that wait while one
    process reads are lost, and one in `SHARE` is taken from it.
    """
    cores = _cores()
    left = cores - 1 if device.type != "cpu" else max(cores - torch.get_num_threads(), cores // SHARE)
    return max(min(left, MOST), 0)


def _cores() -> int:
    """Return the cores of this process: of one among several workers, its share."""
    if WORKER in os.environ and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return int(os.environ["OMP_NUM_THREADS"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Process(SpawnProcess):
    """A new process that does not run the user's script again, which need not expect that."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process)
        finally:
            sys.modules["__main__"] = main


class _Apart(SpawnContext):
    """Not forked: the parent has threads, and may have a GPU."""

    Process = _Process


def _end(pool: ProcessPoolExecutor) -> None:
    """End readers when nobody is left to read for, the latest when Python ends, and not while it is taken down."""
    pool.shutdown(wait=False, cancel_futures=True)


_READ: list[Callable[[Example], Any]] = []
"""What this process reads by: sent once, for a processor may be large."""


def _start(read: Callable[[Example], Any]) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    _READ[:] = [read]


def _read(example: Example) -> Any:
    return _READ[0](example)
