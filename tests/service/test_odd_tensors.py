"""Tensors that are none (faults D to G), in every form that says shapes: /v2's JSON, /v2's bytes, safetensors."""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tests.service.inference import HEADER, MASK, ROWS, ask_binary, assert_same, binary, framed, mask, read, states
from tests.service.refusal import assert_refused, post

BYTES, COUNT = ROWS.tobytes(), ROWS.size
Face = Callable[..., httpx.Response]
Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


def send(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return post(client, body, content_type="application/x-safetensors", **headers)


def in_json(client: httpx.Client, shape: Any, data: bytes = BYTES, datatype: Any = "FP32") -> httpx.Response:
    numbers = np.frombuffer(data, np.float32).tolist()
    return ask_binary(client, _dumps({"inputs": [states(shape=shape, data=numbers, datatype=datatype)]}), {})


def in_bytes(client: httpx.Client, shape: Any, data: bytes = BYTES, datatype: Any = "FP32") -> httpx.Response:
    text = _dumps({"inputs": [binary("hidden_states", data, shape, datatype)]})
    return ask_binary(client, text + data, {HEADER: str(len(text))})


def in_safetensors(client: httpx.Client, shape: Any, data: bytes = BYTES, datatype: Any = "F32") -> httpx.Response:
    place = {"dtype": datatype, "shape": shape, "data_offsets": [0, len(data)]}
    text = _dumps({"hidden_states": place})
    return send(client, len(text).to_bytes(8, "little") + text + data)


def _dumps(value: Any) -> bytes:
    """JSON whose whole numbers may have any size."""
    return repr(value).replace("'", '"').replace("True", "true").replace("None", "null").encode()


FACES = {"/v2 in JSON": in_json, "/v2 as bytes": in_bytes, "safetensors": in_safetensors}
EVERY_FACE = pytest.mark.parametrize("face", FACES.values(), ids=FACES)


def place(face: Face) -> str:
    return "hidden_states" if face is in_safetensors else "inputs[0]"


@EVERY_FACE
def test_the_good_tensor_of_this_file_is_answered(unharmed: httpx.Client, face: Face) -> None:
    assert face(unharmed, [2, 3, 8]).status_code == httpx.codes.OK
    assert face(unharmed, [6, 1, 8]).status_code == httpx.codes.OK


@EVERY_FACE
@pytest.mark.parametrize("shape", [[48], [6, 8], [1, 2, 3, 8], [1] * 65])
def test_a_shape_of_another_rank_is_422(unharmed: httpx.Client, face: Face, shape: list[int]) -> None:
    said = "3 whole numbers" if face is in_safetensors else "a shape of 3 sizes"
    message = f"expected {said} (batch, sequence, hidden), got {len(shape)}"
    assert_refused(face(unharmed, shape), 422, "wrong_shape", f"{place(face)}.shape", message)


@EVERY_FACE
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [0, -1, -(2**63), 2.0, "2", True, None, [2], {}], ids=repr)
def test_a_size_that_is_no_whole_number_of_at_least_1_is_422(
    unharmed: httpx.Client, face: Face, axis: int, size: Any
) -> None:
    shape: list[Any] = [2, 3, 8]
    shape[axis] = size
    where = f"{place(face)}.shape[{axis}]"
    assert_refused(face(unharmed, shape), 422, "wrong_type", where, "expected a whole number of at least 1")


@EVERY_FACE
def test_nothing_times_much_is_422(unharmed: httpx.Client, face: Face) -> None:
    message = "expected a whole number of at least 1"
    for data in (b"", BYTES):
        answer = face(unharmed, [0, 2**62, 8], data)
        assert_refused(answer, 422, "wrong_type", f"{place(face)}.shape[0]", message)


LARGE = [
    *([2**31, 1, 8], [1, 2**32, 8], [2**63, 1, 8], [2**63, 2**63, 8], [2**64 - 1, 2**64 - 1, 8]),
    *([2**4, 2**60 + 2, 8], [2**2, 2**60 + 2, 8], [2**61, 1, 8]),  # products that are small in 64 bits
]


