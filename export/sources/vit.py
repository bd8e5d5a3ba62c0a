"""ViT and DeiT: pre-norm over patches, a norm after the last layer; patches become hidden states outside of it."""

from functools import partial

from export.sources.family import Family, Keys, block_fields

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
VIT = Family(
    model_types=("vit", "deit"),
    block=partial(block_fields, keys=_KEYS, placement="pre"),
    prefixes=("vit.", "deit.", ""),
    layers="encoder.layer.",
    tensors={
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
    },
    final_norm="layernorm",
    beside=("pooler.",),
    harmless=frozenset({
        "encoder_stride", "image_size", "num_channels", "patch_size", "pooler_act", "pooler_output_size",
    }),
)  # fmt: skip
FAMILIES = (VIT,)
