# ruff: noqa: E501 - a sentence that can be searched for stays in one line
"""Files of an artifact that are not what the manifest promises, or not what a graph may be (faults I, goal G11)."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.artifact_files import read_verified
from service.errors import StartError
from service.manifest import read_manifest
from tests.service.corruption import Corruption, copy_artifact, embeddings, give_text, graph, swap, write
from tests.service.loading import Loading, load_all

CHANGED = "its SHA-256 is not the manifest's; the file was changed after the export"
REFUSED = "HERE/model.onnx: onnxruntime refuses it:"
DIFFERS = "HERE/model.onnx: differs from manifest.json:"
UNPARSED = f"{REFUSED} Failed to load model because protobuf parsing failed."
FAR = "from the golden answer, the manifest allows"
PROMISED = "in the manifest, but missing"


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return data.getvalue()


def _move(name: str, to: str) -> Corruption:
    return lambda folder: (folder / name).rename(folder / to)


def _link_hard(folder: Path) -> None:
    os.link(folder / "weights.data", folder.parent / "second")


def _link(name: str) -> Corruption:
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return spoil


def _make_pipe(folder: Path) -> None:
    (folder / "weights.data").unlink()
    os.mkfifo(folder / "weights.data")


def _flip(data: bytes) -> bytes:
    return data[:2_000] + bytes([data[2_000] ^ 1]) + data[2_001:]


def _rename_output(data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    last = next(node for node in model.graph.node if "block_output" in node.output)
    last.output[list(last.output).index("block_output")] = "other"
    model.graph.output[0].name = "other"
    return bytes(model.SerializeToString())


def _external(**entries: str) -> Corruption:
    return write("model.onnx", graph(external=entries), hashed=True)


def _onnx(data: bytes | Callable[[bytes], bytes]) -> Corruption:
    return write("model.onnx", data, hashed=True)


TABLE = "not found from the table user provided."
OUT = "External initializer: w offset:"
BOUNDS = "size to read: 32 given file_length: 5344 are out of bounds or can not be read in full."
OPSET = (
    "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. Opset 99 is "
    "under development and support for this is limited. The operator schemas and or other functionality may change "
    "before next ONNX release and in this case ONNX Runtime will not guarantee ba"
)
CASES: dict[str, tuple[Corruption, str]] = {
    "graph empty": (write("model.onnx", b""), "HERE/model.onnx: expected MODEL_SIZE bytes, found 0"),
    "graph longer": (write("model.onnx", lambda b: b + b"\0"), "HERE/model.onnx: expected at most MODEL_SIZE bytes, found MODEL_SIZE_AND_1"),
    "graph missing": (lambda folder: (folder / "model.onnx").unlink(), f"HERE/model.onnx: {PROMISED}"),
    "graph empty, hashed": (_onnx(b""), f"{REFUSED} No graph was found in the protobuf."),
    "graph random": (_onnx(np.random.default_rng(0).bytes(5_000)), UNPARSED),
    "graph cut": (_onnx(lambda b: b[: len(b) // 2]), UNPARSED),
    "graph a byte short": (_onnx(lambda b: b[:-1]), UNPARSED),
    "graph HTML": (_onnx(b"<!DOCTYPE html><title>404</title>"), UNPARSED),
    "graph ELF": (_onnx(b"\x7fELF\x02\x01\x01" + bytes(57)), UNPARSED),
    "graph zip": (_onnx(_zip()), UNPARSED),
    "graph pickle": (_onnx(pickle.dumps({"weights": [1.0]})), UNPARSED),
    "graph twice": (_onnx(lambda b: b + b), f"{REFUSED} Error: Duplicate definition-site for (hidden_states)."),
    "opset 99": (_onnx(graph(opset=99)), f"{REFUSED} {OPSET}"),
    "IR version 99": (_onnx(graph(ir_version=99)), f"{REFUSED} Unsupported model IR version: 99, max supported IR version: 14"),
    "operator of another domain": (_onnx(graph(operator="Run", domain="other.example")), f"{REFUSED} Fatal error: other.example:Run(-1) is not a registered function/op"),
    "unknown operator": (_onnx(graph(operator="Run")), f'{REFUSED} This is an invalid model. In Node, ("", Run, "", -1) : ("hidden_states": tensor(float),) -> ("block_output": tensor(float),) , Error No Op registered for Run with domain_version of 20'),
    "output renamed": (_onnx(_rename_output), f"{DIFFERS} output ('block_output', 'tensor(float)', [-1, -1, 8]) in the manifest, ('other', 'tensor(float)', [-1, -1, 8]) in the graph"),
    "output double": (_onnx(graph(operator="Cast", dtype=11)), f"{DIFFERS} output ('block_output', 'tensor(float)', [-1, -1, 8]) in the manifest, ('block_output', 'tensor(double)', [-1, -1, 8]) in the graph"),
    "hidden size 16": (_onnx(graph(hidden_size=16)), f"{DIFFERS} input ('hidden_states', 'tensor(float)', [-1, -1, 8]) in the manifest, ('hidden_states', 'tensor(float)', [-1, -1, 16]) in the graph; output ('block_output', 'tensor(float)', [-1, -1, 8]) in the manifest, ('block_output', 'tensor(float)', [-1, -1, 16]) in the graph"),
    "another block's graph": (_onnx(graph()), f"HERE: block_output is 6.0e+00 {FAR} 4.5e-05"),
    "external ../": (_external(location="../weights.data"), f"{REFUSED} External file: ../weights.data {TABLE}"),
    "external absolute": (_external(location="/etc/passwd", length="32"), f"{REFUSED} External file: /etc/passwd {TABLE}"),
    "external in the folder served from": (_external(location="pyproject.toml", length="32"), f"{REFUSED} External file: pyproject.toml {TABLE}"),
    "external in memory": (_external(location="*/_ORT_MEM_ADDR_/*", offset="4096", length="32"), f"{REFUSED} !utils::HasExternalDataInMemory(tensor) was false. Initializer 'w' references an ORT in-memory address marker, which is not allowed in a model protobuf."),
    "external offset 2^62": (_external(location="weights.data", offset=str(2**62), length="32"), f"{REFUSED} {OUT} {2**62} {BOUNDS}"),
    "external offset -32": (_external(location="weights.data", offset="-32", length="32"), f"{REFUSED} {OUT} -32 {BOUNDS}"),
    "external past the end": (_external(location="weights.data", offset="5340", length="32"), f"{REFUSED} {OUT} 5340 {BOUNDS}"),
    "external nowhere": (_external(offset="0"), f"{REFUSED} model format error! Missing 'location'"),
    "weights missing": (lambda folder: (folder / "weights.data").unlink(), f"HERE/weights.data: {PROMISED}"),
    "weights short": (write("weights.data", lambda b: b[:-1]), "HERE/weights.data: expected 5344 bytes, found 5343"),
    "weights empty": (write("weights.data", b""), "HERE/weights.data: expected 5344 bytes, found 0"),
    "weights of the same size": (write("weights.data", lambda b: b[::-1]), f"HERE/weights.data: {CHANGED}"),
    "weights with one bit flipped": (write("weights.data", _flip), f"HERE/weights.data: {CHANGED}"),
    "weights swapped, hashed": (write("weights.data", lambda b: bytes(len(b)), hashed=True), f"HERE: block_output is 6.0e+00 {FAR} 4.5e-05"),
    "weights linked hard": (_link_hard, "HERE/weights.data: expected a regular file with a single link"),
    "weights linked": (_link("weights.data"), "HERE/weights.data: expected a file, found a symbolic link"),
    "weights a pipe": (_make_pipe, "HERE/weights.data: expected a regular file with a single link"),
    "weights under another name": (_move("weights.data", "weights.bin"), "HERE/weights.bin: not in the manifest"),
    "layers linked": (_link("layers"), "HERE/layers: not in the manifest"),
    "layer random": (write("layers/1.onnx", bytes(99), hashed=True), "HERE/layers/1.onnx: onnxruntime refuses it: Failed to load model because protobuf parsing failed."),
    "layers swapped": (swap("layers/0.onnx", "layers/1.onnx"), "HERE/layers/0.onnx: expected at most LAYER_0_SIZE bytes, found LAYER_1_SIZE"),
    "layers swapped, hashed": (swap("layers/0.onnx", "layers/1.onnx", hashed=True), f"HERE: block_output by layers is 3.9e+00 {FAR} 4.5e-05"),
    "extra file": (lambda folder: (folder / "run.py").touch(), "HERE/run.py: not in the manifest"),
    "extra hidden file": (lambda folder: (folder / "layers/.x").touch(), "HERE/layers/.x: not in the manifest"),
    "extra link": (lambda folder: (folder / "x").symlink_to("/etc"), "HERE/x: not in the manifest"),
    "tokenizer random": (lambda folder: give_text(folder, tokenizer=b"x"), "HERE/text/tokenizer.json: not a tokenizer: Cannot instantiate Tokenizer from buffer: expected value at line 1 column 1"),
    "embeddings random": (lambda folder: give_text(folder, graph=b"x"), "HERE/text/embeddings.onnx: onnxruntime refuses it: Failed to load model because protobuf parsing failed."),
    "embeddings of hidden size 16": (lambda folder: give_text(folder, graph=embeddings(hidden_size=16)), "HERE/text/embeddings.onnx: differs from manifest.json: output ('hidden_states', 'tensor(float)', [-1, -1, 8]) in the manifest, ('hidden_states', 'tensor(float)', [-1, -1, 16]) in the graph"),
    "an id too many": (lambda folder: give_text(folder, vocab_size=4), "HERE/text/embeddings.onnx: takes fewer ids or positions than the manifest says"),
    "no last position": (lambda folder: give_text(folder, max_tokens=None), "HERE/text/embeddings.onnx: takes fewer ids or positions than the manifest says"),
    "a position too many": (lambda folder: give_text(folder, max_tokens=5), "HERE/text/embeddings.onnx: takes fewer ids or positions than the manifest says"),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> dict[str, Loading]:
    """How loading ended for every case, and for two artifacts that are right."""
    root = tmp_path_factory.mktemp("artifacts")
    spoils: dict[str, Corruption] = {name: spoil for name, (spoil, _) in CASES.items()}
    spoils |= {"right": lambda _: None, "right, with text": give_text}
    folders = {name: copy_artifact(artifact("tiny"), root / str(i)) for i, name in enumerate(spoils)}
    for name, folder in folders.items():
        spoils[name](folder)
    return load_all(folders)


@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_refused_in_words(
    loaded: dict[str, Loading], artifact: Callable[[str], Path], name: str
) -> None:
    size = {path.stem: path.stat().st_size for path in artifact("tiny").rglob("*.onnx")}
    numbers = {
        "MODEL_SIZE_AND_1": size["model"] + 1,
        "MODEL_SIZE": size["model"],
        "LAYER_0_SIZE": size["0"],
        "LAYER_1_SIZE": size["1"],
    }
    sentence = CASES[name][1]
    for word, number in numbers.items():
        sentence = sentence.replace(word, str(number))
    assert loaded[name].refusal == sentence
    assert loaded[name].seconds < 5


@pytest.mark.parametrize("name", ["right", "right, with text"])
def test_the_same_artifact_unspoilt_is_loaded(loaded: dict[str, Loading], name: str) -> None:
    assert loaded[name].refusal is None


def test_every_one_of_1_000_flipped_bits_is_found(tmp_path: Path, artifact: Callable[[str], Path]) -> None:
    folder = copy_artifact(artifact("tiny"), tmp_path)
    spec = read_manifest((folder / "manifest.json").read_bytes(), "")
    kept = {name: (folder / name).read_bytes() for name in spec.files}
    bits = [(name, bit) for name, data in kept.items() for bit in range(8 * len(data))]
    for index in np.random.default_rng(11).choice(len(bits), 1_000, replace=False):
        name, bit = bits[index]
        data = bytearray(kept[name])
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)
        with pytest.raises(StartError, match="its SHA-256 is not the manifest's"):
            read_verified(folder, name, spec)
        (folder / name).write_bytes(kept[name])
    assert all(read_verified(folder, name, spec) == data for name, data in kept.items())
