"""On which device a network runs: the same words, and the same choice, for encoders and for the detector."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from vlprobe.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
WORKER = "VLPROBE_WORKER"
"""Environment variable that tells a worker which one of its machine it is, from 0: it takes the GPU of that number."""

NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""What errors say of memory: those of MPS and CUDA itself, of the processor's allocator, of cuBLAS and cuDNN."""


def pick_device(name: str) -> torch.device:
    """Return the device that `name` means: `auto` is cuda, else mps, else cpu; of several GPUs, a worker's own.

    Args:
        name: one of `DEVICES`, or `cuda:N`.

    Raises:
        StudyError: not a device, or a device that this machine does not have.
    """
    import torch

    kind, colon, index = name.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and index.isascii() and index.isdigit())):
        raise StudyError(
            f"device '{name}' is unknown{did_you_mean(kind, DEVICES)} (one of several GPUs: cuda:0, cuda:1, ...)"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[kind]:
        raise StudyError(f"device '{name}' was asked for, but PyTorch finds none here; say device: auto, or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise StudyError(f"device '{name}' was asked for, but this machine has {torch.cuda.device_count()} GPU(s)")
    if kind == "cuda" and not index and WORKER in os.environ:
        return torch.device("cuda", int(os.environ[WORKER]) % torch.cuda.device_count())
    return torch.device(name)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; a GPU copies it when its turn comes, and the host does not wait.

    Other kinds of device may read the host's memory only later, when it may hold something else: there it waits.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def out_of_memory(error: Exception) -> bool:
    """Say whether an error is that memory, of a device or of the host, does not hold what was to be computed."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_ROOM)


def free_memory() -> None:
    """Give back to the devices what nothing refers to any more."""
    import torch

    gc.collect()  # networks, and errors that were raised through them, are in cycles
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def accelerator(device: torch.device) -> str:
    """Return what kind of GPU a device is, with the memory that it has; empty: none of CUDA."""
    import torch

    if device.type != "cuda":
        return ""
    found = torch.cuda.get_device_properties(device)
    return f"{found.name}, {found.total_memory >> 30} GiB"


def gpus(name: str) -> int:
    """Return how many GPUs a study may use: those of this machine, unless it names one device.

    Args:
        name: as for `pick_device`.
    """
    import torch

    return torch.cuda.device_count() if name in ("auto", "cuda") else 0
