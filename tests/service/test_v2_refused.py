"""What /v2's infer route refuses, each in one whole sentence (faults C to G)."""

from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from tests.service.inference import HEADER, MASK, ROWS, ask, ask_binary, binary, framed, mask, states
from tests.service.refusal import assert_refused

BYTES, SHAPE = ROWS.tobytes(), [2, 3, 8]
STATES = binary("hidden_states", BYTES, SHAPE, "FP32")
NULL, WORD = [None, *[0.0] * 47], ["1.5", *[0.0] * 47]
RAGGED = [ROWS[0].tolist(), ROWS[1, :2].tolist()]
DIGITS = "a number is not written as JSON writes numbers, or is beyond float64 (64 bits, if whole)"
FIELDS = "name, shape, datatype, parameters, data"

ILLEGAL: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "nothing": ({}, "wrong_type", "inputs", "expected a list of inputs, got null"),
    "no inputs": ({"inputs": []}, "no_inputs", "inputs", "expected at least one input, got an empty list"),
    "inputs of another type": ({"inputs": 1}, "wrong_type", "inputs", "expected a list of inputs, got a number"),
    "an input of another type": ({"inputs": ["a"]}, "wrong_type", "inputs[0]", "expected an object, got a string"),
    "an unknown field": (
        {"inputs": [states()], "output": []}, "unknown_field", "body",
        "unknown field, number 2 of the body; did you mean outputs?",
    ),
    "an unknown field of an input": (
        {"inputs": [states() | {"x": 1}]}, "unknown_field", "inputs[0]",
        f"unknown field, number 5 of inputs[0]; the fields are {FIELDS}",
    ),
    "an unknown parameter": (
        {"inputs": [states()], "parameters": {"a": 1}}, "unknown_field", "parameters",
        "unknown field, number 1 of parameters; the fields are timeout, priority, binary_data_output",
    ),
    "no name": (
        {"inputs": [{"shape": [1], "datatype": "FP32", "data": [1]}]}, "wrong_type", "inputs[0].name",
        "expected a string, got null",
    ),
    "an unknown input": (
        {"inputs": [states(), mask(name="other")]}, "unknown_input", "inputs[1].name",
        ("expected an input called hidden_states or attention_mask, or ADDRESS.VERB with scale, add or "
        "set for VERB, got another one"),
    ),
    "an input twice": (
        {"inputs": [states(), states()]}, "duplicate_input", "inputs[1].name", "input hidden_states came twice"
    ),
    "a mask alone": (
        {"inputs": [mask()]}, "missing_input", "inputs", "expected an input called hidden_states, got none"
    ),
    "an unknown datatype": (
        {"inputs": [states(datatype="FP64")]}, "dtype_mismatch", "inputs[0].datatype",
        "expected datatype FP32 or FP16 or BF16, got another one",
    ),
    "a datatype in small letters": (
        {"inputs": [states(datatype="fp32")]}, "dtype_mismatch", "inputs[0].datatype",
        "expected datatype FP32 or FP16 or BF16, got another one",
    ),
    "a mask of floats": (
        {"inputs": [states(), mask(datatype="FP32")]}, "dtype_mismatch", "inputs[1].datatype",
        "expected datatype INT64 or BOOL, got another one",
    ),
    "no shape": (
        {"inputs": [{"name": "hidden_states", "datatype": "FP32", "data": [1]}]}, "wrong_type", "inputs[0].shape",
        "expected a list of sizes, got null",
    ),
    "an empty shape": (
        {"inputs": [states(shape=[])]}, "no_sizes", "inputs[0].shape", "expected at least one size, got an empty list"
    ),
    "a shape of rank 2": (
        {"inputs": [states(shape=[6, 8])]}, "wrong_shape", "inputs[0].shape",
        "expected a shape of 3 sizes (batch, sequence, hidden), got 2",
    ),
    "a shape of rank 65": (
        {"inputs": [states(shape=[1] * 65)]}, "wrong_shape", "inputs[0].shape",
        "expected a shape of 3 sizes (batch, sequence, hidden), got 65",
    ),
    "a size of 0": (
        {"inputs": [states(shape=[0, 3, 8])]}, "wrong_type", "inputs[0].shape[0]",
        "expected a whole number of at least 1",
    ),
    "a size of -1": (
        {"inputs": [states(shape=[-1, 3, 8])]}, "wrong_type", "inputs[0].shape[0]",
        "expected a whole number of at least 1",
    ),
    "a size as float": (
        {"inputs": [states(shape=[2.0, 3, 8])]}, "wrong_type", "inputs[0].shape[0]",
        "expected a whole number of at least 1",
    ),
    "a size as string": (
        {"inputs": [states(shape=["2", 3, 8])]}, "wrong_type", "inputs[0].shape[0]",
        "expected a whole number of at least 1",
    ),
    "a size as boolean": (
        {"inputs": [states(shape=[True, 6, 8])]}, "wrong_type", "inputs[0].shape[0]",
        "expected a whole number of at least 1",
    ),
    "sizes whose product has more than 64 bits": (
        {"inputs": [states(shape=[2**63, 2**63, 8])]}, "wrong_shape", "inputs[0].data",
        f"expected {2**129} elements, as the shape says, got 48",
    ),
    "another hidden size": (
        {"inputs": [states(shape=[2, 4, 6])]}, "wrong_shape", "inputs[0].shape[2]", "expected hidden_size 8, got 6"
    ),
    "more numbers than the shape says": (
        {"inputs": [states(shape=[1, 3, 8])]}, "wrong_shape", "inputs[0].data",
        "expected 24 elements, as the shape says, got 48",
    ),
    "nested otherwise than the shape says": (
        {"inputs": [states(data=ROWS.reshape(3, 2, 8).tolist())]}, "wrong_shape", "inputs[0].data",
        "expected 2 elements, as the shape says, got 3",
    ),
    "ragged": (
        {"inputs": [states(data=RAGGED)]}, "wrong_shape", "inputs[0].data[1]",
        "expected 3 elements, as the shape says, got 2",
    ),
    "nested of depth 2": (
        {"inputs": [states(data=ROWS.reshape(2, 24).tolist())]}, "wrong_shape", "inputs[0].data[0]",
        "expected 3 elements, as the shape says, got 24",
    ),
    "flat below one level": (
        {"inputs": [states(data=[ROWS.ravel().tolist()])]}, "wrong_shape", "inputs[0].data",
        "expected 2 elements, as the shape says, got 1",
    ),
    "null among the numbers": (
        {"inputs": [states(data=NULL)]}, "wrong_type", "inputs[0].data[0]", "expected a number, got null"
    ),
    "a string among the numbers": (
        {"inputs": [states(data=WORD)]}, "wrong_type", "inputs[0].data[0]", "expected a number, got a string"
    ),
    "a boolean among nested numbers": (
        {"inputs": [states(data=[[[True, *[0.0] * 7]] * 3] * 2)]}, "wrong_type", "inputs[0].data[0][0][0]",
        "expected a number, got a boolean",
    ),
    "data of another type": (
        {"inputs": [states(data="AAAA")]}, "wrong_type", "inputs[0].data", "expected a list, got a string"
    ),
    "data null": (
        {"inputs": [states() | {"data": None}]}, "wrong_type", "inputs[0].data", "expected a list, got null"
    ),
    "no data": (
        {"inputs": [{"name": "hidden_states", "shape": SHAPE, "datatype": "FP32"}]}, "wrong_data", "inputs[0]",
        "expected either data or parameters.binary_data_size",
    ),
    "data and bytes": (
        {"inputs": [states() | {"parameters": {"binary_data_size": 192}}]}, "wrong_data", "inputs[0]",
        "expected either data or parameters.binary_data_size",
    ),
    "a mask of one column": (
        {"inputs": [states(), mask(shape=[2, 1], data=[1, 1])]}, "wrong_shape", "inputs[1].shape[1]",
        "expected 3, as hidden_states has, got 1",
    ),
    "a mask of one row": (
        {"inputs": [states(), mask(shape=[1, 3], data=[1, 1, 1])]}, "wrong_shape", "inputs[1].shape[0]",
        "expected 2, as hidden_states has, got 1",
    ),
    "a mask of rank 1": (
        {"inputs": [states(), mask(shape=[6])]}, "wrong_shape", "inputs[1].shape",
        "expected a shape of 2 sizes (batch, sequence), got 1",
    ),
    "a mask of 2": (
        {"inputs": [states(), mask(data=[1, 1, 0, 1, 2, 1])]}, "wrong_type", "inputs[1].data[4]",
        "expected 0, 1, true or false, got another number",
    ),
    "a mask that would round to 1": (
        {"inputs": [states(), mask(data=[1, 1, 0, 1, 0.99999999999, 1])]}, "wrong_type", "inputs[1].data[4]",
        "expected 0, 1, true or false, got another number",
    ),
    "a number beyond float32": (
        {"inputs": [states(data=[1e39, *[0.0] * 47])]}, "value_overflow", "hidden_states[0][0][0]",
        "expected finite float32 numbers, got NaN, an infinity or one beyond their range",
    ),
    "a number beyond FP16": (
        {"inputs": [states(datatype="FP16", data=[65520, *[0.0] * 47])]}, "value_overflow", "hidden_states[0][0][0]",
        "expected finite float32 numbers, got NaN, an infinity or one beyond their range",
    ),
    "an output of another type": (
        {"inputs": [states()], "outputs": ["block_output"]}, "wrong_type", "outputs[0]",
        "expected an object, got a string",
    ),
    "no outputs": (
        {"inputs": [states()], "outputs": []}, "no_outputs", "outputs",
        "expected at least one output, got an empty list",
    ),
    "an output twice": (
        {"inputs": [states()], "outputs": [{"name": "block_output"}] * 2}, "duplicate_output", "outputs[1]",
        "block_output is asked for twice",
    ),
    "the inside of the lean name": (
        {"inputs": [states()], "outputs": [{"name": "layers.0.query"}]}, "unknown_output", "outputs[0].name",
        "expected block_output: what is inside is an output of model tiny.probes",
    ),
    "binary_data of another type": (
        {"inputs": [states()], "outputs": [{"name": "block_output", "parameters": {"binary_data": 1}}]}, "wrong_type",
        "outputs[0].parameters.binary_data", "expected true or false, got a number",
    ),
    "binary_data_output of another type": (
        {"inputs": [states()], "parameters": {"binary_data_output": "yes"}}, "wrong_type",
        "parameters.binary_data_output", "expected true or false, got a string",
    ),
    "another model than the URL's": (
        {"inputs": [states()], "model_name": "tiny.probes"},
        "wrong_model",
        "model_name",
        "expected the model's name as in the URL, got another one",
    ),
    "a model's name of another type": (
        {"inputs": [states()], "model_name": 1},
        "wrong_type",
        "model_name",
        "expected a string, got a number",
    ),
    "an id of another type": ({"inputs": [states()], "id": 7}, "wrong_type", "id", "expected a string, got a number"),
    "a long id": (
        {"inputs": [states()], "id": "i" * 10**6}, "illegal_id", "id", "expected at most 128 printable ASCII characters"
    ),
    "an id with a line end": (
        {"inputs": [states()], "id": "a\r\nb"}, "illegal_id", "id", "expected at most 128 printable ASCII characters"
    ),
    "an id with a terminal's escape": (
        {"inputs": [states()], "id": "\x1b[2J"}, "illegal_id", "id", "expected at most 128 printable ASCII characters"
    ),
    **{
        f"{name} of {value!r}": (
            {"inputs": [states()], "parameters": {name: value}}, "wrong_type", f"parameters.{name}",
            "expected a whole number of at least 0",
        )
        for name in ("timeout", "priority")
        for value in (-1, 1.5, "1", True, None)
    },
}  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "at", "message"), ILLEGAL.values(), ids=ILLEGAL)
def test_what_can_be_read_and_is_illegal_is_422(
    unharmed: httpx.Client, request_: dict[str, Any], code: str, at: str, message: str
) -> None:
    response = unharmed.post("/v2/models/tiny/infer", content=orjson.dumps(request_))
    assert_refused(response, 422, code, at, message)


LACKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "a sequence": ({"inputs": [states()], "parameters": {"sequence_id": 3}}, "sequence_id", "parameters"),
    "shared memory": (
        {"inputs": [STATES | {"parameters": {"shared_memory_region": "r"}}]}, "shared_memory_region",
        "inputs[0].parameters",
    ),
    "shared memory for an output": (
        {"inputs": [states()], "outputs": [{"name": "block_output", "parameters": {"shared_memory_region": "r"}}]},
        "shared_memory_region", "outputs[0].parameters",
    ),
    "classification": (
        {"inputs": [states()], "outputs": [{"name": "block_output", "parameters": {"classification": 3}}]},
        "classification", "outputs[0].parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "name", "at"), LACKING.values(), ids=LACKING)
def test_what_the_protocol_has_and_this_server_has_not_is_501(
    unharmed: httpx.Client, request_: dict[str, Any], name: str, at: str
) -> None:
    response = unharmed.post("/v2/models/tiny/infer", content=orjson.dumps(request_))
    assert_refused(response, 501, "unsupported", at, f"this server has no {name}")


TEXT = orjson.dumps({"inputs": [states()]})
UNREADABLE = {
    "empty": (b"", "the body is empty"),
    "cut off": (TEXT[:-1], "the text breaks its grammar (NaN and Infinity are not JSON)"),
    "two documents": (TEXT * 2, "the text breaks its grammar (NaN and Infinity are not JSON)"),
    "NaN": (TEXT.replace(b'"data":[', b'"data":[NaN,'), "the text breaks its grammar (NaN and Infinity are not JSON)"),
    "a number beyond float64": (TEXT.replace(b'"data":[', b'"data":[1e999,'), DIGITS),
    "a size beyond 64 bits": (
        TEXT.replace(b"[2,3,8]", b"[" + b"9" * 400 + b"]"),
        "a whole number has more than 64 bits",
    ),
    "nested without end": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "lists are nested too deep"),
    "a lone surrogate": (TEXT.replace(b'"FP32"', b'"\\ud800"'), "a string is not valid"),
}


