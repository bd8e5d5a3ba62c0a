"""Source `bert`: what its folder must hold, and the sentence where it does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from export import ExportError
from export.sources import bert

CONFIG: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4, "num_hidden_layers": 2,
    "vocab_size": 5, "max_position_embeddings": 6, "type_vocab_size": 3,
}  # fmt: skip


def write(folder: Path, config: dict[str, Any], tensors: tuple[str, ...] = ()) -> Path:
    """A whole small BERT, with these fields of config.json and these tensors beside its own."""
    import transformers

    model = transformers.BertModel(transformers.BertConfig(**CONFIG))
    extra = {name: torch.zeros(2) for name in tensors}
    save_file({**model.state_dict(), **extra}, folder / "model.safetensors")
    fields = {key: value for key, value in {**CONFIG, **config}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(fields))
    write_tokenizer(folder, 4)
    return folder


def write_tokenizer(folder: Path, words: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({f"word{index}": index for index in range(words)}, "word0"))
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def refused(folder: Path, layers: str | None = None) -> str:
    with pytest.raises(ExportError) as error:
        bert.load(folder, layers)
    return str(error.value)


def test_a_whole_folder_is_read_with_its_text_front(tmp_path: Path) -> None:
    folder = write(tmp_path, {}, ("embeddings.position_ids", "pooler.own", "encoder.layer.1.output.own"))
    source = bert.load(folder, "0:1")
    assert source.text
    assert (source.text.vocab_size, source.text.max_tokens) == (5, 6)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("encoder.layer.1.crossattention.self.key.bias", None),
        ("encoder.layer.1.output.dense.weight_scale", "1:2"),
        ("embeddings.own", "0:1"),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(name: str, layers: str | None, tmp_path: Path) -> None:
    folder = write(tmp_path, {}, (name,))
    assert refused(folder, layers) == (
        f"{folder}/model.safetensors: {name} would be left out; BERT's plain encoder has no such tensor"
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"auto_map": {"AutoModel": "own.Model"}},
            "auto_map names the model's own code, and code that comes with a model is never run",
        ),
        (
            {"hidden_act": ["gelu"]},
            "hidden_act is ['gelu'], and only relu, gelu, gelu_new, gelu_pytorch_tanh are supported",
        ),
        ({"vocab_size": ...}, "vocab_size must be an integer of at least 1, got None"),
        ({"max_position_embeddings": ...}, "max_position_embeddings must be an integer of at least 1, got None"),
        ({"type_vocab_size": "2"}, "type_vocab_size must be an integer of at least 1, got '2'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer of at least 1, got 0"),
        ({"num_attention_heads": True}, "num_attention_heads must be an integer of at least 1, got True"),
        ({"num_attention_heads": 3}, "hidden_size 8 does not divide into 3 heads"),
    ],
)
def test_a_config_that_cannot_be_kept_is_refused(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = write(tmp_path, config)
    assert refused(folder) == f"{folder}/config.json: {sentence}"


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {})
    write_tokenizer(folder, 5)
    assert refused(folder) == (
        f"{folder}/tokenizer.json: token '[END]' has id 5, and config.json has a vocab_size of 5"
    )


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {})
    (folder / "tokenizer.json").write_text("{}")
    assert refused(folder).startswith(f"{folder}/tokenizer.json is not a tokenizer: ")
