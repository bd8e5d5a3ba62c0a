"""The tensors on the way through a block: their names, their axes, and other names they go by."""

from dataclasses import dataclass
from typing import Any

from export.config import BlockConfig, StackConfig

DYNAMIC_AXES = frozenset({"batch", "sequence", "query", "key"})

_STREAM = ("batch", "sequence", "hidden")
_MAP = ("batch", "head", "query", "key")
_WIDE = ("batch", "sequence", "intermediate")

# In the order of the data, which is the order of every layer graph's outputs and of TransformerBlock.forward.
_AXES = {
    "layer_input": _STREAM,
    "attention_input": _STREAM,
    "query": ("batch", "sequence", "head", "head_dim"),
    "key": ("batch", "sequence", "head", "head_dim"),
    "value": ("batch", "sequence", "head", "value_head_dim"),
    "attention_scores": _MAP,
    "attention_weights": _MAP,
    "context": ("batch", "sequence", "head", "value_head_dim"),
    "attention_output": _STREAM,
    "resid_mid": _STREAM,
    "ffn_input": _STREAM,
    "ffn_pre_activation": _WIDE,
    "ffn_post_activation": _WIDE,
    "ffn_output": _STREAM,
    "resid_post": _STREAM,
    "layer_output": _STREAM,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph's input or output: name, dtype, axes by name, and shape with -1 on the dynamic axes."""

    name: str
    dtype: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry of the manifest."""
        return {"name": self.name, "dtype": self.dtype, "axes": list(self.axes), "shape": list(self.shape)}


def stream(name: str, hidden_size: int) -> TensorSpec:
    """A tensor of the residual stream: float32 [batch, sequence, hidden]."""
    return TensorSpec(name, "float32", _STREAM, (-1, -1, hidden_size))


def inputs(hidden_size: int) -> tuple[TensorSpec, TensorSpec]:
    """What every graph takes: hidden_states float32 and attention_mask int64, 1 = attend."""
    mask = TensorSpec("attention_mask", "int64", ("batch", "sequence"), (-1, -1))
    return stream("hidden_states", hidden_size), mask


def block_probes(config: BlockConfig) -> tuple[TensorSpec, ...]:
    """The probes that a block of this config has, in the order of the data."""
    sizes = {
        "hidden": config.hidden_size,
        "head": config.num_attention_heads,
        "head_dim": config.head_dim,
        "value_head_dim": config.value_head_dim,
        "intermediate": config.intermediate_size,
    }
    return tuple(
        TensorSpec(name, "float32", axes, tuple(sizes.get(axis, -1) for axis in axes)) for name, axes in _AXES.items()
    )


def layer_outputs(config: StackConfig, layer: int) -> tuple[TensorSpec, ...]:
    """What the graph of one layer gives: its probes, and block_output on the last layer where a final norm makes it."""
    probes = block_probes(config.layers[layer])
    last = layer == len(config.layers) - 1
    if last and config.final_norm != "none":
        return (*probes, stream("block_output", config.hidden_size))
    return probes


def aliases(config: StackConfig | None) -> dict[str, str]:
    """Other names of outputs: last_hidden_state only where a final norm makes block_output what models call so."""
    if config is None or config.final_norm == "none":
        return {}
    return {"last_hidden_state": "block_output"}
