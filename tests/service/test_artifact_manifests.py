# ruff: noqa: E501 - a sentence that can be searched for stays in one line
"""Manifests that are none, that contradict themselves, or that promise an answer the graphs do not give (faults I)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.corruption import Corruption, change, copy_artifact, write
from tests.service.loading import Loading, load_all

HERE = "HERE/manifest.json:"
SHAPES = f"{HERE} golden: request, mask and answer differ in shape, or a mask hides all of its sequence"
AXES = f"{HERE} layers.0.outputs.1: axes and shape do not agree: batch is first, and -1 is for batch and sequence axes"
INPUTS = f"{HERE} inputs and outputs are not those of a block of hidden_size"
FRONT = {"tokenizer": "text/tokenizer.json", "embeddings": "text/embeddings.onnx", "vocab_size": 5, "max_tokens": 5}
SITES = (
    *("attention_input", "query", "key", "value", "attention_scores", "attention_weights", "context"),
    *("attention_output", "resid_mid", "ffn_input", "ffn_pre_activation", "ffn_post_activation", "ffn_output"),
    *("resid_post", "layer_output"),
)
FILE = {"sha256": "0" * 64, "bytes": 1}


def _edit(edit: Callable[[dict[str, Any]], object]) -> Corruption:
    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return spoil


def _optional(*sites: str) -> list[str]:
    return ["overridden", *(f"override_{site}" for site in sites)]


def _drop(layer: int, index: int) -> Corruption:
    """One output of a layer fewer, and no site of it."""

    def drop(manifest: dict[str, Any]) -> None:
        described = manifest["layers"][layer]
        described["editable"]["sites"].remove(described["outputs"].pop(index)["name"])

    return _edit(drop)


def _replace(make: Callable[[Path], object]) -> Corruption:
    def spoil(folder: Path) -> None:
        (folder / "manifest.json").rename(folder.parent / "kept.json")
        make(folder / "manifest.json")

    return spoil


def _text(data: bytes | Callable[[bytes], bytes]) -> Corruption:
    return write("manifest.json", data)


CASES: dict[str, tuple[Corruption, str]] = {
    "missing": (_replace(lambda _: None), f"{HERE} No such file or directory"),
    "a folder": (_replace(lambda path: path.mkdir()), f"{HERE} expected a file, found a folder"),
    "a link": (_replace(lambda path: path.symlink_to("../kept.json")), f"{HERE} expected a file, found a symbolic link"),
    "a pipe": (_replace(os.mkfifo), f"{HERE} expected a regular file with a single link"),
    "empty": (_text(b""), f"{HERE} not JSON: Input is a zero-length, empty document in line 1"),
    "a page": (_text(b"<!DOCTYPE html>"), f"{HERE} not JSON: unexpected character, expected a JSON value in line 1"),
    "cut": (_text(lambda b: b[:40]), f"{HERE} not JSON: unexpected end of data in line 3"),
    "deep": (_text(b"[" * 100_000), f"{HERE} not JSON: depth limit exceeded in line 1"),
    "a list": (_text(b"[]"), f"{HERE} Input should be a valid dictionary or instance of ModelSpec"),
    "unknown field": (change("surprise", value=1), f"{HERE} surprise: Extra inputs are not permitted"),
    "field missing": (_edit(lambda m: m.pop("golden")), f"{HERE} golden: Field required"),
    "another format": (change("format", value="glassblock/2"), f"{HERE} format: Input should be 'glassblock/1'"),
    "another precision": (change("precision", value="float16"), f"{HERE} precision: Input should be 'float32'"),
    "name of another folder": (change("name", value="other"), "HERE: its manifest says other/1"),
    "version of another folder": (change("version", value="2"), "HERE: its manifest says tiny/2"),
    "name that climbs": (change("name", value="../x"), f"{HERE} name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}$'"),
    "version a number": (change("version", value=1), f"{HERE} version: Input should be a valid string"),
    "hash wrong": (change("files", "model.onnx", "sha256", value="0" * 64), "HERE/model.onnx: its SHA-256 is not the manifest's; the file was changed after the export"),
    "hash short": (change("files", "model.onnx", "sha256", value="00"), f"{HERE} files.model.onnx.sha256: String should match pattern '^[0-9a-f]{{64}}$'"),
    "size wrong": (change("files", "weights.data", "bytes", value=5345), "HERE/weights.data: expected 5345 bytes, found 5344"),
    "size negative": (change("files", "weights.data", "bytes", value=-1), f"{HERE} files.weights.data.bytes: Input should be greater than or equal to 0"),
    "file not listed": (_edit(lambda m: m["files"].pop("layers/1.onnx")), f"{HERE} files: layers/1.onnx is not listed"),
    "file listed outside": (change("files", "../x", value=FILE), "HERE/../x: in the manifest, but missing"),
    "file listed absolute": (change("files", "/etc/passwd", value=FILE), "/etc/passwd: in the manifest, but missing"),
    "text without its files": (change("text", value=FRONT), f"{HERE} files: text/embeddings.onnx is not listed"),
    "text from elsewhere": (change("text", value={**FRONT, "tokenizer": "../x"}), f"{HERE} text.tokenizer: Input should be 'text/tokenizer.json'"),
    "hidden size 16": (change("hidden_size", value=16), f"{INPUTS} 16"),
    "no inputs": (change("inputs", value=[]), f"{INPUTS} 8"),
    "positions without a limit": (_edit(lambda m: m["inputs"].append({**m["inputs"][1], "name": "position_ids"})), f"{HERE} limits.max_sequence_length is null, and position_ids must be below it"),
    "output renamed": (change("outputs", 0, "name", value="other"), f"{INPUTS} 8"),
    "axes short": (change("layers", 0, "outputs", 1, "axes", value=["batch"]), AXES),
    "axes without a sequence": (change("layers", 0, "outputs", 1, "axes", value=["batch", "x", "y"]), AXES),
    "layers none": (change("layers", value=[]), f"{HERE} layers: List should have at least 1 item after validation, not 0"),
    "layers reversed": (_edit(lambda m: m["layers"].reverse()), f"{HERE} the layers' graphs are not layers/0.onnx, layers/1.onnx and so on"),
    "layer without output": (_drop(0, -1), f"{HERE} a layer before the last has no layer_output"),
    "probe dropped": (_drop(1, 14), "HERE/layers/1.onnx: differs from manifest.json: output ('layer_output', 'tensor(float)', [-1, -1, 8]) in the manifest, ('resid_post', 'tensor(float)', [-1, -1, 8]) in the graph; 15 outputs in the manifest, 16 in the graph"),
    "last layer without output": (_drop(1, -1), f"{HERE} the last layer has neither layer_output nor block_output"),
    "site of nothing": (change("layers", 0, "editable", "sites", 0, value="nothing"), f"{HERE} layers.0: a site of the editable graph is none of its outputs"),
    "site that is given": (change("layers", 0, "editable", "sites", 0, value="layer_input"), f"{HERE} layers.0: a site of the editable graph is none of its outputs"),
    "sites of another graph": (_edit(lambda m: m["layers"][1]["editable"]["sites"].reverse()), f"HERE/layers/1.editable.onnx: differs from manifest.json: optional inputs {_optional(*reversed(SITES))} in the manifest, {_optional(*SITES)} in the graph"),
    "editable graph of another layer": (change("layers", 1, "editable", "graph", value="layers/0.editable.onnx"), f"{HERE} the layers' graphs are not layers/0.onnx, layers/1.onnx and so on"),
    "editable graph not listed": (_edit(lambda m: m["files"].pop("layers/0.editable.onnx")), f"{HERE} files: layers/0.editable.onnx is not listed"),
    "alias of nothing": (change("aliases", value={"answer": "nothing"}), f"{HERE} an alias must stand for block_output and be no probe's name"),
    "alias over a probe": (change("aliases", value={"query": "block_output"}), f"{HERE} an alias must stand for block_output and be no probe's name"),
    "length 0": (change("limits", "max_sequence_length", value=0), f"{HERE} limits.max_sequence_length: Input should be greater than or equal to 1"),
    "golden answer changed": (change("golden", "answer", "block_output", 0, 0, 0, value=9.0), "HERE: block_output is 7.8e+00 from the golden answer, the manifest allows 4.5e-05"),
    "golden request changed": (change("golden", "request", "hidden_states", 1, 0, 0, value=9.0), "HERE: block_output is 9.7e+00 from the golden answer, the manifest allows 4.5e-05"),
    "golden request infinite": (change("golden", "request", "hidden_states", 0, 0, 0, value=1e300), "HERE: block_output is nan from the golden answer, the manifest allows 4.5e-05"),
    "golden answer NaN": (change("golden", "answer", "block_output", 1, 0, 0, value=float("nan")), f"{HERE} not JSON: unexpected character, expected a JSON value in line 1"),
    "golden tolerance 0": (change("golden", "tolerance", value=0), f"{HERE} golden.tolerance: Input should be greater than 0"),
    "golden tolerance infinite": (_text(b'{"tolerance": 1e999}'), f"{HERE} not JSON: number is infinity when parsed as double in line 1"),
    "golden empty": (change("golden", value={"request": {"hidden_states": [], "attention_mask": []}, "answer": {"block_output": []}, "tolerance": 1.0}), SHAPES),
    "golden ragged": (change("golden", "request", "hidden_states", 0, 0, value=[1.0]), SHAPES),
    "golden mask long": (change("golden", "request", "attention_mask", 0, value=[1, 1, 1, 1]), SHAPES),
    "golden all masked": (change("golden", "request", "attention_mask", value=[[0, 0, 0], [0, 0]]), SHAPES),
    "golden answers fewer": (_edit(lambda m: m["golden"]["answer"]["block_output"].pop()), SHAPES),
    "golden of another width": (change("golden", value={"request": {"hidden_states": [[[1.0]]], "attention_mask": [[1]]}, "answer": {"block_output": [[[1.0]]]}, "tolerance": 1.0}), f"{HERE} the golden request is not of hidden_size 8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> dict[str, Loading]:
    """How loading ended for every case."""
    root = tmp_path_factory.mktemp("artifacts")
    folders = {name: copy_artifact(artifact("tiny"), root / str(i)) for i, name in enumerate(CASES)}
    for name, folder in folders.items():
        CASES[name][0](folder)
    return load_all(folders)


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_that_cannot_be_true_is_refused_in_words(loaded: dict[str, Loading], name: str) -> None:
    assert loaded[name].refusal == CASES[name][1]
    assert loaded[name].seconds < 5
