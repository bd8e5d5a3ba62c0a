"""The tensors on the way through a block: their names, their axes, other names, and how one is changed on its way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.config import BlockConfig, StackConfig

if TYPE_CHECKING:  # its import takes seconds, and names need none of it
    from torch import Tensor

POSITIONS = "position_ids"
DYNAMIC_AXES = frozenset({"batch", "sequence", "query", "key"})

At = Callable[[str, "Tensor"], "Tensor"]  # a probe's name and what was computed → what it is to be

_STREAM = ("batch", "sequence", "hidden")
_MAP = ("batch", "head", "query", "key")
_WIDE = ("batch", "sequence", "intermediate")

# Whose axis `head` counts the key-value heads; the others' counts all heads.
_PER_KEY_VALUE_HEAD = frozenset({"key_unrotated", "key", "value"})
_OF_ROTARY = frozenset({"query_unrotated", "key_unrotated"})

# In the order of the data, which is the order of every layer graph's outputs and of TransformerBlock.forward.
_AXES = {
    "layer_input": _STREAM,
    "attention_input": _STREAM,
    "query_unrotated": ("batch", "sequence", "head", "head_dim"),
    "key_unrotated": ("batch", "sequence", "head", "head_dim"),
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

    @property
    def dynamic(self) -> dict[int, str]:
        """The axes without a size of their own: batch, or sequence."""
        return {
            index: "batch" if axis == "batch" else "sequence"
            for index, axis in enumerate(self.axes)
            if axis in DYNAMIC_AXES
        }

    def to_dict(self) -> dict[str, Any]:
        """The entry of the manifest."""
        return {"name": self.name, "dtype": self.dtype, "axes": list(self.axes), "shape": list(self.shape)}


def computed(_name: str, tensor: "Tensor") -> "Tensor":
    """Every probe as it was computed: nothing is changed."""
    return tensor


def stream(name: str, hidden_size: int) -> TensorSpec:
    """A tensor of the residual stream: float32 [batch, sequence, hidden]."""
    return TensorSpec(name, "float32", _STREAM, (-1, -1, hidden_size))


def inputs(hidden_size: int, *, positions: bool = False) -> tuple[TensorSpec, ...]:
    """What every graph takes: hidden_states float32, attention_mask int64 (1 = attend), and position_ids int64.

    Args:
        hidden_size: Width of hidden_states.
        positions: Whether any layer of the model turns by position; then all of its graphs take position_ids.
    """
    tokens = ("attention_mask", POSITIONS) if positions else ("attention_mask",)
    batch = ("batch", "sequence")
    return stream("hidden_states", hidden_size), *(TensorSpec(name, "int64", batch, (-1, -1)) for name in tokens)


def block_probes(config: BlockConfig) -> tuple[TensorSpec, ...]:
    """The probes that a block of this config has, in the order of the data."""
    sizes = {
        "hidden": config.hidden_size,
        "head": config.num_attention_heads,
        "head_dim": config.head_dim,
        "value_head_dim": config.value_head_dim,
        "intermediate": config.intermediate_size,
    }
    shared = {**sizes, "head": config.num_key_value_heads}
    return tuple(
        TensorSpec(name, "float32", axes, _shape(axes, shared if name in _PER_KEY_VALUE_HEAD else sizes))
        for name, axes in _AXES.items()
        if (config.rotary or name not in _OF_ROTARY) and (config.parallel == "none" or name != "resid_mid")
    )


def _shape(axes: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes.get(axis, -1) for axis in axes)


def layer_outputs(config: StackConfig, layer: int) -> tuple[TensorSpec, ...]:
    """What the graph of one layer gives: its probes, and block_output on the last layer where a final norm makes it."""
    probes = block_probes(config.layers[layer])
    last = layer == len(config.layers) - 1
    if last and config.final_norm != "none":
        return (*probes, stream("block_output", config.hidden_size))
    return probes


def sites(outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Of a layer's outputs those that its editable graph lets one change, in the order of the data.

    `layer_input` is what the graph is given, and `block_output` only what comes after `layer_output`.
    """
    return tuple(spec for spec in outputs if spec.name not in {"layer_input", "block_output"})


def overrides(outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The optional inputs of an editable graph.

    `overridden`, bool [site], says which sites are not to be as computed, but as `override_NAME` has them, float32
    shaped as the probe.
    """
    found = sites(outputs)
    flags = TensorSpec("overridden", "bool", ("site",), (len(found),))
    return (flags, *(TensorSpec(f"override_{spec.name}", spec.dtype, spec.axes, spec.shape) for spec in found))


def aliases(config: StackConfig | None) -> dict[str, str]:
    """Other names of outputs: last_hidden_state only where a final norm makes block_output what models call so."""
    if config is None or config.final_norm == "none":
        return {}
    return {"last_hidden_state": "block_output"}
