"""The safetensors codec against the format's own library, and every way to break the bytes."""

import random
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.codec.safetensors import decode, encode
from service.codec.safetensors_header import MAX_HEADER_BYTES
from service.errors import GlassblockError, IllegalRequestError, UnreadableError
from service.request import BlockResult

HIDDEN = np.arange(48, dtype=np.float32).reshape(2, 3, 8)
STATES = {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]}
LENGTHS = np.array([3, 1])
GOOD = save(
    {"hidden_states": HIDDEN, "attention_mask": np.ones((2, 3), np.int64), "sequence_lengths": LENGTHS},
    {"outputs": '["block_output"]'},
)


def write(header: object, data: bytes = b"") -> bytes:
    """The format by hand; a header of bytes goes as it is."""
    text = header if isinstance(header, bytes) else orjson.dumps(header)
    return struct.pack("<Q", len(text)) + text + data


def _plain(arrays: tuple[NDArray[Any], ...] | None) -> list[Any]:
    assert arrays is not None
    return [array.tolist() for array in arrays]


def test_tensors_are_views_of_the_body() -> None:
    found = decode(GOOD)
    assert _plain(found.hidden_states) == [HIDDEN[0].tolist(), HIDDEN[1, :1].tolist()]
    assert _plain(found.attention_mask) == [[True] * 3, [True]]
    assert found.outputs == ("block_output",)
    assert found.hidden_states is not None
    body = np.frombuffer(GOOD, np.uint8)
    assert all(np.shares_memory(array, body) for array in found.hidden_states)


@pytest.mark.parametrize("spaces", range(8))
def test_tensors_that_lie_oddly_are_the_same_numbers(spaces: int) -> None:
    length = struct.unpack("<Q", GOOD[:8])[0]
    found = decode(write(GOOD[8 : 8 + length] + b" " * spaces, GOOD[8 + length :]))
    assert _plain(found.hidden_states) == _plain(decode(GOOD).hidden_states)
    assert found.hidden_states is not None
    assert found.hidden_states[0].flags.aligned


def test_the_header_may_name_tensors_in_any_order() -> None:
    header = {
        "hidden_states": STATES | {"data_offsets": [16, 24]},
        "__metadata__": {},
        "attention_mask": {"dtype": "I64", "shape": [1, 1], "data_offsets": [8, 16]},
        "sequence_lengths": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
    }
    found = decode(write(header, struct.pack("<qqff", 1, 0, 0.5, -2)))
    assert _plain(found.hidden_states) == [[[0.5, -2]]]
    assert _plain(found.attention_mask) == [[False]]


EVERY_HALF = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("F16", EVERY_HALF.view(np.float16).astype(np.float32)),
        ("BF16", np.frombuffer(b"".join(b"\0\0" + struct.pack("<H", half) for half in EVERY_HALF), np.float32)),
    ],
)
def test_every_number_of_16_bits_is_widened_as_it_is(dtype: str, expected: NDArray[np.float32]) -> None:
    header = {"hidden_states": {"dtype": dtype, "shape": [1, 256, 256], "data_offsets": [0, 2**17]}}
    (found,) = decode(write(header, EVERY_HALF.tobytes())).hidden_states or ()
    assert found.dtype == np.float32
    assert np.array_equal(found.reshape(-1), expected, equal_nan=True)


def test_ids_and_a_mask_of_booleans_are_cut_to_their_lengths() -> None:
    ids, mask = np.array([[5, 6, -1], [7, -1, -1]]), np.array([[True, False, True], [True, True, True]])
    found = decode(save({"input_ids": ids, "attention_mask": mask, "sequence_lengths": np.array([2, 1])}))
    assert (_plain(found.input_ids), _plain(found.attention_mask)) == ([[5, 6], [7]], [[True, False], [True]])


def test_a_mask_is_not_looked_at_behind_its_sequence() -> None:
    mask = np.array([[1, 0, 1], [1, 7, -1]])
    found = decode(save({"hidden_states": HIDDEN, "attention_mask": mask, "sequence_lengths": LENGTHS}))
    assert _plain(found.attention_mask) == [[True, False, True], [True]]


