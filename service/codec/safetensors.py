"""safetensors, both ways: named tensors as bytes behind a JSON header (safetensors_header.py).

What the header says is held against the body before a tensor is read; then tensors are views of the body. A batch is
one rectangle, and `sequence_lengths` says how much of each row is its sequence: what lies behind is not looked at.

The format: https://github.com/huggingface/safetensors#format. Why no library: docs/decisions/0018-safetensors.md.
"""

from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.codec import raw
from service.codec.envelope import LONG_BYTES, LongTextError
from service.codec.interventions import check_shape, from_tensors
from service.codec.safetensors_header import (
    AXES,
    LENGTH_BYTES,
    LENGTHS,
    MAX_HEADER_BYTES,
    METADATA,
    STORED,
    Entry,
    read_header,
)
from service.errors import IllegalRequestError
from service.request import BlockResult, Intervention, Tensors
from service.tensors import BoolArray, Int64Array

MEDIA_TYPE = "application/x-safetensors"
_ALIGNMENT_BYTES = 8
_INPUTS = ("hidden_states", "input_ids")
_DTYPE_OF = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}  # of outputs


def decode(body: bytes | memoryview) -> Tensors:
    """Reads a request; tensors are views of the body, unless they are narrower than 32 bits or unaligned.

    Raises:
        UnreadableError: not safetensors: lengths, offsets and JSON do not fit each other and the body.
        IllegalRequestError: safetensors, but not of the route's form; says where.
        LongTextError: it takes too long here.
    """
    if LONG_BYTES < int.from_bytes(body[:LENGTH_BYTES], "little") <= min(MAX_HEADER_BYTES, len(body)):
        raise LongTextError(partial(_decode, body))
    return _decode(body)


def _decode(body: bytes | memoryview) -> Tensors:
    fields, entries, data = read_header(body)
    changes = {name: entries.pop(name) for name in [*entries] if name not in AXES}
    arrays = {name: _view(data, entry) for name, entry in entries.items()}
    _check_shapes(arrays)
    lengths = arrays.pop(LENGTHS, None)
    if "hidden_states" in arrays:
        arrays["hidden_states"] = raw.widen(arrays["hidden_states"])
    if "attention_mask" in arrays:
        arrays["attention_mask"] = _as_mask(arrays["attention_mask"], lengths)
    cut: dict[str, Any] = {name: _cut(array, lengths) for name, array in arrays.items()}
    tensors = fields._replace(**cut)
    if not changes:
        return tensors
    interventions = _read_interventions(tensors, changes, data)
    return tensors._replace(interventions=(*tensors.interventions, *interventions))


def encode(result: BlockResult, model: str, version: str) -> bytes:
    """Writes an answer: each tensor padded with zeros on the right to its longest sequence, NaN and infinities as such.

    Raises:
        IllegalRequestError: an output's key is one that the format or the answer has for something else.
    """
    said = {"model": model, "version": version, **({} if result.tokens is None else {"tokens": result.tokens})}
    header: dict[str, Any] = {METADATA: {name: orjson.dumps(value).decode() for name, value in said.items()}}
    lengths = np.asarray(result.lengths, raw.INT64)
    header[LENGTHS] = {"dtype": "I64", "shape": lengths.shape, "data_offsets": (0, lengths.nbytes)}
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
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, *pieces))


def _view(data: memoryview, entry: Entry) -> NDArray[Any]:
    return raw.view(data[entry.begin : entry.end], STORED[entry.dtype], entry.shape)


def _read_interventions(tensors: Tensors, changes: dict[str, Entry], data: memoryview) -> tuple[Intervention, ...]:
    inputs = tensors.hidden_states or tensors.input_ids or tensors.text
    if inputs is None:
        return ()  # as nothing can be changed, so check.py says what is missing
    for entry in changes.values():
        check_shape(entry.shape, len(inputs), entry.place)
    return from_tensors((name, tuple(raw.widen(_view(data, entry))), entry.place) for name, entry in changes.items())


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> None:
    """Batch and sequence are the same everywhere, and lengths are of something."""
    given = [name for name in _INPUTS if name in arrays]
    if not given:
        if LENGTHS in arrays:
            message = f"expected {' or '.join(_INPUTS)} with it, got none"
            raise IllegalRequestError(message, code="wrong_inputs", at=LENGTHS)
        return
    reference = arrays[given[0]].shape
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape[:2]):
            if size != reference[axis]:
                message = f"expected {reference[axis]}, as {given[0]} has, got {size}"
                raise IllegalRequestError(message, code="wrong_shape", at=f"{name}.shape[{axis}]")
    if LENGTHS in arrays:
        outside = (arrays[LENGTHS] < 1) | (arrays[LENGTHS] > reference[1])
        if outside.any():
            message = f"expected a length from 1 to {reference[1]}, got another one"
            raise IllegalRequestError(message, code="wrong_length", at=f"{LENGTHS}[{int(outside.argmax())}]")


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
