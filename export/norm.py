"""Normalisation of the residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.config import Norm
from export.linear import vector


class LayerNorm(nn.Module):
    """(x - mean) / √(variance + eps) · weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, size: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = vector(size, present=bias)

    def forward(self, x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        """Each row normalised on its own; same shape and dtype."""
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def make_norm(kind: Norm, size: int, eps: float, *, bias: bool) -> nn.Module:
    """The norm that the config names; "none" hands x through."""
    return nn.Identity() if kind == "none" else LayerNorm(size, eps, bias=bias)
