"""JSON with nested lists: bytes → Tensors and BlockResult → bytes.

Numbers go straight from text to arrays and back (float_text.py; ids and masks through simdjson); they never become
Python objects on the way of a good request. simdjson flattens ragged and too deep lists in silence, so the length of
every level is checked, and the number of brackets in the body is held against the number that the checked levels have.
What fails any of this is read again in explain.py, slowly, to say where it is wrong.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from service.codec import float_text
from service.codec.envelope import (
    LONG_BYTES,
    MAX_LISTS,
    LongTextError,
    count_lists,
    not_finite,
    parse,
    read_fields,
    read_urgency,
    too_many_lists,
)
from service.codec.explain import explain
from service.codec.interventions import count_brackets
from service.codec.interventions import read as read_interventions
from service.request import BlockResult, Tensors
from service.tensors import BoolArray, Float32Array, Found, Int64Array, Top

MEDIA_TYPE = "application/json"
_REMEMBERED, _REMEMBERED_BYTES = 256, 2048  # envelopes, and the longest of them: a few megabytes of objects at most
_HIDDEN_STATES = re.compile(rb'"hidden_states"[ \t\r\n]*:[ \t\r\n]*\[')
FIELDS = (
    "hidden_states", "input_ids", "text", "attention_mask", "position_ids", "outputs", "interventions", "timeout_s",
    "priority",
)  # fmt: skip


def decode(body: bytes | memoryview) -> Tensors:
    """Reads a request.

    Raises:
        UnreadableError: not JSON.
        IllegalRequestError: JSON, but not of the route's form; says where.
        LongTextError: it takes too long here.
    """
    body = bytes(body)  # that is bytes already is not copied
    try:
        return _decode_fast(body, float_text.FEW_SEQUENCES, LONG_BYTES)
    except _NotPlainError:
        pass  # what is raised below would hold it, and with it all that was read
    if len(body) > LONG_BYTES:
        raise LongTextError(partial(decode_slowly, body))
    return decode_slowly(body)


def decode_slowly(body: bytes) -> Tensors:
    """Reads a request, however long it takes."""
    try:
        return _decode_fast(body, float_text.MAX_SEQUENCES, len(body))
    except _NotPlainError:
        return explain(body)


def encode(result: BlockResult, model: str, version: str) -> bytes:
    """Writes an answer.

    Raises:
        IllegalRequestError: an output is not finite, which JSON cannot say.
    """
    head: dict[str, Any] = {"model": model, "version": version}
    if result.tokens is not None:
        head["tokens"] = result.tokens
    pieces: list[bytes | memoryview] = [orjson.dumps(head)[:-1], b',"outputs":']
    separator = b"{"
    for key, arrays in result.outputs.items():
        pieces += (separator, orjson.dumps(key), b":[")
        for index, found in enumerate(arrays):
            if index:
                pieces.append(b",")
            pieces += _write(found, key)
        pieces.append(b"]")
        separator = b","
    return b"".join((*pieces, b"}}"))


def _write(found: Found, key: str) -> tuple[bytes | memoryview, ...]:
    if isinstance(found, Top):
        return b'{"values":', *_write(found.values, key), b',"indices":', orjson.dumps(found.indices.tolist()), b"}"
    if (text := float_text.write(np.asarray(found, order="C"))) is None:
        raise not_finite(key)
    return text


class _NotPlainError(Exception):
    """The fast way will not do: read again, slowly, to find out why."""


def _decode_fast(body: bytes, most_sequences: int, most_bytes: int) -> Tensors:
    hidden_states, envelope = _cut_hidden_states(body, most_sequences)
    if len(envelope) > most_bytes:
        raise _NotPlainError
    if hidden_states is None or len(envelope) > _REMEMBERED_BYTES:
        return _read(envelope, plain=hidden_states is not None)._replace(hidden_states=hidden_states)
    return _recall(envelope)._replace(hidden_states=hidden_states)


@lru_cache(_REMEMBERED)
def _recall(envelope: bytes) -> Tensors:
    """The request of an envelope, whose text is its key where hidden states are all that it has beside it."""
    tensors = _read(envelope, plain=True)
    others = (tensors.input_ids, tensors.text, tensors.attention_mask, tensors.position_ids, tensors.intervention_lists)
    alone = others == (None,) * len(others) and not tensors.interventions
    return tensors._replace(key=envelope if alone else None)


def _read(envelope: bytes, *, plain: bool) -> Tensors:
    """A request without its hidden states; `plain`: whether they were cut out."""
    document = parse(envelope)
    if (found := count_lists(envelope)) > MAX_LISTS:
        raise too_many_lists()
    fields = read_fields(document, FIELDS, "body")
    changes = fields.get("interventions")
    if changes is not None and envelope.count(b"{") > MAX_LISTS:
        raise too_many_lists()
    interventions, listed = ((), None) if changes is None else read_interventions(changes)
    if None in fields.values() or ("hidden_states" in fields and not plain):
        raise _NotPlainError
    tensors = {name: _read_tensor(name, fields[name]) for name in _READERS.keys() & fields.keys()}
    text, in_text = _read_strings(fields.get("text"))
    outputs, in_outputs = _read_strings(fields.get("outputs"), bare=False)
    brackets = sum(count for _, count in tensors.values()) + in_text + in_outputs + count_brackets(changes)
    # A backslash may hide a bracket from the count, or bring one in.
    if b"\\" in envelope or found != brackets:
        raise _NotPlainError
    arrays: dict[str, Any] = {name: array for name, (array, _) in tensors.items()}
    arrays |= {"interventions": interventions, "intervention_lists": listed}
    return Tensors(text=text, outputs=outputs, **read_urgency(fields), **arrays)


def _cut_hidden_states(body: bytes, most_sequences: int) -> tuple[tuple[Float32Array, ...] | None, bytes]:
    """The numbers, and the body with 0 in their place; None and the whole body if they are not there or not plain.

    Whatever the body is, one with 0 for a well-formed list is JSON exactly if it is.
    """
    if (key := _HIDDEN_STATES.search(body)) is None:
        return None, body
    start = key.end() - 1
    if (found := float_text.read(body, start, most_sequences)) is None:
        return None, body
    arrays, end = found
    return arrays, b"%b0%b" % (body[:start], body[end:])


def _read_tensor(name: str, value: Any) -> tuple[tuple[NDArray[Any], ...], int]:
    """One array a sequence, and the opening brackets that these lists have."""
    if not isinstance(value, simdjson.Array):
        raise _NotPlainError
    sequences = _lists(value)
    pairs = [_READERS[name](sequence) for sequence in sequences]
    return tuple(array for array, _ in pairs), 1 + sum(count for _, count in pairs)


def _lists(array: Any) -> list[Any]:
    if len(array) > MAX_LISTS:
        raise too_many_lists()
    items = list(array)
    if not all(isinstance(item, simdjson.Array) for item in items):
        raise _NotPlainError
    return items


def _buffer(array: Any, kind: str) -> Any:
    try:
        return array.as_buffer(of_type=kind)
    except (TypeError, ValueError):
        raise _NotPlainError from None


def _read_ids(sequence: Any) -> tuple[Int64Array, int]:
    ids = np.frombuffer(_buffer(sequence, "i"), np.int64)
    if ids.size != len(sequence):
        raise _NotPlainError
    return ids, 1


def _read_mask(sequence: Any) -> tuple[BoolArray, int]:
    return _as_mask(sequence.as_list()), 1


_READERS: dict[str, Callable[[Any], tuple[NDArray[Any], int]]] = {
    "input_ids": _read_ids,
    "attention_mask": _read_mask,
    "position_ids": _read_ids,
}


def _as_mask(values: list[Any]) -> BoolArray:
    kinds = set(map(type, values))
    if not (kinds <= {bool} or (kinds == {int} and set(values) <= {0, 1})):
        raise _NotPlainError
    return np.asarray(values, np.bool_)


def _read_strings(value: Any, *, bare: bool = True) -> tuple[tuple[str, ...] | None, int]:
    """Strings, and the opening brackets of their list and in them."""
    if value is None:
        return None, 0
    if isinstance(value, str) and bare:
        return (value,), value.count("[")
    if not isinstance(value, simdjson.Array):
        raise _NotPlainError
    items = value.as_list()
    strings = [item for item in items if isinstance(item, str)]
    if not strings or len(strings) != len(items):
        raise _NotPlainError
    return tuple(strings), 1 + sum(string.count("[") for string in strings)
