"""Source `random`: seeded weights, for tests and for measuring."""

import math

import torch
from torch import Tensor

from export import ExportError
from export.block import Stack
from export.config import StackConfig
from export.sources import Source
from export.sources.layers import stack_layers

_SEEDS = range(-(2**63), 2**64)  # those that torch takes


def load(config: StackConfig, seed: int = 0) -> Source:
    """A stack whose every weight comes from `seed`.

    Matrices are normal with deviation 1/√in, so that no layer blows its input up; biases and the norms' deviations
    from 1 are normal with deviation 0.1, so that none of them can be dropped unnoticed.

    Raises:
        ExportError: The seed is none that torch takes.
    """
    if seed not in _SEEDS:
        raise ExportError(f"--seed must be from {_SEEDS.start} to {_SEEDS.stop - 1}, got {seed}")
    generator = torch.Generator().manual_seed(seed)
    stack = Stack(config).requires_grad_(requires_grad=False).eval()
    for name, parameter in stack.named_parameters():
        parameter.copy_(_draw(name, parameter.shape, generator))
    return Source(
        kind="random",
        reference=f"seed {seed}",
        model=stack,
        layers=stack_layers(stack),
        hidden_size=config.hidden_size,
        config=config,
        max_sequence_length=config.max_position_embeddings,
    )


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return noise / math.sqrt(shape[0])
    return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
