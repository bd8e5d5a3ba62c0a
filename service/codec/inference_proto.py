"""The Open Inference Protocol as protobuf's messages: tensors as bytes beside the inputs, or as numbers in them.

What the JSON of `inference.py` says in fields is said here in fields of the same names, and held to the same rules.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.runtime_version import VersionError

from service.codec import proto_wire
from service.codec.envelope import read_whole
from service.codec.inference_head import (
    REGION,
    SEQUENCE,
    Head,
    InputHead,
    OutputHead,
    lack,
    read_flag,
    read_id,
    read_timeout,
)
from service.codec.inference_input import DATATYPES, STORED, check_count
from service.codec.inference_request import PROBES, read_tensors
from service.codec.interventions import MOST_AXES, check_rank
from service.errors import IllegalRequestError, UnreadableError, nearest
from service.manifest import ModelSpec
from service.request import BlockResult, Tensors

try:
    from service.codec.open_inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
except VersionError as error:  # tritonclient[grpc], installed beside the server, brings an older one
    raise ImportError(str(error), name="a protobuf as new as the one that it was built with") from error

_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
_FP32_CONTENTS = InferTensorContents.DESCRIPTOR.fields_by_name["fp32_contents"].number
_EMPTY = Head(model="", id="", timeout_s=None, priority=0, binary=True, inputs=(), outputs=None)
_CONTENTS_FIELD = ModelInferRequest.InferInputTensor.DESCRIPTOR.fields_by_name["contents"].number
_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"  # KServe's client sends them
_NUMBERS = {field.name: field.number for field in ModelInferRequest.DESCRIPTOR.fields}


def read_name(body: bytes) -> tuple[str, str]:
    """The model's name and version, empty if there is none, without reading the rest of a request.

    Raises:
        UnreadableError: not a message of protobuf.
        IllegalRequestError: more fields than any request has.
    """
    nested = {_NUMBERS["inputs"]: (_CONTENTS_FIELD,), _NUMBERS["outputs"]: ()}
    name, version = proto_wire.scan(body, (_NUMBERS["model_name"], _NUMBERS["model_version"]), nested)
    return name, version


@dataclass(slots=True)
class ProtoExchange:
    """One request and its answer, whose tensors come as the request's do.

    Attributes:
        spec: of the model that was asked.
        probes: whether it was asked as NAME.probes.
    """

    spec: ModelSpec
    probes: bool
    _head: Head = _EMPTY

    def decode(self, body: bytes | memoryview) -> Tensors:
        """Reads a ModelInferRequest.

        Raises:
            UnreadableError: not that message, or other bytes than its shapes say.
            IllegalRequestError: readable, but not of the protocol's form, or not of the model's shapes; says where.
            UnsupportedError: asks for what this server does not have.
        """
        try:
            request = ModelInferRequest.FromString(bytes(body))
        except DecodeError:
            raise proto_wire.unreadable() from None
        self._head = head = _read_head(request)
        find = partial(_find_raw if head.binary else _find_contents, request)
        return read_tensors(head, self.spec, find, probes=self.probes)

    def encode(self, result: BlockResult, model: str, version: str) -> bytes:
        """Writes a ModelInferResponse; numbers that are not finite are sent as they are."""
        response = ModelInferResponse(model_name=model + PROBES * self.probes, model_version=version, id=self._head.id)
        for _, name, arrays in result.tensors():
            datatype = DATATYPES[arrays[0].dtype]
            output = response.outputs.add(name=name, datatype=datatype, shape=[len(arrays), *arrays[0].shape])
            pieces: list[Any] = [np.ascontiguousarray(array) for array in arrays]  # arrays are bytes to join()
            if self._head.binary:
                response.raw_output_contents.append(b"".join(pieces))
            elif datatype == "INT64":
                output.contents.int64_contents.extend(number for array in arrays for number in array.flat)
            else:  # not number by number, which takes a second for 64 MiB, with the interpreter locked
                output.contents.MergeFromString(proto_wire.packed(_FP32_CONTENTS, b"".join(pieces)))
        written: bytes = response.SerializeToString()
        return written


def _read_head(request: Any) -> Head:
    if not request.inputs:
        raise IllegalRequestError("expected at least one input, got none", code="no_inputs", at="inputs")
    parameters = read_parameters(request.parameters, ("timeout", "priority", _ALL_BINARY), "parameters", SEQUENCE)
    read_flag(parameters, _ALL_BINARY, "parameters")
    outputs = [_read_output(output, f"outputs[{index}]") for index, output in enumerate(request.outputs)]
    return Head(
        model="",
        id=read_id(request.id),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
        priority=read_whole(parameters.get("priority", 0), "parameters.priority"),
        binary=len(request.raw_input_contents) > 0,
        inputs=tuple(_read_input(one, f"inputs[{index}]") for index, one in enumerate(request.inputs)),
        outputs=tuple(outputs) or None,
    )


def _read_input(given: Any, place: str) -> InputHead:
    parameters = read_parameters(given.parameters, (_SIZE,), f"{place}.parameters", REGION)
    size_bytes = read_whole(parameters.get(_SIZE, 0), f"{place}.parameters.{_SIZE}")
    if len(given.shape) > MOST_AXES:
        check_rank(len(given.shape), f"{place}.shape")
    shape = tuple(given.shape)
    if min(shape, default=1) < 1:
        read_whole(min(shape), f"{place}.shape[{shape.index(min(shape))}]", 1)
    return InputHead(given.name, given.datatype, shape, None, size_bytes, place)


def _read_output(given: Any, place: str) -> OutputHead:
    where = f"{place}.parameters"
    read_flag(read_parameters(given.parameters, (_BINARY,), where, ("classification", *REGION)), _BINARY, where)
    return OutputHead(given.name, None, place)


def read_parameters(
    given: Mapping[str, Any], known: Collection[str], place: str, lacking: Collection[str]
) -> dict[str, Any]:
    """Values by name, each known; None for one that is not set.

    Raises:
        UnsupportedError: one of those that this server lacks.
        IllegalRequestError: an unknown one, whose name is not repeated.
    """
    for name in given:
        if name in lacking:
            raise lack(name, place)
        if name not in known:
            hint = nearest(name, known) or (f"; the parameters are {', '.join(known)}" if known else "; there are none")
            raise IllegalRequestError(f"unknown parameter{hint}", code="unknown_field", at=place)
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], choice) if choice else None for name, choice in chosen.items()}


def _find_raw(request: Any, heads: tuple[InputHead, ...]) -> dict[str, memoryview]:
    """Each input's bytes, which lie beside the inputs in their order."""
    if len(request.raw_input_contents) != len(heads):
        message = f"expected one a tensor of {len(heads)} inputs, got {len(request.raw_input_contents)}"
        raise UnreadableError(message, code="size_mismatch", at="raw_input_contents")
    found = {}
    for index, (head, data) in enumerate(zip(heads, request.raw_input_contents, strict=True)):
        if request.inputs[index].HasField("contents"):
            message = "expected either contents in every input or raw_input_contents, got both"
            raise IllegalRequestError(message, code="wrong_data", at=head.place)
        expected = math.prod(head.shape) * STORED[head.datatype].itemsize
        if len(data) != expected:
            message = f"expected {expected} bytes, as shape and datatype say, got {len(data)}"
            raise UnreadableError(message, code="size_mismatch", at=f"raw_input_contents[{index}]")
        if head.size_bytes not in {0, expected}:
            message = f"expected {expected}, as shape and datatype say, got another number"
            raise UnreadableError(message, code="size_mismatch", at=f"{head.place}.parameters.{_SIZE}")
        found[head.name] = memoryview(data)
    return found


def _find_contents(request: Any, heads: tuple[InputHead, ...]) -> dict[str, memoryview]:
    """Each input's numbers, out of the list that is its datatype's, as bytes."""
    found = {}
    for head, given in zip(heads, request.inputs, strict=True):
        name = _CONTENTS.get(head.datatype)
        if name is None:
            message = "expected FP16 and BF16 in raw_input_contents: the protocol has no list for their numbers"
            raise IllegalRequestError(message, code="dtype_mismatch", at=f"{head.place}.datatype")
        if [field.name for field, _ in given.contents.ListFields()] != [name]:
            message = f"expected numbers in {name}, and in no other list"
            raise IllegalRequestError(message, code="wrong_data", at=f"{head.place}.contents")
        numbers = getattr(given.contents, name)
        check_count(len(numbers), math.prod(head.shape), f"{head.place}.contents.{name}")
        found[head.name] = np.asarray(numbers, STORED[head.datatype]).data.cast("B")
    return found
