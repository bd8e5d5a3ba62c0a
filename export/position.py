"""Positions: pairs of a query's and a key's numbers, turned by an angle, and scores that favour keys by distance."""

import math
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from export.relative_bias import RelativeBias
from export.rotary import Rotary


def rotate(
    x: Float[Tensor, "batch sequence head head_dim"], position_ids: Int[Tensor, "#batch sequence"], rotary: Rotary
) -> Float[Tensor, "batch sequence head head_dim"]:
    """Turns the first `rotary.dims` numbers of each head, pair by pair (Su et al. 2021, arXiv:2104.09864, equation 34).

    Args:
        x: Queries or keys.
        position_ids: int64, 0 … rotary.max_position_embeddings - 1.
        rotary: Which numbers are a pair, and how fast each turns.
    """
    # Angles come from a table: the last bit of a cosine that onnxruntime computes depends on where in the batch it is.
    cos, sin = (table[position_ids][:, :, None] for table in rotations(rotary, x.dtype))
    half, end = rotary.dims // 2, rotary.dims
    if rotary.pairs == "half":
        first, second = x[..., :half], x[..., half:end]
    else:
        first, second = x[..., :end:2], x[..., 1:end:2]
    turned = first * cos - second * sin, second * cos + first * sin
    together = torch.cat(turned, dim=-1) if rotary.pairs == "half" else torch.stack(turned, dim=-1).flatten(-2)
    return together if end == x.shape[-1] else torch.cat((together, x[..., end:]), dim=-1)


@cache
def rotations(
    rotary: Rotary, dtype: torch.dtype
) -> tuple[Float[Tensor, "position pair"], Float[Tensor, "position pair"]]:
    """Cosine and sine of each position and pair, the same tensors for all layers.

    An angle is a float32 product, as every implementation has it: far out its rounding is part of what a model learnt.
    """
    position = torch.arange(rotary.max_position_embeddings, dtype=torch.float32)
    angles = (position[:, None] * frequencies(rotary)).double()
    return torch.cos(angles).to(dtype), torch.sin(angles).to(dtype)


def frequencies(rotary: Rotary) -> Float[Tensor, " pair"]:
    """How far each pair turns from one position to the next, radians, float32, in transformers' order of operations.

    "linear" is Chen et al. 2023 (arXiv:2306.15595), "llama3" that of Llama 3.1: slow pairs are slowed
    by the factor, fast ones are left, and between them it is blended.
    """
    found = 1.0 / rotary.theta ** (torch.arange(0, rotary.dims, 2, dtype=torch.float32) / rotary.dims)
    if rotary.scaling == "linear":
        return found / rotary.factor
    if rotary.scaling == "llama3":
        return _llama3(found, rotary)
    return found


def _llama3(found: Float[Tensor, " pair"], rotary: Rotary) -> Float[Tensor, " pair"]:
    low, high, length = rotary.low_freq_factor, rotary.high_freq_factor, rotary.original_max_position_embeddings
    wavelength = 2 * math.pi / found
    slowed = found / rotary.factor
    share = (length / wavelength - low) / (high - low)
    blended = (1 - share) * slowed + share * found
    between = torch.where(wavelength > length / low, slowed, blended)
    return torch.where(wavelength < length / high, found, between)


def bias_by_distance(
    table: Float[Tensor, "bucket head"], length: int, relative: RelativeBias, *, causal: bool
) -> Float[Tensor, "1 head sequence sequence"]:
    """What is added to each query's score of each key (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

    Args:
        table: What each head adds for each bucket.
        length: Positions of a sequence, hidden ones too.
        relative: Which distances share a bucket.
        causal: Whether no query sees a key after it.
    """
    # A graph gathers and computes no logarithm: whose last bit could move a distance to another bucket.
    most = relative.max_distance
    distances = torch.arange(1 - length, length, device=table.device)
    found = torch.index_select(buckets(relative, causal=causal), 0, distances.clamp(-most, most) + most)
    position = torch.arange(length, device=table.device)
    places = position[None, :] - (position - (length - 1))[:, None]
    by_distance = nn.functional.embedding(found, table)
    return nn.functional.embedding(places, by_distance).permute(2, 0, 1)[None]


@cache
def buckets(relative: RelativeBias, *, causal: bool) -> Int[Tensor, " distance"]:
    """The bucket of each distance key - query from -max_distance to max_distance, beyond which it stays the same.

    The logarithm is a float32, in transformers' order of operations: where it should be a whole number, its rounding
    decides.
    """
    distances = torch.arange(-relative.max_distance, relative.max_distance + 1)
    count, exact = relative.side(causal=causal)
    away = -distances.clamp(max=0) if causal else distances.abs()
    logarithms = torch.log(away.clamp(min=1).float() / exact) / math.log(relative.max_distance / exact)
    far = (exact + (logarithms * (count - exact)).long()).clamp(max=count - 1)
    found = torch.where(away < exact, away, far)
    return found if causal else found + count * (distances > 0)
