"""On which device a network runs: the same words, and the same choice, for encoders and for the detector."""

from __future__ import annotations

import torch

from vlprobe.errors import StudyError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str) -> torch.device:
    """Return the device that `name` means: `auto` is cuda, else mps, else cpu.

    Args:
        name: one of `DEVICES`, or `cuda:N`.

    Raises:
        StudyError: not a device, or a device that this machine does not have.
    """
    kind, colon, index = name.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and index.isascii() and index.isdigit())):
        raise StudyError(
            f"device '{name}' is unknown{did_you_mean(kind, DEVICES)} (one of several GPUs: cuda:0, cuda:1, ...)"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if there[device]))
    if not there[kind]:
        raise StudyError(f"device '{name}' was asked for, but PyTorch finds none here; say device: auto, or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise StudyError(f"device '{name}' was asked for, but this machine has {torch.cuda.device_count()} GPU(s)")
    return torch.device(name)
