"""GPT-2: pre-norm, causal, matrices stored [in, out] (Conv1D), query, key and value packed into one."""

from typing import Any

from export.sources.config_json import Config
from export.sources.family import Family, Keys, Part, Text, block_fields

_KEYS: Keys = {
    "hidden_size": ("n_embd", 768),
    "num_attention_heads": ("n_head", 12),
    "hidden_act": ("activation_function", "gelu_new"),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
}


def _block(config: Config) -> dict[str, Any]:
    fields = block_fields(config, _KEYS, placement="pre", mask="causal")
    return {**fields, "intermediate_size": config.size_or_none("n_inner") or 4 * fields["hidden_size"]}


def _text(config: Config) -> Text:
    return Text(
        word="wte.weight",
        vocab_size=config.size("vocab_size", 50257),
        position="wpe.weight",
        positions=config.size("n_positions", 1024),
    )


GPT2 = Family(
    model_types=("gpt2",),
    block=_block,
    depth=("n_layer", 12),
    prefixes=("transformer.", ""),
    layers="h.",
    tensors={
        "attention_norm.weight": "ln_1.weight",
        "attention_norm.bias": "ln_1.bias",
        "attention.W_Q": Part("attn.c_attn.weight", 0, 3),
        "attention.b_Q": Part("attn.c_attn.bias", 0, 3),
        "attention.W_K": Part("attn.c_attn.weight", 1, 3),
        "attention.b_K": Part("attn.c_attn.bias", 1, 3),
        "attention.W_V": Part("attn.c_attn.weight", 2, 3),
        "attention.b_V": Part("attn.c_attn.bias", 2, 3),
        "attention.W_O": "attn.c_proj.weight",
        "attention.b_O": "attn.c_proj.bias",
        "ffn_norm.weight": "ln_2.weight",
        "ffn_norm.bias": "ln_2.bias",
        "feed_forward.W_1": "mlp.c_fc.weight",
        "feed_forward.b_1": "mlp.c_fc.bias",
        "feed_forward.W_2": "mlp.c_proj.weight",
        "feed_forward.b_2": "mlp.c_proj.bias",
    },
    stored="in_out",
    final_norm="ln_f",
    text=_text,
    front=("wte.", "wpe."),
    buffers=(".attn.bias", ".attn.masked_bias"),  # the causal mask, and what masked cells have
    only={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
    },
    harmless=frozenset({
        "attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj",
    }),
)  # fmt: skip
FAMILIES = (GPT2,)
