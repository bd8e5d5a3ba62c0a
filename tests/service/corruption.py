"""Ways to spoil a copy of an artifact, and small graphs to put in the place of its own."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

Corruption = Callable[[Path], object]
HIDDEN_SIZE = 8


def copy_artifact(source: Path, root: Path) -> Path:
    """A copy of a version folder under `root`, to be spoilt."""
    return Path(shutil.copytree(source, root / source.parent.name / source.name))


def rehash(folder: Path) -> None:
    """Makes the manifest list the files as they are now."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    entries = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }
    change("files", value=entries)(folder)


def write(name: str, data: bytes | Callable[[bytes], bytes], *, hashed: bool = False) -> Corruption:
    """Other bytes in a file; hashed: the manifest agrees with them."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
        if hashed:
            rehash(folder)

    return spoil


def change(*path: str | int, value: Any) -> Corruption:
    """Another value at a place of the manifest."""

    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        place = manifest
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return spoil


def swap(first: str, second: str, *, hashed: bool = False) -> Corruption:
    """Each file under the other's name."""

    def spoil(folder: Path) -> None:
        data = (folder / first).read_bytes()
        (folder / first).write_bytes((folder / second).read_bytes())
        (folder / second).write_bytes(data)
        if hashed:
            rehash(folder)

    return spoil


def graph(
    *,
    hidden_size: int = HIDDEN_SIZE,
    output: str = "block_output",
    dtype: int = TensorProto.FLOAT,
    operator: str = "Identity",
    domain: str = "",
    opset: int = 20,
    ir_version: int = 10,
    external: dict[str, str] | None = None,
) -> bytes:
    """A valid graph of a block's two inputs: one operator, or a sum with a tensor of external data."""
    mask: list[str | int | None] = ["batch", "sequence"]
    states = [*mask, hidden_size]
    inputs = [
        helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, states),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, mask),
    ]
    attributes: dict[str, Any] = {"to": dtype} if operator == "Cast" else {}
    nodes = [helper.make_node(operator, ["hidden_states"], [output], domain=domain, **attributes)]
    weights = []
    if external:
        weights = [
            TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[hidden_size], data_location=TensorProto.EXTERNAL)
        ]
        for key, value in external.items():
            weights[0].external_data.add(key=key, value=value)
        nodes = [helper.make_node("Add", ["hidden_states", "w"], [output])]
    outputs = [helper.make_tensor_value_info(output, dtype, states)]
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_graph(nodes, "spoilt", inputs, outputs, weights)
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=ir_version).SerializeToString())


def embeddings(*, rows: int = 3, positions: int = 4, hidden_size: int = HIDDEN_SIZE) -> bytes:
    """A text front's graph: rows of a table plus rows of positions."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [rows, hidden_size], [0.5] * rows * hidden_size)
    where = helper.make_tensor("where", TensorProto.FLOAT, [positions, hidden_size], [0.1] * positions * hidden_size)
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["where", "zero", "length"], ["here"]),
        helper.make_node("Add", ["found", "here"], ["hidden_states"]),
    ]
    axes: list[Any] = ["batch", "sequence"]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, axes)
    states = helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, [*axes, hidden_size])
    made = helper.make_graph(nodes, "front", [ids], [states], [table, where, zero])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def give_text(
    folder: Path, *, graph: bytes | None = None, tokenizer: bytes = b"", vocab_size: int = 3, max_tokens: int | None = 4
) -> None:
    """Gives the artifact a text front of three words and four positions."""
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))  # noqa: S106 - not that kind of token
    (folder / "text").mkdir()
    (folder / "text/tokenizer.json").write_bytes(tokenizer or words.to_str().encode())
    (folder / "text/embeddings.onnx").write_bytes(graph or embeddings())
    front = {
        "tokenizer": "text/tokenizer.json",
        "embeddings": "text/embeddings.onnx",
        "vocab_size": vocab_size,
        "max_tokens": max_tokens,
    }
    change("text", value=front)(folder)
    rehash(folder)
