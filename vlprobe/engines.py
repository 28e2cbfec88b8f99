"""Where jobs run: in this process, in several of this machine, or on a Ray cluster. One method: `map`.

A job is deterministic, writes its own result to a shared place, and is done when that is there and whole; so an engine
may run a job twice. A worker keeps from one job to the next what the function keeps in its module: a loaded model.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from vlprobe.device import WORKER
from vlprobe.errors import StudyError, VlprobeError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Job = TypeVar("Job")
Done = TypeVar("Done")

AHEAD = 2
"""Jobs that each process has or waits for: a job holds its inputs, so that they are not all made at once."""
DEATHS = 3
"""Workers that may die in a row, none finishing a job in between, before the run is given up."""
LOOK = 10
"""Seconds after which a Ray cluster is looked at again, where nothing finishes: nodes may have joined it."""
TELL = 30
"""Seconds in which no Ray worker starts, and none is at work, after which a run says what it waits for; then again each
time it has waited twice as long."""


class Engine(ABC):
    """Something that runs jobs."""

    @abstractmethod
    def map(self, function: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what a function returns for every job, in the order in which they finish.

        Args:
            function: of a module, so that other processes can import it.
            jobs: plain data.

        Raises:
            VlprobeError: what a job raised; workers that die again and again.
        """

    def close(self) -> None:  # noqa: B027
        """End the workers, if there are any."""


