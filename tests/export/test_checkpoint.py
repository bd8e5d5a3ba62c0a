"""A folder of Hugging Face's: what it must hold, and the sentence where it does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from export import ExportError
from export.sources import Source, checkpoint, text_front
from export.sources.families import read_model
from export.sources.family import Text

CONFIG: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4, "num_hidden_layers": 2,
    "vocab_size": 5, "max_position_embeddings": 6, "type_vocab_size": 3,
}  # fmt: skip


def write(folder: Path, config: dict[str, Any] | None = None, tensors: tuple[str, ...] = ()) -> Path:
    """A whole small BERT, with these fields of config.json and these tensors beside its own."""
    import transformers

    model = transformers.BertModel(transformers.BertConfig(**CONFIG))
    extra = {name: torch.zeros(2) for name in tensors}
    save_file({**model.state_dict(), **extra}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    write_tokenizer(folder, 4)
    return folder


def write_tokenizer(folder: Path, words: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({f"word{index}": index for index in range(words)}, "word0"))
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def load(folder: Path, layers: str | None = None, tower: str | None = None) -> Source:
    return checkpoint.load(folder, read_model(folder, tower), layers)


def refused(folder: Path, layers: str | None = None, tower: str | None = None) -> str:
    with pytest.raises(ExportError) as error:
        load(folder, layers, tower)
    return str(error.value)


def test_a_whole_folder_is_read_with_its_text_front(tmp_path: Path) -> None:
    folder = write(tmp_path, {}, ("embeddings.position_ids", "pooler.own", "encoder.layer.1.output.own"))
    source = load(folder, "0:1")
    assert source.text
    assert (source.text.vocab_size, source.text.max_tokens) == (5, 6)
    assert (source.kind, source.layer_range) == ("bert", (0, 1))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("encoder.layer.1.crossattention.self.key.bias", None),
        ("encoder.layer.1.output.dense.weight_scale", "1:2"),
        ("encoder.norm.weight", "1:2"),
        ("embeddings.own", "0:1"),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(name: str, layers: str | None, tmp_path: Path) -> None:
    folder = write(tmp_path, {}, (name,))
    assert refused(folder, layers) == (f"{folder}/model.safetensors: {name} would be left out; bert has no such tensor")


def test_a_tensor_beside_the_layers_of_a_model_below_a_head_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    below = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    save_file({**below, "bert.scale": torch.zeros(2), "head.weight": torch.zeros(2)}, folder / "model.safetensors")
    assert refused(folder) == f"{folder}/model.safetensors: bert.scale would be left out; bert has no such tensor"


def test_a_layer_that_config_json_does_not_count_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"num_hidden_layers": 1})
    assert refused(folder) == (
        f"{folder}/model.safetensors: encoder.layer.1.attention.output.LayerNorm.bias is of layer 1, and config.json's "
        "num_hidden_layers is 1"
    )


def test_a_layer_that_is_not_there_is_named_by_its_first_tensor(tmp_path: Path) -> None:
    folder = write(tmp_path, {"num_hidden_layers": 3})
    assert refused(folder) == (
        f"{folder}/model.safetensors has no tensor 'encoder.layer.2.attention_norm', expected with shape [8]"
    ).replace("attention_norm", "attention.output.LayerNorm.weight")


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"intermediate_size": 5})
    assert refused(folder) == (
        f"{folder}/model.safetensors: encoder.layer.0.intermediate.dense.weight has shape [4, 8], expected [5, 8]"
    )


def test_the_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert refused(folder) == (
        f"{folder}/model.safetensors holds no layer of gpt2: expected names that begin with transformer.h. or h., and "
        "the first of its 39 is embeddings.LayerNorm.bias"
    )


def test_older_names_of_norms_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path)
    want = load(folder).model.state_dict()
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor + 0.5
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(older, folder / "model.safetensors")
    source = load(folder)
    assert source.text
    assert all(torch.equal(tensor, want[name] + 0.5) for name, tensor in source.model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"auto_map": {"AutoModel": "own.Model"}},
            "auto_map names the model's own code, and code that comes with a model is never run",
        ),
        (
            {"hidden_act": ["gelu"]},
            (
                "hidden_act is ['gelu'], and only relu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu, swish are "
                "supported"
            ),
        ),
        ({"vocab_size": None}, "vocab_size must be an integer of at least 1, got None"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be an integer of at least 1, got 0"),
        ({"type_vocab_size": "2"}, "type_vocab_size must be an integer of at least 1, got '2'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer of at least 1, got 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be an integer of at most 4096"),
        ({"intermediate_size": 10**13}, "intermediate_size must be an integer of at most 16777216"),
        ({"max_position_embeddings": 10**20}, "max_position_embeddings must be an integer of at most 16777216"),
        (
            {"hidden_size": 2**24, "intermediate_size": 2**24},
            "a block's largest matrix or table must have at most 2147483648 numbers",
        ),
        ({"num_attention_heads": True}, "num_attention_heads must be an integer of at least 1, got True"),
        ({"num_attention_heads": 3}, "hidden_size 8 does not divide into 3 heads"),
        ({"layer_norm_eps": "x"}, "norm_eps must be a positive number, got 'x'"),
        ({"layer_norm_eps": 10**400}, "norm_eps must be a positive number of at most 1e+18"),
        (
            {"model_type": "roberta", "pad_token_id": 5},
            "max_position_embeddings is 6, of which pad_token_id 5 leaves none",
        ),
        ({"is_decoder": True}, "is_decoder is True, and only False is supported"),
        ({"add_cross_attention": True}, "add_cross_attention is True, and only False is supported"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', and only 'absolute' is supported",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, and only None is supported"),
        (
            {"rope_theta": 1e4},
            ("rope_theta is no key of bert that is known here, and may change what it computes; where it does not, "
            "take it out of the file"),
        ),
        (
            {"\ud800": 1},
            ("? is no key of bert that is known here, and may change what it computes; where it does not, "
            "take it out of the file"),
        ),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_kept_is_refused(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = write(tmp_path, config)
    assert refused(folder) == f"{folder}/config.json: {sentence}"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "scale_attn_weights is False, and only True is supported"),
        (
            {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True, and only False is supported",
        ),
        (
            {"scale_attn_weights": True, "reorder_and_upcast_attn": True},
            "reorder_and_upcast_attn is True, and only False is supported",
        ),
    ],
)
def test_gpt2s_other_scales_are_refused(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    fields = {"model_type": "gpt2", "scale_attn_weights": False, **config}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert refused(tmp_path) == f"{tmp_path}/config.json: {sentence}"


KNOWN = (
    "bert, clip, clip_text_model, clip_vision_model, deit, dinov2, distilbert, electra, gemma, gemma2, gpt2, gpt_neox, "
    "llama, mistral, modernbert, mt5, phi3, qwen2, qwen3, roberta, siglip, siglip_text_model, siglip_vision_model, t5, "
    "umt5, vit, xlm-roberta"
)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"model_type": "mixtral", "num_local_experts": 8},
            (
                "model_type is 'mixtral' with num_local_experts, which is not served as a block: each token chooses "
                "among experts, which this block does not have"
            ),
        ),
        (
            {"model_type": "deepseek_v2_lite", "kv_lora_rank": 8},
            (
                "model_type is 'deepseek_v2_lite' with kv_lora_rank, which is not served as a block: its keys and "
                "values come from a latent vector, which this block does not have"
            ),
        ),
        (
            {"model_type": "swin"},
            (
                "model_type is 'swin', which is not served as a block: its attention runs in windows of an image, and "
                "its tensors have a height and a width"
            ),
        ),
        (
            {"model_type": "deberta-v2"},
            f"model_type is 'deberta-v2', and known are {KNOWN}; --source module exports a block of your own",
        ),
        ({}, f"model_type is None, and known are {KNOWN}; --source module exports a block of your own"),
        (
            {"model_type": ["bert"]},
            f"model_type is ['bert'], and known are {KNOWN}; --source module exports a block of your own",
        ),
        ({"model_type": "clip"}, "model_type is 'clip', which has two towers; give --tower text or --tower vision"),
    ],
)
def test_a_family_that_is_not_served_is_refused_in_words(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert refused(tmp_path) == f"{tmp_path}/config.json: {sentence}"


@pytest.mark.parametrize(
    ("fields", "tower", "sentence"),
    [
        ({"model_type": "clip"}, "left", "--tower must be text or vision, got 'left'"),
        (
            {"model_type": "vit"},
            "vision",
            "{0}/config.json: --tower does not go with model_type 'vit', which has no two towers",
        ),
        (
            {"model_type": "clip", "text_config": {"hidden_act": "mish"}},
            "text",
            (
                "{0}/config.json: text_config.hidden_act is 'mish', and only relu, gelu, gelu_new, gelu_pytorch_tanh, "
                "quick_gelu, silu, swish are supported"
            ),
        ),
        ({"model_type": "clip", "text_config": 3}, "text", "{0}/config.json: text_config must be an object, got 3"),
        (
            {"model_type": "siglip", "quantization_config": {}},
            "text",
            "{0}/config.json: quantization_config is {{}}, and only None is supported",
        ),
    ],
)
def test_a_tower_is_named_where_there_are_two(
    fields: dict[str, Any], tower: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert refused(tmp_path, tower=tower) == sentence.format(tmp_path)


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    write_tokenizer(folder, 5)
    assert refused(folder) == (
        f"{folder}/tokenizer.json: token '[END]' has id 5, and config.json has a vocab_size of 5"
    )


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    assert refused(folder).startswith(f"{folder}/tokenizer.json is not a tokenizer: ")


def test_a_tokenizer_on_which_rust_panics_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert refused(folder).startswith(f"{folder}/tokenizer.json is not a tokenizer: ")


def test_embeddings_that_no_memory_holds_are_refused_by_the_tensor_they_ask_for(tmp_path: Path) -> None:
    def take(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        raise ExportError(f"{name}, {shape}")

    write_tokenizer(tmp_path, 4)
    text = Text(word="word", vocab_size=2**24, width=2**24)
    with pytest.raises(ExportError) as error:
        text_front.make_text_front(text, tmp_path / "tokenizer.json", take, 8, 1e-5)
    assert str(error.value) == "word, (16777216, 16777216)"


def test_half_a_surrogate_in_a_models_name_becomes_a_question_mark(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "_name_or_path": "a\ud800"}))
    assert read_model(tmp_path).reference == "a?"
