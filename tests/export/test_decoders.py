"""What config.json says of a decoder's positions: read in old words and new, and refused where it is not computed."""

import json
from pathlib import Path
from typing import Any

import pytest

from export import ExportError
from export.rotary import Rotary
from export.sources.families import read_model

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}


def rotary(folder: Path, kind: str, **fields: Any) -> Rotary:
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **fields}))
    found = read_model(folder).block.rotary
    assert found
    return found


@pytest.mark.parametrize(
    ("kind", "older", "newer"),
    [
        ("llama", {"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5}}),
        (
            "llama",
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
        ),
        (
            "qwen2",
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 3.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        ),
        ("llama", {"rope_scaling": {}, "rope_parameters": {"rope_theta": 3.0}}, {"rope_theta": 3.0}),
        (
            "gpt_neox",
            {"rotary_pct": 0.5, "rotary_emb_base": 77, "partial_rotary_factor": 0.5, "rope_theta": 77},
            {"rope_parameters": {"rope_theta": 77, "partial_rotary_factor": 0.5}},
        ),
        ("phi3", {"partial_rotary_factor": 0.75}, {"rope_parameters": {"partial_rotary_factor": 0.75}}),
    ],
)
def test_older_words_say_the_same_as_newer(
    kind: str, older: dict[str, Any], newer: dict[str, Any], tmp_path: Path
) -> None:
    import transformers

    ours = rotary(tmp_path, kind, **older)
    assert ours == rotary(tmp_path, kind, **newer)
    theirs: Any = transformers.AutoConfig.for_model(kind, **older).rope_parameters
    assert ours.theta == theirs["rope_theta"]
    assert ours.scaling == {"default": "none"}.get(theirs["rope_type"], theirs["rope_type"])


UNKNOWN = "that is known here, and may change what it computes; where it does not, take it out of the file"
ONLY_TANH = "and only 'gelu_pytorch_tanh' is supported"
KINDS = "of sliding_attention, full_attention, one a layer"


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window must be an integer of at least 1, got 0"),
        ("phi3", {"sliding_window": "wide"}, "sliding_window must be an integer of at least 1, got 'wide'"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window must be true or false, got 1"),
        (
            "qwen3",
            {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2},
            "layer_types has sliding_attention, and use_sliding_window or sliding_window says no",
        ),
        ("llama", {"sliding_window": 8}, f"sliding_window is no key of llama {UNKNOWN}"),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling.rope_type is 'dynamic', and only default, linear, llama3 are supported",
        ),
        (
            "phi3",
            {"rope_parameters": {"rope_type": "longrope"}},
            "rope_parameters.rope_type is 'longrope', and only default, linear, llama3 are supported",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and only 1.0 is supported"),
        (
            "qwen2",
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor is 0.5, and only 1.0 is supported",
        ),
        ("gemma", {"hidden_activation": "relu"}, f"hidden_activation is 'relu', {ONLY_TANH}"),
        ("gemma2", {"hidden_act": "gelu"}, f"hidden_act is 'gelu', {ONLY_TANH}"),
        (
            "gemma2",
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention is True, and only False is supported",
        ),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive number, got 0"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 10**400},
            "query_pre_attn_scalar must be a positive number of at most 1e+18",
        ),
        (
            "t5",
            {"relative_attention_max_distance": 10**15},
            "relative_attention_max_distance must be an integer of at most 16777216",
        ),
        ("dinov2", {"mlp_ratio": 10**400, "use_swiglu_ffn": True}, "mlp_ratio must be an integer of at most 16777216"),
        ("llama", {"rope_theta": 10**400}, "rotary.theta must be a positive number of at most 1e+18"),
        ("gemma2", {"attn_logit_softcapping": -1}, "softcap must be a positive number, got -1"),
        ("gemma2", {"sliding_window": None}, "sliding_window must be an integer of at least 1, got None"),
        ("gemma2", {"num_hidden_layers": 1, "layer_types": ["chunked_attention"]}, f"layer_types must be 1 {KINDS}"),
        ("gemma2", {"num_hidden_layers": 2, "layer_types": ["full_attention"]}, f"layer_types must be 2 {KINDS}"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "full_attention.rope_type is 'yarn', and only 'default' is supported",
        ),
        (
            "modernbert",
            {"rope_parameters": {"rope_theta": 3.0}},
            f"rope_parameters.rope_theta is no key of rotary positions {UNKNOWN}",
        ),
        (
            "modernbert",
            {"rope_scaling": {"factor": 2.0}},
            "rope_scaling is {'factor': 2.0}, and only None is supported",
        ),
        ("gpt_neox", {"rotary_pct": 2}, "rope_parameters.partial_rotary_factor must be above 0 and at most 1, got 2"),
        ("gpt_neox", {"rotary_pct": 0.04}, "rotary.dims must be even, got 3"),
        ("gpt_neox", {"rope_theta": 3.0}, "rope_theta is 3.0, and only 10000.0 is supported"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rotary.factor must be a positive number, got None"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 3.0, "mscale": 1}},
            f"rope_parameters.mscale is no key of rotary positions {UNKNOWN}",
        ),
    ],
)
def test_what_is_not_computed_is_refused(kind: str, fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        rotary(tmp_path, kind, **fields)
    assert str(error.value) == f"{tmp_path}/config.json: {sentence}"
