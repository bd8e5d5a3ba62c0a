"""Source `torch_encoder`: the state dict of nn.TransformerEncoderLayer or nn.TransformerEncoder, in safetensors.

A state dict tells a LayerNorm from an RMSNorm by its bias alone, so where linear1 has one a norm without it is refused.
A final norm without weights (elementwise_affine=False) leaves no trace there, and is not seen.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from export import ExportError
from export.block import Stack
from export.config import TOLD, BlockConfig, StackConfig, divide
from export.place import file_sha256
from export.sources import Source, parse_layers
from export.sources.family import Part
from export.sources.layers import stack_layers
from export.sources.stored import take_as_ours
from export.sources.weights import Weights

# What is not told is PyTorch's own; only the heads have no default.
_DEFAULTS = {"placement": "post", "hidden_act": "relu", "norm_eps": 1e-5}

# Ours ← PyTorch's; nn.Linear stores [out, in], which is turned round on the way.
_LAYER: dict[str, str | Part] = {
    **{
        f"attention.{kind}_{part}": Part(f"self_attn.in_proj_{ending}", index, 3)
        for kind, ending in (("W", "weight"), ("b", "bias"))
        for index, part in enumerate("QKV")
    },
    "attention.W_O": "self_attn.out_proj.weight",
    "attention.b_O": "self_attn.out_proj.bias",
    "attention_norm.weight": "norm1.weight",
    "attention_norm.bias": "norm1.bias",
    "feed_forward.W_1": "linear1.weight",
    "feed_forward.b_1": "linear1.bias",
    "feed_forward.W_2": "linear2.weight",
    "feed_forward.b_2": "linear2.bias",
    "ffn_norm.weight": "norm2.weight",
    "ffn_norm.bias": "norm2.bias",
}
_FINAL = ("norm.weight", "norm.bias")
_DECODER = ("multihead_attn.", "norm3.")  # what nn.TransformerDecoderLayer has beside an encoder layer's own


def load(path: Path, told: Mapping[str, Any], layers: str | None = None) -> Source:
    """The layers FIRST:END of an encoder; a final norm comes along where the range ends with the last layer.

    Args:
        path: A safetensors file of the state dict, keys as PyTorch gives them.
        told: What the state dict does not tell, by the names in TOLD.
        layers: Half-open range; None is all.

    Raises:
        ExportError: A tensor is missing, left over or of another shape, or the heads are not told.
    """
    with Weights(path) as weights:
        count = _count_layers(weights)
        first, end = parse_layers(layers, count or 1)
        config = _stack_config(weights, told, first, end, count)
        stack = Stack(config)
        stack.load_state_dict(_tensors(weights, stack, first, single=count == 0), assign=True)
        _refuse_unread(weights, first, end, count)
    stack.requires_grad_(requires_grad=False).eval()
    return Source(
        kind="torch_encoder",
        reference=path.name,
        model=stack,
        layers=stack_layers(stack, first),
        hidden_size=config.hidden_size,
        config=config,
        files={path.name: file_sha256(path)},
    )


def _count_layers(weights: Weights) -> int:
    """How many layers an nn.TransformerEncoder has; 0 for a bare nn.TransformerEncoderLayer."""
    found = {int(match[1]) for name in weights.names if (match := re.match(r"layers\.(\d+)\.", name))}
    if not found and "self_attn.in_proj_weight" not in weights.names:
        raise ExportError(f"{weights.path} holds no nn.TransformerEncoderLayer and no nn.TransformerEncoder")
    return max(found) + 1 if found else 0


def _stack_config(weights: Weights, told: Mapping[str, Any], first: int, end: int, count: int) -> StackConfig:
    unknown = sorted(told.keys() - set(TOLD))
    if unknown:
        raise ExportError(f"--source torch_encoder is told {', '.join(TOLD)}; not {', '.join(unknown)}")
    if "num_attention_heads" not in told:
        raise ExportError("a state dict does not tell its heads; give --num-attention-heads")
    final = end == count and "norm.weight" in weights.names
    if final:
        _hold_norm(weights, "norm", biased=any(re.match(r"layers\.\d+\.linear1\.bias", name) for name in weights.names))
    try:
        return StackConfig(
            layers=tuple(_block_config(weights, told, _prefix(n, single=count == 0)) for n in range(first, end)),
            final_norm="layer" if final else "none",
            final_norm_eps=told.get("final_norm_eps", 1e-5),
            final_norm_bias="norm.bias" in weights.names or not final,
        )
    except ValueError as error:
        raise ExportError(f"{weights.path}: {error}") from error


def _block_config(weights: Weights, told: Mapping[str, Any], prefix: str) -> BlockConfig:
    intermediate, hidden = _matrix_shape(weights, f"{prefix}linear1.weight")
    packed = f"{prefix}self_attn.in_proj_bias" in weights.names
    biased = f"{prefix}linear1.bias" in weights.names
    for norm in ("norm1", "norm2"):
        _hold_norm(weights, prefix + norm, biased=biased)
    return BlockConfig.from_dict(
        {
            **_DEFAULTS,
            **{name: value for name, value in told.items() if name != "final_norm_eps"},
            "hidden_size": hidden,
            "head_dim": divide(hidden, told["num_attention_heads"]),
            "intermediate_size": intermediate,
            "query_bias": packed,
            "key_bias": packed,
            "value_bias": packed,
            "output_bias": f"{prefix}self_attn.out_proj.bias" in weights.names,
            "ffn_bias": biased,
            "norm_bias": f"{prefix}norm1.bias" in weights.names,
        }
    )


def _hold_norm(weights: Weights, norm: str, *, biased: bool) -> None:
    """Refuses what may be an RMSNorm; where nothing has a bias (bias=False), neither has PyTorch's own LayerNorm."""
    if biased and f"{norm}.weight" in weights.names and f"{norm}.bias" not in weights.names:
        raise ExportError(
            f"{weights.path}: {norm} must be an nn.LayerNorm with a bias, as linear1 has one; it has a weight alone, "
            "as an nn.RMSNorm has"
        )


