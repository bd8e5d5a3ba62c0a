"""safetensors on the forward route: the same answers as in JSON, and refusals in JSON."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tests.service.refusal import GOOD, assert_refused, post

BINARY = "application/x-safetensors"
EVERYTHING = ["block_output", "attention_weights", "attention_scores", "query", "ffn_post_activation"]
ROWS = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
LENGTHS = np.array([2, 5, 1])
MASK = np.array([[1, 0, 9, 9, 9], [0, 1, 1, 0, 1], [1, 0, 0, 0, 0]])


def send(client: httpx.Client, body: bytes, model: str = "tiny", **headers: str) -> httpx.Response:
    return post(client, body, model, content_type=BINARY, **headers)


def metadata(body: bytes) -> dict[str, Any]:
    header = json.loads(body[8 : 8 + struct.unpack("<Q", body[:8])[0]])
    return {name: json.loads(text) for name, text in header["__metadata__"].items()}


def assert_same(answer: httpx.Response, expected: dict[str, list[Any]], lengths: list[int]) -> None:
    """The answer's tensors are those of a JSON answer bit for bit, and zero behind them."""
    assert answer.headers["content-type"] == BINARY
    found = load(answer.content)
    assert found.pop("sequence_lengths").tolist() == lengths
    assert found.keys() == expected.keys()
    for key, entries in expected.items():
        rest: NDArray[np.float32] = found[key].copy()
        for index, entry in enumerate(entries):
            array = np.asarray(entry, np.float32)
            part = rest[index][tuple(map(slice, array.shape))]
            assert part.tobytes() == array.tobytes()
            part[...] = 0
        assert not rest.any()


def test_a_ragged_batch_gets_the_tensors_of_the_same_request_in_json(unharmed: httpx.Client) -> None:
    rows = ROWS.copy()
    rows[0, 2:] = np.nan  # behind the sequence, where nothing is looked at
    rows[1, 0] = np.inf  # masked
    tensors = {"hidden_states": rows, "attention_mask": MASK, "sequence_lengths": LENGTHS}
    answer = send(unharmed, save(tensors, {"outputs": json.dumps(EVERYTHING)}))
    nested = {
        "hidden_states": [row[:length].tolist() for row, length in zip(ROWS, LENGTHS, strict=True)],
        "attention_mask": [mask[:length].tolist() for mask, length in zip(MASK, LENGTHS, strict=True)],
        "outputs": EVERYTHING,
    }
    assert_same(answer, post(unharmed, json.dumps(nested).encode()).json()["outputs"], LENGTHS.tolist())
    assert metadata(answer.content) == {"model": "tiny", "version": "1"}


def test_text_in_json_is_answered_in_safetensors_with_its_tokens(unharmed: httpx.Client) -> None:
    body = json.dumps({"text": ["The cat sat.", "a"], "outputs": ["layers.0.attention_weights"]}).encode()
    nested = post(unharmed, body, "minilm").json()
    answer = post(unharmed, body, "minilm", accept=BINARY)
    assert_same(answer, nested["outputs"], [6, 3])
    assert metadata(answer.content) == {"model": "minilm", "version": "1", "tokens": nested["tokens"]}


def test_text_in_the_metadata_is_answered_in_json(unharmed: httpx.Client) -> None:
    answer = send(unharmed, save({}, {"text": '"The cat sat."'}), "minilm", accept="application/json")
    assert answer.content == post(unharmed, b'{"text":"The cat sat."}', "minilm").content


def test_ids_are_cut_to_their_lengths(unharmed: httpx.Client) -> None:
    ids = np.array([[101, 1996, 102], [101, 102, -1]])
    answer = send(unharmed, save({"input_ids": ids, "sequence_lengths": np.array([3, 2])}), "minilm")
    nested = post(unharmed, b'{"input_ids":[[101,1996,102],[101,102]]}', "minilm")
    assert_same(answer, nested.json()["outputs"], [3, 2])


def test_an_answer_beyond_float32_is_written_as_it_is(unharmed: httpx.Client) -> None:
    states = np.full((1, 1, 32), 3e38, np.float32)  # beyond float32 already in the norm's mean
    answer = send(unharmed, save({"hidden_states": states}), "encoder-post-relu")
    assert answer.status_code == httpx.codes.OK
    assert not np.isfinite(load(answer.content)["block_output"]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_number_that_is_not_finite_is_refused_where_it_is(
    unharmed: httpx.Client, value: float, dtype: type[np.floating[Any]]
) -> None:
    states: NDArray[np.floating[Any]] = np.ones((2, 3, 8), dtype)
    states[1, 2, 5] = value
    message = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
    response = send(unharmed, save({"hidden_states": states}))
    assert_refused(response, 422, "value_overflow", "hidden_states[1][2][5]", message)


def test_an_answer_that_only_padding_makes_too_large_is_refused_before_it_runs(unharmed: httpx.Client) -> None:
    ids = np.full((6, 512), 101)
    body = save(
        {"input_ids": ids, "sequence_lengths": np.array([512, 1, 1, 1, 1, 1])},
        {"outputs": '["layers.0.attention_weights"]'},
    )
    message = "expected at most 67,108,864 bytes in the answer as float32, got 75,497,472"
    response = send(unharmed, body, "minilm")
    assert response.elapsed.total_seconds() < 0.5
    assert_refused(response, 422, "answer_too_large", "", message)


def test_the_most_sequences_that_are_read_are_refused_before_each_is_looked_at(unharmed: httpx.Client) -> None:
    body = save({"input_ids": np.zeros((2**16, 1), np.int64)})
    response = send(unharmed, body, "minilm")
    assert response.elapsed.total_seconds() < 0.5
    message = "expected at most 16,384 positions in all sequences, got 65,536"
    assert_refused(response, 422, "too_many_tokens", "", message)


GOOD_BINARY = save({"hidden_states": ROWS})
REFUSALS = {
    "cut off": (GOOD_BINARY[:-1], 400, "size_mismatch", "hidden_states.data_offsets"),
    "cut off in the header": (GOOD_BINARY[:40], 400, "size_mismatch", "header"),
    "empty": (b"", 400, "size_mismatch", "body"),
    "JSON": (GOOD, 400, "size_mismatch", "header"),
    "nothing in it": (save({}), 422, "wrong_inputs", ""),
    "two inputs": (
        save({"hidden_states": ROWS, "input_ids": np.ones((3, 5), np.int64)}),
        422,
        "wrong_inputs",
        "",
    ),
    "another hidden size": (save({"hidden_states": ROWS[..., :7].copy()}), 422, "wrong_shape", "hidden_states[0][0]"),
    "an unknown output": (
        save({"hidden_states": ROWS}, {"outputs": '["quary"]'}),
        422,
        "unknown_output",
        "outputs[0]",
    ),
}


@pytest.mark.parametrize(("body", "status", "code", "at"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_json_whatever_was_sent(
    unharmed: httpx.Client, body: bytes, status: int, code: str, at: str
) -> None:
    response = send(unharmed, body, accept=BINARY)
    found = response.json()
    assert response.headers["content-type"] == "application/json"
    assert (response.status_code, found["code"], found["at"]) == (status, code, at)


def test_safetensors_sent_as_json_is_unreadable(unharmed: httpx.Client) -> None:
    assert post(unharmed, GOOD_BINARY).status_code == httpx.codes.BAD_REQUEST
