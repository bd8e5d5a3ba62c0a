"""model.onnx out of the layers' graphs: the same nodes one after another, without the tensors nobody asks for."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.graph_weights import is_weight, name_by_content

LAYER_OUTPUT = "layer_output"
FINAL_OUTPUT = "block_output"
_TABLE = ".relative_bias"


def chain_layers(layers: Sequence[ir.Model]) -> ir.Model:
    """The whole stack as one graph: the graphs' inputs → block_output.

    Each layer's layer_output is the next one's hidden_states; the last one's block_output, or its layer_output where no
    final norm makes one, is the answer. Composing is faster than tracing the stack again, and lean and layers have the
    same nodes; what onnxruntime fuses in the one and not in the other is docs/decisions/0003's matter.

    Args:
        layers: The layers' graphs in order; they stay as they are.
    """
    whole = layers[0].clone()
    stream = _take_output(whole.graph, final=len(layers) == 1)
    _number(whole.graph, 0)
    first, *others = whole.graph.inputs
    for index, layer in enumerate(layers[1:], start=1):
        graph = layer.clone().graph
        _take_sizes(graph, first)
        replace_all_uses_with(tuple(graph.inputs), (stream, *others))
        stream = _take_output(graph, final=index == len(layers) - 1)
        _number(graph, index)
        _move(graph, whole.graph)
    stream.name = FINAL_OUTPUT
    whole.graph.outputs.append(stream)
    RemoveUnusedNodesPass()(whole)
    return whole


def _take_output(graph: ir.Graph, *, final: bool) -> ir.Value:
    """The tensor that goes on from here; the graph gives nothing else any more."""
    outputs = {str(value.name): value for value in graph.outputs}
    graph.outputs.clear()
    return outputs[FINAL_OUTPUT] if final and FINAL_OUTPUT in outputs else outputs[LAYER_OUTPUT]


def _take_sizes(graph: ir.Graph, hidden_states: ir.Value) -> None:
    """Takes sizes from what enters the stack: what layers compute of sizes and masks alone is then the same in all.

    onnxruntime computes it once: masks, and a bias by distance that layers share, each a map of all pairs.
    """
    for node in graph:
        if node.op_type == "Shape" and node.inputs[0] is graph.inputs[0]:
            node.replace_input_with(0, hidden_states)


def _number(graph: ir.Graph, index: int) -> None:
    """Tells this layer's nodes and tensors from the other layers'; weights have names of the whole model already.

    What layers may share is named by what it holds: their constants, and T5's table, which is every layer's.
    """
    for value in list(graph.initializers.values()):
        if not is_weight(value.const_value) or str(value.name).endswith(_TABLE):
            name_by_content(graph, value)
    for node in graph:
        node.name = f"{index}/{node.name}"
        for output in node.outputs:
            output.name = f"{index}/{output.name}"


def _move(graph: ir.Graph, whole: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        del graph.initializers[name]
        if name in whole.initializers:
            replace_all_uses_with(value, whole.initializers[name])
        else:
            whole.initializers[name] = value
    nodes = list(graph)
    graph.remove(nodes)
    whole.extend(nodes)
