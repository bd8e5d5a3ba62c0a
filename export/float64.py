"""A module in the oracle's precision."""

import copy
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def as_float64(module: Module) -> Module:
    """A copy whose float parameters and buffers are float64; made tensor by tensor, so that it alone is added.

    `copy.deepcopy(module).double()` would hold what is copied in both precisions.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    return copy.deepcopy(module, {id(tensor): _doubled(tensor) for _, tensor in named})


def _doubled(tensor: Tensor) -> Tensor:
    double = tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()
    return nn.Parameter(double, requires_grad=False) if isinstance(tensor, nn.Parameter) else double
