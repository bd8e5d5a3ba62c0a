"""safetensors' header: each tensor's dtype, shape and place, held against each other, the route's form and the body.

    8 bytes: length of the header | {"NAME": {"dtype": …, "shape": …, "data_offsets": …}, "__metadata__": {…}} | tensors

The fields of a JSON request that are no tensors are in the metadata, each as JSON text.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import simdjson

from service.codec import nested_json, raw
from service.codec.envelope import parse, read_fields, read_whole, wrong_type
from service.codec.float_text import MAX_SEQUENCES
from service.codec.interventions import MOST, check_rank, split_name, too_many
from service.errors import IllegalRequestError, UnreadableError, nearest
from service.request import Tensors

MAX_HEADER_BYTES = 2**20
LENGTH_BYTES = 8
METADATA = "__metadata__"
LENGTHS = "sequence_lengths"
AXES = {
    "hidden_states": ("batch", "sequence", "hidden"),
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    "position_ids": ("batch", "sequence"),
    LENGTHS: ("batch",),
}
STORED: dict[str, np.dtype[Any]] = {
    "F32": raw.FLOAT32, "F16": raw.FLOAT16, "BF16": raw.BFLOAT16, "I64": raw.INT64, "BOOL": raw.BOOL,
}  # fmt: skip
_FLOATS = ("F32", "F16", "BF16")
_DTYPES = {
    "hidden_states": _FLOATS,
    "input_ids": ("I64",),
    "attention_mask": ("I64", "BOOL"),
    "position_ids": ("I64",),
    LENGTHS: ("I64",),
}
_KNOWN = (*AXES, METADATA)
_FIELDS = tuple(name for name in nested_json.FIELDS if name not in AXES)


class Entry(NamedTuple):
    """A tensor of the header.

    Attributes:
        begin: of its bytes, behind the header.
        end: of them.
        dtype: one of `STORED`.
        shape: sizes, each at least 1.
        place: in the request: a name of ours, or the number of the client's.
    """

    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]
    place: str


class Header(NamedTuple):
    """A request before its tensors are read.

    Attributes:
        fields: that are no tensors.
        tensors: by name: those of `AXES`, of its rank, and interventions, of any.
        data: behind the header.
    """

    fields: Tensors
    tensors: dict[str, Entry]
    data: memoryview


def read_header(body: bytes | memoryview) -> Header:
    """Reads all of a request but its tensors.

    Raises:
        UnreadableError: not safetensors: lengths, offsets and JSON do not fit each other and the body.
        IllegalRequestError: safetensors, but not of the route's form; says where.
    """
    text, data = _split(body)
    found = _read_names(parse(text))
    _, metadata = found.pop(METADATA, ("", None))
    fields = Tensors() if metadata is None else _read_metadata(metadata)
    tensors = {name: _read_entry(name, place, value, len(data)) for name, (place, value) in found.items()}
    _check_places(tensors, len(data))
    return Header(fields, tensors, data)


def _split(body: bytes | memoryview) -> tuple[bytes, memoryview]:
    """The header, of a length that is allowed, and what is behind it."""
    behind = len(body) - LENGTH_BYTES
    if behind < 0:
        message = f"expected the header's length in {LENGTH_BYTES} bytes, got {len(body)}"
        raise UnreadableError(message, code="size_mismatch", at="body")
    length = int.from_bytes(body[:LENGTH_BYTES], "little")
    if length > min(behind, MAX_HEADER_BYTES):
        message = f"expected a header of at most {min(behind, MAX_HEADER_BYTES):,} bytes, got {length:,}"
        raise UnreadableError(message, code="size_mismatch", at="header")
    header = bytes(body[LENGTH_BYTES : LENGTH_BYTES + length])
    if not header.startswith(b"{"):
        raise UnreadableError("expected a header that begins with {", code="invalid_json", at="header")
    return header, memoryview(body)[LENGTH_BYTES + length :]


def _read_names(document: Any) -> dict[str, tuple[str, Any]]:
    """Place and value of each key, all known or ADDRESS.VERB, there once; what is a client's is not repeated."""
    found: dict[str, tuple[str, Any]] = {}
    for index, name in enumerate(document.keys()):
        ours = name in _KNOWN
        if not ours and split_name(name) is None:
            hint = nearest(name, _KNOWN) or f"; the fields are {', '.join(_KNOWN)}, ADDRESS.scale, .add and .set"
            message = f"unknown field, number {index + 1} of header{hint}"
            raise IllegalRequestError(message, code="unknown_field", at="header")
        if name in found:
            message = f"{f'field {name}' if ours else 'a field'} came twice"
            raise IllegalRequestError(message, code="duplicate_field", at="header" if ours else f"header[{index}]")
        if len(found) == MOST + len(_KNOWN):
            raise too_many("header")
        found[name] = (name if ours else f"header[{index}]"), document[name]
    return found


