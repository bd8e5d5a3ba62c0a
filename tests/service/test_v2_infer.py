"""/v2's infer route gives what /v1 gives, to the last bit, in every way that the protocol has of asking."""

from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from tests.service.inference import (
    HEADER,
    MASK,
    ROWS,
    ask,
    ask_binary,
    assert_same,
    binary,
    forward,
    framed,
    mask,
    read,
    states,
    tensor,
)  # fmt: skip

BYTES, MASK_BYTES = ROWS.tobytes(), MASK.tobytes()
NESTED = ROWS.tolist()
AS_JSON = {
    "flat": ([states(), mask()]),
    "nested": ([states(data=NESTED), mask(data=MASK.tolist())]),
    "mask first": ([mask(), states()]),
    "mask as BOOL": ([states(), mask(datatype="BOOL", data=[True, True, False, True, True, True])]),
    "mask as nested BOOL of 0 and 1": ([states(), mask(datatype="BOOL", data=MASK.tolist())]),
    "fields in another order": ([dict(reversed(states().items())), dict(reversed(mask().items()))]),
}


@pytest.mark.parametrize("inputs", AS_JSON.values(), ids=AS_JSON)
def test_json_in_every_form_gets_the_answer_of_v1(client: httpx.Client, inputs: list[dict[str, Any]]) -> None:
    answer = ask(client, *inputs)
    assert answer.headers["content-type"] == "application/json"
    assert HEADER not in answer.headers
    assert_same(read(answer), forward(client))


AS_BYTES = {
    "both as bytes": (
        [binary("hidden_states", BYTES, [2, 3, 8], "FP32"), binary("attention_mask", MASK_BYTES, [2, 3], "INT64")],
        [BYTES, MASK_BYTES],
    ),
    "mask first": (
        [binary("attention_mask", MASK_BYTES, [2, 3], "INT64"), binary("hidden_states", BYTES, [2, 3, 8], "FP32")],
        [MASK_BYTES, BYTES],
    ),
    "mask as BOOL": (
        [
            binary("hidden_states", BYTES, [2, 3, 8], "FP32"),
            binary("attention_mask", MASK.astype(bool).tobytes(), [2, 3], "BOOL"),
        ],
        [BYTES, MASK.astype(bool).tobytes()],
    ),
    "mask in JSON": ([binary("hidden_states", BYTES, [2, 3, 8], "FP32"), mask()], [BYTES]),
    "states in JSON": ([states(), binary("attention_mask", MASK_BYTES, [2, 3], "INT64")], [MASK_BYTES]),
}


@pytest.mark.parametrize("padding", range(4))
@pytest.mark.parametrize(("inputs", "tensors"), AS_BYTES.values(), ids=AS_BYTES)
def test_bytes_at_any_place_of_the_body_get_the_answer_of_v1(
    client: httpx.Client, inputs: list[dict[str, Any]], tensors: list[bytes], padding: int
) -> None:
    body, headers = framed({"id": "x" * (padding + 1), "inputs": inputs}, *tensors)
    assert_same(read(ask_binary(client, body, headers)), forward(client))


def test_a_request_without_a_mask_attends_to_all(client: httpx.Client) -> None:
    assert_same(read(ask(client, states())), forward(client, masked=False))


def test_a_body_of_bytes_alone_is_one_sequence_and_all_comes_back_as_bytes(client: httpx.Client) -> None:
    answer = ask_binary(client, ROWS[1].tobytes(), {HEADER: "0"})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert_same(read(answer), forward(client, rows=ROWS[1:], masked=False))


def test_both_names_of_a_model_answer_all_that_their_metadata_lists(client: httpx.Client) -> None:
    for model in ("tiny", "tiny.probes"):
        listed = [output["name"] for output in client.get(f"/v2/models/{model}").json()["outputs"]]
        assert_same(read(ask(client, states(), mask(), model=model)), forward(client, *listed))


def as_bfloat16(values: "np.ndarray[Any, np.dtype[np.float32]]") -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def test_half_precision_is_widened_exactly(client: httpx.Client) -> None:
    half = ROWS.astype(np.float16)
    for made in (states(datatype="FP16"), states(datatype="FP16", data=half.tolist())):
        assert_same(read(ask(client, made)), forward(client, rows=half, masked=False))
    body, headers = framed({"inputs": [binary("hidden_states", half.tobytes(), [2, 3, 8], "FP16")]}, half.tobytes())
    assert_same(read(ask_binary(client, body, headers)), forward(client, rows=half, masked=False))


def test_bfloat16_is_widened_exactly_and_its_text_stands_for_the_nearest_number(client: httpx.Client) -> None:
    cut = (ROWS.view(np.uint32) & 0xFFFF0000).view(np.float32)
    data = as_bfloat16(ROWS)
    body, headers = framed({"inputs": [binary("hidden_states", data, [2, 3, 8], "BF16")]}, data)
    expected = forward(client, rows=cut, masked=False)
    assert_same(read(ask_binary(client, body, headers)), expected)
    near = cut * np.float32(1 + 2**-10)  # nearer to it than to the next
    assert_same(read(ask(client, states(datatype="BF16", data=near.ravel().tolist()))), expected)


def test_outputs_come_in_the_order_asked_for_each_as_it_was_asked_for(client: httpx.Client) -> None:
    names = ["layers.1.attention_weights", "block_output", "layers.0.query"]
    wanted = [{"name": names[0], "parameters": {"binary_data": True}}, {"name": names[1]},
              {"name": names[2], "parameters": {"binary_data": False}}]  # fmt: skip
    expected = forward(client, *names)
    for default in (False, True):
        answer = ask(
            client, states(), mask(), model="tiny.probes", outputs=wanted, parameters={"binary_data_output": default}
        )
        assert_same(read(answer), expected)
        head = orjson.loads(answer.content[: int(answer.headers[HEADER])])
        assert ["data" in output for output in head["outputs"]] == [False, not default, True]