def test_the_metadata_holds_the_other_fields() -> None:
    found = decode(save({}, {"text": '["a", "\\u00fc"]', "outputs": '["query","layers.0.key"]'}))
    assert (found.text, found.outputs) == (("a", "ü"), ("query", "layers.0.key"))
    assert found.hidden_states is None


def test_a_body_cut_off_at_any_byte_is_refused() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(UnreadableError):
            decode(GOOD[:size])
    with pytest.raises(UnreadableError, match="expected 256 bytes behind the header, as the tensors say, got 257"):
        decode(GOOD + b"\0")


def _outcome(body: bytes) -> int:
    try:
        decode(body)
    except GlassblockError as error:
        return error.status
    return 200


PIECES = (
    *(b'"hidden_states"', b'"dtype"', b'"F32"', b'"__metadata__"', b'"outputs"', b'"text"', b'"\\ud800"', b'" "'),
    *(b'"query.add"', b'"query[0].set"', b'"interventions"', b'"{}"'),
    *(b"null", b"true", b"{}", b"[]", b"[0,0]", b"[[", b"-1", b"1.0", b"1e3", b"18446744073709551615", b"0", b","),
    *(b"\xff", b"9" * 99),
)


def test_a_header_of_random_pieces_is_read_or_refused() -> None:
    chance = random.Random(0)  # noqa: S311 - the same bytes every time
    length = struct.unpack("<Q", GOOD[:8])[0]
    outcomes = set()
    for _ in range(5_000):
        header = bytearray(GOOD[8 : 8 + length])
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(len(header))
            header[start : start + chance.choice([0, 1, 4, 15])] = chance.choice(PIECES)
        outcomes.add(_outcome(write(bytes(header), GOOD[8 + length :])))
    assert outcomes == {200, 400, 422}


def states(**other: object) -> bytes:
    """One sequence of one position of two numbers, with a header that says otherwise."""
    return write({"hidden_states": STATES | other}, bytes(8))


