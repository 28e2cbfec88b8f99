"""Matrices kept in bfloat16 and used in float32: half the memory, the same states where they were published so."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

MATRIX = 2
"""Axes that a parameter has at least, to be kept in bfloat16: norms and biases are small."""


def narrowed(kind: Any) -> Any:
    """Return a class of transformers whose networks are made with their matrices in bfloat16.

    transformers reads each weight into the type of the parameter that was made for it, one after the other, so that the
    network never is in memory in float32. All else, buffers too, is made and read as in float32.

    Args:
        kind: the class.
    """

    class Narrow(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for parameter in self.parameters():
                if _is_matrix(parameter):
                    parameter.data = parameter.data.bfloat16()

    # By which transformers looks up how old names of weights became today's.
    Narrow.__name__, Narrow.__module__ = kind.__name__, kind.__module__
    return Narrow


def widen_in_use(model: nn.Module) -> None:
    """Have every module of a network find its matrices in float32 while it runs, and let them go behind it.

    A number of bfloat16 is one of float32, so that the network computes to the bit what it would with all of its
    weights in float32, in one module's worth more of memory. Between uses a matrix is NaN everywhere, without memory:
    what reads it from outside of its module is found by the check at load.

    Args:
        model: the network, on its device, where it must stay.
    """
    for module in model.modules():
        kept = {name: one.data for name, one in module.named_parameters(recurse=False) if one.dtype == torch.bfloat16}
        if kept:
            _Widened(module, kept)


class _Widened:
    """A module's matrices: in bfloat16 here, in float32 in the module while it runs."""

    def __init__(self, module: nn.Module, kept: dict[str, torch.Tensor]) -> None:
        self.kept = kept
        self.absent = {
            name: nn.Parameter(
                torch.full((), torch.nan, device=matrix.device).expand(matrix.shape), requires_grad=False
            )
            for name, matrix in kept.items()
        }
        module._parameters.update(self.absent)
        module.register_forward_pre_hook(self.bring)
        module.register_forward_hook(self.take_away, always_call=True)

    def bring(self, module: nn.Module, given: Any) -> None:
        """Set the matrices in float32 into their module."""
        for name, matrix in self.kept.items():
            module._parameters[name] = nn.Parameter(matrix.float(), requires_grad=False)

    def take_away(self, module: nn.Module, given: Any, output: Any) -> None:
        """Take them out again."""
        module._parameters.update(self.absent)


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.dim() >= MATRIX and parameter.dtype == torch.float32
