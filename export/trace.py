"""torch.onnx → graphs in memory: names, axes and operators as the contract says."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from export import ExportError
from export.chain import chain_layers
from export.config import BlockConfig
from export.editable import Editable, finish, plain
from export.graph_weights import emptied, filled, rename_weights
from export.probes import TensorSpec, overrides, sites, stream
from export.sources import Layer, Source

OPSET = 20  # the first with Gelu, and old enough for every onnxruntime in use

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


def trace_graphs(source: Source, step: Step) -> dict[str, ir.Model]:
    """All graphs of a source by their path, weights inside.

    Raises:
        ExportError: torch cannot trace a module, or a graph is not what the contract says.
    """
    takes = source.inputs
    tracer = _Tracer(source)
    graphs: dict[str, ir.Model] = {}
    for index, layer in enumerate(source.layers):
        step(f"trace layer {index + 1}/{len(source.layers)}")
        graphs |= tracer(index, layer)
    step("chain the layers")
    graphs["model.onnx"] = chain_layers([graphs[layer_graph(index)] for index in range(len(source.layers))])
    _hold_to_contract(graphs["model.onnx"], takes, (stream("block_output", source.hidden_size),))
    if source.text:
        step("trace text front")
        ids = TensorSpec("input_ids", "int64", ("batch", "sequence"), (-1, -1))
        gives = (stream("hidden_states", source.hidden_size),)
        graphs["text/embeddings.onnx"] = _trace(source.text.embeddings, (ids,), gives, "embeddings.")
    return graphs


class _Tracer:
    """Traces layers; our own blocks once for each config, with weights filled in by name.

    torch merges parameters that happen to be equal (two norms of ones) under one of their names. So our own modules
    are traced with weights of which no two are equal, and get their true ones after: every name survives, and layers
    of one config need one trace.
    """

    def __init__(self, source: Source) -> None:
        self._config = source.config
        self._takes = source.inputs
        self._longest = source.max_sequence_length
        self._traced: dict[tuple[BlockConfig, tuple[TensorSpec, ...]], ir.Model] = {}

    def __call__(self, index: int, layer: Layer) -> dict[str, ir.Model]:
        """A layer's graphs by their path: its own, and for our own blocks the editable one."""
        if self._config is None:
            traced = _trace(layer.module, self._takes, layer.outputs, layer.prefix, self._longest)
            return {layer_graph(index): traced}
        key = self._config.layers[index], layer.outputs
        if key not in self._traced:
            module = Editable(_twin(layer.module), sites(layer.outputs))
            flags = overrides(layer.outputs)[0]
            traced = _trace(module, (*self._takes, flags), layer.outputs, "", self._longest)
            self._traced[key] = emptied(traced)
        editable = filled(self._traced[key].clone(), layer.module, layer.prefix)
        own = plain(editable)
        finish(editable)
        _hold_to_contract(own, self._takes, layer.outputs)
        _hold_to_contract(editable, (*self._takes, *overrides(layer.outputs)), layer.outputs)
        return {layer_graph(index): own, editable_graph(index): editable}


def layer_graph(index: int) -> str:
    """Where a layer's graph is, from the version folder."""
    return f"layers/{index}.onnx"


def editable_graph(index: int) -> str:
    """Where its editable graph is."""
    return f"layers/{index}.editable.onnx"


def _twin(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        parameter.copy_(torch.rand(parameter.shape, generator=generator))
    return twin


def _trace(
    module: nn.Module,
    takes: Sequence[TensorSpec],
    gives: Sequence[TensorSpec],
    prefix: str = "",
    longest: int | None = None,
) -> ir.Model:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    names = [spec.name for spec in gives]
    # torch's cache of dispatches compares symbols of sizes at each operator: a fifth of a trace, more than it saves.
    # Named here, _dynamo is imported by torch for a trace alone: two seconds that an error before it need not wait.
    with _quiet(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):  # noqa: SLF001
        try:
            program = torch.onnx.export(
                _Named(module, names).eval(),
                tuple(example(spec, 2, 3) for spec in takes),
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in takes],
                output_names=names,
                # One entry, because the wrapper takes its tensors as *tensors.
                dynamic_shapes=(tuple(_dynamic(spec, batch, sequence) for spec in takes),),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"torch.onnx cannot export the module: {_cause(error)}") from error
    assert program is not None  # noqa: S101 - the None of its signature belongs to dynamo=False
    graph: ir.Model = program.model
    ClearMetadataAndDocStringPass()(graph)  # it holds stack traces with this machine's paths
    rename_weights(graph, {f"inner.{name}" for name in module.state_dict()}, prefix)
    _hold_to_contract(graph, takes, gives)
    return graph


def _dynamic(spec: TensorSpec, batch: Any, sequence: Any) -> dict[int, Any]:
    return {index: batch if axis == "batch" else sequence for index, axis in spec.dynamic.items()}


def example(spec: TensorSpec, batch: int, sequence: int) -> Tensor:
    """A small input for tracing: sizes of at least 2 and different, as torch.export takes 1 and equal ones as facts."""
    shape = [
        batch if axis == "batch" else sequence if size < 0 else size
        for axis, size in zip(spec.axes, spec.shape, strict=True)
    ]
    if spec.dtype != "float32":
        return torch.ones(shape, dtype=getattr(torch, spec.dtype))
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
        value.shape = ir.Shape(spec.dynamic.get(index, size) for index, size in enumerate(spec.shape))
