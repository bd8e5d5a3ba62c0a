"""What was read, checked and answered before is not read and checked again, and nothing of an answer shows it."""

import itertools
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.recent import Recent
from tests.server import Server, link_models, running
from tests.service.inference import ROWS, ask_binary, binary, framed, framed_states, read, tensor
from tests.service.refusal import assert_refused
from tests.service.wire import HEAD, connect, read_one

unheard = itertools.count(1).__next__
FINITE = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
ADDRESSES = (
    "block_output",
    "layers.0.query",
    "layers.*.attention_weights[...,0]",
    "layers.0.context|norm",
    "layers.1.key|top(2)",
)


def test_values_of_a_known_head_are_held_against_the_rules_as_the_first_ones_were(unharmed: httpx.Client) -> None:
    broken = ROWS.copy()
    broken[1, 2, 3] = np.nan
    for rows in (ROWS, broken) * 2:
        answer = ask_binary(unharmed, *framed_states(rows, "block_output"))
        if rows is ROWS:
            assert answer.status_code == 200
        else:
            assert_refused(answer, 422, "value_overflow", "hidden_states[1][2][3]", FINITE)


@pytest.mark.parametrize("change", [-4, 4, -192])
def test_a_known_head_with_other_bytes_behind_it_is_refused_as_the_first_one_would_be(
    unharmed: httpx.Client, change: int
) -> None:
    body, headers = framed_states(ROWS, "block_output")
    assert ask_binary(unharmed, body, headers).status_code == 200
    other = body[:change] if change < 0 else body + b"\0" * change
    wrong, least = ROWS.nbytes + change, ROWS.nbytes
    said = "expected 192 bytes behind the JSON, " + (
        f"got {wrong}" if change < 0 else f"as the inputs say, got {wrong}"
    )
    assert least == 192
    answer = ask_binary(unharmed, other, headers)
    assert_refused(answer, 400, "size_mismatch", "inputs[0]" if change < 0 else "body", said)


def test_a_head_that_was_refused_is_refused_again(unharmed: httpx.Client) -> None:
    body, headers = framed_states(ROWS[:, :, :4].copy(), "block_output")
    for _ in range(3):
        message = "expected hidden_size 8, got 4"
        assert_refused(ask_binary(unharmed, body, headers), 422, "wrong_shape", "inputs[0].shape[2]", message)


def test_half_precision_behind_a_known_head_is_widened(client: httpx.Client) -> None:
    for seed in range(3):
        rows = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float16)
        head = {"inputs": [binary("hidden_states", rows.tobytes(), [2, 3, 8], "FP16")]}
        half = ask_binary(client, *framed(head, rows.tobytes()))
        whole = ask_binary(client, *framed_states(rows.astype(np.float32), "block_output"))
        assert np.array_equal(read(half)["block_output"], read(whole)["block_output"])


def test_the_deadline_of_a_known_head_is_each_requests_own(client: httpx.Client) -> None:
    head = {"inputs": [binary("hidden_states", ROWS.tobytes(), [2, 3, 8], "FP32")], "parameters": {"timeout": 1}}
    body, headers = framed(head, ROWS.tobytes())
    found = {ask_binary(client, body, headers).status_code for _ in range(5)}
    assert found <= {200, 504}
    patient = framed(head | {"parameters": {"timeout": 60_000_000}}, ROWS.tobytes())
    assert [ask_binary(client, *patient).status_code for _ in range(3)] == [200] * 3


@pytest.mark.long
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.lists(st.sampled_from(ADDRESSES), min_size=1, unique=True)),
        min_size=1,
        max_size=4,
    )
)
def test_a_request_gets_the_same_bytes_whatever_is_known(
    client: httpx.Client, requests: list[tuple[int, int, list[str]]]
) -> None:
    generator = np.random.default_rng(7)
    bodies = [
        framed_states(generator.standard_normal((size, length, 8)).astype(np.float32), *addresses)
        for size, length, addresses in requests
    ]
    first = [ask_binary(client, body, headers, model="tiny.probes") for body, headers in bodies]
    again = [ask_binary(client, body, headers, model="tiny.probes") for body, headers in bodies]
    assert [answer.status_code for answer in first] == [200] * len(first)
    assert [answer.content for answer in again] == [answer.content for answer in first]
    unknown = [ask_binary(client, b" " + body, longer(headers), model="tiny.probes") for body, headers in bodies]
    assert [answer.content for answer in unknown] == [answer.content for answer in first]


