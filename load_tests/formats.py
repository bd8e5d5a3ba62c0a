"""How a request is written and an answer read, one class a format; bodies are prepared before anything is timed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from load_tests.scenarios import Float32Array

OUTPUT, ATTENTION = "block_output", "attention_weights"
_HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body and the headers that go with it."""

    headers: dict[str, str]
    data: bytes

    def request(self, address: str, path: str) -> bytes:
        """The whole of a POST to host:port, its head before the body."""
        named = {"Host": address, "Content-Length": str(len(self.data)), **self.headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
        return "\r\n".join(lines).encode() + self.data


class Format(Protocol):
    """Writes requests and reads answers of one wire format."""

    def write(self, hidden_states: Float32Array, outputs: tuple[str, ...]) -> Body:
        """One sequence [S, D] as a batch of one."""

    def read(self, headers: Mapping[str, str], data: bytes) -> dict[str, Float32Array]:
        """The tensors of an answer, each without its batch axis."""


def _dump(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _json(document: dict[str, Any]) -> Body:
    return Body({"Content-Type": "application/json"}, _dump(document))


class GlassblockJson:
    """`/v1/models/{model}/forward` with nested lists."""

    def write(self, hidden_states: Float32Array, outputs: tuple[str, ...]) -> Body:
        """`outputs` only where it is not the default."""
        asked = {} if outputs == (OUTPUT,) else {"outputs": list(outputs)}
        return _json({"hidden_states": hidden_states[None], **asked})

    def read(self, _headers: Mapping[str, str], data: bytes) -> dict[str, Float32Array]:
        """A list with one entry a sequence."""
        outputs = orjson.loads(data)["outputs"]
        return {name: np.asarray(sequences[0], np.float32) for name, sequences in outputs.items()}


class NestedJson:
    """Nested lists as a server of one's own would take them: tensors by name, `attention` to ask for both."""

    def write(self, hidden_states: Float32Array, outputs: tuple[str, ...]) -> Body:
        """A batch of one."""
        asked = {"attention": True} if ATTENTION in outputs else {}
        return _json({"hidden_states": hidden_states[None], **asked})

    def read(self, _headers: Mapping[str, str], data: bytes) -> dict[str, Float32Array]:
        """Null is a tensor that was not asked for."""
        return {name: np.asarray(v, np.float32)[0] for name, v in orjson.loads(data).items() if v is not None}


class InferenceJson:
    """The Open Inference Protocol in JSON: flat data beside its shape."""

    def write(self, hidden_states: Float32Array, outputs: tuple[str, ...]) -> Body:
        """With an id, without which KServe's SDK answers 500."""
        tensor = _tensor(hidden_states) | {"data": hidden_states.ravel()}
        return _json({"id": "1", "inputs": [tensor], "outputs": [{"name": name} for name in outputs]})

    def read(self, _headers: Mapping[str, str], data: bytes) -> dict[str, Float32Array]:
        """Flat or nested data."""
        return {tensor["name"]: _unbatch(tensor["data"], tensor["shape"]) for tensor in orjson.loads(data)["outputs"]}


class InferenceBinary:
    """The Open Inference Protocol's binary tensor extension, both ways."""

    def write(self, hidden_states: Float32Array, outputs: tuple[str, ...]) -> Body:
        """A JSON head, then the tensor's bytes."""
        tensor = _tensor(hidden_states) | {"parameters": {"binary_data_size": hidden_states.nbytes}}
        asked = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        head = _dump({"id": "1", "inputs": [tensor], "outputs": asked, "parameters": {"binary_data_output": True}})
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
        return Body(headers, head + hidden_states.tobytes())

    def read(self, headers: Mapping[str, str], data: bytes) -> dict[str, Float32Array]:
        """Tensors in the head's order; a server that answered in JSON after all is a KeyError."""
        start = int(headers[_HEADER_LENGTH])
        arrays = {}
        for tensor in orjson.loads(data[:start])["outputs"]:
            end = start + tensor["parameters"]["binary_data_size"]
            arrays[tensor["name"]] = _unbatch(np.frombuffer(data[start:end], "<f4"), tensor["shape"])
            start = end
        return arrays


def _tensor(hidden_states: Float32Array) -> dict[str, Any]:
    return {"name": "hidden_states", "shape": [1, *hidden_states.shape], "datatype": "FP32"}


def _unbatch(values: Any, shape: list[int]) -> Float32Array:
    """Of a batch of one."""
    return np.asarray(values, np.float32).reshape(shape[1:])
