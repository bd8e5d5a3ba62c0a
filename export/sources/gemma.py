"""Gemma 1 and 2: Llama's layout, norms of 1 + weight, scaled embeddings; in the second four norms, caps and windows."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from export.fields import check_number
from export.sources.config_json import Config
from export.sources.family import Keys, Text, block_fields
from export.sources.llama import LAYER, LLAMA
from export.sources.rope import read_rotary
from export.sources.windows import read_sliding

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 3072),
    "num_attention_heads": ("num_attention_heads", 16),
    "num_key_value_heads": ("num_key_value_heads", 16),
    "head_dim": ("head_dim", 256),
    "intermediate_size": ("intermediate_size", 24576),
    "hidden_act": ("hidden_act", "gelu_pytorch_tanh"),
    "norm_eps": ("rms_norm_eps", 1e-6),
    **{f"{name}_bias": ("attention_bias", False) for name in ("query", "key", "value", "output")},
}
_KEYS2: Keys = {
    **_KEYS,
    "hidden_size": ("hidden_size", 2304),
    "num_attention_heads": ("num_attention_heads", 8),
    "num_key_value_heads": ("num_key_value_heads", 4),
    "intermediate_size": ("intermediate_size", 9216),
    "hidden_act": ("hidden_activation", "gelu_pytorch_tanh"),
}
_POSITIONS = 8192


def _block(config: Config, keys: Keys, placement: str) -> dict[str, Any]:
    fields = block_fields(
        config,
        keys,
        norm="rms_one_plus",
        norm_bias=False,
        placement=placement,
        mask="causal",
        ffn="glu",
        ffn_bias=False,
    )
    return {**fields, "rotary": read_rotary(config, fields["head_dim"], _POSITIONS)}


def _gemma(config: Config) -> dict[str, Any]:
    fields = _block(config, _KEYS, "pre")
    # Older files say gelu, and mean the approximation that the models were trained with.
    return {**fields, "hidden_act": "gelu_tanh" if fields["hidden_act"] == "gelu" else fields["hidden_act"]}


def _gemma2(config: Config) -> dict[str, Any]:
    scalar = config.value("query_pre_attn_scalar", 256)
    check_number("query_pre_attn_scalar", scalar)
    softcap = config.value("attn_logit_softcapping", 50.0)
    return {**_block(config, _KEYS2, "sandwich"), "scale": scalar**-0.5, "softcap": softcap}


def _windows(config: Config, depth: int) -> Sequence[dict[str, Any]]:
    sliding = read_sliding(config, [index % 2 == 0 for index in range(depth)])
    width = config.size("sliding_window", 4096) if any(sliding) else config.value("sliding_window", None)
    return [{"window": width if slides else None} for slides in sliding]


def _text(config: Config, hidden_size: int) -> Text:
    return Text(
        word="embed_tokens.weight",
        vocab_size=config.size("vocab_size", 256000),
        positions=config.size("max_position_embeddings", _POSITIONS),
        scale=config.size("hidden_size", hidden_size) ** 0.5,
    )


GEMMA = replace(
    LLAMA,
    model_types=("gemma",),
    block=_gemma,
    depth=("num_hidden_layers", 28),
    text=partial(_text, hidden_size=3072),
    only={"hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": False},
    harmless=frozenset(),
)
GEMMA2 = replace(
    GEMMA,
    model_types=("gemma2",),
    block=_gemma2,
    vary=_windows,
    depth=("num_hidden_layers", 26),
    text=partial(_text, hidden_size=2304),
    tensors={
        **LAYER,
        "after_attention.weight": "post_attention_layernorm.weight",
        "ffn_norm.weight": "pre_feedforward_layernorm.weight",
        "after_ffn.weight": "post_feedforward_layernorm.weight",
    },
    only={"hidden_act": "gelu_pytorch_tanh", "use_bidirectional_attention": False},
    # The cap of the logits, how a cache is kept, and an older word for the window that transformers does not read.
    harmless=frozenset({"final_logit_softcapping", "cache_implementation", "sliding_window_size"}),
)
FAMILIES = (GEMMA, GEMMA2)
