"""Every refusal's whole sentence, and nothing left behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import artifacts
from tests.export.refusing import refuse


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the files that refusals are about."""
    torch.manual_seed(0)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.bin")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "disguised.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 40)
    (tmp_path / "block.json").write_text('{"hidden_size": 8, "num_heads": 2}')
    (tmp_path / "tiny.json").write_text('{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "many.json").write_text(
        json.dumps({"layers": [json.loads((tmp_path / "tiny.json").read_text())] * 4097})
    )
    (tmp_path / "long.json").write_text('{"rotary": {"max_position_embeddings": 16777216}}')
    (tmp_path / "short.json").write_text('{"rotary": {"max_position_embeddings": 2}}')
    bert = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4}
    folders = {
        "gpt2": {"model_type": "gpt2"},
        "relative": {**bert, "num_hidden_layers": 2, "position_embedding_type": "relative_key"},
        "mish": {**bert, "num_hidden_layers": 2, "hidden_act": "mish"},
        "bert": {**bert, "num_hidden_layers": 2},
    }
    for name, config in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    save_file({"bert.pooler.dense.weight": torch.zeros(2)}, tmp_path / "bert" / "model.safetensors")
    wrong = artifacts.make_encoder("encoder-pre-gelu").state_dict()
    save_file({**wrong, "linear2.weight": torch.zeros(32, 63)}, tmp_path / "wrong.safetensors")
    save_file({**wrong, "linear2.weight": wrong["linear2.weight"].double()}, tmp_path / "double.safetensors")
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return tmp_path


BLOCKS = '''
import torch
from torch import nn

class Base(nn.Module):
    hidden_size = 4

class Mean(Base):
    """Its answer moves with its padding: the mean runs over all positions."""
    def forward(self, hidden_states, attention_mask):
        return hidden_states + hidden_states.mean(1, keepdim=True)

class Fixed(Base):
    def forward(self, hidden_states, attention_mask):
        return hidden_states.reshape(-1, 3, 4)[: hidden_states.shape[0]]

class Names(Base):
    def forward(self, hidden_states, attention_mask):
        return {"block_output": hidden_states, "a-b": hidden_states}

class Wrong(Base):
    def forward(self, hidden_states, attention_mask):
        return hidden_states[..., :2]

class Half(Base):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float16))

class Weighted(Base):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

class Strange(Base):
    def forward(self, hidden_states, attention_mask):
        return {"block_output": hidden_states, "pairs": hidden_states[:, :-1]}

class Number(Base):
    def forward(self, hidden_states, attention_mask):
        return 3

class Headless(Base):
    num_attention_heads = 0
    def forward(self, hidden_states, attention_mask):
        return hidden_states

class Untold(nn.Module):
    def forward(self, hidden_states, attention_mask):
        return hidden_states

class Remembering(Untold):
    def get_extra_state(self):
        return {}
    def set_extra_state(self, state):
        pass

class Raises(Base):
    def forward(self, hidden_states, attention_mask):
        raise ValueError("no")

def function():
    return 3
'''

