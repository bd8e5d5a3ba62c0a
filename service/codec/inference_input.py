"""A tensor of a request of the Open Inference Protocol: a view of the body's bytes, or numbers read from its text.

A list of numbers is cut out of the JSON and read in C before the rest is parsed; what C does not read stays there, and
is walked in Python to say where it is wrong.
"""

import math
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simdjson

from service.codec import float_text, raw
from service.codec.envelope import kind_of, parse, wrong_type
from service.codec.float_text import FEW_SEQUENCES, MAX_SEQUENCES
from service.codec.inference_head import InputHead
from service.errors import IllegalRequestError
from service.tensors import BoolArray, Float32Array, Int64Array

STORED: dict[str, np.dtype[Any]] = {
    "FP32": raw.FLOAT32,
    "FP16": raw.FLOAT16,
    "BF16": raw.BFLOAT16,
    "INT64": raw.INT64,
    "BOOL": raw.BOOL,
}
DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}  # of outputs
_KEY = b'"data"'
_DATA = re.compile(_KEY + rb"[ \t\r\n]*:[ \t\r\n]*(?P<list>\[(?P<nested>[ \t\r\n]*\[[ \t\r\n]*\[)?)")
_MOST_LISTS, _FEW_LISTS = 2**13, 2**9  # that are cut out: more than a request may have; and within some milliseconds
_NESTED_AXES = 3  # of a list that C reads nested
_NONCE = secrets.token_hex(16)  # so that a client cannot write what stands for numbers


@dataclass(frozen=True, slots=True)
class Numbers:
    """A list that was cut out of a text.

    Attributes:
        text: the whole text; the list is `text[start:stop]`.
        start: its opening bracket.
        stop: after its closing one.
        arrays: float32, one [count], or one [sequence, hidden] a sequence if `nested`.
        nested: whether it is a list of lists of lists.
    """

    text: bytes
    start: int
    stop: int
    arrays: tuple[Float32Array, ...]
    nested: bool


def cut_numbers(text: bytes, *, all_of_them: bool) -> tuple[bytes, dict[str, Numbers]]:
    """The text with strings in place of the lists of numbers that are `data`, and the lists by these strings.

    Whatever the text is, one with a string for a well-formed list is JSON exactly if it is. Unless `all_of_them`, what
    would take long to cut out is left in the text.
    """
    most_lists, most_sequences = (_MOST_LISTS, MAX_SEQUENCES) if all_of_them else (_FEW_LISTS, FEW_SEQUENCES)
    pieces, found, end, lists = list[bytes](), dict[str, Numbers](), 0, 0
    while (at := text.find(_KEY, end)) >= 0:
        if (lists := lists + 1) > most_lists:
            return text, {}
        match = _DATA.match(text, at)
        nested = match is not None and match["nested"] is not None
        read = match and _read_list(text, match.start("list"), most_sequences, nested=nested)
        if match and read:
            name, start = f"{_NONCE}.{len(found)}", match.start("list")
            pieces += (text[end:start], b'"%b"' % name.encode())
            end = read[1]
            found[name] = Numbers(text, start, end, read[0], nested)
        else:
            pieces.append(text[end : at + len(_KEY)])
            end = at + len(_KEY)
    return b"".join((*pieces, text[end:])) if found else text, found


def _read_list(
    text: bytes, start: int, most_sequences: int, *, nested: bool
) -> tuple[tuple[Float32Array, ...], int] | None:
    if nested:
        return float_text.read(text, start, most_sequences)
    flat = float_text.read_flat(text, start)
    return flat and ((flat[0],), flat[1])


def read_floats(head: InputHead, data: Any) -> tuple[Float32Array, ...]:
    """One float32 array of the other sizes for each of the first axis; FP16 and BF16 are widened.

    Args:
        head: of one of these datatypes.
        data: bytes, just as many as they take; or `Numbers` or a simdjson value. A number in the text of an FP16 or
            BF16 tensor stands for the nearest number that these have.

    Raises:
        IllegalRequestError: not as many numbers as the shape says, at any level, or something else among them.
    """
    if isinstance(data, memoryview):
        stored = raw.view(data, STORED[head.datatype], head.shape)
        return tuple(stored if head.datatype == "FP32" else raw.widen(stored))
    if isinstance(data, Numbers) and data.nested and len(head.shape) != _NESTED_AXES:
        data = _read_again(data)
    if not isinstance(data, Numbers):
        values = _walk(data, head, _are_numbers, "a number")
        with np.errstate(over="ignore"):  # what became infinite is found by the check
            return tuple(_round(np.asarray(values, np.float64).astype(np.float32), head.datatype).reshape(head.shape))
    if data.nested:
        _check_nesting(data.arrays, head)
        return tuple(_round(array, head.datatype) for array in data.arrays)
    check_count(data.arrays[0].size, math.prod(head.shape), f"{head.place}.data")
    return tuple(_round(data.arrays[0], head.datatype).reshape(head.shape))