def test_an_address_of_several_layers_is_answered_under_full_names(client: httpx.Client) -> None:
    names = ["layers.0.attention_weights", "layers.1.attention_weights"]
    for address in ("attention_weights", "layers.*.attention_weights", "layers.0:2.attention_weights"):
        for as_bytes in (False, True):
            outputs = [{"name": address, "parameters": {"binary_data": as_bytes}}]
            answer = ask(client, states(), mask(), model="tiny.probes", outputs=outputs)
            assert (HEADER in answer.headers) == as_bytes
            assert_same(read(answer), forward(client, *names))


def test_a_bare_address_of_a_model_of_one_layer_keeps_its_name(client: httpx.Client) -> None:
    rows = np.random.default_rng(5).standard_normal((1, 2, 512)).astype(np.float32)
    answer = ask(
        client, tensor("hidden_states", rows), model="head-256.probes", outputs=[{"name": "attention_weights"}]
    )
    expected = forward(client, "attention_weights", rows=rows, model="head-256", masked=False)
    assert_same(read(answer), expected)


def test_an_alias_is_answered_under_its_name(client: httpx.Client) -> None:
    rows = np.random.default_rng(6).standard_normal((1, 2, 512)).astype(np.float32)
    answer = ask(client, tensor("hidden_states", rows), model="head-256", outputs=[{"name": "last_hidden_state"}])
    expected = forward(client, "last_hidden_state", rows=rows, model="head-256", masked=False)
    assert_same(read(answer), expected)


@pytest.mark.parametrize("request_id", ["1", "x" * 128, 'a"b\\c', "{}"])
def test_the_id_comes_back(client: httpx.Client, request_id: str) -> None:
    assert ask(client, states(), id=request_id).json()["id"] == request_id


def test_no_id_comes_back_where_none_was_sent(client: httpx.Client) -> None:
    for answer in (ask(client, states()), ask(client, states(), id="")):
        assert list(answer.json()) == ["model_name", "model_version", "outputs"]


def test_the_answer_names_model_and_version_as_asked_for(client: httpx.Client) -> None:
    for model in ("tiny", "tiny.probes"):
        route = f"/v2/models/{model}/versions/1/infer"
        answer = client.post(route, content=orjson.dumps({"inputs": [states()]})).json()
        assert (answer["model_name"], answer["model_version"]) == (model, "1")


@pytest.mark.parametrize("declared", ["", "application/json", "application/octet-stream", "text/plain", "nonsense"])
def test_no_content_type_is_asked_for(client: httpx.Client, declared: str) -> None:
    headers = {"Content-Type": declared} if declared else {}
    answer = client.post("/v2/models/tiny/infer", content=orjson.dumps({"inputs": [states(), mask()]}), headers=headers)
    assert_same(read(answer), forward(client))


def test_answers_carry_what_those_of_v1_carry(client: httpx.Client) -> None:
    headers = ask(client, states()).headers
    described = client.get("/v1/models/tiny").json()
    assert headers["x-model-version"] == "1"
    assert headers["x-model-sha256"] == described["sha256"]
    assert headers["server-timing"].startswith("decode;dur=")


def test_minus_zero_and_the_least_and_greatest_numbers_pass_as_bytes(client: httpx.Client) -> None:
    rows = np.array([[[-0.0, 1e-45, 1.1754942e-38, 1e-40, 1, -1, 0, 2]]], np.float32)
    outputs = [{"name": "layers.0.layer_input", "parameters": {"binary_data": True}}]
    answer = ask(client, tensor("hidden_states", rows), model="tiny.probes", outputs=outputs)
    assert read(answer)["layers.0.layer_input"].tobytes() == rows.tobytes()


def test_long_numbers_as_text_are_read_as_their_bytes_are(client: httpx.Client) -> None:
    rows = np.random.default_rng(7).standard_normal((1, 600, 512)).astype(np.float32)
    flat = ask(client, tensor("hidden_states", rows), model="head-256", parameters={"binary_data_output": True})
    nested = ask(client, tensor("hidden_states", rows, data=rows.tolist()), model="head-256")
    body, headers = framed({"inputs": [binary("hidden_states", rows.tobytes(), [1, 600, 512], "FP32")]}, rows.tobytes())
    expected = read(ask_binary(client, body, headers, model="head-256"))
    assert_same(read(flat), expected)
    assert_same(read(nested), expected)


def test_a_head_that_came_before_is_answered_with_the_tensors_that_come_with_it(client: httpx.Client) -> None:
    for seed in range(3):
        rows = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
        head = {"inputs": [binary("hidden_states", rows.tobytes(), [2, 3, 8], "FP32")]}
        answer = ask_binary(client, *framed(head, rows.tobytes()))
        assert_same(read(answer), forward(client, rows=rows, masked=False))


def test_one_head_means_to_each_model_what_that_model_has(client: httpx.Client) -> None:
    body, headers = framed({"inputs": [binary("hidden_states", BYTES, [2, 3, 8], "FP32")]}, BYTES)
    for model in ("tiny", "tiny.probes") * 2:
        listed = [output["name"] for output in client.get(f"/v2/models/{model}").json()["outputs"]]
        assert list(read(ask_binary(client, body, headers, model=model))) == listed
