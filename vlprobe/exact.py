"""Running a network as exactly as its weights say, or, where a study asks for it, in half the numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_LOWERED: ContextVar[bool] = ContextVar("lowered", default=False)


@contextmanager
def exact() -> Iterator[None]:
    """Run without autograd and in full float32: cuDNN would round convolutions to TF32 by default."""
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread of the CPU: sums come out the same on any number of cores.

    Networks as small as probes gain nothing from more, and wait for them where other processes have the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Let encoders run in a precision; what reads images for them, a detector, stays exact.

    Args:
        name: `float32`, or `bfloat16`: matrix products of numbers with 8 bits of mantissa, sums and norms in float32
            (PyTorch's automatic mixed precision).
    """
    token = _LOWERED.set(name == "bfloat16")
    try:
        yield
    finally:
        _LOWERED.reset(token)


@contextmanager
def as_asked(device: torch.device) -> Iterator[None]:
    """Run an encoder as exactly as was asked for with `precision`; else exactly."""
    with exact(), torch.autocast(device.type, torch.bfloat16, enabled=_LOWERED.get()):
        yield
