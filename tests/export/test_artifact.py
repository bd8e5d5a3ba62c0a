"""Exported artifacts: their contract, their graphs, their numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.batches import pad
from export.place import file_sha256
from export.proof import tolerance
from tests import artifacts

SCHEMA = json.loads((artifacts.ROOT / "docs" / "artifact.schema.json").read_text(encoding="utf-8"))
MORE = ("causal-final-norm", "rotary", "unlike")
ALL = (*artifacts.SERVED, *(pytest.param(name, marks=pytest.mark.long) for name in MORE))


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
    sites = [site for layer in manifest["layers"] for site in (layer["editable"] or {"sites": []})["sites"]]
    assert manifest["parity"]["overridden_sites"] == len(sites)
    assert bool(sites) == (manifest["config"] is not None)
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


@pytest.mark.parametrize("name", [name for name in ALL if name != "my-block"])
def test_an_editable_graph_is_its_layer_with_optional_inputs_for_every_site(
    name: str, artifact: Callable[[str], Path]
) -> None:
    folder = artifact(name)
    manifest = manifest_of(folder)
    inputs = [spec["name"] for spec in manifest["inputs"]]
    for layer in manifest["layers"]:
        specs = {spec["name"]: spec for spec in layer["outputs"]}
        sites = layer["editable"]["sites"]
        assert sites == [name for name in specs if name not in {"layer_input", "block_output"}]
        graph = onnx.load(folder / layer["editable"]["graph"], load_external_data=False).graph
        optional = ["overridden", *(f"override_{site}" for site in sites)]
        assert [value.name for value in graph.input] == [*inputs, *optional]
        flags = graph.input[len(inputs)].type.tensor_type
        assert (flags.elem_type, [dim.dim_value for dim in flags.shape.dim]) == (onnx.TensorProto.BOOL, [len(sites)])
        assert [value_facts(value) for value in graph.output] == [spec_facts(spec) for spec in layer["outputs"]]
        assert [value_facts(value)[1] for value in graph.input[len(inputs) + 1 :]] == [onnx.TensorProto.FLOAT] * len(
            sites
        )
        assert {*optional} <= {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("name", ALL)
def test_model_onnx_opens_by_path_and_gives_the_golden_answer(name: str, artifact: Callable[[str], Path]) -> None:
    folder = artifact(name)
    golden = manifest_of(folder)["golden"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {
        "hidden_states": pad([np.array(rows, np.float32) for rows in golden["request"]["hidden_states"]]),
        "attention_mask": pad([np.array(mask, np.int64) for mask in golden["request"]["attention_mask"]]),
    }
    if name in {"rotary", "unlike"}:
        feeds["position_ids"] = np.broadcast_to(np.arange(3), (2, 3))
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


@pytest.mark.long
def test_a_layer_range_keeps_the_sources_numbers(artifact: Callable[[str], Path]) -> None:
    manifest = manifest_of(artifact("minilm-2-5"))
    assert manifest["source"]["layers"] == [2, 5]
    assert [(layer["graph"], layer["source_layer"]) for layer in manifest["layers"]] == [
        ("layers/0.onnx", 2), ("layers/1.onnx", 3), ("layers/2.onnx", 4),
    ]  # fmt: skip
    assert manifest["text"] is None
