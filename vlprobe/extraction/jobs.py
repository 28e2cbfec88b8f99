"""The unit of work: one model and one chunk of inputs, whose shard is written by whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vlprobe.device import free_memory
from vlprobe.digest import digest
from vlprobe.extraction import passes
from vlprobe.extraction.passes import Forward, Passes, forwards
from vlprobe.extraction.questions import Extraction
from vlprobe.store import Store
from vlprobe.types import Numbers

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder
    from vlprobe.extraction.encoding import BadRows


@dataclass(frozen=True)
class Asked:
    """A model as a study names it, and how it is run: plain data, of which another process makes the same model."""

    spec: str | Mapping[str, Any]
    """As for `load_model`."""
    folder: Path
    """Of the study file."""
    device: str
    """As the study says."""
    store: Path
    """Folder of the representations."""
    batch_size: int | None
    """Inputs at a time; None: see `batches`."""
    bad_rows: BadRows
    """What to do with an input that the model cannot take."""
    numbers: Numbers
    """How the model is run and its rows are kept."""

    @property
    def key(self) -> str:
        """Content address."""
        return digest(self.spec, str(self.folder), self.device)


@dataclass(frozen=True)
class Job:
    """One chunk of one model."""

    asked: Asked
    """The model."""
    home: str
    """Its content address in the store."""
    passes: Sequence[Forward]
    """The inputs."""


class Jobs(Sequence[Job]):
    """Jobs, each made when it is asked for.

    Args:
        where: of each, the model, its address, all its inputs, and the first of the chunk.
    """

    def __init__(self, where: Sequence[tuple[Asked, str, Passes, int]]) -> None:
        self._where = where

    def __len__(self) -> int:
        return len(self._where)

    @overload
    def __getitem__(self, at: int) -> Job: ...
    @overload
    def __getitem__(self, at: slice) -> Jobs: ...
    def __getitem__(self, at: int | slice) -> Job | Jobs:
        if isinstance(at, slice):
            return Jobs(self._where[at])
        asked, home, every, start = self._where[at]
        return Job(asked, home, every[start : start + passes.CHUNK])

    def __add__(self, others: Jobs) -> Jobs:
        """Return these and then those."""
        return Jobs([*self._where, *others._where])

    def waited_for(self, store: Store) -> bool:
        """Say whether a store lacks anything of the inputs that they are chunks of."""
        every = {id(whole): (home, whole) for _, home, whole, _ in self._where}
        return any(len(whole.lacking(home, store)) for home, whole in every.values())


def jobs(asked: Asked, extractions: Sequence[Extraction]) -> Jobs:
    """Return the jobs of one model: always the same ones for the same study, whatever the store holds already."""
    if not extractions:
        return Jobs(())
    every = forwards(extractions)
    return Jobs([(asked, extractions[0].home, every, start) for start in range(0, len(every), passes.CHUNK)])


class Shelf:
    """Holds the model that a process runs: one at a time, for memory is what it has least of.

    Args:
        load: makes a model of what is asked; `load_model` if None.
    """

    def __init__(self, load: Callable[[Asked], Encoder] | None = None) -> None:
        self._load = load or _load
        self._held: tuple[str, Encoder] | None = None

    def __call__(self, asked: Asked) -> Encoder:
        """Return a model. One that is not there is loaded, and the other one let go before that."""
        if self._held is None or self._held[0] != asked.key:
            self.clear()
            self._held = asked.key, self._load(asked)
        return self._held[1]

    def clear(self) -> None:
        """Let go of the model, and give its memory back."""
        if self._held is None:
            return
        self._held = None
        free_memory()


def _load(asked: Asked) -> Encoder:
    from vlprobe.encoders import load_model

    return load_model(asked.spec, folder=asked.folder, device=asked.device)


@dataclass
class _Worker:
    """What this process keeps from one job to the next."""

    shelf: Shelf
    """Holds the model."""
    advance: Callable[[int], None] | None = None
    """Is told of inputs done, where somebody listens in this process."""
    stores: dict[Path, Store] = field(default_factory=dict)
    """Folder -> its store, whose shards are opened once."""


_WORKER = _Worker(Shelf())


@contextmanager
def at_hand(shelf: Shelf, advance: Callable[[int], None]) -> Iterator[None]:
    """Let jobs that run in this process use a shelf that is there, and tell of their progress.

    Args:
        shelf: may hold a model already.
        advance: called with the number of inputs done.
    """
    global _WORKER
    before, _WORKER = _WORKER, _Worker(shelf, advance)
    try:
        yield
    finally:
        _WORKER = before


def work(job: Job) -> int:
    """Run a model over what the store lacks of one chunk; return the inputs done that nobody was told of.

    Raises:
        BadRow, VlprobeError, DataError: see `compute`.
    """
    from vlprobe.extraction.encoding import encode_chunk

    load, store, advance, told = at_work(job.asked)
    encode_chunk(load, job, store, advance)
    return sum(told)


def at_work(asked: Asked) -> tuple[Callable[[], Encoder], Store, Callable[[int], None], list[int]]:
    """Return what loads this worker's model, its store, whom to tell of inputs done, and where they count otherwise."""
    told: list[int] = []
    store = _WORKER.stores.setdefault(asked.store, Store(asked.store))
    return partial(_WORKER.shelf, asked), store, _WORKER.advance or told.append, told
