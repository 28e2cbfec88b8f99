"""What a study will cost in time, disk and memory: from its plan, and a short trial of every model."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlprobe.errors import DataError
from vlprobe.extraction import Forward
from vlprobe.plan import Plan, Waiting, by_model
from vlprobe.streams import statistics_size
from vlprobe.study_file import StudyFile

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

TRIAL, LONGER = 16, 128
"""Inputs that a model is tried on; and, where those take less than `ENOUGH`, which says little, is tried on anew."""
ENOUGH, PATIENCE = 1.0, 10.0
"""Seconds that a trial is to last, if inputs are left; and after which no further ones are begun."""

COPIES = 10
"""A probe takes so many times what its layer's features take in float32: 8.3 times in probing 12,000 rows of 768 with
true and shuffled labels, and the features themselves."""


@dataclass(frozen=True)
class Estimate:
    """What one model will take."""

    model: str
    """Its name."""
    inputs: int
    """Inputs that it is still to be run on."""
    stored: int
    """Inputs that are in the store."""
    tried: int
    """Inputs of the trial; 0: there was nothing to try."""
    rate: float
    """Inputs a second in the trial, in one process; NaN where there was none."""

    @property
    def seconds(self) -> float:
        """Return how long its inputs will take in one process."""
        return self.inputs / self.rate if self.inputs else 0.0


def estimate(plan: Plan, file: StudyFile, load: Callable[[str], Encoder]) -> list[Estimate]:
    """Try every model on a few of the inputs that wait for it; nothing is kept.

    Args:
        plan: what is to be computed.
        file: the study's settings.
        load: what a model is called -> the model; one at a time is in memory.

    Raises:
        BadRow, VlprobeError: an input that the model cannot take, as a run would say.
    """
    return [_of_model(each, file, load) for each in plan.waiting]


def _of_model(waiting: Waiting, file: StudyFile, load: Callable[[str], Encoder]) -> Estimate:
    tried, seconds = 0, 0.0
    if waiting.passes:
        model = load(waiting.called)
        _seconds(model, waiting.passes[:1], file)  # the first pass of a network is slower than those to come
        for count in (TRIAL, LONGER):
            if seconds < ENOUGH and tried < len(waiting.passes):
                tried, seconds = _trial(model, waiting.passes, count, file)
    rate = tried / seconds if tried else float("nan")
    return Estimate(waiting.called, len(waiting.passes), waiting.stored, tried, rate)


def _trial(model: Encoder, passes: Sequence[Forward], count: int, file: StudyFile) -> tuple[int, float]:
    """Return how many inputs were run, about as a study would, and the seconds that they took."""
    tried, seconds = 0, 0.0
    for stretch in _stretches(passes, count // 2, count):
        seconds += _seconds(model, stretch, file)
        tried += len(stretch)
        if seconds > PATIENCE:
            break
    return tried, seconds


def _stretches(passes: Sequence[Forward], size: int, count: int) -> list[Sequence[Forward]]:
    """Return `count` inputs from all over, `size` neighbours each time.

    The names by which they are sorted say nothing of them, but for which of them share an image, and so what it costs.
    """
    count = min(len(passes), count)
    sizes = [min(size, count - first) for first in range(0, count, size)]
    apart = (len(passes) - count) // max(len(sizes), 1)
    starts = [number * (size + apart) for number in range(len(sizes))]
    return [passes[start : start + some] for start, some in zip(starts, sizes, strict=True)]


def _seconds(model: Encoder, some: Sequence[Forward], file: StudyFile) -> float:
    from vlprobe.extraction.encoding import Chunk

    start = time.perf_counter()
    Chunk(model, some, file.numbers, file.bad_rows).encode(file.batch_size, lambda count: None)
    return time.perf_counter() - start


def free_space(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(plan: Plan, folder: Path, shared: bool = False) -> None:
    """Refuse to start what the disk cannot hold.

    Args:
        plan: what is to be computed.
        folder: of the store.
        shared: whether several processes have a part each, and the statistics of all models wait to be gathered.

    Raises:
        DataError: the statistics of representations that are not kept take more than there is.
    """
    free = free_space(folder)
    if shared and plan.statistics <= free < plan.statistics_together:
        raise DataError(
            f"{folder} has {free / 1e9:.3g} GB of room, and the statistics of all models, which a job array makes "
            f"before they are gathered, take {plan.statistics_together / 1e9:.3g} GB; name a `store` on a larger disk, "
            "give each model a study of its own, or run without --shard, which needs room for one model's at a time"
        )
    if plan.statistics > free:
        raise DataError(
            f"{folder} has {free / 1e9:.3g} GB of room: it holds neither the representations of this study nor their "
            f"statistics, which take {plan.statistics / 1e9:.3g} GB; name a `store` on a larger disk, keep them as "
            "`dtype: float16`, or ask for fewer models, tasks, layers or seeds"
        )


def check_folder(folder: Path, what: str, cure: str) -> None:
    """Make a folder, and refuse to start where nothing can be written to it.

    Args:
        folder: to be written to.
        what: it is, for the message.
        cure: how to name another one.

    Raises:
        DataError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{what} {folder} cannot be written to ({error.strerror}); {cure}") from None


def probe_memory(plan: Plan) -> int:
    """Return about how many bytes the largest probe takes, beside what is taken already; all that listen, where
    representations are not kept.
    """
    if plan.streaming:
        return max((statistics_size(inside, 1) // 2 for inside in by_model(plan.cells).values()), default=0)
    most = 0
    for cell in plan.cells:
        asked = next(iter(cell.trained.sides.values()))
        rows = len(asked) if asked.asked is None else int(asked.asked.sum())
        most = max(most, rows * max(cell.model.layers[layer] for layer in cell.layers) * 4)
    return COPIES * most


def peak_memory() -> int:
    """Return the most memory that this process has taken so far, in bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins at the peak of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
