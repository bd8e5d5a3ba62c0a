"""BERT and its kin: BERT, RoBERTa, XLM-R and ELECTRA share one table, DistilBERT has names of its own."""

from dataclasses import replace
from functools import partial

from export.sources.config_json import Config
from export.sources.family import Family, Keys, Text, block_fields

_KEYS: Keys = {
    "hidden_size": ("hidden_size", 768),
    "num_attention_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_eps": ("layer_norm_eps", 1e-12),
}
# Ours ← Hugging Face's.
_LAYER = {
    "attention.W_Q": "attention.self.query.weight",
    "attention.b_Q": "attention.self.query.bias",
    "attention.W_K": "attention.self.key.weight",
    "attention.b_K": "attention.self.key.bias",
    "attention.W_V": "attention.self.value.weight",
    "attention.b_V": "attention.self.value.bias",
    "attention.W_O": "attention.output.dense.weight",
    "attention.b_O": "attention.output.dense.bias",
    "attention_norm.weight": "attention.output.LayerNorm.weight",
    "attention_norm.bias": "attention.output.LayerNorm.bias",
    "feed_forward.W_1": "intermediate.dense.weight",
    "feed_forward.b_1": "intermediate.dense.bias",
    "feed_forward.W_2": "output.dense.weight",
    "feed_forward.b_2": "output.dense.bias",
    "ffn_norm.weight": "output.LayerNorm.weight",
    "ffn_norm.bias": "output.LayerNorm.bias",
}


def _text(config: Config, vocab_size: int = 30522) -> Text:
    return Text(
        word="embeddings.word_embeddings.weight",
        vocab_size=config.size("vocab_size", vocab_size),
        position="embeddings.position_embeddings.weight",
        positions=config.size("max_position_embeddings", 512),
        token_type="embeddings.token_type_embeddings.weight",  # noqa: S106 - a tensor's name
        token_types=config.size("type_vocab_size", 2),
        norm="embeddings.LayerNorm",
    )


def _roberta_text(config: Config, vocab_size: int) -> Text:
    text = replace(_text(config, vocab_size), padding=config.size("pad_token_id", 1, least=0))
    if not text.max_tokens or text.max_tokens < 1:
        raise config.refusal(
            f"max_position_embeddings is {text.positions}, of which pad_token_id {text.padding} leaves none"
        )
    return text


def _electra_text(config: Config) -> Text:
    width = config.size("embedding_size", 128)
    projected = width != config.size("hidden_size", 256)
    return replace(_text(config), width=width, projection="embeddings_project" if projected else None)


def _distilbert_text(config: Config) -> Text:
    return Text(
        word="embeddings.word_embeddings.weight",
        vocab_size=config.size("vocab_size", 30522),
        position="embeddings.position_embeddings.weight",
        positions=config.size("max_position_embeddings", 512),
        norm="embeddings.LayerNorm",
    )


BERT = Family(
    model_types=("bert",),
    block=partial(block_fields, keys=_KEYS, placement="post"),
    prefixes=("bert.", ""),
    layers="encoder.layer.",
    tensors=_LAYER,
    text=_text,
    beside=("pooler.",),
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    old_names={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    only={"position_embedding_type": "absolute"},
    harmless=frozenset({
        "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type", "summary_activation", "summary_last_dropout", "summary_type",
        "summary_use_proj",
    }),
)  # fmt: skip
ROBERTA = replace(
    BERT,
    model_types=("roberta",),
    prefixes=("roberta.", ""),
    text=partial(_roberta_text, vocab_size=50265),
)
XLM_ROBERTA = replace(ROBERTA, model_types=("xlm-roberta",), text=partial(_roberta_text, vocab_size=30522))
_SMALL: Keys = {
    **_KEYS,
    "hidden_size": ("hidden_size", 256),
    "num_attention_heads": ("num_attention_heads", 4),
    "intermediate_size": ("intermediate_size", 1024),
}
ELECTRA = replace(
    BERT,
    model_types=("electra",),
    block=partial(block_fields, keys=_SMALL, placement="post"),
    prefixes=("electra.", ""),
    text=_electra_text,
    front=("embeddings.", "embeddings_project."),
)
_DISTILLED: Keys = {
    "hidden_size": ("dim", 768),
    "num_attention_heads": ("n_heads", 12),
    "intermediate_size": ("hidden_dim", 3072),
    "hidden_act": ("activation", "gelu"),
}
DISTILBERT = Family(
    model_types=("distilbert",),
    block=partial(block_fields, keys=_DISTILLED, placement="post", norm_eps=1e-12),
    depth=("n_layers", 6),
    prefixes=("distilbert.", ""),
    layers="transformer.layer.",
    tensors={
        "attention.W_Q": "attention.q_lin.weight",
        "attention.b_Q": "attention.q_lin.bias",
        "attention.W_K": "attention.k_lin.weight",
        "attention.b_K": "attention.k_lin.bias",
        "attention.W_V": "attention.v_lin.weight",
        "attention.b_V": "attention.v_lin.bias",
        "attention.W_O": "attention.out_lin.weight",
        "attention.b_O": "attention.out_lin.bias",
        "attention_norm.weight": "sa_layer_norm.weight",
        "attention_norm.bias": "sa_layer_norm.bias",
        "feed_forward.W_1": "ffn.lin1.weight",
        "feed_forward.b_1": "ffn.lin1.bias",
        "feed_forward.W_2": "ffn.lin2.weight",
        "feed_forward.b_2": "ffn.lin2.bias",
        "ffn_norm.weight": "output_layer_norm.weight",
        "ffn_norm.bias": "output_layer_norm.bias",
    },
    text=_distilbert_text,
    buffers=("embeddings.position_ids",),
    harmless=frozenset({"qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_"}),
)
FAMILIES = (BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT)
