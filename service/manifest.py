"""ModelSpec: what manifest.json promises of an artifact (docs/artifact.md)."""

import math
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import StartError
from service.tensors import Output

NAME, VERSION = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", r"^[1-9][0-9]{0,8}$"
Name = Annotated[str, Field(pattern=NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Field(ge=1)]
FINAL_OUTPUT = "block_output"
POSITIONS = "position_ids"
ROLLOUT = "attention_rollout"
SEQUENCE_AXES = frozenset({"sequence", "query", "key"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TensorSpec(_Strict):
    """A tensor of a graph: name, dtype, axis names, and sizes (-1 = dynamic)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    dtype: Literal["float32", "int64"]
    axes: list[str]
    shape: list[int]

    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        dynamic = [axis == "batch" or axis in SEQUENCE_AXES for axis in self.axes]
        if self.axes[:1] != ["batch"] or dynamic != [size == -1 for size in self.shape] or "batch" in self.axes[1:]:
            raise ValueError("axes and shape do not agree: batch is first, and -1 is for batch and sequence axes")
        return self

    @cached_property
    def growth(self) -> tuple[int, int]:
        """(c, k): one sequence of n positions has c · n^k elements."""
        dynamic = [axis in SEQUENCE_AXES for axis in self.axes[1:]]
        fixed = math.prod(size for size, grows in zip(self.shape[1:], dynamic, strict=True) if not grows)
        return fixed, sum(dynamic)


_ROLLOUT = TensorSpec(name=ROLLOUT, dtype="float32", axes=["batch", "query", "key"], shape=[-1, -1, -1])


class EditableSpec(_Strict):
    """A layer's graph in which probes can be overridden, by `overridden` (bool [site]) and `override_NAME`."""

    graph: Annotated[str, Field(pattern=r"^layers/[0-9]+\.editable\.onnx$")]
    sites: Annotated[list[str], Field(min_length=1)]

    @property
    def optional_inputs(self) -> list[str]:
        """The graph's, in order."""
        return ["overridden", *(f"override_{site}" for site in self.sites)]


class LayerSpec(_Strict):
    """One instrumented layer: its graph and the graph's outputs in order; the editable graph, if it can be changed."""

    graph: Annotated[str, Field(pattern=r"^layers/[0-9]+\.onnx$")]
    source_layer: int
    outputs: list[TensorSpec]
    editable: EditableSpec | None = None

    @model_validator(mode="after")
    def _check_sites(self) -> Self:
        if self.editable and not {*self.editable.sites} <= {t.name for t in self.outputs} - {"layer_input"}:
            raise ValueError("a site of the editable graph is none of its outputs")
        return self

    @property
    def graphs(self) -> tuple[str, ...]:
        """The files of its graphs."""
        return (self.graph, self.editable.graph) if self.editable else (self.graph,)

    @property
    def sites(self) -> tuple[str, ...]:
        """The probes that can be changed, in the order of the data."""
        return ("layer_input", *self.editable.sites) if self.editable else ()


class TextSpec(_Strict):
    """The text front: tokenizer and embeddings."""

    tokenizer: Literal["text/tokenizer.json"]
    embeddings: Literal["text/embeddings.onnx"]
    vocab_size: PositiveInt
    max_tokens: PositiveInt | None


class LimitsSpec(_Strict):
    """Limits of the graphs themselves."""

    max_sequence_length: PositiveInt | None


class SourceSpec(_Strict):
    """Where the weights came from."""

    kind: str
    reference: str
    layers: list[int]
    files: dict[str, Sha256]


class FileSpec(_Strict):
    """Hash and size of one file."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class GoldenRequest(_Strict):
    """A request of the forward route in its own words."""

    hidden_states: list[list[list[float]]]
    attention_mask: list[list[int]]


class GoldenAnswer(_Strict):
    """What PyTorch in float64 answers to the golden request."""

    block_output: list[list[list[float]]]


class GoldenSpec(_Strict):
    """A request, its answer, and how far (absolute) the served answer may be from it where the mask is 1."""

    request: GoldenRequest
    answer: GoldenAnswer
    tolerance: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        sequences, masks, answers = self.request.hidden_states, self.request.attention_mask, self.answer.block_output
        lengths = [len(sequence) for sequence in sequences]
        same = lengths == [len(mask) for mask in masks] == [len(answer) for answer in answers]
        widths = {len(row) for sequence in (*sequences, *answers) for row in sequence}
        if not same or len(widths) != 1 or not all(map(any, masks)):
            raise ValueError("request, mask and answer differ in shape, or a mask hides all of its sequence")
        return self


class ModelSpec(_Strict):
    """One version of a model, as its manifest describes it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ignored_types=(cached_property,)
    )

    format: Literal["glassblock/1"]
    name: Name
    version: Annotated[str, Field(pattern=VERSION)]
    source: SourceSpec
    precision: Literal["float32"]
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt | None
    config: dict[str, Any] | None
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    aliases: dict[str, str]
    layers: Annotated[list[LayerSpec], Field(min_length=1)]
    text: TextSpec | None
    limits: LimitsSpec
    toolchain: dict[str, str | int]
    parity: dict[str, Any]
    golden: GoldenSpec
    files: dict[str, FileSpec]

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        found = [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*self.inputs, *self.outputs)]
        states, tokens = [-1, -1, self.hidden_size], ["attention_mask", *[POSITIONS] * self.takes_positions]
        wanted = [("hidden_states", "float32", states), *((name, "int64", [-1, -1]) for name in tokens)]
        if found != [*wanted, (FINAL_OUTPUT, "float32", states)]:
            raise ValueError(f"inputs and outputs are not those of a block of hidden_size {self.hidden_size}")
        if self.takes_positions and self.max_sequence_length is None:
            raise ValueError(f"limits.max_sequence_length is null, and {POSITIONS} must be below it")
        if len(self.golden.request.hidden_states[0][0]) != self.hidden_size:
            raise ValueError(f"the golden request is not of hidden_size {self.hidden_size}")
        if any(graph.split(".")[0] != f"layers/{i}" for i, layer in enumerate(self.layers) for graph in layer.graphs):
            raise ValueError("the layers' graphs are not layers/0.onnx, layers/1.onnx and so on")
        if any("layer_output" not in probes for probes in self.probes[:-1]):
            raise ValueError("a layer before the last has no layer_output")
        if not {tensor.name for tensor in self.layers[-1].outputs} & {"layer_output", FINAL_OUTPUT}:
            raise ValueError("the last layer has neither layer_output nor block_output")
        if {*self.aliases.values()} - {FINAL_OUTPUT} or any(
            name in probes for name in self.aliases for probes in self.probes
        ):
            raise ValueError("an alias must stand for block_output and be no probe's name")
        return self

    @cached_property
    def probes(self) -> tuple[dict[str, TensorSpec], ...]:
        """Probes of each layer by name, `block_output` not among them."""
        return tuple({t.name: t for t in layer.outputs if t.name != FINAL_OUTPUT} for layer in self.layers)

    def tensor(self, output: Output) -> TensorSpec:
        """The tensor an output names."""
        if output.layer is not None:
            return self.probes[output.layer][output.probe]
        return _ROLLOUT if output.probe == ROLLOUT else self.outputs[0]

    @cached_property
    def widest(self) -> int:
        """Elements of a position in the widest tensor that has one row for each."""
        growths = [tensor.growth for probes in self.probes for tensor in probes.values()]
        return max((size for size, power in growths if power == 1), default=self.hidden_size)

    @cached_property
    def has_rollout(self) -> bool:
        """Whether every layer has attention weights."""
        return all("attention_weights" in probes for probes in self.probes)

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence the graphs take; None = any. Where they take positions, these are below it."""
        return self.limits.max_sequence_length

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the graphs turn queries and keys by positions that a request may give."""
        return any(tensor.name == POSITIONS for tensor in self.inputs)


def read_manifest(data: bytes, place: str) -> ModelSpec:
    """Reads a manifest.

    Raises:
        StartError: not JSON, or not the format of docs/artifact.md; names the first field that is wrong.
    """
    try:
        return ModelSpec.model_validate(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise StartError(f"{place}: not JSON: {error.msg} in line {error.lineno}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        sentence = first["msg"].removeprefix("Value error, ")
        raise StartError(f"{place}: {where}{where and ': '}{sentence}") from None
