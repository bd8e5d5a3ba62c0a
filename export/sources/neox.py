"""GPT-NeoX and Pythia: a parallel residual, part of a head turned, query, key and value packed head by head."""

from typing import Any

from export.config import BlockConfig
from export.sources.config_json import Config
from export.sources.family import Family, Keys, Part, Text, block_fields
from export.sources.rope import read_rotary

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 6144),
    "num_attention_heads": ("num_attention_heads", 64),
    "intermediate_size": ("intermediate_size", 24576),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_eps": ("layer_norm_eps", 1e-5),
    "query_bias": ("attention_bias", True),
    "key_bias": ("attention_bias", True),
    "value_bias": ("attention_bias", True),
    "output_bias": ("attention_bias", True),
}
_POSITIONS = 2048


def _block(config: Config) -> dict[str, Any]:
    parallel = config.flag("use_parallel_residual", default=True)
    fields = block_fields(config, _KEYS, placement="pre", mask="causal", parallel="two_norms" if parallel else "none")
    share, theta = config.value("rotary_pct", 0.25), config.value("rotary_emb_base", 10_000.0)
    config.only({"partial_rotary_factor": share, "rope_theta": theta})  # by which some versions repeat them
    rotary = read_rotary(config, fields["head_dim"], _POSITIONS, theta="rotary_emb_base", share=share)
    return {**fields, "rotary": rotary}


def _text(config: Config) -> Text:
    return Text(
        word="embed_in.weight",
        vocab_size=config.size("vocab_size", 50432),
        positions=config.size("max_position_embeddings", _POSITIONS),
    )


def _tensors(block: BlockConfig) -> dict[str, str | Part]:
    heads = block.num_attention_heads
    packed = {
        f"attention.{kind}_{letter}": Part(f"attention.query_key_value.{name}", index, 3, groups=heads)
        for kind, name in (("W", "weight"), ("b", "bias"))
        for index, letter in enumerate("QKV")
    }
    return {
        "attention_norm.weight": "input_layernorm.weight",
        "attention_norm.bias": "input_layernorm.bias",
        **packed,
        "attention.W_O": "attention.dense.weight",
        "attention.b_O": "attention.dense.bias",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "ffn_norm.bias": "post_attention_layernorm.bias",
        "feed_forward.W_1": "mlp.dense_h_to_4h.weight",
        "feed_forward.b_1": "mlp.dense_h_to_4h.bias",
        "feed_forward.W_2": "mlp.dense_4h_to_h.weight",
        "feed_forward.b_2": "mlp.dense_4h_to_h.bias",
    }


NEOX = Family(
    model_types=("gpt_neox",),
    block=_block,
    depth=("num_hidden_layers", 44),
    prefixes=("gpt_neox.", ""),
    layers="layers.",
    tensors=_tensors,
    final_norm="final_layer_norm",
    text=_text,
    front=("embed_in.",),
    buffers=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),  # masks, and what theta says
    harmless=frozenset({"hidden_dropout", "pad_token_id"}),
)
FAMILIES = (NEOX,)