def read_mask(head: InputHead, data: Any) -> tuple[BoolArray, ...]:
    """One bool [sequence] a sequence, from INT64 of 0 and 1 or from BOOL.

    Args:
        head: with a shape of two sizes, and one of these datatypes.
        data: as `read_floats` takes it.

    Raises:
        IllegalRequestError: another number, not as many as the shape says, or something else among them.
    """
    if isinstance(data, memoryview):
        values = raw.view(data, STORED[head.datatype], head.shape)
        if np.any(values & ~values.dtype.type(1)):
            raise IllegalRequestError("expected 0 or 1, got another number", code="wrong_type", at=head.place)
        return tuple(values.astype(np.bool_))
    if isinstance(data, Numbers):  # read as float32, which is not how whole numbers are to be read
        data = _read_again(data)
    found = _walk(data, head, _are_mask, "0, 1, true or false")
    return tuple(np.asarray(found, np.bool_).reshape(head.shape))


def read_whole_numbers(head: InputHead, data: Any) -> tuple[Int64Array, ...]:
    """One int64 [sequence] a sequence.

    Args:
        head: with a shape of two sizes, of INT64.
        data: as `read_floats` takes it.

    Raises:
        IllegalRequestError: not as many numbers as the shape says, or something else among them.
    """
    if isinstance(data, memoryview):
        return tuple(raw.view(data, STORED[head.datatype], head.shape))
    if isinstance(data, Numbers):  # read as float32, which does not hold every whole number
        data = _read_again(data)
    found = _walk(data, head, _are_whole, "a whole number of 64 bits")
    return tuple(np.asarray(found, np.int64).reshape(head.shape))


def _read_again(numbers: Numbers) -> Any:
    """The list as simdjson's."""
    return parse(b'{"data":%b}' % numbers.text[numbers.start : numbers.stop])["data"]


def _round(values: Float32Array, datatype: str) -> Float32Array:
    """Each number to the nearest one of the datatype, ties to even."""
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if datatype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values


def _walk(value: Any, head: InputHead, fit: Callable[[list[Any]], bool], expected: str) -> list[Any]:
    """The elements of a list, flat or nested as the shape says."""
    nested = isinstance(value, simdjson.Array) and len(value) > 0 and isinstance(value[0], simdjson.Array)
    return _collect(value, head.shape if nested else (math.prod(head.shape),), fit, expected, f"{head.place}.data")


def _collect(
    value: Any, lengths: tuple[int, ...], fit: Callable[[list[Any]], bool], expected: str, place: str
) -> list[Any]:
    if not isinstance(value, simdjson.Array):
        raise wrong_type("a list", value, place)
    check_count(len(value), lengths[0], place)
    if len(lengths) > 1:
        lists = (_collect(item, lengths[1:], fit, expected, f"{place}[{i}]") for i, item in enumerate(value))
        return [element for found in lists for element in found]
    items: list[Any] = value.as_list()
    if not fit(items):
        index = next(i for i, item in enumerate(items) if not fit([item]))
        came = kind_of(items[index]).replace("a number", "another number")
        raise IllegalRequestError(f"expected {expected}, got {came}", code="wrong_type", at=f"{place}[{index}]")
    return items


def _are_numbers(items: list[Any]) -> bool:
    return set(map(type, items)) <= {int, float}


def _are_whole(items: list[Any]) -> bool:
    return set(map(type, items)) <= {int} and all(-(2**63) <= item < 2**63 for item in items)


def _are_mask(items: list[Any]) -> bool:
    return set(map(type, items)) <= {int, bool} and set(items) <= {0, 1}


def _check_nesting(arrays: tuple[Float32Array, ...], head: InputHead) -> None:
    place = f"{head.place}.data"
    check_count(len(arrays), head.shape[0], place)
    for index, array in enumerate(arrays):
        check_count(len(array), head.shape[1], f"{place}[{index}]")
        check_count(array.shape[1], head.shape[2], f"{place}[{index}][0]")


def check_count(found: int, expected: int, place: str) -> None:
    """As many elements as a shape says.

    Raises:
        IllegalRequestError: more or fewer.
    """
    if found != expected:
        message = f"expected {expected} elements, as the shape says, got {found}"
        raise IllegalRequestError(message, code="wrong_shape", at=place)