@EVERY_FACE
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_sizes_whose_product_is_not_there_are_refused(unharmed: httpx.Client, face: Face, shape: list[int]) -> None:
    count = math.prod(shape)
    expected = {
        in_json: (
            *(422, "wrong_shape", "inputs[0].data"),
            f"expected {count} elements, as the shape says, got {COUNT}",
        ),
        in_bytes: (
            *(400, "size_mismatch", "inputs[0].parameters.binary_data_size"),
            f"expected {4 * count} bytes, as shape and datatype say, got {len(BYTES)}",
        ),
        in_safetensors: (
            *(400, "size_mismatch", "hidden_states.data_offsets"),
            f"expected {4 * count} bytes, as dtype and shape say, got {len(BYTES)}",
        ),
    }  # fmt: skip
    assert_refused(face(unharmed, shape), *expected[face])


@EVERY_FACE
@pytest.mark.parametrize("size", [2**64, 10**400, -(2**64)], ids=["2^64", "10^400", "-2^64"])
def test_a_size_beyond_64_bits_is_400(unharmed: httpx.Client, face: Face, size: int) -> None:
    answer = face(unharmed, [size, 3, 8])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@EVERY_FACE
@pytest.mark.parametrize("hidden", [7, 9])
def test_a_hidden_size_one_off_is_422(unharmed: httpx.Client, face: Face, hidden: int) -> None:
    where = "hidden_states[0][0]" if face is in_safetensors else "inputs[0].shape[2]"
    answer = face(unharmed, [1, 1, hidden], bytes(4 * hidden))
    assert_refused(answer, 422, "wrong_shape", where, f"expected hidden_size 8, got {hidden}")


@EVERY_FACE
@pytest.mark.parametrize("more", [-1, 1])
def test_one_number_more_or_less_than_the_shape_says_is_refused(unharmed: httpx.Client, face: Face, more: int) -> None:
    answer = face(unharmed, [2, 3, 8], bytes(4 * (COUNT + more)))
    wanted = (422, "wrong_shape") if face is in_json else (400, "size_mismatch")
    assert (answer.status_code, answer.json()["code"]) == wanted
    assert f", got {COUNT + more if face is in_json else 4 * (COUNT + more)} - at" in answer.json()["error"]


OTHERS = ["FP64", "INT64", "BOOL", "BYTES", "UINT8", "INT8", "F64", "I64", "U8", "F8_E4M3", "fp32", "f32", "F32 ", ""]


@EVERY_FACE
@pytest.mark.parametrize("datatype", OTHERS)
def test_another_datatype_is_422_and_nothing_is_cast(unharmed: httpx.Client, face: Face, datatype: str) -> None:
    if face is in_safetensors:
        where, message = "hidden_states.dtype", "expected dtype F32 or F16 or BF16, got another one"
    else:
        where, message = "inputs[0].datatype", "expected datatype FP32 or FP16 or BF16, got another one"
    assert_refused(face(unharmed, [2, 3, 8], BYTES, datatype), 422, "dtype_mismatch", where, message)


@EVERY_FACE
@pytest.mark.parametrize("datatype", [None, 1, ["FP32"], {}], ids=repr)
def test_a_datatype_that_is_no_string_is_422(unharmed: httpx.Client, face: Face, datatype: Any) -> None:
    answer = face(unharmed, [2, 3, 8], BYTES, datatype)
    code = "dtype_mismatch" if face is in_safetensors else "wrong_type"
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize("shape", [[2, 3, 1], [2, 4], [3, 2], [1, 3], [2, 1], [3], [6]], ids=str)
def test_a_mask_of_another_shape_is_422_as_json_bytes_and_safetensors(unharmed: httpx.Client, shape: list[int]) -> None:
    values = np.ones(shape, np.int64)
    text = orjson.dumps({"inputs": [states(), mask(shape=shape, data=values.ravel().tolist())]})
    given = [states(), binary("attention_mask", values.tobytes(), shape, "INT64")]
    answers = [
        ask_binary(unharmed, text, {}),
        ask_binary(unharmed, *framed({"inputs": given}, values.tobytes())),
        send(unharmed, save({"hidden_states": ROWS, "attention_mask": values})),
    ]
    assert [(one.status_code, one.json()["code"]) for one in answers] == [(422, "wrong_shape")] * 3


