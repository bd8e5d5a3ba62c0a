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
    """x / √(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467).

    `one_plus` multiplies by 1 + weight instead, so that a weight of 0 changes nothing (Gemma).
    """

    def __init__(self, size: int, eps: float, *, one_plus: bool = False) -> None:
        super().__init__()
        self.eps, self.one_plus = eps, one_plus
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        """Each row normalised on its own; same shape and dtype."""
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        scaled = normed * self.weight
        # Not (1 + weight): the exporter would fold that to a tensor of its own, and the weight be lost.
        return normed + scaled if self.one_plus else scaled


class LayerScale(nn.Module):
    """x · weight over the last axis (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        """Each number of a row times its own weight; same shape and dtype."""
        return x * self.weight


def make_norm(kind: Norm, size: int, eps: float, *, bias: bool) -> nn.Module:
    """The norm that the config names; "none" hands x through."""
    if kind in {"rms", "rms_one_plus"}:
        return RMSNorm(size, eps, one_plus=kind == "rms_one_plus")
    return nn.Identity() if kind == "none" else LayerNorm(size, eps, bias=bias)