def in_text(
    rows: NDArray[np.float32], outputs: list[dict[str, Any]], *, nested: bool, last: tuple[object, ...] = ()
) -> bytes:
    """A request with hidden states as numbers, and these in place of the last one."""
    numbers: Any = rows.tolist() if nested else rows.ravel().tolist()
    innermost = numbers
    while isinstance(innermost[-1], list):
        innermost = innermost[-1]
    innermost[-1:] = last or innermost[-1:]
    return orjson.dumps({"inputs": [tensor("hidden_states", rows, numbers)], "outputs": outputs})


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("as_bytes", [(False, False), (True, False), (True, True)], ids=["text", "both", "bytes"])
def test_numbers_in_text_get_the_same_answer_whatever_is_known(
    client: httpx.Client, as_bytes: tuple[bool, bool], *, nested: bool
) -> None:
    wanted = zip(("block_output", "layers.*.attention_weights[...,0]"), as_bytes, strict=True)
    outputs = [{"name": name, "parameters": {"binary_data": kind}} for name, kind in wanted]
    for seed in range(3):  # other numbers in the same text
        rows = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
        body = in_text(rows, outputs, nested=nested)
        answer, unknown = (ask_binary(client, text, {}, "tiny.probes") for text in (body, b"\n" * unheard() + body))
        assert answer.content == unknown.content
        expected = read(ask_binary(client, *framed_states(rows, "block_output")))
        assert np.array_equal(read(answer)["block_output"], expected["block_output"])


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_numbers_of_a_known_text_are_held_against_its_shape_and_the_rules(
    unharmed: httpx.Client, *, nested: bool
) -> None:
    outputs = [{"name": "block_output"}]
    for _ in range(3):
        assert ask_binary(unharmed, in_text(ROWS, outputs, nested=nested), {}).status_code == 200
        wrong = in_text(ROWS, outputs, nested=nested, last=(1e39,))
        assert_refused(ask_binary(unharmed, wrong, {}), 422, "value_overflow", "hidden_states[1][2][7]", FINITE)
        wrong = in_text(ROWS, outputs, nested=nested, last=(1, None))
        assert ask_binary(unharmed, wrong, {}).json()["code"] in {"wrong_type", "wrong_shape"}
        wrong = in_text(np.concatenate((ROWS, ROWS)), outputs, nested=nested)
        wrong = wrong.replace(b'"shape":[4,3,8]', b'"shape":[2,3,8]')
        found = 4 if nested else 96
        said = f"expected {2 if nested else 48} elements, as the shape says, got {found}"
        assert_refused(ask_binary(unharmed, wrong, {}), 422, "wrong_shape", "inputs[0].data", said)


def longer(headers: dict[str, str]) -> dict[str, str]:
    """Those of a request whose JSON has one more byte."""
    return {name: str(int(value) + 1) for name, value in headers.items()}


@pytest.mark.long
@given(
    size=st.integers(1, 3),
    length=st.integers(1, 5),
    addresses=st.lists(st.sampled_from(ADDRESSES), min_size=1, unique=True),
    masked=st.booleans(),
)
def test_nested_lists_get_the_same_text_whatever_is_known(
    client: httpx.Client, *, size: int, length: int, addresses: list[str], masked: bool
) -> None:
    rows = np.random.default_rng(size * length).standard_normal((size, length, 8)).astype(np.float32)
    mask = {"attention_mask": [[1] * (length - 1) + [1 - masked] for _ in rows]} if masked and length > 1 else {}
    for values in (rows, rows, rows[::-1, ::-1] * 2):  # the same envelope around the same numbers, and around others
        body = {"hidden_states": values.tolist(), "outputs": addresses, **mask}
        answer = client.post("/v1/models/tiny/forward", json=body)
        unknown = client.post("/v1/models/tiny/forward", content=b"\n" * unheard() + orjson.dumps(body))
        assert answer.status_code == 200
        assert answer.content == unknown.content
    large = rows.astype(np.float64)
    large[-1, 0, 3] = 1e39
    wrong = client.post("/v1/models/tiny/forward", json=body | {"hidden_states": large.tolist()})
    assert_refused(wrong, 422, "value_overflow", f"hidden_states[{size - 1}][0][3]", FINITE)


