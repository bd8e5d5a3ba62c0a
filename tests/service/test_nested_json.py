"""The JSON codec against an independent reading: json.loads and one strict check a value."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec.nested_json import FIELDS, decode, encode
from service.errors import IllegalRequestError, UnreadableError
from service.request import BlockResult, Tensors

FINITE = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-(10**40), 10**40),
    st.sampled_from([0, -0.0, 1e-45, 1e-46, 5e-324, 3.4028234663852886e38, 16777217, 0.1, 1e39, 2**53 + 1]),
)


@st.composite
def ragged(draw: st.DrawFn) -> list[list[list[float]]]:
    """Hidden states of a few sequences of different lengths and one width."""
    width = draw(st.integers(1, 5))
    row = st.lists(FINITE, min_size=width, max_size=width)
    return draw(st.lists(st.lists(row, min_size=1, max_size=4), min_size=1, max_size=4))


def _bits(array: Any) -> bytes:
    values = np.asarray(array)
    return f"{values.dtype} {values.shape} ".encode() + values.tobytes()


def _float32(rows: list[Any]) -> bytes:
    with np.errstate(over="ignore"):
        return _bits(np.asarray(rows, np.float64).astype(np.float32))


@given(ragged(), st.data())
def test_ragged_batches_are_numpys_float32_of_the_lists_bit_for_bit(batch: list[Any], data: st.DataObject) -> None:
    mask = [data.draw(st.lists(st.sampled_from([0, 1, True, False]), min_size=n, max_size=n)) for n in map(len, batch)]
    body = {
        "hidden_states": batch,
        "attention_mask": mask,
        "outputs": [data.draw(st.sampled_from(["a", "[", "\\", "ü"]))],
    }
    escaped = data.draw(st.booleans())
    indent = data.draw(st.sampled_from([None, 1]))
    found = decode(json.dumps(body, ensure_ascii=escaped, indent=indent).encode())
    assert found.hidden_states is not None
    assert found.attention_mask is not None
    assert [_bits(array) for array in found.hidden_states] == [_float32(rows) for rows in batch]
    assert [_bits(array) for array in found.attention_mask] == [_bits(np.asarray(row, np.bool_)) for row in mask]
    assert found.outputs == tuple(body["outputs"])


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), min_size=1, max_size=4), st.booleans())
def test_ids_are_numpys_int64_of_the_lists(batch: list[list[int]], escaped: bool) -> None:  # noqa: FBT001
    text = ',"outputs":["\\u0041"]' if escaped else ""
    found = decode(f'{{"input_ids":{json.dumps(batch)}{text}}}'.encode())
    assert found.input_ids is not None
    assert [_bits(array) for array in found.input_ids] == [_bits(np.asarray(ids, np.int64)) for ids in batch]


class _RefusedError(Exception):
    """The reference's one refusal."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise _RefusedError
    return dict(pairs)


def _refuse(_: str) -> float:
    raise _RefusedError


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _whole(text: str) -> int:
    return int(text) if math.isfinite(float(text)) else int(_refuse(text))


def _need(condition: object) -> None:
    if not condition:
        raise _RefusedError


def _reference(body: bytes) -> dict[str, Any]:
    """What a body means, read in the plainest way; raises what a refusal is."""
    try:
        text = body.decode()
        text.encode("utf-16")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_number, parse_int=_whole
        )
        json.dumps(value, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError):
        raise _RefusedError from None
    _need(isinstance(value, dict) and value.keys() <= set(FIELDS))
    read = {name: _FIELD[name](field) for name, field in value.items()}
    defaults = {"priority": 0, "interventions": ([], None)}
    return {name: read.get(name, defaults.get(name)) for name in FIELDS}


def _lists(value: Any, element: Any) -> list[Any]:
    _need(isinstance(value, list) and all(isinstance(item, list) for item in value))
    _need(all(element(x) for item in value for x in item))
    return list(value)


def _states(value: Any) -> list[bytes]:
    _need(isinstance(value, list))
    for rows in value:
        _need(rows and _lists(rows, lambda x: type(x) in (int, float)))
        _need(rows[0] and len({len(row) for row in rows}) == 1)
    return [_float32(rows) for rows in value]


def _ids(value: Any) -> list[bytes]:
    return [_bits(np.asarray(x, np.int64)) for x in _lists(value, lambda x: type(x) is int and -(2**63) <= x < 2**63)]


def _mask(value: Any) -> list[bytes]:
    good = lambda x: type(x) is bool or (type(x) is int and x in (0, 1))  # noqa: E731
    return [_bits(np.asarray(x, np.bool_)) for x in _lists(value, good)]


def _strings(value: Any) -> list[str]:
    _need(isinstance(value, list) and value and all(isinstance(x, str) for x in value))
    return list(value)


def _timeout(value: Any) -> float | None:
    _need(type(value) is float or (type(value) is int and value < 2**64))
    _need(value >= 0)
    return None if value == 0 else 86_400.0 if value > 86_400 else value


def _priority(value: Any) -> int:
    _need(type(value) is int and 0 <= value < 2**64)
    return int(value)


def _leaves(value: Any, depth: int = 0) -> list[Any]:
    _need(depth <= 8)
    return [leaf for item in value for leaf in _leaves(item, depth + 1)] if isinstance(value, list) else [value]


