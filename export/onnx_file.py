"""torch.onnx → graphs over one weights.data: each tensor stored once, every graph checked."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeGuard

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from export import ExportError
from export.probes import DYNAMIC_AXES, TensorSpec, inputs, stream
from export.sources import Source

OPSET = 20  # the first with Gelu, and old enough for every onnxruntime in use
WEIGHTS = "weights.data"
ALIGNMENT = 64  # a cache line, and what vector loads want

Step = Callable[[str], None]


class _Named(nn.Module):
    """A module whose dict of tensors comes out as a tuple in the graph's order."""

    def __init__(self, inner: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.names = tuple(names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        answer = self.inner(*tensors)
        return tuple(answer[name] for name in self.names) if isinstance(answer, dict) else (answer,)


def write_graphs(source: Source, folder: Path, step: Step) -> None:
    """Writes model.onnx, layers/*.onnx, text/embeddings.onnx and weights.data into `folder`, checked.

    Raises:
        ExportError: torch cannot trace a module, or a graph is not what the contract says.
    """
    graphs = _trace_all(source, step)
    step("weights")
    with (folder / WEIGHTS).open("wb") as data:
        table = _Table(data)
        for graph in graphs.values():
            table.move(graph)
    for number, (path, graph) in enumerate(graphs.items(), start=1):
        step(f"check graph {number}/{len(graphs)}")
        _save(graph, folder, path)
    _verify(folder, list(graphs), table)


def _trace_all(source: Source, step: Step) -> dict[str, ir.Model]:
    takes = inputs(source.hidden_size)
    step("trace model.onnx")
    longest = source.max_sequence_length
    lean = _trace(source.model, takes, (stream("block_output", source.hidden_size),), longest=longest)
    graphs = {"model.onnx": lean}
    for index, layer in enumerate(source.layers):
        step(f"trace layer {index + 1}/{len(source.layers)}")
        graphs[f"layers/{index}.onnx"] = _trace(layer.module, takes, layer.outputs, layer.prefix, longest)
    if source.text:
        step("trace text front")
        ids = TensorSpec("input_ids", "int64", ("batch", "sequence"), (-1, -1))
        gives = (stream("hidden_states", source.hidden_size),)
        graphs["text/embeddings.onnx"] = _trace(source.text.embeddings, (ids,), gives, "embeddings.")
    return graphs


def _trace(
    module: nn.Module,
    takes: Sequence[TensorSpec],
    gives: Sequence[TensorSpec],
    prefix: str = "",
    longest: int | None = None,
) -> ir.Model:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    names = [spec.name for spec in gives]
    with _quiet():
        try:
            program = torch.onnx.export(
                _Named(module, names).eval(),
                tuple(example(spec, 2, 3) for spec in takes),
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in takes],
                output_names=names,
                # One entry, because the wrapper takes its tensors as *tensors.
                dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in takes),),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"torch.onnx cannot export the module: {_cause(error)}") from error
    assert program is not None  # noqa: S101 - the None of its signature belongs to dynamo=False
    graph: ir.Model = program.model
    ClearMetadataAndDocStringPass()(graph)  # it holds stack traces with this machine's paths
    _rename_weights(graph, prefix)
    _hold_to_contract(graph, takes, gives)
    return graph


def example(spec: TensorSpec, batch: int, sequence: int) -> Tensor:
    """A small input for tracing: sizes of at least 2 and different, as torch.export takes 1 and equal ones as facts."""
    shape = [
        batch if axis == "batch" else sequence if size < 0 else size
        for axis, size in zip(spec.axes, spec.shape, strict=True)
    ]
    if spec.dtype == "int64":
        return torch.ones(shape, dtype=torch.int64)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n", 1)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks on its own insides from the person who exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _rename_weights(graph: ir.Model, prefix: str) -> None:
    """Gives each parameter its name in the whole model, as Stack.state_dict() has it.

    A constant that torch made on the way (a transposed weight of nn.Linear) is named by its bytes: torch's own
    numbering differs from graph to graph, and one name must mean one tensor in all of them.
    """
    for name, value in list(graph.graph.initializers.items()):
        if name.startswith("inner."):
            short = name.removeprefix("inner.").removeprefix("block.")
            value.name = short if short.startswith("final_norm.") else prefix + short
        elif _is_weight(value.const_value):
            value.name = f"constant_{hashlib.sha256(value.const_value.tobytes()).hexdigest()[:16]}"


def _is_weight(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.TensorProtocol]:
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.shape.rank() > 0


def _hold_to_contract(graph: ir.Model, takes: Sequence[TensorSpec], gives: Sequence[TensorSpec]) -> None:
    foreign = sorted({node.domain for node in graph.graph.all_nodes()} - {""})
    if foreign:
        raise ExportError(f"the graph uses operators outside ONNX's own: {', '.join(foreign)}")
    _hold_values(graph.graph.inputs, takes)
    _hold_values(graph.graph.outputs, gives)


def _hold_values(values: Sequence[ir.Value], specs: Sequence[TensorSpec]) -> None:
    for value, spec in zip(values, specs, strict=True):
        got = [dim if isinstance(dim, int) else -1 for dim in value.shape or ()]
        dtype = value.dtype.name.replace("FLOAT", "FLOAT32") if value.dtype == ir.DataType.FLOAT else str(value.dtype)
        if value.name != spec.name or dtype.lower() != spec.dtype or got != list(spec.shape):
            raise ExportError(
                f"the traced graph gives {value.name} as {dtype.lower()} {got}, expected {spec.name} as {spec.dtype} "
                f"{list(spec.shape)} (-1 is batch or length): something in the module fixes a size"
            )
        value.shape = ir.Shape(_dim(axis, size) for axis, size in zip(spec.axes, spec.shape, strict=True))


def _dim(axis: str, size: int) -> int | str:
    if axis in DYNAMIC_AXES:
        return "batch" if axis == "batch" else "sequence"
    return size


class _Table:
    """weights.data as it grows: where each tensor lies, by dtype, shape and bytes, so that none is stored twice."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._places: dict[tuple[ir.DataType, tuple[int, ...], str], tuple[int, int]] = {}
        self.digests: dict[tuple[int, int], str] = {}

    def move(self, graph: ir.Model) -> None:
        """Moves a graph's float tensors of rank 1 and more into the file; scalars and integers stay inline."""
        for value in graph.graph.initializers.values():
            if _is_weight(value.const_value):
                value.const_value = self._external(value.const_value, str(value.name))

    def _external(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        content = tensor.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        shape = tuple(tensor.shape.numpy())
        key = (tensor.dtype, shape, digest)
        if key not in self._places:
            self._places[key] = self._append(content)
            self.digests[self._places[key]] = digest
        offset, length = self._places[key]
        return ir.ExternalTensor(WEIGHTS, offset, length, tensor.dtype, shape=ir.Shape(shape), name=name)

    def _append(self, content: bytes) -> tuple[int, int]:
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
            data.seek(offset)
            if hashlib.sha256(data.read(length)).hexdigest() != digest:
                raise ExportError(f"{WEIGHTS}: the bytes at {offset} are not those that were written")
