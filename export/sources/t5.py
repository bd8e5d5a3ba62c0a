"""T5's encoder: pre-norm without means and biases, scores without a scale, and a bias by distance from one table."""

from dataclasses import replace
from functools import partial
from typing import Any

from export.config import BlockConfig
from export.sources.config_json import ACTIVATIONS, Config
from export.sources.family import Family, Keys, Text, block_fields

_KEYS: Keys = {
    "hidden_size": ("d_model", 512),
    "num_attention_heads": ("num_heads", 8),
    "head_dim": ("d_kv", 64),
    "intermediate_size": ("d_ff", 2048),
    "norm_eps": ("layer_norm_epsilon", 1e-6),
}
_MT5: Keys = {**_KEYS, "num_attention_heads": ("num_heads", 6), "intermediate_size": ("d_ff", 1024)}
_BIASES = ("norm", "query", "key", "value", "output", "ffn")
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def _block(config: Config, keys: Keys, feed_forward: str) -> dict[str, Any]:
    fields = block_fields(config, keys, norm="rms", placement="pre", scale=1.0)
    bias = {
        "num_buckets": config.size("relative_attention_num_buckets", 32),
        "max_distance": config.size("relative_attention_max_distance", 128),
    }
    kind = _feed_forward(config, feed_forward)
    return {**fields, **kind, "relative_bias": bias, **{f"{name}_bias": False for name in _BIASES}}


def _feed_forward(config: Config, default: str) -> dict[str, Any]:
    """The activation, and whether it gates: two words of one key, which newer files have in keys of their own, too."""
    said = config.value("feed_forward_proj", default)
    gate, dash, word = str(said).rpartition("-")
    if word not in ACTIVATIONS or gate + dash not in {"", "gated-"}:
        known = ", ".join(ACTIVATIONS)
        raise config.refusal(f"feed_forward_proj is {said!r}, and only {known} are supported, alone or after gated-")
    # gated-gelu is not the exact one: it means what the models were trained with.
    word = "gelu_new" if said == "gated-gelu" else word
    config.only({"dense_act_fn": word, "is_gated_act": bool(gate)})
    return {"ffn": "glu" if gate else "mlp", "hidden_act": ACTIVATIONS[word]}


def _tensors(block: BlockConfig) -> dict[str, str]:
    first = ("wi_0", "wi_1") if block.ffn == "glu" else ("wi",)
    return {
        "attention_norm.weight": "layer.0.layer_norm.weight",
        **{f"attention.W_{name.upper()}": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"},
        "ffn_norm.weight": "layer.1.layer_norm.weight",
        **{
            f"feed_forward.{ours}": f"layer.1.DenseReluDense.{theirs}.weight"
            for ours, theirs in zip(("W_1", "W_3"), first, strict=False)
        },
        "feed_forward.W_2": "layer.1.DenseReluDense.wo.weight",
    }


def _text(config: Config, words: int) -> Text:
    return Text(word="encoder.embed_tokens.weight", vocab_size=config.size("vocab_size", words))


T5 = Family(
    model_types=("t5",),
    block=partial(_block, keys=_KEYS, feed_forward="relu"),
    depth=("num_layers", 6),
    prefixes=("", "transformer."),
    layers="encoder.block.",
    tensors=_tensors,
    tables={"attention.relative_bias": f"encoder.block.0.{_BIAS}"},  # the first layer's is for all
    final_norm="encoder.final_layer_norm",
    text=partial(_text, words=32128),
    front=("encoder.embed_tokens.",),
    beside=("shared.", "decoder."),
    old_names={"encoder.embed_tokens.weight": "shared.weight"},  # the decoder's, too; stored once
    # The decoder, training, and what older files say of lengths that no version has held.
    harmless=frozenset({
        "is_encoder_decoder", "num_decoder_layers", "scale_decoder_outputs", "dropout_rate", "n_positions",
    }),
)  # fmt: skip
MT5 = replace(
    T5,
    model_types=("mt5",),
    block=partial(_block, keys=_MT5, feed_forward="gated-gelu"),
    depth=("num_layers", 8),
    text=partial(_text, words=250112),
)
UMT5 = replace(
    MT5,
    model_types=("umt5",),
    tables={"attention.relative_bias": f"encoder.block.{{layer}}.{_BIAS}"},
    harmless=T5.harmless | {"scalable_attention"},
)
FAMILIES = (T5, MT5, UMT5)