class Here(Engine):
    """One process, the one that asks, one job after the other."""

    def map(self, function: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what a function returns for every job, in their order."""
        for job in jobs:
            yield function(job)


class Processes(Engine):
    """Several processes of this machine; one that dies is replaced, and its job is done again.

    Args:
        workers: how many; each gets its share of the cores, and a GPU of its own where there are that many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._over: Any = None

    def map(self, function: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what a function returns for every job, in the order in which they finish."""
        from concurrent.futures import FIRST_COMPLETED, Future, wait
        from concurrent.futures.process import BrokenProcessPool

        waiting, running = deque(range(len(jobs))), dict[Future[Done], int]()
        deaths = 0
        try:
            while waiting or running:
                pool = self._pool = self._pool or self._started()
                try:
                    while waiting and len(running) < AHEAD * self.workers:
                        running[pool.submit(function, jobs[waiting[0]])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        done = future.result()
                        del running[future]
                        deaths = 0
                        yield done
                except BrokenProcessPool:
                    waiting.extendleft(sorted(running.values(), reverse=True))
                    running.clear()
                    self.close()
                    deaths += 1
                    if deaths > DEATHS:
                        raise VlprobeError(
                            f"{deaths} worker processes died one after the other without finishing anything (killed, "
                            "for want of memory?); what is finished is kept. Run fewer workers, or a smaller batch_size"
                        ) from None
        finally:
            for future in running:  # a job failed, or the run is stopped: the others are not to go on
                future.cancel()

    def close(self) -> None:
        """End the workers, also those that are in the middle of a job: where time is called, it is short."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            for _ in range(self.workers):
                self._over.release()

    def _started(self) -> ProcessPoolExecutor:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        # Not forked: torch and CUDA do not survive it.
        context = get_context("spawn")
        numbers = context.SimpleQueue()
        for number in range(self.workers):
            numbers.put(number)
        threads = max((os.cpu_count() or 1) // self.workers, 1)
        self._over = context.Semaphore(0)
        return ProcessPoolExecutor(self.workers, context, _start_worker, (numbers, threads, self._over))


def _start_worker(numbers: Any, threads: int, over: Any) -> None:
    """Give a worker its number and its share of the cores, before it imports anything large.

    A Ctrl-C reaches all processes of a terminal: a worker ends without a word, and the one it works for tells the user.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    _end_after(over.acquire)
    os.environ[WORKER] = str(numbers.get() if not numbers.empty() else 0)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def end_with_parent() -> None:
    """Let this process end when the one that started it does, be it killed: else it would wait for jobs for ever.

    What it held, the memory of a GPU say, would be lost to the run that goes on.
    """
    parent = parent_process()
    if parent is not None:
        _end_after(parent.join)


def _end_after(wait: Callable[[], object]) -> None:
    """Let this process end once a wait is over, whatever it does meanwhile."""

    def watch() -> None:
        wait()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class RayCluster(Engine):
    """Actors on a Ray cluster, one model each; one that dies is replaced, and a node may join or leave.

    An actor is given a job once it has started, so that no job waits for one that the cluster has no room for.

    Args:
        address: of the cluster, `auto` for the one that this machine belongs to; None: one is started here.
        workers: actors; None: one for every GPU of the cluster, or for every two cores where it has none.

    Raises:
        StudyError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise StudyError("engine ray: Ray is not installed; pip install 'vlprobe[ray]'") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise StudyError(f"engine ray: no cluster answers at {address} ({error}); start one first") from None
        self._died = ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError
        self._asked = workers
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._failed = 0
        self._takes: dict[str, int] = {}
        self._since = self._told = 0.0

    def map(self, function: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what a function returns for every job, in the order in which they finish."""
        ray = self._ray
        waiting, running, deaths = deque(range(len(jobs))), dict[Any, tuple[Any, int]](), [0] * len(jobs)
        self._since, self._told = time.monotonic(), 0.0
        try:
            while waiting or running:
                self._start(len(waiting), len(running))
                while waiting and self._idle:
                    actor, number = self._idle.pop(), waiting.popleft()
                    running[actor.run.remote(function, jobs[number])] = actor, number
                self._tell(bool(running))
                for ready in ray.wait([*running, *self._starting], num_returns=1, timeout=LOOK)[0]:
                    if ready in self._starting:
                        self._started(ready)
                        continue
                    actor, number = running.pop(ready)
                    try:
                        done = self._result(ready)
                    except VlprobeError:
                        self._idle.append(actor)
                        raise
                    except self._died as error:
                        ray.kill(actor)
                        deaths[number] += 1
                        if deaths[number] > DEATHS:
                            raise VlprobeError(
                                f"a Ray worker died {deaths[number]} times over one job ({error}); what is finished is "
                                "kept"
                            ) from None
                        waiting.appendleft(number)
                        continue
                    self._idle.append(actor)
                    yield done
        finally:
            for actor, _ in running.values():  # a job failed, or the run is stopped: the others are not to go on
                ray.kill(actor)

    def _start(self, waiting: int, running: int) -> None:
        """Start the actors that the cluster, as it is now, has room for and that have something to do."""
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        wanted = self._asked or gpus or max(int(resources.get("CPU", 1)) // 2, 1)
        there = running + len(self._idle) + len(self._starting)
        for _ in range(min(wanted, waiting + running) - there):
            self._takes = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
            actor: Any = self._ray.remote(_Actor).options(num_cpus=1, num_gpus=self._takes.get("GPU")).remote()
            self._starting[actor.run.remote(_nothing, None)] = actor

    def _tell(self, at_work: bool) -> None:
        """Say what a run waits for where no worker is at work: no error, for others may make room, and nodes join."""
        waited = time.monotonic() - self._since
        if at_work:
            self._since, self._told = time.monotonic(), 0.0
        elif waited >= max(TELL, 2 * self._told):
            self._told = waited
            warnings.warn(f"engine ray: no worker has started in {waited:.0f} seconds. {self._want()}", stacklevel=3)

    def _want(self) -> str:
        """Return what a worker takes, what the cluster has, and what the user may do."""
        takes, there, free = self._takes, self._ray.cluster_resources(), self._ray.available_resources()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(kind, 0) >= count for kind, count in takes.items()) for node in nodes):
            cure = "It goes on once other programs of the cluster end, or nodes join; `ray status` says what is taken"
        else:
            cure = "No node has as much: it goes on once one joins that has (`ray start`)"
        each = " and ".join(f"{count} {kind}" for kind, count in takes.items())
        has = " and ".join(f"{there.get(kind, 0):g} {kind}, {free.get(kind, 0):g} free" for kind in takes)
        stop = "Ctrl-C stops it; what is finished is kept"
        return f"Each takes {each}; the cluster has {has}. The run waits. {cure}. {stop}"

    def _started(self, ready: Any) -> None:
        """Take an actor that has started, or has failed to."""
        actor = self._starting.pop(ready)
        try:
            self._result(ready)
        except self._died as error:
            self._failed += 1
            if self._failed > DEATHS:
                raise VlprobeError(
                    f"{self._failed} Ray workers failed to start, one after the other ({error}); vlprobe, and what the "
                    "study needs, must be installed on all machines of the cluster"
                ) from None
            return
        self._failed = 0
        self._idle.append(actor)

    def _result(self, reference: Any) -> Any:
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, VlprobeError):
                raise error.cause from None
            raise

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for actor in (*self._idle, *self._starting.values()):
            self._ray.kill(actor)
        self._idle, self._starting = [], {}
        if self._ours:
            self._ray.shutdown()


def _nothing(job: None) -> None:
    """Tell that an actor has started."""


class _Actor:
    """Runs one job after the other; what a job's function keeps, it keeps here."""

    def run(self, function: Callable[[Any], Any], job: Any) -> Any:
        """Return what a function returns for a job."""
        return function(job)


def open_engine(name: str | None, workers: int | None, address: str | None) -> Engine:
    """Return an engine by its name: `ray`, or, where none is given, this machine's.

    Args:
        name: `ray` or None.
        workers: how many; None: one, or as many as there are GPUs.
        address: of the Ray cluster.

    Raises:
        StudyError: see `RayCluster`; an address without `ray`, no such engine.
    """
    if name == "ray":
        return RayCluster(address, workers)
    if name is not None:
        raise StudyError(f"unknown engine '{name}'; known: ray. Without one, jobs run on this machine")
    if address is not None:
        raise StudyError("--address names a Ray cluster: add --engine ray")
    return Processes(workers) if workers and workers > 1 else Here()