UNREADABLE = {
    "empty": (b"", "size_mismatch", "expected the header's length in 8 bytes, got 0 - at body"),
    "no header": (struct.pack("<Q", 0), "invalid_json", "expected a header that begins with { - at header"),
    "a longer header": (
        struct.pack("<Q", 3) + b"{}",
        "size_mismatch",
        "expected a header of at most 2 bytes, got 3 - at header",
    ),
    "the longest header": (
        struct.pack("<Q", 2**64 - 1) + b"{}",
        "size_mismatch",
        "expected a header of at most 2 bytes, got 18,446,744,073,709,551,615 - at header",
    ),
    "a header beyond the limit": (
        write(b"{" + b" " * MAX_HEADER_BYTES),
        "size_mismatch",
        "expected a header of at most 1,048,576 bytes, got 1,048,577 - at header",
    ),
    "a space first": (write(b" {}"), "invalid_json", "expected a header that begins with { - at header"),
    "a list": (write(b"[]"), "invalid_json", "expected a header that begins with { - at header"),
    "JSON": (b'{"hidden_states":[[[1]]]}', "size_mismatch", None),
    "half an object": (
        write(b'{"hidden_states":'),
        "invalid_json",
        "expected JSON: the text breaks its grammar (NaN and Infinity are not JSON)",
    ),
    "more bytes than the shape": (
        states(shape=[1, 1, 1]),
        "size_mismatch",
        "expected 4 bytes, as dtype and shape say, got 8 - at hidden_states.data_offsets",
    ),
    "a shape beyond 64 bits": (
        states(shape=[2**62, 2**62, 4]),
        "size_mismatch",
        f"expected {2**128} bytes, as dtype and shape say, got 8 - at hidden_states.data_offsets",
    ),
    "an end outside": (
        states(data_offsets=[0, 9]),
        "size_mismatch",
        "expected begin and end, in order, within the 8 bytes behind the header - at hidden_states.data_offsets",
    ),
    "an end before its begin": (
        states(data_offsets=[8, 0]),
        "size_mismatch",
        "expected begin and end, in order, within the 8 bytes behind the header - at hidden_states.data_offsets",
    ),
    "an end beyond 63 bits": (
        states(data_offsets=[0, 2**64 - 1]),
        "size_mismatch",
        "expected begin and end, in order, within the 8 bytes behind the header - at hidden_states.data_offsets",
    ),
    "a gap before": (
        write({"hidden_states": STATES | {"data_offsets": [4, 12]}}, bytes(12)),
        "size_mismatch",
        "expected the tensor to begin where another ends (0), got 4 - at hidden_states.data_offsets",
    ),
    "an overlap": (
        write(
            {"hidden_states": STATES, "attention_mask": {"dtype": "I64", "shape": [1, 1], "data_offsets": [4, 12]}},
            bytes(12),
        ),
        "size_mismatch",
        "expected the tensor to begin where another ends (8), got 4 - at attention_mask.data_offsets",
    ),
    "one tensor's bytes twice": (
        write(
            {"hidden_states": STATES, "attention_mask": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}},
            bytes(8),
        ),
        "size_mismatch",
        "expected the tensor to begin where another ends (8), got 0 - at attention_mask.data_offsets",
    ),
    "bytes of no tensor": (
        write({"__metadata__": {}}, b"\0"),
        "size_mismatch",
        "expected 0 bytes behind the header, as the tensors say, got 1 - at body",
    ),
    "a field that is no JSON": (
        save({}, {"text": "The cat"}),
        "invalid_json",
        "expected the field's JSON as text - at __metadata__.text",
    ),
    "two fields in one": (
        save({}, {"text": '"a","outputs":["query"]'}),
        "invalid_json",
        "expected the field's JSON as text - at __metadata__.text",
    ),
}


