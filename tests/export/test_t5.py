"""T5's encoder as it is stored: one table for all layers, embeddings under two names, a decoder beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.sources.families import read_model
from tests.export import pretrained
from tests.export.test_checkpoint import load, refused

TABLE = "layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Encoder and decoder, with a tokenizer."""
    pretrained.write_tokenizer(pretrained.save("t5-2", tmp_path))
    return tmp_path


def tensors(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def test_of_the_first_layer_a_later_range_needs_the_table_alone(folder: Path) -> None:
    whole, others = load(folder, "1:3").model.state_dict(), ("encoder.block.0.", "shared.", "decoder.")
    kept = {name: tensor for name, tensor in tensors(folder).items() if TABLE in name or not name.startswith(others)}
    save_file(kept, folder / "model.safetensors")
    found = load(folder, "1:3").model.state_dict()
    assert found.keys() == whole.keys()
    for index in (0, 1):
        assert torch.equal(found[f"layers.{index}.attention.relative_bias"], kept[f"encoder.block.0.{TABLE}"])
    del kept[f"encoder.block.0.{TABLE}"]
    save_file(kept, folder / "model.safetensors")
    assert refused(folder, "1:3") == (
        f"{folder}/model.safetensors has no tensor 'encoder.block.0.{TABLE}', expected with shape [9, 4]"
    )


def test_a_table_in_another_layer_is_umt5s_and_refused(folder: Path) -> None:
    found = tensors(folder)
    save_file({**found, f"encoder.block.2.{TABLE}": torch.zeros(9, 4)}, folder / "model.safetensors")
    assert refused(folder) == (
        f"{folder}/model.safetensors: encoder.block.2.{TABLE} would be left out; t5 has no such tensor"
    )


def test_embeddings_of_the_encoders_own_come_before_the_shared_ones(folder: Path) -> None:
    shared = load(folder).text
    save_file({**tensors(folder), "encoder.embed_tokens.weight": torch.ones(40, 24)}, folder / "model.safetensors")
    own = load(folder).text
    assert shared
    assert own
    assert torch.equal(shared.embeddings.state_dict()["word"], tensors(folder)["shared.weight"])
    assert torch.equal(own.embeddings.state_dict()["word"], torch.ones(40, 24))


def test_the_keys_of_published_configs_are_known(tmp_path: Path) -> None:
    published = {
        "architectures": ["T5ForConditionalGeneration"], "classifier_dropout": 0.0, "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": True, "n_positions": 512,
        "num_decoder_layers": 8, "output_past": True, "pad_token_id": 0, "task_specific_params": {},
        "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer", "torch_dtype": "float32", "use_cache": True,
    }  # fmt: skip
    for kind, more in (("t5", {}), ("mt5", {}), ("umt5", {"scalable_attention": True})):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **published, **more}))
        block = read_model(tmp_path).block
        assert (block.ffn, block.hidden_act, block.scale, block.mask) == ("glu", "gelu_tanh", 1.0, "bidirectional")


WORDS = "relu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu, swish are supported, alone or after gated-"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"is_decoder": True}, "is_decoder is True, and only False is supported"),
        ({"feed_forward_proj": "gated"}, f"feed_forward_proj is 'gated', and only {WORDS}"),
        ({"feed_forward_proj": "gated-mish"}, f"feed_forward_proj is 'gated-mish', and only {WORDS}"),
        ({"feed_forward_proj": "gelu-gated"}, f"feed_forward_proj is 'gelu-gated', and only {WORDS}"),
        ({"feed_forward_proj": 3}, f"feed_forward_proj is 3, and only {WORDS}"),
        ({"dense_act_fn": "silu"}, "dense_act_fn is 'silu', and only 'relu' is supported"),
        ({"is_gated_act": True}, "is_gated_act is True, and only False is supported"),
        (
            {"relative_attention_num_buckets": 3},
            "relative_bias.num_buckets must be at least 4 with mask bidirectional, got 3",
        ),
        (
            {"num_hidden_layers": 3},
            (
                "num_hidden_layers is no key of t5 that is known here, and may change what it computes; where it does "
                "not, take it out of the file"
            ),
        ),
    ],
)
def test_a_config_of_other_mathematics_is_refused(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **fields}))
    assert refused(tmp_path) == f"{tmp_path}/config.json: {sentence}"