@pytest.mark.parametrize(("body", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_json_is_400(unharmed: httpx.Client, body: bytes, reason: str) -> None:
    assert_refused(ask_binary(unharmed, body, {}), 400, "invalid_json", "", f"expected JSON: {reason}")


@pytest.mark.parametrize("field", [b'"shape":[2,3,8]', b'"datatype":"FP32"', b'"name":"hidden_states"'])
def test_a_field_that_comes_twice_is_422(unharmed: httpx.Client, field: bytes) -> None:
    response = ask_binary(unharmed, TEXT.replace(field, field + b"," + field), {})
    name = field.partition(b":")[0].decode().strip('"')
    assert_refused(response, 422, "duplicate_field", "inputs[0]", f"field {name} came twice")


def test_what_stands_for_numbers_inside_cannot_be_written_from_outside(unharmed: httpx.Client) -> None:
    answers = {ask(unharmed, states(data=f"{'0' * 32}.{i}"), mask()).status_code for i in range(2)}
    assert answers == {422}


HEAD = orjson.dumps({"inputs": [STATES]})
WHOLE = HEAD + BYTES
SIZE = "inputs[0].parameters.binary_data_size"
SIZES: dict[str, tuple[bytes, str, str, str, str]] = {
    "no header": (WHOLE, "", "invalid_json", "", "expected JSON in UTF-8"),
    "bytes in JSON alone": (
        HEAD, "", "missing_header_length", SIZE,
        f"expected a header {HEADER}, which says where the tensors begin, got none",
    ),
    "a byte short": (
        WHOLE[:-1], str(len(HEAD)), "size_mismatch", "inputs[0]", "expected 192 bytes behind the JSON, got 191"
    ),
    "a number short": (
        WHOLE[:-4], str(len(HEAD)), "size_mismatch", "inputs[0]", "expected 192 bytes behind the JSON, got 188"
    ),
    "a byte more": (
        WHOLE + b"0", str(len(HEAD)), "size_mismatch", "body",
        "expected 192 bytes behind the JSON, as the inputs say, got 193",
    ),
    "bytes that nobody asked for": (
        TEXT + b"0", str(len(TEXT)), "size_mismatch", "body",
        "expected 0 bytes behind the JSON, as the inputs say, got 1",
    ),
    "a header beyond the body": (
        WHOLE, str(len(WHOLE) + 1), "size_mismatch", HEADER,
        f"expected a body of at least {len(WHOLE) + 1} bytes, as the header says, got {len(WHOLE)}",
    ),
    "a header of 11 digits": (
        WHOLE, "99999999999", "size_mismatch", HEADER,
        f"expected a body of at least 99999999999 bytes, as the header says, got {len(WHOLE)}",
    ),
    "another size than the shape's": (
        orjson.dumps({"inputs": [STATES | {"shape": [2, 4, 8]}]}) + BYTES,
        str(len(HEAD)), "size_mismatch", SIZE, "expected 256 bytes, as shape and datatype say, got 192",
    ),
    "another size than the datatype's": (
        orjson.dumps({"inputs": [STATES | {"datatype": "FP16"}]}) + BYTES,
        str(len(HEAD)), "size_mismatch", SIZE, "expected 96 bytes, as shape and datatype say, got 192",
    ),
    "raw bytes, none": (b"", "0", "size_mismatch", "body", "expected float32 positions of 32 bytes each, got 0 bytes"),
    "raw bytes, half a position": (
        BYTES[:-16], "0", "size_mismatch", "body", "expected float32 positions of 32 bytes each, got 176 bytes"
    ),
    **{
        f"a header of {value!r}": (
            WHOLE, value, "invalid_header_length", HEADER, "expected one number of bytes, got something else"
        )
        for value in ("-1", "1e2", "0x10", "1 2", "1,2", "+5", "9" * 19, "None")
    },
}  # fmt: skip


@pytest.mark.parametrize(("body", "length", "code", "at", "message"), SIZES.values(), ids=SIZES)
def test_bytes_that_are_not_as_the_request_says_are_400(
    unharmed: httpx.Client, body: bytes, length: str, code: str, at: str, message: str
) -> None:
    response = ask_binary(unharmed, body, {HEADER: length} if length else {})
    assert_refused(response, 400, code, at, message)


def test_a_header_that_comes_twice_is_400(unharmed: httpx.Client) -> None:
    headers = [(HEADER, str(len(HEAD)))] * 2
    response = unharmed.post("/v2/models/tiny/infer", content=WHOLE, headers=headers)
    assert_refused(response, 400, "invalid_header_length", HEADER, "expected one number of bytes, got something else")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16"])
def test_bytes_that_are_no_finite_number_are_422(unharmed: httpx.Client, datatype: str, value: float) -> None:
    rows = ROWS.copy()
    rows[1, 2, 3] = value
    stored: dict[str, NDArray[Any]] = {
        "FP32": rows, "FP16": rows.astype(np.float16), "BF16": rows.view(np.uint16)[..., 1::2],
    }  # fmt: skip
    data = stored[datatype].tobytes()
    body, headers = framed({"inputs": [binary("hidden_states", data, SHAPE, datatype)]}, data)
    message = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
    assert_refused(ask_binary(unharmed, body, headers), 422, "value_overflow", "hidden_states[1][2][3]", message)


def test_bytes_under_a_mask_of_0_may_be_anything(unharmed: httpx.Client) -> None:
    rows = ROWS.copy()
    rows[0, 2] = np.nan
    body, headers = framed({"inputs": [STATES, mask()]}, rows.tobytes())
    clean, _ = framed({"inputs": [STATES, mask()]}, BYTES)
    assert ask_binary(unharmed, body, headers).content == ask_binary(unharmed, clean, headers).content


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT64", 2), ("INT64", -1), ("INT64", 2**40), ("BOOL", 2), ("BOOL", 255)]
)
def test_a_mask_of_bytes_that_are_not_0_or_1_is_422(unharmed: httpx.Client, datatype: str, value: int) -> None:
    data = MASK.copy()
    data[0, 1] = value
    sent = data.astype({"INT64": np.int64, "BOOL": np.uint8}[datatype]).tobytes()
    body, headers = framed({"inputs": [states(), binary("attention_mask", sent, [2, 3], datatype)]}, sent)
    assert_refused(
        ask_binary(unharmed, body, headers), 422, "wrong_type", "inputs[1]", "expected 0 or 1, got another number"
    )


def test_an_answer_beyond_float32_is_422_in_json_and_comes_as_bytes(unharmed: httpx.Client) -> None:
    inputs = [states(data=[3e38, -3e38, *[3e38] * 46])]
    names = [{"name": "layers.0.attention_scores"}]
    message = "the answer to these finite inputs is beyond float32's range, which JSON cannot write"
    response = ask(unharmed, *inputs, model="tiny.probes", outputs=names)
    assert_refused(response, 422, "non_finite_output", "layers.0.attention_scores", message)
    as_bytes = ask(unharmed, *inputs, model="tiny.probes", outputs=names, parameters={"binary_data_output": True})
    assert as_bytes.status_code == httpx.codes.OK


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_another_method_is_405_and_says_so(unharmed: httpx.Client, method: str) -> None:
    response = unharmed.request(method, "/v2/models/tiny/infer")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_head_is_refused_as_often_as_it_comes(unharmed: httpx.Client) -> None:
    body, headers = framed({"inputs": [STATES | {"datatype": "FP64"}]}, BYTES)
    message = "expected datatype FP32 or FP16 or BF16, got another one"
    for _ in range(2):
        assert_refused(ask_binary(unharmed, body, headers), 422, "dtype_mismatch", "inputs[0].datatype", message)


def test_a_good_head_that_came_before_lets_no_other_number_of_bytes_pass(unharmed: httpx.Client) -> None:
    body, headers = framed({"inputs": [STATES]}, BYTES)
    assert ask_binary(unharmed, body, headers).status_code == httpx.codes.OK
    message = f"expected {len(BYTES)} bytes behind the JSON, got {len(BYTES) - 4}"
    assert_refused(ask_binary(unharmed, body[:-4], headers), 400, "size_mismatch", "inputs[0]", message)
