"""Small seeded models by `transformers`, saved as it saves them; eager.py has what they compute."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

LAYERS, LONGEST = 3, 64
SIZES = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20, "num_hidden_layers": LAYERS}
WORDS = {"vocab_size": 40, "max_position_embeddings": LONGEST + 6}
PATCHES = {"image_size": 8, "patch_size": 4}
DINO = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": LAYERS, **PATCHES}
DISTIL = {"dim": 24, "n_heads": 3, "hidden_dim": 20, "n_layers": LAYERS, **WORDS}
GPT2 = {"n_embd": 24, "n_head": 3, "n_layer": LAYERS, "n_positions": LONGEST + 6, "vocab_size": 40,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
ROTARY = {**SIZES, **WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {**ROTARY, "num_attention_heads": 6, "num_key_value_heads": 2}  # heads of 4
MIXED = [f"{kind}_attention" for kind in ("sliding", "full", "sliding")]
OTHER = {"hidden_act": "gelu_new", "rms_norm_eps": 0.01, "num_attention_heads": 4, "num_key_value_heads": 1}
MODERN = {**ROTARY, "cls_token_id": 1, "sep_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
T5 = {"d_model": 24, "num_heads": 3, "d_kv": 6, "d_ff": 20, "num_layers": LAYERS, "vocab_size": 40}
NEAR = {"relative_attention_num_buckets": 9, "relative_attention_max_distance": 11}
CLIP_TEXT = {**SIZES, **WORDS, "bos_token_id": 1, "eos_token_id": 2}
PAIR = {"text_config": CLIP_TEXT, "vision_config": {**SIZES, **PATCHES}}

# query, key, value, output, first and second product of a layer; one name for the first three where they are packed.
BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense")  # fmt: skip
DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
PACKED = ("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
WI = (*["attn.Wqkv"] * 3, "attn.Wo", "mlp.Wi", "mlp.Wo")
NEOX = (*["attention.query_key_value"] * 3, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
LLAMA = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
)
QWEN3 = ("self_attn.q_norm", "self_attn.k_norm", *LLAMA[2:])
PHI3 = (*["self_attn.qkv_proj"] * 3, "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
DENSE = (
    *[f"layer.0.SelfAttention.{letter}" for letter in "qkvo"],
    "layer.1.DenseReluDense.wi",
    "layer.1.DenseReluDense.wo",
)
GATED = (*DENSE[:4], "layer.1.DenseReluDense.wi_0", DENSE[5])
VIT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
SWIGLU = (*VIT[:4], "mlp.gate_proj", "mlp.down_proj")
CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Case:
    """One config of a family.

    Attributes:
        family: The model_type, as the support table names it.
        saved: The class that is saved.
        config: The class of its config.
        fields: What it is given.
        modules: Where a layer has its six products.
        base: The attribute of the saved model that is the oracle; empty where it is the model itself.
        tower: Which tower of a pair.
    """

    family: str
    saved: str
    config: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = BERT
    base: str = ""
    tower: str | None = None


def _bert(family: str, name: str, config: str, **more: Any) -> tuple[Case, Case]:
    base = {"xlm-roberta": "roberta"}.get(family, family)
    other = {"hidden_act": "relu", "layer_norm_eps": 0.01, "num_attention_heads": 2, "type_vocab_size": 3}
    return (
        Case(family, f"{name}Model", config, {**SIZES, **WORDS, **more}),
        Case(family, f"{name}ForMaskedLM", config, {**SIZES, **WORDS, **more, **other}, base=base),
    )


def _vit(family: str, name: str) -> tuple[Case, Case]:
    other = {"qkv_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 0.01}
    return (
        Case(family, f"{name}Model", f"{name}Config", {**SIZES, **PATCHES}, VIT),
        Case(family, f"{name}ForImageClassification", f"{name}Config", {**SIZES, **PATCHES, **other}, VIT, family),
    )


def _tower(kind: str, name: str, own: Mapping[str, Any]) -> tuple[Case, ...]:
    """A tower alone, and with other words in its config; then the same as one of two."""
    family, tower = f"{kind}_{name.lower()}_model", name.lower()
    cls = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    other = {"hidden_act": "gelu", "layer_norm_eps": 0.01, "num_attention_heads": 2}
    pair = {**PAIR, f"{tower}_config": {**own, **other}}
    return (
        Case(family, f"{cls}{name}Model", f"{cls}{name}Config", own, CLIP),
        Case(family, f"{cls}Model", f"{cls}Config", pair, CLIP, f"{tower}_model", tower),
    )


CASES: dict[str, Case] = {
    f"{case.family}-{number}": case
    for cases in (
        _bert("bert", "Bert", "BertConfig"),
        _bert("roberta", "Roberta", "RobertaConfig"),
        _bert("xlm-roberta", "XLMRoberta", "XLMRobertaConfig", pad_token_id=3),
        _bert("electra", "Electra", "ElectraConfig", embedding_size=8),
        (
            Case("distilbert", "DistilBertModel", "DistilBertConfig", DISTIL, DISTILBERT),
            Case("distilbert", "DistilBertForMaskedLM", "DistilBertConfig",
                 {**DISTIL, "activation": "relu", "sinusoidal_pos_embds": True}, DISTILBERT, "distilbert"),
        ),
        (
            Case("modernbert", "ModernBertModel", "ModernBertConfig", {**MODERN, "local_attention": 6}, WI),
            Case("modernbert", "ModernBertForMaskedLM", "ModernBertConfig",
                 {**MODERN, "local_attention": 9, "norm_bias": True, "attention_bias": True, "mlp_bias": True,
                  "norm_eps": 0.01, "hidden_activation": "silu", "num_attention_heads": 2,
                  "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                  "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 20.0},
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}}, WI, "model"),
        ),
        (
            Case("gpt2", "GPT2Model", "GPT2Config", GPT2, PACKED),
            Case("gpt2", "GPT2LMHeadModel", "GPT2Config",
                 {**GPT2, "n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 0.01}, PACKED,
                 "transformer"),
            Case("gpt2", "GPT2Model", "GPT2Config", {**GPT2, "n_embd": 256, "n_head": 1, "n_inner": 20}, PACKED),
        ),
        (
            Case("gpt_neox", "GPTNeoXModel", "GPTNeoXConfig", ROTARY, NEOX),
            Case("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig",
                 {**ROTARY, "use_parallel_residual": False, "attention_bias": False, "hidden_act": "relu",
                  "layer_norm_eps": 0.01,
                  "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0,
                                      "partial_rotary_factor": 0.5}}, NEOX, "gpt_neox"),
        ),
        (
            Case("llama", "LlamaModel", "LlamaConfig", GROUPED, LLAMA),
            Case("llama", "LlamaForCausalLM", "LlamaConfig",
                 {**ROTARY, **OTHER, "head_dim": 10, "attention_bias": True, "mlp_bias": True,
                  "rope_parameters": LLAMA3}, LLAMA, "model"),
            Case("llama", "LlamaModel", "LlamaConfig",
                 {**GROUPED, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256}, LLAMA),
        ),
        (
            Case("mistral", "MistralModel", "MistralConfig", {**GROUPED, "sliding_window": None}, LLAMA),
            Case("mistral", "MistralForCausalLM", "MistralConfig",
                 {**ROTARY, **OTHER, "sliding_window": 5, "head_dim": 8,
                  "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, LLAMA, "model"),
        ),
        (
            Case("qwen2", "Qwen2Model", "Qwen2Config", GROUPED, LLAMA),
            Case("qwen2", "Qwen2ForCausalLM", "Qwen2Config",
                 {**ROTARY, **OTHER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, LLAMA, "model"),
        ),
        (
            Case("qwen3", "Qwen3Model", "Qwen3Config", {**GROUPED, "head_dim": 8}, QWEN3),
            Case("qwen3", "Qwen3ForCausalLM", "Qwen3Config",
                 {**ROTARY, **OTHER, "head_dim": 12, "attention_bias": True, "use_sliding_window": True,
                  "sliding_window": 3, "layer_types": MIXED}, QWEN3, "model"),
        ),
        (
            Case("phi3", "Phi3Model", "Phi3Config", GROUPED, PHI3),
            Case("phi3", "Phi3ForCausalLM", "Phi3Config",
                 {**ROTARY, **OTHER, "num_attention_heads": 3, "num_key_value_heads": 3, "sliding_window": 3,
                  "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, PHI3, "model"),
        ),
        (
            Case("gemma", "GemmaModel", "GemmaConfig", {**ROTARY, "num_key_value_heads": 1, "head_dim": 256}, LLAMA),
            Case("gemma", "GemmaForCausalLM", "GemmaConfig",
                 {**ROTARY, **OTHER, "hidden_act": "gelu", "head_dim": 10, "attention_bias": True,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, LLAMA, "model"),
        ),
        (
            Case("gemma2", "Gemma2Model", "Gemma2Config", {**GROUPED, "head_dim": 256, "sliding_window": 5}, LLAMA),
            Case("gemma2", "Gemma2ForCausalLM", "Gemma2Config",
                 {**GROUPED, "rms_norm_eps": 0.01, "hidden_activation": "silu", "head_dim": 8, "attention_bias": True,
                  "query_pre_attn_scalar": 3, "attn_logit_softcapping": 0.7, "sliding_window": 1,
                  "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}, LLAMA, "model"),
            Case("gemma2", "Gemma2Model", "Gemma2Config",
                 {**ROTARY, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4,
                  "sliding_window": 70, "attn_logit_softcapping": None}, LLAMA),
        ),
        (
            Case("t5", "T5EncoderModel", "T5Config", T5, DENSE),
            Case("t5", "T5ForConditionalGeneration", "T5Config",
                 {**T5, **NEAR, "num_heads": 4, "d_kv": 10, "layer_norm_epsilon": 0.01, "num_decoder_layers": 1,
                  "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, GATED, "encoder"),
            Case("t5", "T5ForTokenClassification", "T5Config",
                 {**T5, "num_heads": 1, "d_kv": 130, "feed_forward_proj": "gelu"}, DENSE, "transformer"),
        ),
        (
            Case("mt5", "MT5EncoderModel", "MT5Config", T5, GATED),
            Case("mt5", "MT5Model", "MT5Config",
                 {**T5, **NEAR, "num_heads": 2, "layer_norm_epsilon": 0.01, "feed_forward_proj": "gated-silu"}, GATED,
                 "encoder"),
        ),
        (
            Case("umt5", "UMT5EncoderModel", "UMT5Config", T5, GATED),
            Case("umt5", "UMT5ForConditionalGeneration", "UMT5Config",
                 {**T5, **NEAR, "d_kv": 8, "layer_norm_epsilon": 0.01, "feed_forward_proj": "relu"}, DENSE, "encoder"),
        ),
        _vit("vit", "ViT"),
        _vit("deit", "DeiT"),
        (
            Case("dinov2", "Dinov2Model", "Dinov2Config", DINO, VIT),
            Case("dinov2", "Dinov2ForImageClassification", "Dinov2Config",
                 {**DINO, "use_swiglu_ffn": True, "qkv_bias": False, "layer_norm_eps": 0.01, "mlp_ratio": 1}, SWIGLU,
                 "dinov2"),
            Case("dinov2", "Dinov2Model", "Dinov2Config", {**DINO, "hidden_act": "relu", "mlp_ratio": 2}, VIT),
        ),
        _tower("clip", "Text", CLIP_TEXT),
        _tower("clip", "Vision", {**SIZES, **PATCHES}),
        _tower("siglip", "Text", CLIP_TEXT),
        _tower("siglip", "Vision", {**SIZES, **PATCHES}),
    )
    for number, case in enumerate(cases, start=1)
}  # fmt: skip
FAMILIES = tuple(dict.fromkeys(case.family for case in CASES.values()))


@cache
def make(name: str) -> Any:
    """A case's model, eval, eager, float32; every weight by seed, so that none of them can be lost unnoticed."""
    import transformers

    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        config = getattr(transformers, case.config)(**case.fields)
        model = getattr(transformers, case.saved)(config)
        model.set_attn_implementation("eager")
        usual = 0.0 if case.family.startswith("gemma") else 1.0  # Gemma's norms multiply by 1 + weight
        for label, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            if label.endswith("SelfAttention.q.weight"):
                scale *= config.d_kv**-0.5  # T5's queries are small, as its scores are not scaled
            parameter.data = scale * noise + (usual if parameter.ndim == 1 and label.endswith("weight") else 0.0)
    return model.eval()


def save(name: str, folder: Path) -> Path:
    """Writes the model as transformers does, and gives the folder."""
    make(name).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of one word, by which a folder has a text front."""
    Tokenizer(WordLevel({"word": 0}, "word")).save(str(folder / "tokenizer.json"))
