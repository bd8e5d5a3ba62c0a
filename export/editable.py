"""The editable graph of a layer, in which any probe can be overridden, and the layer's plain graph made of it."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from export.probes import TensorSpec

OVERRIDDEN, _OVERRIDE = "overridden", "override_"


class Editable(nn.Module):
    """A block in which a flag marks each site, for `finish` to find in the graph.

    The overrides are no inputs of what is traced: torch would take their sizes for those of the other inputs.
    """

    def __init__(self, block: nn.Module, sites: Sequence[TensorSpec]) -> None:
        super().__init__()
        self.block = block
        self.sites = [spec.name for spec in sites]

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The block's probes, with 0 for those that the last tensor, `overridden`, bool [site], names."""
        *inputs, overridden = tensors

        def at(name: str, tensor: Tensor) -> Tensor:
            return torch.where(overridden[self.sites.index(name)], 0.0, tensor)

        probes: dict[str, Tensor] = self.block(*inputs, at=at)
        return probes


def plain(traced: ir.Model) -> ir.Model:
    """The layer's own graph from a traced `Editable`: what was computed at each site, and no inputs but its own."""
    model = traced.clone()
    graph = model.graph
    for node in _site_nodes(graph):
        computed, changed = node.inputs[2], node.outputs[0]
        assert computed is not None  # noqa: S101 - Where has three inputs
        if computed.is_graph_input() or computed.is_graph_output():
            # One tensor under two names: its second is a node of its own.
            same = ir.node("Identity", [computed])
            graph.insert_after(node, same)
            computed = same.outputs[0]
        computed.name, computed.shape, computed.type = changed.name, changed.shape, changed.type
        replace_all_uses_with(changed, computed, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    RemoveUnusedNodesPass()(model)
    for value in _optional(graph):
        graph.inputs.remove(value)
    return model


def finish(traced: ir.Model) -> None:
    """Gives each site of a traced `Editable` its override, and makes the new inputs optional: nothing is overridden."""
    graph = traced.graph
    for node in _site_nodes(graph):
        site = node.outputs[0]
        override = ir.Value(name=f"{_OVERRIDE}{site.name}", type=site.type, shape=site.shape)
        graph.inputs.append(override)
        node.replace_input_with(1, override)
    for value in _optional(graph):
        assert value.shape is not None  # noqa: S101 - the contract gave it one
        assert value.dtype is not None  # noqa: S101
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        value.const_value = ir.tensor(np.zeros(shape, value.dtype.numpy()), name=value.name)
        graph.initializers.add(value)


def _optional(graph: ir.Graph) -> list[ir.Value]:
    """The flags, and the overrides behind them."""
    values = list(graph.inputs)
    return values[[value.name for value in values].index(OVERRIDDEN) :]


def _site_nodes(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type == "Where" and _is_flag(node.inputs[0])]


def _is_flag(condition: ir.Value | None) -> bool:
    producer = condition.producer() if condition is not None else None
    return producer is not None and any(value is not None and value.name == OVERRIDDEN for value in producer.inputs)
