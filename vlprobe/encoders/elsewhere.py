"""Models that another library has by name: timm, open_clip. Both are extras, as they bring torchvision."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from vlprobe.digest import digest
from vlprobe.encoders.checkpoint import Checkpoint, first_line, quiet
from vlprobe.errors import CheckpointError, StudyError

RESAMPLES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""What a library calls a way to resize -> Pillow's number."""


def checkpoint_by_name(source: str, revision: str | None, library: str, *, random: bool, seed: int) -> Checkpoint:
    """Return what stands for a model that a library has by name; nothing is fetched yet.

    Args:
        source: the library's name for it.
        revision: none, as its names stand for weights.
        library: the module.
        random: whether its weights are drawn.
        seed: of the random weights.

    Raises:
        CheckpointError: the library is not installed.
        StudyError: a revision is given.
    """
    if revision is not None:
        raise StudyError(f"{library} has models by name, without revisions; leave '{revision}' out")
    if importlib.util.find_spec(library) is None:
        raise CheckpointError(
            f"{source}: its family needs {library}, which is not installed: pip install 'vlprobe[{library}]'"
        )
    return Checkpoint(source, Path(), Path(), library, "", random, seed)


def make(checkpoint: Checkpoint, build: Any) -> Any:
    """Return the network that a library builds, in evaluation mode and float32.

    Args:
        checkpoint: whose seed draws random weights.
        build: takes the library's module, returns the network.

    Raises:
        CheckpointError: the library cannot be imported, has no such model, or cannot fetch its weights.
    """
    library, heard = checkpoint.model_type, logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)  # open_clip warns of random weights, and lists all of its own
        # What is drawn for a network must not move the caller's random numbers.
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(checkpoint.seed)
            model = build(importlib.import_module(library))
    except (ImportError, RuntimeError, ValueError, KeyError, OSError, AssertionError) as error:
        raise CheckpointError(
            f"{checkpoint.source}: {library} cannot make it: {first_line(error)}; check the name, and that {library} "
            "and torchvision are those of the installed torch"
        ) from error
    finally:
        logging.disable(heard)
    if checkpoint.random:
        _wake(model)
    return model.float().eval()


def _wake(model: Any) -> None:
    """Set scales that training starts at zero to 1: else a residual block passes on what it is given, and no more."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)


def revision_of(checkpoint: Checkpoint, model: Any, *settings: Any) -> str:
    """Return the sha256 over a network's weights, what its images are put through, and its library's version."""
    weights = [
        (name, str(tensor.dtype), list(tensor.shape), _sha256(tensor))
        for name, tensor in sorted(model.state_dict().items())
    ]
    known = importlib.metadata.packages_distributions().get(checkpoint.model_type, [])
    version = [importlib.metadata.version(name) for name in sorted(set(known))]
    return digest(checkpoint.source, version, weights, *settings)


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