def _read_metadata(value: Any) -> Tensors:
    """The fields that are no tensors, read as if they had come as JSON."""
    members = []
    for name, text in read_fields(value, _FIELDS, METADATA).items():
        place = f"{METADATA}.{name}"
        if not isinstance(text, str):
            raise wrong_type("a string", text, place)
        try:
            orjson.loads(text)  # on its own, so that no text can hold a part of another
        except orjson.JSONDecodeError:
            message = "expected the field's JSON as text"
            raise UnreadableError(message, code="invalid_json", at=place) from None
        members.append(f'"{name}":{text}')
    return nested_json.decode_slowly(f"{{{','.join(members)}}}".encode())


def _read_entry(name: str, where: str, value: Any, data_bytes: int) -> Entry:
    fields = read_fields(value, ("dtype", "shape", "data_offsets"), where)
    for field in ("dtype", "shape", "data_offsets"):
        if field not in fields:
            raise IllegalRequestError(f"expected {field}, got none", code="missing_field", at=where)
    dtype, dtypes = fields["dtype"], _DTYPES.get(name, _FLOATS)
    if dtype not in dtypes:
        message = f"expected dtype {' or '.join(dtypes)}, got another one"
        raise IllegalRequestError(message, code="dtype_mismatch", at=f"{where}.dtype")
    shape = _read_sizes(fields["shape"], AXES.get(name), f"{where}.shape", least=1)
    place = f"{where}.data_offsets"
    begin, end = _read_sizes(fields["data_offsets"], ("begin", "end"), place, least=0)
    if not begin <= end <= data_bytes:
        message = f"expected begin and end, in order, within the {data_bytes} bytes behind the header"
        raise UnreadableError(message, code="size_mismatch", at=place)
    expected = math.prod(shape) * STORED[dtype].itemsize
    if end - begin != expected:
        message = f"expected {expected} bytes, as dtype and shape say, got {end - begin}"
        raise UnreadableError(message, code="size_mismatch", at=place)
    if shape and shape[0] > MAX_SEQUENCES:  # each becomes an array of Python's own
        message = f"expected at most {MAX_SEQUENCES:,} sequences, got {shape[0]:,}"
        raise IllegalRequestError(message, code="too_many_tokens", at=f"{where}.shape[0]")
    return Entry(begin, end, dtype, shape, where)


def _read_sizes(value: Any, names: Sequence[str] | None, place: str, least: int) -> tuple[int, ...]:
    """Whole numbers: as many as there are names, or as an intervention's tensor may have."""
    if not isinstance(value, simdjson.Array):
        raise wrong_type("a list", value, place)
    if names is not None and len(value) != len(names):
        message = f"expected {len(names)} whole numbers ({', '.join(names)}), got {len(value)}"
        raise IllegalRequestError(message, code="wrong_shape", at=place)
    if names is None:
        check_rank(len(value), place)
    return tuple(read_whole(size, f"{place}[{index}]", least) for index, size in enumerate(value))


def _check_places(tensors: dict[str, Entry], data_bytes: int) -> None:
    """The tensors lie one after the other, and nothing else is behind the header."""
    position = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.begin):
        if tensor.begin != position:
            message = f"expected the tensor to begin where another ends ({position}), got {tensor.begin}"
            raise UnreadableError(message, code="size_mismatch", at=f"{tensor.place}.data_offsets")
        position = tensor.end
    if position != data_bytes:
        message = f"expected {position} bytes behind the header, as the tensors say, got {data_bytes}"
        raise UnreadableError(message, code="size_mismatch", at="body")
