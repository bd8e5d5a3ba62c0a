"""A client of our gRPC, as close to the wire as grpcio is; test_grpc_clients.py holds its messages against others'."""

from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from service.codec import open_inference_pb2 as messages
from tests.service.inference import MASK, ROWS

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
DATATYPES = {"FP32": (np.float32, "fp32_contents"), "INT64": (np.int64, "int64_contents")}


class Grpc:
    """A channel to a server."""

    def __init__(self, address: str, *metadata: tuple[str, str]) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.metadata = metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def begin(self, name: str, request: Any = None, timeout_s: float | None = 30) -> Any:
        """A call that is under way."""
        method = self.channel.unary_unary(
            SERVICE + name,
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=getattr(messages, f"{name}Response", messages.ServerLiveResponse).FromString,
        )
        request = getattr(messages, f"{name}Request")() if request is None else request
        return method.future(request, timeout=timeout_s, metadata=self.metadata)

    def call(self, name: str, /, **fields: Any) -> Any:
        """The answer's message."""
        return self.begin(name, getattr(messages, f"{name}Request")(**fields)).result()

    def failure(self, name: str, request: Any = None, /, **fields: Any) -> tuple[str, str]:
        """Code and sentence of the error."""
        request = getattr(messages, f"{name}Request")(**fields) if request is None else request
        return failure(self.begin(name, request))

    def health(self, service: str = "") -> int:
        """1 serving, 2 not; the messages are written by hand."""
        request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
        answer: bytes = self.channel.unary_unary(HEALTH + "Check")(request, timeout=5)
        return answer[1]


def failure(call: Any) -> tuple[str, str]:
    """Code and sentence of a call's error."""
    error = call.exception()
    assert error is not None, "the call was answered"
    return error.code().name, error.details()


def parameter(value: object) -> Any:
    """A parameter of the field that fits its value."""
    names = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return messages.InferParameter(**{names[type(value)]: value})


def typed(rows: NDArray[Any] = ROWS, mask: NDArray[Any] | None = MASK, **fields: Any) -> Any:
    """A request with its numbers in the inputs."""
    request = messages.ModelInferRequest(**{"model_name": "tiny"} | fields)
    given = request.inputs.add(name="hidden_states", datatype="FP32", shape=rows.shape)
    given.contents.fp32_contents.extend(rows.ravel().tolist())
    if mask is not None:
        given = request.inputs.add(name="attention_mask", datatype="INT64", shape=mask.shape)
        given.contents.int64_contents.extend(mask.ravel().tolist())
    return request


def raw(rows: NDArray[Any] = ROWS, datatype: str = "FP32", **fields: Any) -> Any:
    """A request with its tensors as bytes, without a mask."""
    request = messages.ModelInferRequest(**{"model_name": "tiny"} | fields)
    request.inputs.add(name="hidden_states", datatype=datatype, shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    return request


def read(answer: Any) -> dict[str, NDArray[Any]]:
    """The outputs of an answer, in order."""
    found = {}
    for index, output in enumerate(answer.outputs):
        dtype, contents = DATATYPES[output.datatype]
        if answer.raw_output_contents:
            assert not output.HasField("contents")
            values = np.frombuffer(answer.raw_output_contents[index], dtype)
        else:
            values = np.array(list(getattr(output.contents, contents)), dtype)
        found[output.name] = values.reshape(output.shape)
    return found
