"""Constants that torch makes on the way: one name is one tensor, and what layers share is there once."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.config import StackConfig
from export.probes import inputs, stream
from export.sources import random

if TYPE_CHECKING:
    import onnx_ir as ir


class Twice(nn.Module):
    """The same numbers as constants: twice in one shape, and once in another."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        first, second = torch.tensor([1.5, 2.5]), torch.tensor([1.5, 2.5])
        column = torch.tensor([[1.5], [2.5]])
        return (hidden_states * first + second) @ column * first + attention_mask[..., None] * 0


@pytest.mark.long
def test_a_constant_used_twice_is_one_and_in_another_shape_another() -> None:
    from export import trace

    graph = trace._trace(Twice(), inputs(2), (stream("block_output", 2),))
    constants = {
        name: tuple(value.const_value.shape.numpy())
        for name, value in graph.graph.initializers.items()
        if name.startswith("constant_") and value.const_value
    }
    assert sorted(constants.values()) == [(2,), (2, 1)]
    x = np.array([[[1, 2], [3, 4]]], np.float32)
    got = run(graph, x)
    with torch.inference_mode():
        assert np.array_equal(got, Twice()(torch.from_numpy(x), torch.ones(1, 2, dtype=torch.int64)).numpy())


def test_equal_bytes_of_another_dtype_have_another_name() -> None:
    import onnx_ir as ir

    from export import graph_weights

    names = {
        graph_weights._constant_name(ir.tensor(np.zeros(shape, dtype)))
        for shape, dtype in (((4,), np.float32), ((2, 2), np.float32), ((8,), np.float16), ((2,), np.float64))
    }
    assert len(names) == 4


def run(graph: "ir.Model", x: NDArray[Any]) -> NDArray[Any]:
    import onnx_ir as ir
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    answer: NDArray[Any] = session.run(None, {"hidden_states": x, "attention_mask": np.ones((1, 2), np.int64)})[0]
    return answer


@pytest.mark.long
def test_masks_and_a_table_that_layers_share_are_computed_once_in_model_onnx(tmp_path: Path) -> None:
    from export.onnx_file import write_graphs

    fields = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4, "num_layers": 3, "mask": "causal"}
    source = random.load(StackConfig.from_dict({**fields, "relative_bias": {}}))
    tables = [tensor for name, tensor in source.model.state_dict().items() if name.endswith("relative_bias")]
    tables[1].copy_(tables[0])  # the third layer keeps its own
    write_graphs(source, tmp_path, lambda _step: None)
    kinds = optimised(tmp_path)
    assert (kinds["Softmax"], kinds["Where"], kinds["Range"]) == (3, 1, 2)
    assert kinds["Gather"] == 1 + 2 * 2  # distances to buckets; for each table buckets to numbers, and these to pairs


def optimised(folder: Path) -> Counter[str]:
    """How many nodes of each kind onnxruntime runs for model.onnx."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "optimised.onnx", load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)
