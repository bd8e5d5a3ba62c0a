"""Source `glassblock`: a config and a safetensors file in our own names, [in, out], as Stack.state_dict() has them."""

from pathlib import Path

from export import ExportError
from export.block import Stack
from export.config import StackConfig
from export.place import file_sha256
from export.sources import Source
from export.sources.layers import stack_layers
from export.sources.weights import Weights


def load(path: Path, config: StackConfig) -> Source:
    """A stack with exactly the weights of the file: layers.0.attention.W_Q [hidden, heads·d_k], and so on.

    Raises:
        ExportError: The file is not safetensors, or a tensor is missing, left over or of another shape.
    """
    stack = Stack(config).requires_grad_(requires_grad=False).eval()
    wanted = {name: tuple(tensor.shape) for name, tensor in stack.state_dict().items()}
    with Weights(path) as weights:
        left_over = sorted(weights.names - wanted.keys())
        if left_over:
            raise ExportError(f"{path} has tensors that this config does not: {', '.join(left_over)}")
        tensors = {name: weights.take(name, shape) for name, shape in wanted.items()}
    stack.load_state_dict(tensors, assign=True)
    return Source(
        kind="glassblock",
        reference=path.name,
        model=stack.eval(),
        layers=stack_layers(stack),
        hidden_size=config.hidden_size,
        config=config,
        max_sequence_length=config.max_position_embeddings,
        files={path.name: file_sha256(path)},
    )
