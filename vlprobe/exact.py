"""Running a network as exactly as its weights say: the same for encoders and for the detector."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
