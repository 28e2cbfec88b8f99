"""Reading a network's residual stream, block by block, as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES, Hidden


@contextmanager
def tap(blocks: Sequence[nn.Module], chained: bool = True) -> Iterator[list[torch.Tensor]]:
    """Collect the residual stream: [input of block 1, output of block 1, ..., output of block n].

    Hooks of our own, because what a library calls "hidden states" differs between model classes and versions:
    with or without the embedding output, the last one before or after the final norm, per stage or per block.

    Args:
        blocks: the residual blocks, in the order in which they run; one that runs several times, several times.
        chained: whether each block must be given what the last one put out; not where a network adds to the stream
            between blocks, or merges its positions.

    Yields:
        A list that is empty before the forward pass and holds n + 1 tensors after it.

    Raises:
        CheckpointError: a block is given something else than the last one's output: they run in another order, or
            something stands between them.
    """
    states: list[torch.Tensor] = []

    def before(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = _given(positional, named)
        done = len(states) - 1
        if done < 0 and module is blocks[0]:
            states.append(given)
        elif chained and not (
            0 <= done < len(blocks)
            and module is blocks[done]
            and (given is states[-1] or torch.equal(given, states[-1]))
        ):
            before_it = max(blocks.index(module), done)
            raise CheckpointError(
                f"block {before_it + 1}, a {type(module).__name__}, is not given what block {before_it} put out: the "
                "blocks found are no residual stream in order, so that no layer address would be right; the "
                "installed transformers wires this model in a way that vlprobe does not know"
            )

    def after(module: nn.Module, positional: tuple[Any, ...], output: Any) -> None:
        states.append(_part(output, 0))

    apart = list(dict.fromkeys(blocks))
    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in apart]
    hooks += [block.register_forward_hook(after) for block in apart]
    with _removed(hooks):
        yield states


@contextmanager
def tap_inputs(blocks: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collect the residual stream: [input of block 1, ..., input of block n, output of block n].

    The same as `tap`, unless a network adds something between its blocks: what is added after block k is part of
    state k, as of what block k + 1 reads.

    Args:
        blocks: the residual blocks, in the order in which they run.

    Yields:
        A list that is empty before the forward pass and holds n + 1 tensors after it.
    """
    states: list[torch.Tensor] = []

    def before(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append(_given(positional, named))

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    with _removed(hooks), outputs([(blocks[-1], 0)]) as last:
        yield states
        states += last


@contextmanager
def outputs(points: Sequence[tuple[nn.Module, int]]) -> Iterator[list[torch.Tensor]]:
    """Collect what modules put out: one tensor for each, in the order in which they run.

    Args:
        points: modules, each with the part of its output that is meant where that is a tuple.

    Yields:
        A list that is empty before the forward pass and as long as `points` after it.
    """
    states: list[torch.Tensor] = []

    def keep(part: int) -> Any:
        def after(module: nn.Module, positional: tuple[Any, ...], output: Any) -> None:
            states.append(_part(output, part))

        return after

    hooks = [module.register_forward_hook(keep(part)) for module, part in points]
    with _removed(hooks):
        yield states


@contextmanager
def altered(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let a module put out, in place of a tensor, what a function makes of it."""
    with _removed([module.register_forward_hook(lambda module, given, output: change(output))]):
        yield


@contextmanager
def _removed(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Take hooks away at the end, also where the network failed."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _given(positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    """Return the stream that a block is called with."""
    given: torch.Tensor = positional[0] if positional else named["hidden_states"]
    return given


def _part(output: Any, part: int) -> torch.Tensor:
    """Return the part that is meant of what a module puts out, where that is a tuple."""
    meant: torch.Tensor = output[part] if isinstance(output, (tuple, list)) else output
    return meant


def residual_blocks(model: nn.Module, paths: Sequence[str], expected: int) -> list[nn.Module]:
    """Return a model's residual blocks, found where one of `paths` says, and counted.

    Args:
        model: the network.
        paths: dotted names of the list of blocks; library versions have moved it.
        expected: how many its configuration promises.

    Raises:
        CheckpointError: no list at any of the paths, or another number of blocks.
    """
    modules = dict(model.named_modules())
    found = next((modules[path] for path in paths if path in modules), None)
    if not isinstance(found, (nn.ModuleList, nn.Sequential)):
        raise CheckpointError(
            f"{type(model).__name__} has its blocks at none of {', '.join(paths)}; "
            "the installed transformers is not one that vlprobe knows: install the version it names"
        )
    if len(found) != expected:
        raise CheckpointError(
            f"{type(model).__name__} has {len(found)} blocks, but its configuration says {expected}; "
            "the config.json does not belong to these weights"
        )
    return list(found)


def padding_bias(mask: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores of attention, as in transformers: the least float32 is -inf to a softmax.

    Args:
        mask: (batch, position) bool, False is padding.

    Returns:
        (batch, 1, 1, position) float32, where the mask is.
    """
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    return bias[:, None, None]


def pooled(layer: str, states: torch.Tensor) -> Hidden:
    """Return the `Hidden` of a pooler: one position, role `cls`.

    Args:
        layer: its address.
        states: (batch, width).
    """
    shape = (len(states), 1)
    role = np.full(shape, ROLES.index("cls"), dtype=np.int8)
    box = np.full((*shape, 4), np.nan, dtype=np.float32)
    return Hidden(layer, states[:, None], role, np.full(shape, -1, dtype=np.int32), box)
