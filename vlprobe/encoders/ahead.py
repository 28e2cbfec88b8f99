"""Images read by other processes while the model is busy with those before them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Generic, TypeVar

import torch

from vlprobe.engines import end_with_parent
from vlprobe.types import Example, ImageData

Made = TypeVar("Made")
MOST = 8
"""Processes that read."""


class Ahead(Generic[Made]):
    """Reads what will be asked for soon; what was not begun, or whose reader died, is read when it is asked for.

    Args:
        read: makes something of an example's image; another process must be able to import and unpickle it.
        workers: processes; 0: nothing is begun.
    """

    def __init__(self, read: Callable[[Example], Made], workers: int) -> None:
        self.read, self.workers = read, workers
        self._pool: ProcessPoolExecutor | None = None
        self._begun: dict[ImageData, Future[Made]] = {}

    def begin(self, batch: Sequence[Example]) -> None:
        """Start to read the images of a batch."""
        if not self.workers:
            return
        # Not forked: the parent has threads, and may have a GPU.
        self._pool = self._pool or ProcessPoolExecutor(self.workers, get_context("spawn"), _start)
        for example in batch:
            if example.image is not None and example.image not in self._begun:
                self._begun[example.image] = self._pool.submit(self.read, example)

    def take(self, example: Example) -> Made:
        """Return what `read` makes of an example, which need not have been begun.

        Raises:
            BadRow: what `read` raises.
        """
        begun = self._begun.pop(example.image, None) if example.image is not None else None
        if begun is None:
            return self.read(example)
        try:
            return begun.result()
        except BrokenProcessPool:
            self._pool = None
            self._begun.clear()
            return self.read(example)


def readers(device: torch.device) -> int:
    """Return how many processes shall read images: none beside a model that has the processor's cores to itself."""
    return 0 if device.type == "cpu" else max(min((os.cpu_count() or 1) - 1, MOST), 0)


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)