def _change(value: Any) -> Any:
    """What a verb is given: float32, bit for bit, or the number of a sequence."""
    if isinstance(value, dict):
        _need(value.keys() == {"from"})
        return _priority(value["from"])
    _need(all(type(leaf) is float or (type(leaf) is int and -(2**63) <= leaf < 2**64) for leaf in _leaves(value)))
    try:
        return _float32(value)
    except ValueError:  # lists of different lengths
        raise _RefusedError from None


def _changes(value: Any, sequence: int | None = None) -> list[tuple[int | None, str, str, Any]]:
    _need(isinstance(value, dict) and all(isinstance(verbs, dict) and verbs for verbs in value.values()))
    _need(all(verbs.keys() <= {"scale", "add", "set"} for verbs in value.values()))
    _need(not any("\0" in address for address in value))
    return [(sequence, address, verb, _change(x)) for address, verbs in value.items() for verb, x in verbs.items()]


def _interventions(value: Any) -> tuple[list[Any], int | None]:
    if not isinstance(value, list):
        return _changes(value), None
    found = [_changes(item, index) for index, item in enumerate(value) if item is not None]
    return [change for changes in found for change in changes], len(value)


_FIELD = {
    "hidden_states": _states,
    "input_ids": _ids,
    "attention_mask": _mask,
    "text": lambda value: [value] if isinstance(value, str) else _strings(value),
    "outputs": _strings,
    "interventions": _interventions,
    "timeout_s": _timeout,
    "priority": _priority,
}


def _plain(tensors: Tensors) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(tensors, name) for name in FIELDS}
    for name in ("hidden_states", "input_ids", "attention_mask"):
        if found[name] is not None:
            found[name] = [_bits(array) for array in found[name]]
    changes = [
        (*one[:3], one.value if isinstance(one.value, int) else _bits(one.value)) for one in tensors.interventions
    ]
    found["interventions"] = changes, tensors.intervention_lists
    return {name: list(value) if name in {"text", "outputs"} and value else value for name, value in found.items()}


SEEDS = [
    b'{"hidden_states":[[[1,-0.5],[2e3,4]],[[0,1]]],"attention_mask":[[1,0],[true]],"outputs":["a[0]","layers.*.b"]}',
    b'{"input_ids": [[101, 7], [0]], "attention_mask": [[1, 1], [0]]}',
    b'{"text": ["a [b] \\u005b \\"c\\"", "\xc3\xbc"], "outputs": ["x"]}',
    b'{"text":"bare","hidden_states":[[[1.5]]]}',
    b'{"hidden_states":[[[1]]],"interventions":{"a[0]":{"set":{"from":1},"add":[[1,2.5],[3,0]]},"b":{"scale":-1e1}}}',
    b'{"text":"a","interventions":[{"a[0]":{"add":[1]}},null,{"\\u005b":{"set":0.5}}]}',
    b'{"input_ids":[[1]],"timeout_s":2.5,"outputs":["\\u0061"],"priority":1}',
]
PIECES = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b" ", b"0", b"1", b"9", b"-", b".", b"e5", b"null", b"NaN"),
    *(b"[]", b"[[]]", b"[1]", b"{}", b'"a"', b"\\u005b", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\0", b"1e39"),
    *(b"true", b"1e999", b"\\u0000"),
    *(b"9223372036854775808", b"18446744073709551616", b'"text":"a",', b'"outputs":["a"],', b'"hidden_states":'),
    *(b"[null]", b"[[1],[2]]", b'"set":', b'{"from":0}', b'"a[0]":{"add":1},', b'"interventions":{},'),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid body after a few insertions, deletions, replacements and copies of parts."""
    body = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 6)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.just(b""), st.just(body[start:end] * 2)))
        body = body[:start] + piece + body[end:]
    return body


@given(mutated())
def test_a_mutated_body_is_refused_or_read_as_the_plainest_reading_reads_it(body: bytes) -> None:
    try:
        wanted = _reference(body)
    except _RefusedError:
        with pytest.raises((UnreadableError, IllegalRequestError)):
            decode(body)
    else:
        assert _plain(decode(body)) == wanted


def test_a_body_cut_off_at_any_byte_is_unreadable() -> None:
    for body in SEEDS:
        for end in range(len(body)):
            with pytest.raises(UnreadableError):
                decode(body[:end])


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1, max_size=3)
)
def test_an_answer_holds_the_exact_float32(rows: list[list[float]]) -> None:
    arrays = [np.asarray([row], np.float32) for row in rows]
    views = [np.repeat(array, 2, axis=0)[::2] for array in arrays]
    answer = json.loads(encode(BlockResult({"a": views}, (1,) * len(views), None, 0.0, 0.0), "m", "1"))
    assert [_bits(np.asarray(found, np.float64).astype(np.float32)) for found in answer["outputs"]["a"]] == [
        _bits(array) for array in arrays
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_json_cannot_write_is_refused_by_its_key(value: float) -> None:
    arrays = [np.zeros((1, 2), np.float32), np.asarray([[0, value]], np.float32)]
    with pytest.raises(IllegalRequestError) as caught:
        encode(BlockResult({"a": arrays[:1], "b": arrays}, (1, 1), None, 0.0, 0.0), "m", "1")
    assert caught.value.sentence == (
        "the answer to these finite inputs is beyond float32's range, which JSON cannot write - at b"
    )
