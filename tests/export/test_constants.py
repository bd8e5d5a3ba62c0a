"""Constants that torch makes on the way: one name is one tensor."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.probes import inputs, stream

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