@pytest.mark.parametrize("length", [1, 3, 200])
def test_a_known_envelope_is_held_against_the_length_of_each_request(client: httpx.Client, length: int) -> None:
    body = {"hidden_states": np.ones((1, length, 8)).tolist(), "outputs": ["layers.0.query[2]"]}
    for _ in range(2):
        answer = client.post("/v1/models/tiny/forward", json=body)
        assert answer.status_code == (422 if length < 3 else 200), answer.text


def test_a_model_loaded_anew_knows_nothing_of_what_the_old_one_was_asked(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    body, headers = framed_states(ROWS, "block_output")
    with running(models, tmp_path, model_control=True) as server, server.client() as client:
        assert client.post("/v2/repository/models/tiny/load").status_code == 200
        before = [ask_binary(client, body, headers).content for _ in range(2)]
        assert client.post("/v2/repository/models/tiny/unload").status_code == 200
        assert ask_binary(client, body, headers).status_code == 404
        assert client.post("/v2/repository/models/tiny/load").status_code == 200
        assert [ask_binary(client, body, headers).content for _ in range(2)] == before


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("packets", ["one packet", "head and first piece", "head alone"])
def test_a_body_in_chunks_is_whole_however_many_come_with_its_head(
    client: httpx.Client, server: Server, pieces: int, packets: str
) -> None:
    body = orjson.dumps({"hidden_states": ROWS.tolist()})
    expected = client.post("/v1/models/tiny/forward", content=body).content
    size = -(-len(body) // pieces)
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[i : i + size] for i in range(0, len(body), size))]
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = [head, *chunks, b"0\r\n\r\n"]
    first = {"one packet": len(whole), "head and first piece": 2, "head alone": 1}[packets]
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(b"".join(whole[:first]))
            time.sleep(0.02)
            if rest := b"".join(whole[first:]):
                connection.sendall(rest)
            answer = read_one(connection)
            assert (answer.status, answer.body) == (200, expected)


def test_as_many_are_remembered_as_were_put_last() -> None:
    recent = Recent[int](3)
    for number in range(10):
        recent.put(number, number * number)
    assert [recent.get(number) for number in range(10)] == [None] * 7 + [49, 64, 81]


def test_more_sequences_than_are_remembered_get_what_their_head_asks_for_again(client: httpx.Client) -> None:
    rows = np.random.default_rng(1).standard_normal((65, 2, 8)).astype(np.float32)
    body, headers = framed_states(rows, "layers.0.query")
    first, second = (ask_binary(client, body, headers, "tiny.probes").content for _ in range(2))
    assert first == second


@pytest.mark.long
def test_a_known_head_gets_what_it_asks_for_after_the_checks_of_its_like_were_forgotten(client: httpx.Client) -> None:
    body, headers = framed_states(ROWS, "layers.0.query")
    before = ask_binary(client, body, headers, "tiny.probes").content
    for timeout_s in range(60, 60 + 300):
        other = {"hidden_states": ROWS.tolist(), "timeout_s": timeout_s}
        assert client.post("/v1/models/tiny/forward", json=other).status_code == 200
    assert ask_binary(client, body, headers, "tiny.probes").content == before


def test_any_thread_may_put_what_is_remembered() -> None:
    recent = Recent[int](3)

    def put(first: int) -> None:
        for number in range(first, first + 200_000):
            recent.put(number, number)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(put, (0, 10**6))) == [None, None]
    finally:
        sys.setswitchinterval(interval_s)