PICKLE = (
    "is a pickle, and reading a pickle runs the code in it; where you trust the file, write it again with "
    "safetensors.torch.save_file(state_dict, 'model.safetensors')"
)
TORCH = "--source torch_encoder --num-attention-heads 4"
RANDOM = "--source random --hidden-size 8 --num-attention-heads 2 --intermediate-size 4"
MODULE = "--source module"
REFUSALS = [
    ("", "give a folder or --source, and --name; or --default for the default model"),
    ("other.safetensors", "there is no folder other.safetensors; for what is none give --source"),
    ("--source random", "a block needs hidden_size, num_attention_heads, intermediate_size"),
    ("--source random --layers 0:1", "--layers does not go with --source random"),
    ("x --source random", "FROM does not go with --source random"),
    (f"{RANDOM} --norm root", "norm must be one of none, layer, rms, rms_one_plus; got 'root'"),
    (f"{RANDOM} --placement post --parallel one_norm", "parallel one_norm goes with placement pre, got 'post'"),
    (f"{RANDOM} --num-key-value-heads 3", "num_key_value_heads must divide the 2 heads, got 3"),
    (f"{RANDOM} --num-layers 0", "num_layers must be an integer of at least 1, got 0"),
    (f"{RANDOM} --num-layers 4097", "num_layers must be an integer of at most 4096"),
    (f"{RANDOM} --hidden-size 1000000000", "hidden_size must be an integer of at most 16777216"),
    (
        f"{RANDOM} --hidden-size 16777216",
        "a block's largest matrix or table must have at most 2147483648 numbers",
    ),
    (
        f"{RANDOM} --hidden-size 1024 --config long.json",
        "long.json: a block's largest matrix or table must have at most 2147483648 numbers",
    ),
    ("--source random --config many.json", "many.json: a stack must have at most 4096 layers"),
    (f"{RANDOM} --norm-eps 1e19", "norm_eps must be a positive number of at most 1e+18"),
    (
        f"{RANDOM} --config short.json",
        "max_position_embeddings must be at least 3, the length of the artifact's golden request; got 2",
    ),
    (f"{RANDOM} --hidden-size 9", "hidden_size 9 does not divide into 2 heads; give head_dim"),
    (
        "--source random --config block.json",
        "block.json: unknown field 'num_heads'; the nearest is 'num_key_value_heads'",
    ),
    ("--source random --config list.json", "list.json must hold one JSON object"),
    ("--source random --config none.json", "there is no file none.json"),
    (
        f"{RANDOM} --name ../x",
        "--name '../x' must be 1 to 64 letters, digits, _ or -, and begin with a letter or digit",
    ),
    (f"{RANDOM} --version 01", "--version '01' must be a whole number from 1 to 999999999"),
    (
        "--source auto",
        "--source auto needs FROM: a folder with config.json and model.safetensors, or a model's id on the hub",
    ),
    ("nowhere --source auto", "there is no file nowhere/config.json"),
    ("gpt2", "there is no file gpt2/model.safetensors"),
    ("gpt2 --hidden-size 8", "--hidden-size does not go with --source auto"),
    ("gpt2 --tower text", "gpt2/config.json: --tower does not go with model_type 'gpt2', which has no two towers"),
    (
        "relative",
        "relative/config.json: position_embedding_type is 'relative_key', and only 'absolute' is supported",
    ),
    (
        "mish",
        (
            "mish/config.json: hidden_act is 'mish', and only relu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, "
            "silu, swish are supported"
        ),
    ),
    ("bert --layers 1:3", "--layers 1:3 is out of range: the source has 2 layers, so 0:2 is all of them"),
    ("bert --layers 1", "--layers must be FIRST:END, half-open, as 2:5; got '1'"),
    (
        "bert",
        (
            "bert/model.safetensors holds no layer of bert: expected names that begin with bert.encoder.layer. or "
            "encoder.layer., and the first of its 1 is bert.pooler.dense.weight"
        ),
    ),
    (f"model.bin {TORCH}", f"model.bin {PICKLE}"),
    (f"disguised.safetensors {TORCH}", f"disguised.safetensors {PICKLE}"),
    (f"none.safetensors {TORCH}", "there is no file none.safetensors"),
    (
        f"other.safetensors {TORCH}",
        "other.safetensors holds no nn.TransformerEncoderLayer and no nn.TransformerEncoder",
    ),
    (f"wrong.safetensors {TORCH}", "wrong.safetensors: linear2.weight has shape [32, 63], expected [32, 64]"),
    (
        f"double.safetensors {TORCH}",
        "double.safetensors: linear2.weight is torch.float64, which torch.float32 cannot hold exactly",
    ),
    ("wrong.safetensors --source torch_encoder", "a state dict does not tell its heads; give --num-attention-heads"),
    (
        "other.safetensors --source glassblock --config tiny.json",
        "other.safetensors has tensors that this config does not: weight",
    ),
    (f"{MODULE}", "--source module needs FROM: the import path, as my_package:MyBlock"),
    (f"blocks {MODULE}", "an import path is my_package:MyBlock, got 'blocks'"),
    (f"absent:Block {MODULE}", "absent:Block cannot be imported: No module named 'absent'"),
    (
        f"blocks:Absent {MODULE}",
        "blocks:Absent cannot be made: AttributeError: module 'blocks' has no attribute 'Absent'",
    ),
    (f"blocks:function {MODULE}", "blocks:function makes an int, not an nn.Module"),
    (f"blocks:Number {MODULE}", "forward must return a tensor or a dict with block_output, got an int"),
    (f"blocks:Headless {MODULE}", "the module's num_attention_heads must be at least 1, got 0"),
    (
        f"blocks:Mean {MODULE} --max-sequence-length 2",
        "--max-sequence-length must be at least 3, the length of the artifact's golden request; got 2",
    ),
    (f"blocks:Half {MODULE}", "blocks:Half: weight is torch.float16, and an artifact is float32"),
    (
        f"blocks:Weighted {MODULE}",
        "--source module needs --weights, a safetensors file of the module's state dict",
    ),
    (
        f"blocks:Weighted {MODULE} --weights other.safetensors",
        "other.safetensors: weight has shape [2], expected [4]",
    ),
    (f"blocks:Mean {MODULE} --hidden-size 5", "--hidden-size is 5, and the module's own hidden_size is 4"),
    (f"blocks:Untold {MODULE} --hidden-size 0", "a module's hidden_size must be 1 to 16777216, got 0"),
    (f"blocks:Untold {MODULE} --hidden-size -5", "a module's hidden_size must be 1 to 16777216, got -5"),
    (f"blocks:Remembering {MODULE}", "blocks:Remembering: _extra_state is a dict, and weights are tensors"),
    (f"blocks:Names {MODULE}", "'a-b' cannot name an output: letters, digits and _, and not an input's name"),
    (
        f"blocks:Wrong {MODULE}",
        "block_output must be [batch, sequence, 4]; for input [5, 2, 4] the module gave [5, 2, 2]",
    ),
    (
        f"blocks:Strange {MODULE}",
        "axis 1 of output pairs is 1 at length 2 and 2 at length 3: it must be the length itself, or fixed",
    ),
    (
        f"blocks:Raises {MODULE}",
        "the module fails on hidden_states [5, 2, 4]: ValueError: no",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS)
def test_a_refusal_is_one_sentence_and_leaves_nothing(
    words: str, sentence: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuse(words, place, capsys, monkeypatch) == sentence


@pytest.mark.long
def test_a_module_whose_answer_moves_with_padding_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = refuse("blocks:Mean --source module", place, capsys, monkeypatch)
    assert sentence.startswith("block_output is off by ")
    assert sentence.endswith(
        "; the oracle runs each sequence alone, so an answer that moves with its padding fails here"
    )


@pytest.mark.long
def test_a_breach_fails_the_export_and_names_output_batch_error_and_bound(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.parity
    from export.session import run_graph

    def planted(session: Any, hidden_states: Any, attention_mask: Any) -> Any:
        answer = run_graph(session, hidden_states, attention_mask)
        if "context" in answer:
            answer["context"] = answer["context"] + np.float32(0.25)
        return answer

    monkeypatch.setattr(export.parity, "run_graph", planted)
    sentence = refuse(RANDOM, place, capsys, monkeypatch)
    assert sentence.startswith("layers.0.context is off by 0.25 where 1")
    assert sentence.endswith(" is allowed, in the batch of lengths [1] with padding none, sequence 0")
