"""CLIP and SigLIP, text and vision: pre-norm towers, alone or as one of the two that a folder holds."""

from dataclasses import replace
from functools import partial

from export.sources.config_json import Config
from export.sources.family import Family, Keys, Text, block_fields

_WIDE: Keys = {
    "hidden_size": ("hidden_size", 768),
    "num_attention_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "hidden_act": ("hidden_act", "quick_gelu"),
    "norm_eps": ("layer_norm_eps", 1e-5),
}
_TEXT: Keys = {
    **_WIDE,
    "hidden_size": ("hidden_size", 512),
    "num_attention_heads": ("num_attention_heads", 8),
    "intermediate_size": ("intermediate_size", 2048),
}
_SIGLIP: Keys = {**_WIDE, "hidden_act": ("hidden_act", "gelu_pytorch_tanh"), "norm_eps": ("layer_norm_eps", 1e-6)}


def _text(config: Config) -> Text:
    return Text(
        word="embeddings.token_embedding.weight",
        vocab_size=config.size("vocab_size", 49408),
        position="embeddings.position_embedding.weight",
        positions=config.size("max_position_embeddings", 77),
    )


TEXT = Family(
    model_types=("clip_text_model",),
    block=partial(block_fields, keys=_TEXT, placement="pre", mask="causal"),
    prefixes=("text_model.", ""),
    layers="encoder.layers.",
    tensors={
        "attention_norm.weight": "layer_norm1.weight",
        "attention_norm.bias": "layer_norm1.bias",
        "attention.W_Q": "self_attn.q_proj.weight",
        "attention.b_Q": "self_attn.q_proj.bias",
        "attention.W_K": "self_attn.k_proj.weight",
        "attention.b_K": "self_attn.k_proj.bias",
        "attention.W_V": "self_attn.v_proj.weight",
        "attention.b_V": "self_attn.v_proj.bias",
        "attention.W_O": "self_attn.out_proj.weight",
        "attention.b_O": "self_attn.out_proj.bias",
        "ffn_norm.weight": "layer_norm2.weight",
        "ffn_norm.bias": "layer_norm2.bias",
        "feed_forward.W_1": "mlp.fc1.weight",
        "feed_forward.b_1": "mlp.fc1.bias",
        "feed_forward.W_2": "mlp.fc2.weight",
        "feed_forward.b_2": "mlp.fc2.bias",
    },
    final_norm="final_layer_norm",
    text=_text,
    buffers=("embeddings.position_ids",),
    harmless=frozenset({"projection_dim"}),
    tower="text",
    inside="clip",
)
# CLIP norms the patches before its first layer, and after its last one the image's own vector alone.
VISION = replace(
    TEXT,
    model_types=("clip_vision_model",),
    block=partial(block_fields, keys=_WIDE, placement="pre"),
    prefixes=("vision_model.", ""),
    final_norm=None,
    text=None,
    beside=("pre_layrnorm.", "post_layernorm."),
    harmless=frozenset({"projection_dim", "image_size", "num_channels", "patch_size"}),
    tower="vision",
)
# SigLIP was trained on texts that are padded to 64 tokens, padding seen: no text front, which pads nothing, is like it.
SIGLIP_TEXT = replace(
    TEXT,
    model_types=("siglip_text_model",),
    block=partial(block_fields, keys=_SIGLIP, placement="pre"),
    text=None,
    beside=("head.",),
    harmless=frozenset({"projection_size", "vocab_size", "max_position_embeddings"}),
    inside="siglip",
)
SIGLIP_VISION = replace(
    VISION,
    model_types=("siglip_vision_model",),
    block=partial(block_fields, keys=_SIGLIP, placement="pre"),
    final_norm="post_layernorm",
    beside=("head.",),
    harmless=frozenset({"vision_use_head", "image_size", "num_channels", "patch_size"}),
    inside="siglip",
)
FAMILIES = (TEXT, VISION, SIGLIP_TEXT, SIGLIP_VISION)
