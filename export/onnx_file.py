"""Graphs → files over one weights.data: each tensor stored once, every graph checked."""

import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from export import ExportError
from export.graph_weights import is_weight
from export.sources import Source
from export.trace import Step, trace_graphs

WEIGHTS = "weights.data"
_PIECE_BYTES = 2**20
ALIGNMENT = 64  # a cache line, and what vector loads want


def write_graphs(source: Source, folder: Path, step: Step) -> None:
    """Writes model.onnx, layers/*.onnx, text/embeddings.onnx and weights.data into `folder`, checked.

    Raises:
        ExportError: torch cannot trace a module, or a graph is not what the contract says.
    """
    graphs = trace_graphs(source, step)
    gc.collect()  # torch's programs hold themselves, and the weights that they were traced with
    step("weights")
    with (folder / WEIGHTS).open("wb") as data:
        table = _Table(data)
        for graph in graphs.values():
            table.move(graph)
    for number, (path, graph) in enumerate(graphs.items(), start=1):
        step(f"check graph {number}/{len(graphs)}")
        _save(graph, folder, path)
    _verify(folder, list(graphs), table)


class _Table:
    """weights.data as it grows: where each tensor lies, by dtype, shape and bytes, so that none is stored twice."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._places: dict[tuple[ir.DataType, tuple[int, ...], str], tuple[int, int]] = {}
        self.digests: dict[tuple[int, int], str] = {}

    def move(self, graph: ir.Model) -> None:
        """Moves a graph's float tensors of rank 1 and more into the file; what is no weight stays inline."""
        for value in graph.graph.initializers.values():
            if is_weight(value.const_value) and not value.is_graph_input():
                value.const_value = self._external(value.const_value, str(value.name))

    def _external(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data  # no copy
        digest = hashlib.sha256(content).hexdigest()
        shape = tuple(tensor.shape.numpy())
        key = (tensor.dtype, shape, digest)
        if key not in self._places:
            self._places[key] = self._append(content)
            self.digests[self._places[key]] = digest
        offset, length = self._places[key]
        return ir.ExternalTensor(WEIGHTS, offset, length, tensor.dtype, shape=ir.Shape(shape), name=name)

    def _append(self, content: memoryview) -> tuple[int, int]:
        self._data.write(bytes(-self._data.tell() % ALIGNMENT))
        offset = self._data.tell()
        self._data.write(content)
        return offset, len(content)


def _save(graph: ir.Model, folder: Path, path: str) -> None:
    """Writes a graph beside weights.data, where its location is true, checks it there, and moves it to its place."""
    beside = folder / path.replace("/", "-")
    beside.write_bytes(ir.to_proto(graph).SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(str(beside), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses {path}: {error}") from error
    (folder / path).parent.mkdir(exist_ok=True)
    beside.replace(folder / path)


def _verify(folder: Path, paths: Sequence[str], table: _Table) -> None:
    """Reads everything back: one name is one place in all graphs, and each place holds the bytes that were traced."""
    places: dict[str, tuple[int, int]] = {}
    for path in paths:
        for tensor in onnx.load(folder / path, load_external_data=False).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            fields = {entry.key: entry.value for entry in tensor.external_data}
            place = (int(fields["offset"]), int(fields["length"]))
            if fields["location"] != WEIGHTS or places.setdefault(tensor.name, place) != place:
                raise ExportError(f"{path}: {tensor.name} does not lie where the other graphs have it")
    with (folder / WEIGHTS).open("rb") as data:
        for (offset, length), digest in table.digests.items():
            if _sha256(data, offset, length) != digest:
                raise ExportError(f"{WEIGHTS}: the bytes at {offset} are not those that were written")


def _sha256(data: BinaryIO, offset: int, length: int) -> str:
    """Of a part of a file, a piece at a time: a tensor may be a gigabyte."""
    digest = hashlib.sha256()
    data.seek(offset)
    for start in range(0, length, _PIECE_BYTES):
        digest.update(data.read(min(_PIECE_BYTES, length - start)))
    return digest.hexdigest()
