"""A stack's layers, as every source of our own blocks exports them."""

from torch import nn

from export import probes
from export.block import FinalLayer, Stack
from export.sources import Layer


def stack_layers(stack: Stack, first: int = 0) -> tuple[Layer, ...]:
    """A stack's layers to export; the last one carries the final norm if there is one."""
    return tuple(_stack_layer(stack, index, first) for index in range(len(stack.layers)))


def _stack_layer(stack: Stack, index: int, first: int) -> Layer:
    module: nn.Module = stack.layers[index]
    prefix = f"layers.{index}."
    outputs = probes.layer_outputs(stack.config, index)
    if outputs[-1].name == "block_output":
        module = FinalLayer(module, stack.final_norm)
    return Layer(module, outputs, first + index, prefix)
