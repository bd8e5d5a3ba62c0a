"""The Open Inference Protocol: JSON, with tensors in it or as bytes behind it (the binary tensor extension).

Byte counts are held against shapes here; names, datatypes and shapes against the model in inference_request.py.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.address import expand
from service.codec import float_text
from service.codec.envelope import LONG_BYTES, LongTextError, not_finite
from service.codec.inference_head import Head, InputHead, read_head
from service.codec.inference_input import DATATYPES, STORED, Numbers, cut_numbers, read_floats
from service.codec.inference_request import PROBES, asked_outputs, list_outputs, read_tensors
from service.errors import IllegalRequestError, UnreadableError
from service.manifest import ModelSpec
from service.recent import Recent
from service.request import BlockResult, Tensors

HEADER_LENGTH = "Inference-Header-Content-Length"

_REMEMBERED_BYTES = 2048  # of a head, and of its answer's
_RAW = Head(model="", id="", timeout_s=None, priority=0, binary=True, inputs=(), outputs=None)


@dataclass(slots=True)
class Known:
    """A head that was read before, of a request that was answered; the next one with it is mostly its client's next.

    Attributes:
        head: read, and held against the model; of one input, hidden states, as bytes or as numbers that were cut out.
        tensors: what it asks for, without hidden states.
        answer_head: the JSON of their answers; None if it has numbers in it, or is long.
    """

    head: Head
    tensors: Tensors
    answer_head: bytes | None


@dataclass(slots=True)
class Exchange:
    """One request and its answer, whose form the request chooses.

    Attributes:
        spec: of the model that was asked.
        probes: whether it was asked as NAME.probes.
        header_length: bytes of JSON, as the request's header says; None: no header, all is JSON. 0: no JSON at all, the
            body is one float32 sequence.
        heads: that the model remembers.
        answer_header_length: bytes of JSON in the answer; None: all is JSON.
    """

    spec: ModelSpec
    probes: bool
    header_length: int | None
    heads: Recent[Known]
    answer_header_length: int | None = None
    _head: Head = _RAW
    _known: Known | None = None
    _new: Tensors | None = None  # of a head that may be remembered, by their key

    def decode(self, body: bytes | memoryview) -> Tensors:
        """Reads a request.

        Raises:
            UnreadableError: not JSON, or other bytes behind it than it says.
            IllegalRequestError: readable, but not of the protocol's form, or not of the model's shapes; says where.
            UnsupportedError: asks for what this server does not have.
            LongTextError: it takes too long here.
        """
        if self.header_length == 0:
            return self._decode_raw(body)
        length = len(body) if self.header_length is None else self.header_length
        if length > len(body):
            message = f"expected a body of at least {length} bytes, as the header says, got {len(body)}"
            raise UnreadableError(message, code="size_mismatch", at=HEADER_LENGTH)
        text = bytes(body[:length])
        if self.header_length is None:
            return self._read(text, None)
        behind = memoryview(body)[length:]
        key = text, self.probes
        known = self.heads.get(key) if length <= _REMEMBERED_BYTES else None
        if known is None or len(behind) != known.head.inputs[0].size_bytes:
            return self._read(text, behind)
        return self._recall(known, behind)

    def _recall(self, known: Known, data: memoryview | Numbers) -> Tensors:
        self._known, self._head = known, known.head
        return known.tensors._replace(hidden_states=read_floats(known.head.inputs[0], data))

    def _read(self, text: bytes, behind: memoryview | None, *, here: bool = True) -> Tensors:
        head_text, numbers = cut_numbers(text, all_of_them=not here)
        if here and len(head_text) > LONG_BYTES:
            raise LongTextError(partial(self._read, text, behind, here=False))
        key = head_text, self.probes
        if behind is None and len(numbers) == 1 and (known := self.heads.get(key)) is not None:
            return self._recall(known, *numbers.values())
        self._head = head = read_head(head_text)
        if head.model not in {"", self.spec.name + PROBES * self.probes}:
            message = "expected the model's name as in the URL, got another one"
            raise IllegalRequestError(message, code="wrong_model", at="model_name")
        find = partial(_find_data, numbers=numbers, behind=behind)
        tensors = read_tensors(head, self.spec, find, probes=self.probes)
        first, *others = head.inputs
        if others or len(head_text) > _REMEMBERED_BYTES or len(numbers) != (first.data is not None):
            return tensors
        tensors = tensors._replace(key=key)
        self._new = tensors._replace(hidden_states=None)
        return tensors

    def encode(self, result: BlockResult, model: str, version: str) -> bytes:
        """Writes the answer: JSON, and behind it the outputs that were asked for as bytes.

        Raises:
            IllegalRequestError: an output in JSON is not finite, which JSON cannot say.
        """
        if self._known is not None and self._known.answer_head is not None:
            arrays = [array for _, _, found in result.tensors() for array in found]
            return self._join(self._known.answer_head, arrays)
        binary = self._binary_keys(result)
        said = {"model_name": model + PROBES * self.probes, "model_version": version}
        if self._head.id:
            said["id"] = self._head.id
        text: list[bytes | memoryview] = [orjson.dumps(said)[:-1]]
        behind: list[NDArray[Any]] = []
        separator = b',"outputs":['
        for key, name, arrays in result.tensors():
            shape = [len(arrays), *arrays[0].shape]
            described: dict[str, Any] = {"name": name, "datatype": DATATYPES[arrays[0].dtype], "shape": shape}
            if key in binary:
                described["parameters"] = {"binary_data_size": sum(array.nbytes for array in arrays)}
                text += (separator, orjson.dumps(described))
                behind += arrays
            else:
                text += (separator, orjson.dumps(described)[:-1], b',"data":[', *_write_flat(name, arrays), b"]}")
            separator = b","
        text.append(b"]}")
        head = b"".join(text)
        if self._new is not None:
            whole = len(binary) == len(result.outputs) and len(head) <= _REMEMBERED_BYTES
            self.heads.put(self._new.key, Known(self._head, self._new, head if whole else None))
        return self._join(head, behind)

    def _join(self, head: bytes, behind: list[NDArray[Any]]) -> bytes:
        if not behind:
            return head
        self.answer_header_length = len(head)
        pieces: list[Any] = [np.ascontiguousarray(array) for array in behind]  # arrays are bytes to join()
        return b"".join((head, *pieces))

    def _decode_raw(self, body: bytes | memoryview) -> Tensors:
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
