"""ViT, DeiT and DINOv2: pre-norm over patches, a norm after the last layer; patches become hidden states outside."""

from dataclasses import replace
from functools import partial
from typing import Any

from export.config import BlockConfig
from export.sources.config_json import Config
from export.sources.family import Family, Keys, Part, block_fields

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 768),
    "num_attention_heads": ("num_attention_heads", 12),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("intermediate_size", 3072),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "query_bias": ("qkv_bias", True),
    "key_bias": ("qkv_bias", True),
    "value_bias": ("qkv_bias", True),
}
_DINO: Keys = {name: key for name, key in _KEYS.items() if name not in {"head_dim", "intermediate_size"}} | {
    "norm_eps": ("layer_norm_eps", 1e-6),
}
_LAYER = {
    "attention_norm.weight": "layernorm_before.weight",
    "attention_norm.bias": "layernorm_before.bias",
    "attention.W_Q": "attention.attention.query.weight",
    "attention.b_Q": "attention.attention.query.bias",
    "attention.W_K": "attention.attention.key.weight",
    "attention.b_K": "attention.attention.key.bias",
    "attention.W_V": "attention.attention.value.weight",
    "attention.b_V": "attention.attention.value.bias",
    "attention.W_O": "attention.output.dense.weight",
    "attention.b_O": "attention.output.dense.bias",
    "ffn_norm.weight": "layernorm_after.weight",
    "ffn_norm.bias": "layernorm_after.bias",
    "feed_forward.W_1": "intermediate.dense.weight",
    "feed_forward.b_1": "intermediate.dense.bias",
    "feed_forward.W_2": "output.dense.weight",
    "feed_forward.b_2": "output.dense.bias",
}
_NORMS = {"attention_norm": "norm1", "ffn_norm": "norm2"}
_DINO_LAYER = {
    **_LAYER,
    **{f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in _NORMS.items() for kind in ("weight", "bias")},
    "after_attention.weight": "layer_scale1.lambda1",
    "after_ffn.weight": "layer_scale2.lambda1",
}


def _dino(config: Config) -> dict[str, Any]:
    fields = block_fields(config, _DINO, placement="pre", layer_scale=True)
    wide = fields["hidden_size"] * config.size("mlp_ratio", 4)
    if not config.flag("use_swiglu_ffn", default=False):
        return {**fields, "intermediate_size": wide}
    # Two thirds, because there is a third product, rounded up to a multiple of 8.
    return {**fields, "intermediate_size": (int(wide * 2 / 3) + 7) // 8 * 8, "ffn": "glu", "hidden_act": "silu"}


def _dino_tensors(block: BlockConfig) -> dict[str, str | Part]:
    kinds = (("W", "weight"), ("b", "bias"))
    if block.ffn == "glu":
        gated = {f"feed_forward.{letter}_2": f"mlp.weights_out.{kind}" for letter, kind in kinds}
        packed = {
            f"feed_forward.{letter}_{number}": Part(f"mlp.weights_in.{kind}", index, 2)
            for letter, kind in kinds
            for index, number in enumerate((1, 3))
        }
        return {**_DINO_LAYER, **gated, **packed}
    plain = {f"feed_forward.{letter}_{number}": f"mlp.fc{number}.{kind}" for letter, kind in kinds for number in (1, 2)}
    return {**_DINO_LAYER, **plain}


VIT = Family(
    model_types=("vit", "deit"),
    block=partial(block_fields, keys=_KEYS, placement="pre"),
    prefixes=("vit.", "deit.", ""),
    layers="encoder.layer.",
    tensors=_LAYER,
    final_norm="layernorm",
    beside=("pooler.",),
    harmless=frozenset({
        "encoder_stride", "image_size", "num_channels", "patch_size", "pooler_act", "pooler_output_size",
    }),
)  # fmt: skip
DINOV2 = replace(
    VIT,
    model_types=("dinov2",),
    block=_dino,
    prefixes=("dinov2.", ""),
    tensors=_dino_tensors,
    beside=(),
    harmless=frozenset({
        "image_size", "num_channels", "patch_size", "layerscale_value", "drop_path_rate", "apply_layernorm",
        "reshape_hidden_states", "use_mask_token", "out_features", "out_indices", "_out_features", "_out_indices",
        "stage_names",
    }),
)  # fmt: skip
FAMILIES = (VIT, DINOV2)
