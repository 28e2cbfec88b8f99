"""One choice of a device, for models and for the detector."""

import pytest
import torch

from vlprobe.device import pick_device
from vlprobe.errors import StudyError


@pytest.fixture
def machine(monkeypatch):
    """Make this machine one with so many GPUs of NVIDIA, and one of Apple or none."""

    def make(gpus, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("gpus", "mps", "expected"), [(1, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_is_the_best_that_is_there(machine, gpus, mps, expected):
    machine(gpus, mps)
    assert pick_device("auto") == torch.device(expected)
    assert pick_device(str(pick_device("auto"))) == torch.device(expected)


def test_a_device_by_name(machine):
    machine(2, True)
    assert [str(pick_device(name)) for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]


@pytest.mark.parametrize("name", ["gpu", "", "cpu:1", "mps:0", "cuda:", "cuda:x", "cuda:-1", "cuda:١", "auto:0"])
def test_what_is_no_device(machine, name):
    machine(1, True)
    with pytest.raises(StudyError, match=rf"device '{name}' is unknown.*one of several GPUs: cuda:0"):
        pick_device(name)


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda", 0, "PyTorch finds none here; say device: auto, or cpu"),
        ("cuda:0", 0, "PyTorch finds none here"),
        ("mps", 1, "PyTorch finds none here"),
        ("cuda:1", 1, r"this machine has 1 GPU\(s\)"),
    ],
)
def test_a_device_that_is_not_there(machine, name, gpus, said):
    machine(gpus, False)
    with pytest.raises(StudyError, match=f"device '{name}' was asked for.*{said}"):
        pick_device(name)
