"""Llama and its kin: RMS norm, grouped heads, rotary positions, a gated feed-forward; Phi-3 packs its matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from export.config import BlockConfig
from export.sources.config_json import Config
from export.sources.family import Family, Keys, Part, Text, block_fields
from export.sources.rope import read_rotary
from export.sources.windows import read_sliding

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 4096),
    "num_attention_heads": ("num_attention_heads", 32),
    "num_key_value_heads": ("num_key_value_heads", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("intermediate_size", 11008),
    "hidden_act": ("hidden_act", "silu"),
    "norm_eps": ("rms_norm_eps", 1e-6),
}
_ATTENTION_BIAS: Keys = {f"{name}_bias": ("attention_bias", False) for name in ("query", "key", "value", "output")}
_MISTRAL: Keys = {
    **_KEYS,
    "num_key_value_heads": ("num_key_value_heads", 8),
    "intermediate_size": ("intermediate_size", 14336),
}
_QWEN: Keys = {
    **_KEYS,
    "num_key_value_heads": ("num_key_value_heads", 32),
    "intermediate_size": ("intermediate_size", 22016),
}
_PHI3: Keys = {
    **_KEYS,
    "hidden_size": ("hidden_size", 3072),
    "intermediate_size": ("intermediate_size", 8192),
    "norm_eps": ("rms_norm_eps", 1e-5),
}
# In every one of them, but for the biases that one's config may ask for.
_ALWAYS: Mapping[str, Any] = {
    "norm": "rms", "placement": "pre", "mask": "causal", "ffn": "glu",
    **{f"{name}_bias": False for name in ("norm", "query", "key", "value", "output", "ffn")},
}  # fmt: skip
LAYER: dict[str, str | Part] = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.W_Q": "self_attn.q_proj.weight",
    "attention.b_Q": "self_attn.q_proj.bias",
    "attention.W_K": "self_attn.k_proj.weight",
    "attention.b_K": "self_attn.k_proj.bias",
    "attention.W_V": "self_attn.v_proj.weight",
    "attention.b_V": "self_attn.v_proj.bias",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "attention.W_O": "self_attn.o_proj.weight",
    "attention.b_O": "self_attn.o_proj.bias",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.W_1": "mlp.gate_proj.weight",
    "feed_forward.b_1": "mlp.gate_proj.bias",
    "feed_forward.W_3": "mlp.up_proj.weight",
    "feed_forward.b_3": "mlp.up_proj.bias",
    "feed_forward.W_2": "mlp.down_proj.weight",
    "feed_forward.b_2": "mlp.down_proj.bias",
}


def _block(config: Config, *, keys: Keys, positions: int, share: Any = None, **fixed: Any) -> dict[str, Any]:
    """What the config says of a block.

    Args:
        config: Of the model.
        keys: Where it says a block's fields.
        positions: The default of max_position_embeddings.
        share: Of a head that turns; None for a family in which all of it does.
        fixed: Fields that are the same in the family.
    """
    always = {name: value for name, value in _ALWAYS.items() if name not in keys}
    fields = block_fields(config, keys, **{**always, **fixed})
    return {**fields, "rotary": read_rotary(config, fields["head_dim"], positions, share=share)}


def _windowed(config: Config, default: int | None, **more: Any) -> dict[str, Any]:
    """A block whose queries see as many keys as sliding_window says, itself among them; null is all before it."""
    window = config.value("sliding_window", default)
    width = None if window is None else config.size("sliding_window", window)
    return {**_block(config, **more), "window": width}


def _qwen_windows(config: Config, depth: int) -> Sequence[dict[str, Any]]:
    """The upper layers have a window, if it is switched on."""
    on, first = config.flag("use_sliding_window", default=False), config.size("max_window_layers", 28, least=0)
    width = config.value("sliding_window", 4096) if on else None
    sliding = read_sliding(config, [width is not None and layer >= first for layer in range(depth)])
    if any(sliding) and width is None:
        raise config.refusal("layer_types has sliding_attention, and use_sliding_window or sliding_window says no")
    return [{"window": config.size("sliding_window", 4096) if slides else None} for slides in sliding]


def _phi3(config: Config) -> dict[str, Any]:
    share = config.value("partial_rotary_factor", 1.0)
    return _windowed(config, None, keys=_PHI3, positions=4096, share=share)


def _phi3_tensors(block: BlockConfig) -> dict[str, str | Part]:
    """Queries, keys, values in one: as many parts of queries as share a key-value head, one of keys, one of values."""
    group = block.num_attention_heads // block.num_key_value_heads
    packed = {"W_Q": (0, group), "W_K": (group, 1), "W_V": (group + 1, 1)}
    return {
        **LAYER,
        **{
            f"attention.{name}": Part("self_attn.qkv_proj.weight", index, group + 2, width)
            for name, (index, width) in packed.items()
        },
        "feed_forward.W_1": Part("mlp.gate_up_proj.weight", 0, 2),
        "feed_forward.W_3": Part("mlp.gate_up_proj.weight", 1, 2),
    }


def _text(config: Config, vocab_size: int, positions: int) -> Text:
    return Text(
        word="embed_tokens.weight",
        vocab_size=config.size("vocab_size", vocab_size),
        positions=config.size("max_position_embeddings", positions),
    )


LLAMA = Family(
    model_types=("llama",),
    block=partial(_block, keys={**_KEYS, **_ATTENTION_BIAS, "ffn_bias": ("mlp_bias", False)}, positions=2048),
    depth=("num_hidden_layers", 32),
    prefixes=("model.", ""),
    layers="layers.",
    tensors=LAYER,
    final_norm="norm",
    text=partial(_text, vocab_size=32000, positions=2048),
    front=("embed_tokens.",),
    buffers=("rotary_emb.inv_freq",),  # what theta says
    only={"partial_rotary_factor": 1.0, "rope_interleaved": False},
    harmless=frozenset({"pretraining_tp", "is_llama_config"}),  # how products are cut to pieces; what a file says it is
)
MISTRAL = replace(
    LLAMA,
    model_types=("mistral",),
    block=partial(_windowed, default=4096, keys=_MISTRAL, positions=131072),
    text=partial(_text, vocab_size=32000, positions=131072),
    harmless=frozenset(),
)
QWEN2 = replace(
    MISTRAL,
    model_types=("qwen2",),
    block=partial(_block, positions=32768, keys=_QWEN, query_bias=True, key_bias=True, value_bias=True),
    text=partial(_text, vocab_size=151936, positions=32768),
    vary=_qwen_windows,
    only={**LLAMA.only, "use_mrope": False},
    harmless=frozenset({"sliding_window"}),  # where use_sliding_window is false
)
QWEN3 = replace(
    QWEN2,
    model_types=("qwen3",),
    block=partial(
        _block, positions=32768, keys={**_QWEN, **_ATTENTION_BIAS, "head_dim": ("head_dim", 128)}, qk_norm="rms"
    ),
)
PHI3 = replace(
    MISTRAL,
    model_types=("phi3",),
    block=_phi3,
    tensors=_phi3_tensors,
    text=partial(_text, vocab_size=32064, positions=4096),
    only={"attention_bias": False},
    harmless=frozenset({"resid_pdrop", "embd_pdrop", "original_max_position_embeddings"}),
)
FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3, PHI3)