@pytest.mark.parametrize(("body", "code", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_breaks_the_format_is_unreadable(body: bytes, code: str, sentence: str | None) -> None:
    with pytest.raises(UnreadableError) as caught:
        decode(body)
    assert caught.value.code == code
    assert sentence in {None, caught.value.sentence}


TEN = '"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]'
METADATA_FIELDS = "text, outputs, interventions, timeout_s, priority"
NUMBERS = "expected 3 whole numbers (batch, sequence, hidden), got"
ILLEGAL = {
    "an unknown tensor": (
        write({"hidden_state": STATES}, bytes(8)),
        "unknown_field",
        "unknown field, number 1 of header; did you mean hidden_states? - at header",
    ),
    "a tensor twice": (
        write(b'{"hidden_states":{%b},"hidden_states":{%b}}' % (TEN.encode(), TEN.encode()), bytes(8)),
        "duplicate_field",
        "field hidden_states came twice - at header",
    ),
    "metadata twice": (
        write(b'{"__metadata__":{},"__metadata__":{}}'),
        "duplicate_field",
        "field __metadata__ came twice - at header",
    ),
    "a shape twice": (
        write(b'{"hidden_states":{%b,"shape":[1,1,2]}}' % TEN.encode(), bytes(8)),
        "duplicate_field",
        "field shape came twice - at hidden_states",
    ),
    "a list for a tensor": (
        write({"hidden_states": []}),
        "wrong_type",
        "expected an object, got a list - at hidden_states",
    ),
    "no dtype": (
        write({"hidden_states": {"shape": [1, 1, 2], "data_offsets": [0, 8]}}, bytes(8)),
        "missing_field",
        "expected dtype, got none - at hidden_states",
    ),
    "another field": (
        states(strides=[1]),
        "unknown_field",
        "unknown field, number 4 of hidden_states; the fields are dtype, shape, data_offsets - at hidden_states",
    ),
    "float64": (
        save({"hidden_states": np.zeros((1, 1, 2))}),
        "dtype_mismatch",
        "expected dtype F32 or F16 or BF16, got another one - at hidden_states.dtype",
    ),
    "dtype in lower case": (
        states(dtype="f32"),
        "dtype_mismatch",
        "expected dtype F32 or F16 or BF16, got another one - at hidden_states.dtype",
    ),
    "a list for a dtype": (
        states(dtype=["F32"]),
        "dtype_mismatch",
        "expected dtype F32 or F16 or BF16, got another one - at hidden_states.dtype",
    ),
    "ids of 32 bits": (
        save({"input_ids": np.zeros((1, 1), np.int32)}),
        "dtype_mismatch",
        "expected dtype I64, got another one - at input_ids.dtype",
    ),
    "a mask of numbers": (
        save({"hidden_states": HIDDEN, "attention_mask": np.ones((2, 3), np.float32)}),
        "dtype_mismatch",
        "expected dtype I64 or BOOL, got another one - at attention_mask.dtype",
    ),
    "rank 0": (states(shape=[]), "wrong_shape", f"{NUMBERS} 0 - at hidden_states.shape"),
    "rank 2": (states(shape=[1, 2]), "wrong_shape", f"{NUMBERS} 2 - at hidden_states.shape"),
    "rank 4": (states(shape=[1, 1, 1, 2]), "wrong_shape", f"{NUMBERS} 4 - at hidden_states.shape"),
    "a sequence more than the most": (
        save({"input_ids": np.zeros((2**18 + 1, 1), np.int64)}),
        "too_many_tokens",
        "expected at most 65,536 sequences, got 262,145 - at input_ids.shape[0]",
    ),
    "a shape that is none": (states(shape=2), "wrong_type", "expected a list, got a number - at hidden_states.shape"),
    **{
        f"a size of {orjson.dumps(size).decode()}": (
            states(shape=[1, size, 2]),
            "wrong_type",
            "expected a whole number of at least 1 - at hidden_states.shape[1]",
        )
        for size in (0, -1, 1.0, "1", True, None, [1])
    },
    "a negative offset": (
        states(data_offsets=[-8, 0]),
        "wrong_type",
        "expected a whole number of at least 0 - at hidden_states.data_offsets[0]",
    ),
    "an offset alone": (
        states(data_offsets=[0]),
        "wrong_shape",
        "expected 2 whole numbers (begin, end), got 1 - at hidden_states.data_offsets",
    ),
    "metadata that is none": (
        write({"__metadata__": []}),
        "wrong_type",
        "expected an object, got a list - at __metadata__",
    ),
    "a field that is no text": (
        write({"__metadata__": {"outputs": ["query"]}}),
        "wrong_type",
        "expected a string, got a list - at __metadata__.outputs",
    ),
    "an unknown field": (
        save({}, {"format": "pt"}),
        "unknown_field",
        f"unknown field, number 1 of __metadata__; the fields are {METADATA_FIELDS} - at __metadata__",
    ),
    "a tensor in a field": (
        save({}, {"hidden_states": "[[[1]]]"}),
        "unknown_field",
        f"unknown field, number 1 of __metadata__; the fields are {METADATA_FIELDS} - at __metadata__",
    ),
    "outputs of numbers": (
        save({}, {"outputs": "[1]"}),
        "wrong_type",
        "expected a string, got a number - at outputs[0]",
    ),
    "a mask for fewer sequences": (
        save({"hidden_states": HIDDEN, "attention_mask": np.ones((1, 3), np.int64)}),
        "wrong_shape",
        "expected 2, as hidden_states has, got 1 - at attention_mask.shape[0]",
    ),
    "a mask for other positions, cut": (
        save({"hidden_states": HIDDEN, "attention_mask": np.ones((2, 4), np.int64), "sequence_lengths": LENGTHS}),
        "wrong_shape",
        "expected 3, as hidden_states has, got 4 - at attention_mask.shape[1]",
    ),
    "a mask of twos": (
        save({"hidden_states": HIDDEN, "attention_mask": np.array([[1, 0, 1], [1, 2, 1]])}),
        "wrong_type",
        "expected 0 or 1, got another number - at attention_mask[1][1]",
    ),
    "a boolean of another bit": (
        write(
            {
                "hidden_states": STATES,
                "attention_mask": {"dtype": "BOOL", "shape": [1, 1], "data_offsets": [8, 9]},
            },
            bytes(8) + b"\xff",
        ),
        "wrong_type",
        "expected 0 or 1, got another number - at attention_mask[0][0]",
    ),
    "too few lengths": (
        save({"hidden_states": HIDDEN, "sequence_lengths": LENGTHS[:1]}),
        "wrong_shape",
        "expected 2, as hidden_states has, got 1 - at sequence_lengths.shape[0]",
    ),
    **{
        f"a length of {length}": (
            save({"hidden_states": HIDDEN, "sequence_lengths": np.array([3, length])}),
            "wrong_length",
            "expected a length from 1 to 3, got another one - at sequence_lengths[1]",
        )
        for length in (0, 4, -1, 2**63 - 1, -(2**63))
    },
    "lengths of nothing": (
        save({"sequence_lengths": LENGTHS}, {"text": '"a"'}),
        "wrong_inputs",
        "expected hidden_states or input_ids with it, got none - at sequence_lengths",
    ),
}


@pytest.mark.parametrize(("body", "code", "sentence"), ILLEGAL.values(), ids=ILLEGAL)
def test_what_is_readable_and_not_of_the_routes_form_is_illegal(body: bytes, code: str, sentence: str) -> None:
    with pytest.raises(IllegalRequestError) as caught:
        decode(body)
    assert (caught.value.code, caught.value.sentence) == (code, sentence)


def test_an_answer_is_padded_with_zeros_and_read_by_the_formats_own_library() -> None:
    maps = [np.full((2, n, n), n, np.float32) for n in (1, 3)]
    rows = [np.full((n, 4), np.nan if n == 1 else -np.inf, np.float32)[::-1] for n in (1, 3)]
    body = encode(BlockResult({"a": maps, "layers.0.b": rows}, (1, 3), (("[CLS]",), ("ü", "a", "b")), 0, 0), "m", "7")
    found = load(body)
    assert sorted(found) == ["a", "layers.0.b", "sequence_lengths"]
    assert found["sequence_lengths"].tolist() == [1, 3]
    assert found["a"].tolist() == [[[[1, 0, 0], [0] * 3, [0] * 3]] * 2, [[[3] * 3] * 3] * 2]
    expected = np.zeros((2, 3, 4), np.float32)
    expected[0, :1], expected[1] = np.nan, -np.inf
    assert np.array_equal(found["layers.0.b"], expected, equal_nan=True)
    length = struct.unpack("<Q", body[:8])[0]
    header = orjson.loads(body[8 : 8 + length])
    assert length % 8 == 0
    assert {name: orjson.loads(text) for name, text in header["__metadata__"].items()} == {
        "model": "m",
        "version": "7",
        "tokens": [["[CLS]"], ["ü", "a", "b"]],
    }


@pytest.mark.parametrize("name", ["sequence_lengths", "__metadata__"])
def test_a_tensor_whose_name_is_taken_is_refused(name: str) -> None:
    result = BlockResult({name: [np.zeros((1, 1), np.float32)]}, (1,), None, 0, 0)
    with pytest.raises(IllegalRequestError) as caught:
        encode(result, "m", "1")
    assert caught.value.sentence == f"in safetensors {name} means something else: ask for layers.0.{name} - at {name}"


def test_a_shape_of_more_sizes_than_any_tensor_has_is_refused_before_they_are_multiplied() -> None:
    entry = {"dtype": "F32", "shape": [10**18] * 300, "data_offsets": [0, 0]}
    with pytest.raises(IllegalRequestError, match=r"expected a shape of 1 to 9 sizes, got 300"):
        decode(write({"layers.0.query.scale": entry}, b""))
