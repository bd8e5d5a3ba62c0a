"""Normalisation of the residual stream, and of queries and keys."""

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


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        """Each row normalised on its own; same shape and dtype."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def make_norm(kind: Norm, size: int, eps: float, *, bias: bool) -> nn.Module:
    """The norm that the config names; "none" hands x through."""
    if kind == "rms":
        return RMSNorm(size, eps)
    return nn.Identity() if kind == "none" else LayerNorm(size, eps, bias=bias)
