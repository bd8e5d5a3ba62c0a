"""x·W + b with weights stored [in, out], as the formulas are written."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def matrix(in_features: int, out_features: int) -> nn.Parameter:
    """An unset weight [in, out], float32: stored as it is multiplied, so that no graph holds a transposed copy."""
    return nn.Parameter(torch.empty(in_features, out_features))


def vector(size: int, *, present: bool = True) -> nn.Parameter | None:
    """An unset bias [size], float32, or None where the config has none."""
    return nn.Parameter(torch.empty(size)) if present else None


def linear(
    x: Float[Tensor, "*rows in"], weight: Float[Tensor, "in out"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*rows out"]:
    """x·W + b; x·W where there is no bias."""
    product = x @ weight
    return product if bias is None else product + bias