def test_a_header_of_three_tensors_before_a_body_of_two_is_400(unharmed: httpx.Client) -> None:
    data = MASK.tobytes()
    inputs = [binary("hidden_states", BYTES, [2, 3, 8], "FP32"), binary("attention_mask", data, [2, 3], "INT64")]
    body, headers = framed({"inputs": inputs}, BYTES)
    message = f"expected {len(data)} bytes behind the JSON, got 0"
    assert_refused(ask_binary(unharmed, body, headers), 400, "size_mismatch", "inputs[1]", message)
    tensors = {"hidden_states": ROWS, "attention_mask": MASK, "sequence_lengths": np.array([3, 3])}
    answer = send(unharmed, save(tensors)[: -len(data)])
    assert (answer.status_code, answer.json()["code"]) == (400, "size_mismatch")


def _saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _zipped(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # as torch.save writes
        archive.writestr("archive/data.pkl", pickle.dumps({"hidden_states": 1}))


FOREIGN = {
    "pickle": pickle.dumps(ROWS),
    "npy": _saved(lambda file: np.save(file, ROWS)),
    "npz": _saved(lambda file: np.savez(file, hidden_states=ROWS)),
    "torch's zip": _saved(_zipped),
    "protobuf": b"\x0a\x04tiny\x2a\x1a\x0a\x0dhidden_states\x12\x04FP32\x1a\x03\x02\x03\x08\x3a\xc0\x01" + BYTES,
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
    "HTML": b"<!doctype html><html></html>",
    "random": np.random.default_rng(1).bytes(5_000),
}


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN)
def test_another_format_is_400_in_any_place(unharmed: httpx.Client, body: bytes) -> None:
    headers: list[dict[str, str]] = [{}, *({HEADER: str(size)} for size in (1, len(body) // 2, len(body)))]
    answers = [ask_binary(unharmed, body, header) for header in headers]
    answers += [send(unharmed, body), send(unharmed, len(body).to_bytes(8, "little") + body), post(unharmed, body)]
    assert {one.status_code for one in answers} == {400}
    assert all(list(one.json()) == ["error", "code", "at", "request_id"] for one in answers)


TEXTS = ["AAAA", "AAA", "A A=", "_-8=", "A" * 2**20]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:4])
def test_no_text_stands_for_a_tensor(unharmed: httpx.Client, text: str) -> None:
    body = orjson.dumps({"inputs": [states(data=text)]})
    assert_refused(ask_binary(unharmed, body, {}), 422, "wrong_type", "inputs[0].data", "expected a list, got a string")
    content = orjson.dumps({"inputs": [states(data=[text])]})
    message = f"expected {COUNT} elements, as the shape says, got 1"
    assert_refused(ask_binary(unharmed, content, {}), 422, "wrong_shape", "inputs[0].data", message)


def test_10_000_outputs_are_refused_at_the_first_that_is_wrong(unharmed: httpx.Client) -> None:
    for names, code in ((["block_output"] * 10_000, "duplicate_output"), ([""] * 10_000, "unknown_output")):
        body = orjson.dumps({"inputs": [states()], "outputs": [{"name": name} for name in names]})
        answers = [
            unharmed.post("/v2/models/tiny.probes/infer", content=body),
            send(unharmed, save({"hidden_states": ROWS}, {"outputs": orjson.dumps(names).decode()})),
        ]
        assert [(one.status_code, one.json()["code"]) for one in answers] == [(422, code)] * 2


def test_too_many_positions_and_too_large_an_answer_are_422_before_anything_runs(unharmed: httpx.Client) -> None:
    long = np.zeros((16_385, 8), np.float32)
    for answer in (
        ask_binary(unharmed, long.tobytes(), {HEADER: "0"}),
        in_bytes(unharmed, [1, 16_385, 8], long.tobytes()),
        in_safetensors(unharmed, [16_385, 1, 8], long.tobytes()),
    ):
        message = "expected at most 16,384 positions in all sequences, got 16,385"
        assert_refused(answer, 422, "too_many_tokens", "", message)
    rows, wanted = long[None, :2_049], [{"name": "attention_weights"}]
    body, headers = framed(
        {"inputs": [binary("hidden_states", rows.tobytes(), [1, 2_049, 8], "FP32")], "outputs": wanted},
        rows.tobytes(),
    )
    for answer in (
        ask_binary(unharmed, body, headers, "tiny.probes"),
        send(unharmed, save({"hidden_states": rows.copy()}, {"outputs": '["attention_weights"]'})),
    ):
        message = "expected at most 67,108,864 bytes in the answer as float32, got 67,174,416"
        assert_refused(answer, 422, "answer_too_large", "", message)


@pytest.mark.parametrize("value", [-1, 30_522, 2**63 - 1, -(2**63)])
def test_an_id_outside_the_vocabulary_is_422(unharmed: httpx.Client, value: int) -> None:
    body = save({"input_ids": np.array([[101, 102], [101, value]])})
    answer = post(unharmed, body, "minilm", content_type="application/x-safetensors")
    message = "expected ids from 0 to 30521, got one outside"
    assert_refused(answer, 422, "id_out_of_range", "input_ids[1][1]", message)


def test_an_id_is_in_no_header_of_the_answer(unharmed: httpx.Client) -> None:
    name = "an-id-of-the-client"
    answer = ask_binary(unharmed, orjson.dumps({"id": name, "inputs": [states()]}), {})
    assert answer.json()["id"] == name
    assert not [value for value in answer.headers.values() if name in value]


def three_answers(client: httpx.Client, rows: Floats, shown: Whole, *outputs: str) -> list[dict[str, Floats]]:
    """/v2 in JSON, /v2 as bytes, safetensors."""
    fields = {"outputs": [{"name": name} for name in outputs]}
    in_text = [states(shape=list(rows.shape), data=rows.ravel().tolist()), mask(data=shown.ravel().tolist())]
    as_bytes = [
        binary("hidden_states", rows.tobytes(), list(rows.shape), "FP32"),
        binary("attention_mask", shown.tobytes(), list(shown.shape), "INT64"),
    ]
    body, headers = framed(
        {"inputs": as_bytes, "parameters": {"binary_data_output": True}} | fields, rows.tobytes(), shown.tobytes()
    )
    in_text[1]["shape"] = list(shown.shape)
    names = {"outputs": orjson.dumps(outputs).decode()}
    binary_answer = load(send(client, save({"hidden_states": rows, "attention_mask": shown}, names)).content)
    return [
        read(client.post("/v2/models/tiny.probes/infer", content=orjson.dumps({"inputs": in_text} | fields))),
        read(ask_binary(client, body, headers, "tiny.probes")),
        {name: binary_answer[name] for name in outputs},
    ]


NUMBERS = {
    "zeros of both signs": [0.0, -0.0] * 4,
    "the least": [1e-45, -1e-45, 1e-40, -1e-40, 1.1754942e-38, -1.1754942e-38, 1.1754944e-38, 0],
    "the largest": [3.4028235e38, -3.4028235e38] * 4,
}


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_every_float32_is_read_and_written_bit_for_bit(unharmed: httpx.Client, numbers: list[float]) -> None:
    rows = np.array([[numbers]], np.float32)
    for found in three_answers(unharmed, rows, np.ones((1, 1), np.int64), "layers.0.layer_input"):
        assert found["layers.0.layer_input"].tobytes() == rows.tobytes()


SHOWN = {
    "one position": [[1]],
    "nothing to attend to": [[0, 0, 0], [1, 1, 1]],
    "holes": [[1, 0, 1], [0, 1, 0]],
    "padding on the left": [[0, 0, 1], [0, 1, 1]],
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_odd_masks_are_answered_alike_in_every_form(unharmed: httpx.Client, shown: list[list[int]]) -> None:
    outputs = ("block_output", "layers.1.attention_weights")
    seen = np.array(shown)
    rows = ROWS[: seen.shape[0], : seen.shape[1]].copy()
    body = {"hidden_states": rows.tolist(), "attention_mask": shown, "outputs": outputs}
    nested = unharmed.post("/v1/models/tiny/forward", json=body).json()["outputs"]
    expected = {name: np.array(nested[name], np.float32) for name in outputs}
    assert all(np.isfinite(values).all() for values in expected.values())
    for found in three_answers(unharmed, rows, seen, *outputs):
        assert_same(found, expected)
