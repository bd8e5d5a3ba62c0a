"""The Open Inference Protocol: JSON, with tensors in it or as bytes behind it (the binary tensor extension).

Names, datatypes, shapes and byte counts are held against each other here, where their place in the request is known;
values and addresses are left to check.py.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.address import expand, name_of
from service.codec import float_text
from service.codec.envelope import not_finite
from service.codec.inference_head import Head, InputHead, OutputHead, read_head
from service.codec.inference_input import DATATYPES, STORED, Numbers, cut_numbers, read_hidden_states, read_mask
from service.errors import IllegalRequestError, UnreadableError
from service.manifest import FINAL_OUTPUT, ModelSpec
from service.tensors import BlockResult, Tensors

PROBES = ".probes"  # behind a model's name: the same model, whose outputs are what is inside
HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = {"hidden_states": ("FP32", "FP16", "BF16"), "attention_mask": ("INT64", "BOOL")}

_RAW = Head(model="", id="", timeout_s=None, priority=0, binary=True, inputs=(), outputs=None)


def list_outputs(spec: ModelSpec, *, probes: bool) -> dict[str, tuple[int, ...]]:
    """What a model's metadata lists: each output's full address and its sizes, -1 for those that a request decides."""
    if not probes:
        return {FINAL_OUTPUT: tuple(spec.outputs[0].shape)}
    return {
        f"layers.{layer}.{name}": tuple(tensor.shape)
        for layer, tensors in enumerate(spec.probes)
        for name, tensor in tensors.items()
    }


@dataclass(slots=True)
class Exchange:
    """One request and its answer, whose form the request chooses.

    Attributes:
        spec: of the model that was asked.
        probes: whether it was asked as NAME.probes.
        header_length: bytes of JSON, as the request's header says; None: no header, all is JSON. 0: no JSON at all, the
            body is one float32 sequence.
        answer_header_length: bytes of JSON in the answer; None: all is JSON.
    """

    spec: ModelSpec
    probes: bool
    header_length: int | None
    answer_header_length: int | None = None
    _head: Head = _RAW

    def decode(self, body: bytes) -> Tensors:
        """Reads a request.

        Raises:
            UnreadableError: not JSON, or other bytes behind it than it says.
            IllegalRequestError: readable, but not of the protocol's form, or not of the model's shapes; says where.
            UnsupportedError: asks for what this server does not have.
        """
        if self.header_length == 0:
            return self._decode_raw(body)
        length = len(body) if self.header_length is None else self.header_length
        if length > len(body):
            message = f"expected a body of at least {length} bytes, as the header says, got {len(body)}"
            raise UnreadableError(message, code="size_mismatch", at=HEADER_LENGTH)
        text, numbers = cut_numbers(body if length == len(body) else body[:length])
        self._head = head = read_head(text)
        if head.model not in {"", self.spec.name + PROBES * self.probes}:
            message = "expected the model's name as in the URL, got another one"
            raise IllegalRequestError(message, code="wrong_model", at="model_name")
        behind = None if self.header_length is None else memoryview(body)[length:]
        find = partial(_find_data, numbers=numbers, behind=behind)
        return read_tensors(head, self.spec, find, probes=self.probes)

    def encode(self, result: BlockResult, model: str, version: str) -> bytes:
        """Writes the answer: JSON, and behind it the outputs that were asked for as bytes.

        Raises:
            IllegalRequestError: an output in JSON is not finite, which JSON cannot say.
        """
        binary = self._binary_keys(result)
        said = {"model_name": model + PROBES * self.probes, "model_version": version}
        if self._head.id:
            said["id"] = self._head.id
        text: list[bytes | memoryview] = [orjson.dumps(said)[:-1]]
        tensors: list[Any] = []  # arrays are bytes to join()
        separator = b',"outputs":['
        for key, name, arrays in result.tensors():
            shape = [len(arrays), *arrays[0].shape]
            described: dict[str, Any] = {"name": name, "datatype": DATATYPES[arrays[0].dtype], "shape": shape}
            if key in binary:
                described["parameters"] = {"binary_data_size": sum(array.nbytes for array in arrays)}
                text += (separator, orjson.dumps(described))
                tensors += map(np.ascontiguousarray, arrays)
            else:
                text += (separator, orjson.dumps(described)[:-1], b',"data":[', *_write_flat(name, arrays), b"]}")
            separator = b","
        text.append(b"]}")
        self.answer_header_length = sum(map(len, text)) if tensors else None
        return b"".join((*text, *tensors))

    def _decode_raw(self, body: bytes) -> Tensors:
        """The body as one float32 sequence; every output of the metadata comes back as bytes."""
        position_bytes = 4 * self.spec.hidden_size
        if not body or len(body) % position_bytes:
            message = f"expected float32 positions of {position_bytes} bytes each, got {len(body)} bytes"
            raise UnreadableError(message, code="size_mismatch", at="body")
        sequence = np.frombuffer(body, STORED["FP32"]).reshape(-1, self.spec.hidden_size)
        return Tensors(hidden_states=(sequence,), outputs=tuple(list_outputs(self.spec, probes=self.probes)))

    def _binary_keys(self, result: BlockResult) -> Collection[str]:
        """Names of the outputs that go as bytes; an address of several layers has become several names."""
        by_default, most = self._head.binary, len(self.spec.layers)
        asked = asked_outputs(self._head, self.spec, probes=self.probes)
        wanted = [output.name for output in asked if output.binary or (output.binary is None and by_default)]
        if len(wanted) == len(asked):
            return result.outputs.keys()
        return {key for name in wanted for key in expand((name,), self.spec, most)}


def read_tensors(
    head: Head, spec: ModelSpec, find: Callable[[tuple[InputHead, ...]], Mapping[str, Any]], *, probes: bool
) -> Tensors:
    """Holds a head against the model, and reads the tensors that it speaks of.

    Args:
        head: of the request.
        spec: of the model that was asked.
        find: gives each input's data by name, as `read_hidden_states` and `read_mask` take it, or says what is wrong.
        probes: whether the model was asked as NAME.probes.

    Raises:
        IllegalRequestError: the outputs or inputs are not the model's, or the data is not as the head says; says where.
    """
    outputs = tuple(output.name for output in asked_outputs(head, spec, probes=probes))
    inputs = check_inputs(head.inputs, spec)
    data = find(head.inputs)
    mask = inputs.get("attention_mask")
    return Tensors(
        hidden_states=read_hidden_states(inputs["hidden_states"], data["hidden_states"]),
        attention_mask=None if mask is None else read_mask(mask, data["attention_mask"]),
        outputs=outputs,
        timeout_s=head.timeout_s,
        priority=head.priority,
    )


def asked_outputs(head: Head, spec: ModelSpec, *, probes: bool) -> tuple[OutputHead, ...]:
    """What was asked for, in order; by default all that the metadata lists.

    Raises:
        IllegalRequestError: something inside a model that was not asked as NAME.probes.
    """
    if head.outputs is None:
        return tuple(OutputHead(name, None, "") for name in list_outputs(spec, probes=probes))
    for output in head.outputs:
        if not probes and (name := name_of(output.name)) != FINAL_OUTPUT and spec.aliases.get(name) != FINAL_OUTPUT:
            message = f"expected {FINAL_OUTPUT}: what is inside is an output of model {spec.name}{PROBES}"
            raise IllegalRequestError(message, code="unknown_output", at=f"{output.place}.name")
    return head.outputs


def check_inputs(heads: tuple[InputHead, ...], spec: ModelSpec) -> dict[str, InputHead]:
    """The inputs by name, each once, known, of a datatype that is taken, their shapes those of one batch.

    Raises:
        IllegalRequestError: one is not; says where.
    """
    found: dict[str, InputHead] = {}
    for head in heads:
        if head.name not in _DATATYPES:
            message = f"expected an input called {' or '.join(_DATATYPES)}, got another one"
            raise IllegalRequestError(message, code="unknown_input", at=f"{head.place}.name")
        if head.name in found:
            message = f"input {head.name} came twice"
            raise IllegalRequestError(message, code="duplicate_input", at=f"{head.place}.name")
        if head.datatype not in _DATATYPES[head.name]:
            message = f"expected datatype {' or '.join(_DATATYPES[head.name])}, got another one"
            raise IllegalRequestError(message, code="dtype_mismatch", at=f"{head.place}.datatype")
        found[head.name] = head
    if "hidden_states" not in found:
        message = "expected an input called hidden_states, got none"
        raise IllegalRequestError(message, code="missing_input", at="inputs")
    states, mask = found["hidden_states"], found.get("attention_mask")
    _check_rank(states, ("batch", "sequence", "hidden"))
    if states.shape[2] != spec.hidden_size:
        message = f"expected hidden_size {spec.hidden_size}, got {states.shape[2]}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"{states.place}.shape[2]")
    if mask:
        _check_rank(mask, ("batch", "sequence"))
        for axis, size in enumerate(mask.shape):
            if size != states.shape[axis]:
                message = f"expected {states.shape[axis]}, as hidden_states has, got {size}"
                raise IllegalRequestError(message, code="wrong_shape", at=f"{mask.place}.shape[{axis}]")
    return found


def _check_rank(head: InputHead, axes: tuple[str, ...]) -> None:
    if len(head.shape) != len(axes):
        message = f"expected a shape of {len(axes)} sizes ({', '.join(axes)}), got {len(head.shape)}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"{head.place}.shape")


def _find_data(heads: tuple[InputHead, ...], numbers: dict[str, Numbers], behind: memoryview | None) -> dict[str, Any]:
    """Each input's bytes, or its numbers; the bytes lie behind the JSON in the order of the inputs."""
    found: dict[str, Any] = {}
    position = 0
    for head in heads:
        if head.data is not None:
            found[head.name] = numbers.get(head.data, head.data) if isinstance(head.data, str) else head.data
            continue
        place = f"{head.place}.parameters.binary_data_size"
        if behind is None:
            message = f"expected a header {HEADER_LENGTH}, which says where the tensors begin, got none"
            raise UnreadableError(message, code="missing_header_length", at=place)
        expected = math.prod(head.shape) * STORED[head.datatype].itemsize
        if head.size_bytes != expected:
            message = f"expected {expected} bytes, as shape and datatype say, got {head.size_bytes}"
            raise UnreadableError(message, code="size_mismatch", at=place)
        if position + expected > len(behind):
            message = f"expected {expected} bytes behind the JSON, got {len(behind) - position}"
            raise UnreadableError(message, code="size_mismatch", at=head.place)
        found[head.name] = behind[position : position + expected]
        position += expected
    if behind is not None and position != len(behind):
        message = f"expected {position} bytes behind the JSON, as the inputs say, got {len(behind)}"
        raise UnreadableError(message, code="size_mismatch", at="body")
    return found


def _write_flat(key: str, arrays: list[NDArray[Any]]) -> list[bytes | memoryview]:
    """The numbers of all arrays, between commas."""
    pieces: list[bytes | memoryview] = []
    for array in (array for array in arrays if array.size):
        flat = np.ascontiguousarray(array).reshape(-1)
        text = (b"[", orjson.dumps(flat.tolist())[1:-1], b"]") if flat.dtype == np.int64 else float_text.write(flat)
        if text is None:
            raise not_finite(key)
        pieces += (b"," if pieces else b"", *text[1:-1])
    return pieces
