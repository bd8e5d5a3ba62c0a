"""safetensors, both ways: named tensors as bytes behind a JSON header.

    8 bytes: length of the header | {"NAME": {"dtype": …, "shape": …, "data_offsets": …}, "__metadata__": {…}} | tensors

What the header says is held against the body before a tensor is read; then tensors are views of the body. A batch is
one rectangle, and `sequence_lengths` says how much of each row is its sequence: what lies behind is not looked at. The
fields of a JSON request that are no tensors are in the metadata, each as JSON text.

The format: https://github.com/huggingface/safetensors#format. Why no library: docs/decisions/0018-safetensors.md.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from service.codec import nested_json, raw
from service.codec.envelope import parse, read_fields, read_whole, wrong_type
from service.codec.float_text import MAX_SEQUENCES
from service.errors import IllegalRequestError, UnreadableError
from service.tensors import BlockResult, BoolArray, Int64Array, Tensors

MEDIA_TYPE = "application/x-safetensors"
MAX_HEADER_BYTES = 2**20
_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_METADATA = "__metadata__"
_LENGTHS = "sequence_lengths"
_INPUTS = ("hidden_states", "input_ids")
_AXES = {
    "hidden_states": ("batch", "sequence", "hidden"),
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    _LENGTHS: ("batch",),
}
_DTYPES = {
    "hidden_states": ("F32", "F16", "BF16"),
    "input_ids": ("I64",),
    "attention_mask": ("I64", "BOOL"),
    _LENGTHS: ("I64",),
}
_STORED: dict[str, np.dtype[Any]] = {
    "F32": raw.FLOAT32, "F16": raw.FLOAT16, "BF16": raw.BFLOAT16, "I64": raw.INT64, "BOOL": raw.BOOL,
}  # fmt: skip
_DTYPE_OF = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}  # of outputs
_FIELDS = tuple(name for name in nested_json.FIELDS if name not in _AXES)


class _Place(NamedTuple):
    """Where a tensor lies behind the header, and what its bytes mean."""

    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


def decode(body: bytes) -> Tensors:
    """Reads a request; tensors are views of the body, unless they are narrower than 32 bits or unaligned.

    Raises:
        UnreadableError: not safetensors: lengths, offsets and JSON do not fit each other and the body.
        IllegalRequestError: safetensors, but not of the route's form; says where.
    """
    header, data = _split(body)
    fields = read_fields(parse(header), (*_AXES, _METADATA), "header")
    metadata = _read_metadata(fields.pop(_METADATA)) if _METADATA in fields else Tensors()
    places = {name: _read_place(name, value, len(data)) for name, value in fields.items()}
    _check_places(places, len(data))
    arrays = {name: raw.view(data[p.begin : p.end], _STORED[p.dtype], p.shape) for name, p in places.items()}
    _check_shapes(arrays)
    lengths = arrays.pop(_LENGTHS, None)
    if "hidden_states" in arrays:
        arrays["hidden_states"] = raw.widen(arrays["hidden_states"])
    if "attention_mask" in arrays:
        arrays["attention_mask"] = _as_mask(arrays["attention_mask"], lengths)
    cut: dict[str, Any] = {name: _cut(array, lengths) for name, array in arrays.items()}
    return metadata._replace(**cut)


def encode(result: BlockResult, model: str, version: str) -> bytes:
    """Writes an answer: each tensor padded with zeros on the right to its longest sequence, NaN and infinities as such.

    Raises:
        IllegalRequestError: an output's key is one that the format or the answer has for something else.
    """
    said = {"model": model, "version": version, **({} if result.tokens is None else {"tokens": result.tokens})}
    header: dict[str, Any] = {_METADATA: {name: orjson.dumps(value).decode() for name, value in said.items()}}
    lengths = np.asarray(result.lengths, raw.INT64)
    header[_LENGTHS] = {"dtype": "I64", "shape": lengths.shape, "data_offsets": (0, lengths.nbytes)}
    pieces: list[Any] = [lengths]  # the widest first, so that all are aligned; arrays are bytes to join()
    begin = lengths.nbytes
    found = sorted(result.tensors(), key=lambda tensor: -tensor[2][0].itemsize)
    for _, name, arrays in found:
        if name in header:
            message = f"in safetensors {name} means something else: ask for layers.0.{name}"
            raise IllegalRequestError(message, code="reserved_name", at=name)
        rows = _pad(arrays)
        end = begin + len(rows) * rows[0].nbytes
        header[name] = {
            "dtype": _DTYPE_OF[rows[0].dtype],
            "shape": (len(rows), *rows[0].shape),
            "data_offsets": (begin, end),
        }
        pieces += rows
        begin = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return b"".join((len(text).to_bytes(_LENGTH_BYTES, "little"), text, *pieces))


def _split(body: bytes) -> tuple[bytes, memoryview]:
    """The header, of a length that is allowed, and what is behind it."""
    behind = len(body) - _LENGTH_BYTES
    if behind < 0:
        message = f"expected the header's length in {_LENGTH_BYTES} bytes, got {len(body)}"
        raise UnreadableError(message, code="size_mismatch", at="body")
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    if length > min(behind, MAX_HEADER_BYTES):
        message = f"expected a header of at most {min(behind, MAX_HEADER_BYTES):,} bytes, got {length:,}"
        raise UnreadableError(message, code="size_mismatch", at="header")
    header = body[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if not header.startswith(b"{"):
        raise UnreadableError("expected a header that begins with {", code="invalid_json", at="header")
    return header, memoryview(body)[_LENGTH_BYTES + length :]


def _read_metadata(value: Any) -> Tensors:
    """The fields that are no tensors, read as if they had come as JSON."""
    members = []
    for name, text in read_fields(value, _FIELDS, _METADATA).items():
        place = f"{_METADATA}.{name}"
        if not isinstance(text, str):
            raise wrong_type("a string", text, place)
        try:
            orjson.loads(text)  # on its own, so that no text can hold a part of another
        except orjson.JSONDecodeError:
            message = "expected the field's JSON as text"
            raise UnreadableError(message, code="invalid_json", at=place) from None
        members.append(f'"{name}":{text}')
    return nested_json.decode(f"{{{','.join(members)}}}".encode())


def _read_place(name: str, value: Any, data_bytes: int) -> _Place:
    fields = read_fields(value, ("dtype", "shape", "data_offsets"), name)
    for field in ("dtype", "shape", "data_offsets"):
        if field not in fields:
            raise IllegalRequestError(f"expected {field}, got none", code="missing_field", at=name)
    dtype = fields["dtype"]
    if dtype not in _DTYPES[name]:
        message = f"expected dtype {' or '.join(_DTYPES[name])}, got another one"
        raise IllegalRequestError(message, code="dtype_mismatch", at=f"{name}.dtype")
    shape = _read_sizes(fields["shape"], _AXES[name], f"{name}.shape", least=1)
    place = f"{name}.data_offsets"
    begin, end = _read_sizes(fields["data_offsets"], ("begin", "end"), place, least=0)
    if not begin <= end <= data_bytes:
        message = f"expected begin and end, in order, within the {data_bytes} bytes behind the header"
        raise UnreadableError(message, code="size_mismatch", at=place)
    expected = math.prod(shape) * _STORED[dtype].itemsize
    if end - begin != expected:
        message = f"expected {expected} bytes, as dtype and shape say, got {end - begin}"
        raise UnreadableError(message, code="size_mismatch", at=place)
    if shape[0] > MAX_SEQUENCES:  # each becomes an array of Python's own
        message = f"expected at most {MAX_SEQUENCES:,} sequences, got {shape[0]:,}"
        raise IllegalRequestError(message, code="too_many_tokens", at=f"{name}.shape[0]")
    return _Place(begin, end, dtype, shape)


def _read_sizes(value: Any, names: Sequence[str], place: str, least: int) -> tuple[int, ...]:
    if not isinstance(value, simdjson.Array):
        raise wrong_type("a list", value, place)
    if len(value) != len(names):
        message = f"expected {len(names)} whole numbers ({', '.join(names)}), got {len(value)}"
        raise IllegalRequestError(message, code="wrong_shape", at=place)
    return tuple(read_whole(size, f"{place}[{index}]", least) for index, size in enumerate(value))


def _check_places(places: dict[str, _Place], data_bytes: int) -> None:
    """The tensors lie one after the other, and nothing else is behind the header."""
    position = 0
    for name, place in sorted(places.items(), key=lambda item: item[1].begin):
        if place.begin != position:
            message = f"expected the tensor to begin where another ends ({position}), got {place.begin}"
            raise UnreadableError(message, code="size_mismatch", at=f"{name}.data_offsets")
        position = place.end
    if position != data_bytes:
        message = f"expected {position} bytes behind the header, as the tensors say, got {data_bytes}"
        raise UnreadableError(message, code="size_mismatch", at="body")


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> None:
    """Batch and sequence are the same everywhere, and lengths are of something."""
    given = [name for name in _INPUTS if name in arrays]
    if not given:
        if _LENGTHS in arrays:
            message = f"expected {' or '.join(_INPUTS)} with it, got none"
            raise IllegalRequestError(message, code="wrong_inputs", at=_LENGTHS)
        return
    reference = arrays[given[0]].shape
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape[:2]):
            if size != reference[axis]:
                message = f"expected {reference[axis]}, as {given[0]} has, got {size}"
                raise IllegalRequestError(message, code="wrong_shape", at=f"{name}.shape[{axis}]")
    if _LENGTHS in arrays:
        outside = (arrays[_LENGTHS] < 1) | (arrays[_LENGTHS] > reference[1])
        if outside.any():
            message = f"expected a length from 1 to {reference[1]}, got another one"
            raise IllegalRequestError(message, code="wrong_length", at=f"{_LENGTHS}[{int(outside.argmax())}]")


def _as_mask(values: NDArray[Any], lengths: Int64Array | None) -> BoolArray:
    """Bool, from 0 and 1 within each sequence."""
    wrong = (values != 0) & (values != 1)
    if lengths is not None:
        wrong &= np.arange(values.shape[1]) < lengths[:, None]
    if wrong.any():
        index, position = np.argwhere(wrong)[0]
        message = "expected 0 or 1, got another number"
        raise IllegalRequestError(message, code="wrong_type", at=f"attention_mask[{index}][{position}]")
    return values.astype(np.bool_)


def _cut(array: NDArray[Any], lengths: Int64Array | None) -> tuple[NDArray[Any], ...]:
    """One view a sequence."""
    if lengths is None:
        return tuple(array)
    return tuple(row[:length] for row, length in zip(array, lengths.tolist(), strict=True))


def _pad(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """One C-contiguous array a sequence, all of one shape: the longest on every axis."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    return [_extend(array, shape) for array in arrays]


def _extend(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.shape == shape:
        return np.asarray(array, order="C")  # ascontiguousarray would give a single number an axis
    padded = np.zeros(shape, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded
