"""A graph's weights: which tensors they are, by what name, taken out and filled in."""

import hashlib
from typing import TypeGuard

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with
from torch import nn

from export import ExportError

_CONSTANT = "constant_"


def is_weight(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.TensorProtocol]:
    """Whether a tensor belongs into weights.data: float, of rank 1 or more."""
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.shape.rank() > 0


def emptied(traced: ir.Model) -> ir.Model:
    """The graph with parameters that take no memory: onnxscript's rules hold the graph that they saw last for good."""
    for value in _parameters(traced):
        assert value.const_value is not None  # noqa: S101 - it is a weight
        shape = tuple(value.const_value.shape.numpy())
        value.const_value = ir.tensor(np.broadcast_to(np.float32(0), shape), name=value.name)
    return traced


def filled(graph: ir.Model, module: nn.Module, prefix: str) -> ir.Model:
    """The graph with a module's parameters.

    Raises:
        ExportError: The graph has others.
    """
    tensors = {_short(name): tensor for name, tensor in module.state_dict().items()}
    slots = {str(value.name): value for value in _parameters(graph)}
    if slots.keys() != tensors.keys():
        raise ExportError(f"the traced graph lost or made weights: {sorted(slots.keys() ^ tensors.keys())}")
    for name, value in slots.items():
        value.name = _full(name, prefix)
        value.const_value = ir.tensor(tensors[name].numpy(), name=value.name)
    return graph


def _parameters(graph: ir.Model) -> list[ir.Value]:
    """The weights that are no constant which the block made itself, as a table of angles is."""
    values = graph.graph.initializers.values()
    return [v for v in values if is_weight(v.const_value) and not str(v.name).startswith(_CONSTANT)]


def _short(name: str) -> str:
    # A wrapper of this file, the editable one, and at most one of a source stand around a module.
    return name.removeprefix("inner.").removeprefix("block.").removeprefix("block.")


def _full(name: str, prefix: str) -> str:
    """A parameter's name in the whole model, as Stack.state_dict() has it."""
    return name if name.startswith("final_norm.") else prefix + name


def rename_weights(graph: ir.Model, parameters: set[str], prefix: str) -> None:
    """Gives each parameter its name in the whole model.

    A constant that torch made on the way (a transposed weight of nn.Linear) is named by what it holds: torch's own
    numbering differs from graph to graph, and one name must mean one tensor in all of them. Equal ones become one.
    """
    for name, value in list(graph.graph.initializers.items()):
        if name in parameters:
            value.name = _full(_short(name), prefix)
        elif is_weight(value.const_value):
            name_by_content(graph.graph, value)


def name_by_content(graph: ir.Graph, value: ir.Value) -> None:
    """Names an initializer by what it holds; where the graph has one that holds the same, that takes its place."""
    assert value.const_value is not None  # noqa: S101 - an initializer
    own = _constant_name(value.const_value)
    if own in graph.initializers:
        replace_all_uses_with(value, graph.initializers[own])
        del graph.initializers[str(value.name)]
    else:
        value.name = own


def _constant_name(tensor: ir.TensorProtocol) -> str:
    """A name by dtype, shape and bytes: equal bytes may be different tensors."""
    digest = hashlib.sha256(f"{tensor.dtype.name} {tensor.shape.numpy()}".encode())
    digest.update(tensor.tobytes())
    return f"{_CONSTANT}{digest.hexdigest()[:16]}"