def _matrix_shape(weights: Weights, name: str) -> tuple[int, int]:
    shape = weights.shape(name)
    if len(shape) != 2:
        raise ExportError(f"{weights.path}: {name} has shape {list(shape)}, expected a matrix")
    return shape[0], shape[1]


def _prefix(layer: int, *, single: bool) -> str:
    return "" if single else f"layers.{layer}."


def _tensors(weights: Weights, stack: Stack, first: int, *, single: bool) -> dict[str, Tensor]:
    tensors = {}
    for name, unset in stack.state_dict().items():
        if name.startswith("final_norm."):
            tensors[name] = weights.take(name.removeprefix("final_"), tuple(unset.shape))
            continue
        _, index, own = name.split(".", 2)
        prefix = _prefix(first + int(index), single=single)
        tensors[name] = take_as_ours(partial(_take, weights, prefix), _LAYER[own], tuple(unset.shape))
    return tensors


def _take(weights: Weights, prefix: str, name: str, shape: tuple[int, ...]) -> Tensor:
    return weights.take(prefix + name, shape)


def _refuse_unread(weights: Weights, first: int, end: int, count: int) -> None:
    """A tensor of the exported layers, or of none, that was not read would be mathematics left out."""
    for name in weights.unread:
        layer = re.match(r"layers\.(\d+)\.", name)
        if layer and not first <= int(layer[1]) < end:
            continue
        if name in _FINAL and end < count:
            continue
        own = name[layer.end() :] if layer else name
        why = "an encoder layer has no such tensor" if layer or not count else "an encoder has no such tensor"
        if own.startswith(_DECODER):
            why = "it is a decoder layer's, whose cross-attention this source does not compute"
        raise ExportError(f"{weights.path}: {name} would be left out; {why}")
