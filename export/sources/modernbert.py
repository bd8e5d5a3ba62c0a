"""ModernBERT: pre-norm, rotary positions, windows on both sides in two of three layers, a theta for each kind."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from export.sources.config_json import Config
from export.sources.family import Family, Keys, Part, Text, block_fields
from export.sources.windows import read_sliding

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 768),
    "num_attention_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 1152),
    "hidden_act": ("hidden_activation", "gelu"),
    "norm_eps": ("norm_eps", 1e-5),
    "norm_bias": ("norm_bias", False),
    **{f"{name}_bias": ("attention_bias", False) for name in ("query", "key", "value", "output")},
    "ffn_bias": ("mlp_bias", False),
}
_POSITIONS = 8192


def _layers(config: Config, depth: int) -> Sequence[dict[str, Any]]:
    every = config.size("global_attn_every_n_layers", 3)
    sliding = read_sliding(config, [index % every != 0 for index in range(depth)])
    # The key counts both sides; a window of ours one side, and the query's own key.
    narrow: dict[str, Any] = {"window": config.size("local_attention", 128) // 2 + 1}
    rope = config.part("rope_parameters")
    narrow["rotary"] = _rotary(config, rope.part("sliding_attention"), "local_rope_theta", 10_000.0)
    wide = {"rotary": _rotary(config, rope.part("full_attention"), "global_rope_theta", 160_000.0)}
    rope.finish("rotary positions", frozenset())
    return [{**(narrow if slides else wide), "attention_norm": index > 0} for index, slides in enumerate(sliding)]


def _rotary(config: Config, said: Config, older: str, theta: float) -> dict[str, Any]:
    said.only({"rope_type": "default"})
    found = {
        "max_position_embeddings": config.size("max_position_embeddings", _POSITIONS),
        "theta": said.value("rope_theta", config.value(older, theta)),
    }
    said.finish("rotary positions", frozenset())
    return found


def _text(config: Config) -> Text:
    return Text(
        word="embeddings.tok_embeddings.weight",
        vocab_size=config.size("vocab_size", 50368),
        positions=config.size("max_position_embeddings", _POSITIONS),
        norm="embeddings.norm",
        norm_bias=config.flag("norm_bias", default=False),
    )


MODERNBERT = Family(
    model_types=("modernbert",),
    block=partial(block_fields, keys=_KEYS, placement="pre", ffn="glu"),
    vary=_layers,
    depth=("num_hidden_layers", 22),
    prefixes=("model.", ""),
    layers="layers.",
    tensors={
        "attention_norm.weight": "attn_norm.weight",
        "attention_norm.bias": "attn_norm.bias",
        "attention.W_Q": Part("attn.Wqkv.weight", 0, 3),
        "attention.b_Q": Part("attn.Wqkv.bias", 0, 3),
        "attention.W_K": Part("attn.Wqkv.weight", 1, 3),
        "attention.b_K": Part("attn.Wqkv.bias", 1, 3),
        "attention.W_V": Part("attn.Wqkv.weight", 2, 3),
        "attention.b_V": Part("attn.Wqkv.bias", 2, 3),
        "attention.W_O": "attn.Wo.weight",
        "attention.b_O": "attn.Wo.bias",
        "ffn_norm.weight": "mlp_norm.weight",
        "ffn_norm.bias": "mlp_norm.bias",
        "feed_forward.W_1": Part("mlp.Wi.weight", 0, 2),
        "feed_forward.b_1": Part("mlp.Wi.bias", 0, 2),
        "feed_forward.W_3": Part("mlp.Wi.weight", 1, 2),
        "feed_forward.b_3": Part("mlp.Wi.bias", 1, 2),
        "feed_forward.W_2": "mlp.Wo.weight",
        "feed_forward.b_2": "mlp.Wo.bias",
    },
    final_norm="final_norm",
    text=_text,
    only={"rope_scaling": None},
    # Training, heads, how it is run, and words of BERT's that transformers does not read.
    harmless=frozenset({
        "initializer_cutoff_factor", "cls_token_id", "embedding_dropout", "mlp_dropout", "decoder_bias",
        "classifier_pooling", "classifier_bias", "classifier_activation", "deterministic_flash_attn",
        "reference_compile", "repad_logits_with_grad", "sparse_prediction", "sparse_pred_ignore_index",
        "position_embedding_type", "layer_norm_eps",
    }),
)  # fmt: skip
FAMILIES = (MODERNBERT,)
