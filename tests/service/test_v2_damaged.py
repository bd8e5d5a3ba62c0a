"""A valid binary request cut off at every byte, and with every bit of its JSON turned over (faults 98, 99)."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from service.check import check
from service.codec.inference import Exchange
from service.errors import GlassblockError
from service.manifest import ModelSpec, read_manifest
from service.recent import Recent
from tests.service.inference import MASK, ROWS, ask_binary, binary, framed

CHANGE = np.ones((2, 4), np.float32)
INPUTS = [
    binary("hidden_states", ROWS.tobytes(), [2, 3, 8], "FP32"),
    binary("attention_mask", MASK.astype(np.bool_).tobytes(), [2, 3], "BOOL"),
    binary("layers.0.query[:, 1].add", CHANGE.tobytes(), [2, 4], "FP32"),
]
REQUEST = {
    "id": "1",
    "parameters": {"timeout": 900_000, "binary_data_output": True},
    "inputs": INPUTS,
    "outputs": [{"name": "block_output", "parameters": {"binary_data": False}}],
}
BODY, HEADERS = framed(REQUEST, ROWS.tobytes(), MASK.astype(np.bool_).tobytes(), CHANGE.tobytes())
LENGTH = len(orjson.dumps(REQUEST))


@pytest.fixture(scope="module")
def spec(artifact: Callable[[str], Path]) -> ModelSpec:
    path = artifact("tiny") / "manifest.json"
    return read_manifest(path.read_bytes(), str(path))


def status(body: bytes, spec: ModelSpec, length: int | None = LENGTH) -> int:
    """What decode and check would answer; anything but our own errors goes through, and fails the test."""
    try:
        check(Exchange(spec, probes=True, header_length=length, heads=Recent(1)).decode(body), spec, 1024, 256)
    except GlassblockError as error:
        return error.status
    return 200


def flipped(bit: int) -> bytes:
    body = bytearray(BODY)
    body[bit // 8] ^= 1 << bit % 8
    return bytes(body)


def test_the_whole_request_is_answered(client: httpx.Client, spec: ModelSpec) -> None:
    assert status(BODY, spec) == 200
    assert ask_binary(client, BODY, HEADERS, "tiny.probes").status_code == httpx.codes.OK


def test_cut_off_at_any_byte_it_is_400(spec: ModelSpec) -> None:
    assert {status(BODY[:end], spec) for end in range(len(BODY))} == {400}


def test_cut_off_at_any_byte_of_its_json_under_a_header_that_agrees_it_is_400(spec: ModelSpec) -> None:
    assert {status(BODY[:end], spec, end) for end in range(1, LENGTH)} == {400}


def test_with_any_bit_of_its_json_turned_over_it_is_answered_or_refused(spec: ModelSpec) -> None:
    found = [status(flipped(bit), spec) for bit in range(8 * LENGTH)]
    assert set(found) <= {200, 400, 422, 501}
    assert found.count(200) < len(found) / 20  # the id, the timeout and the like


@pytest.mark.long
def test_over_http_every_seventh_of_these_is_answered_or_refused_in_words(unharmed: httpx.Client) -> None:
    for end in range(0, len(BODY), 7):
        answer = ask_binary(unharmed, BODY[:end], HEADERS, "tiny.probes")
        assert (answer.status_code, list(answer.json())) == (400, ["error", "code", "at", "request_id"])
    for bit in range(0, 8 * LENGTH, 7):
        assert ask_binary(unharmed, flipped(bit), HEADERS, "tiny.probes").status_code in {200, 400, 422, 501, 504}


def test_a_body_that_ends_before_its_declared_length_reaches_no_model(unharmed: httpx.Client) -> None:
    async def send_half(host: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        line = "POST /v2/models/tiny.probes/infer HTTP/1.1"
        writer.write(f"{line}\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n{head}\r\n".encode())
        writer.write(BODY[: len(BODY) // 2])
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    def executions() -> int:
        return int(unharmed.get("/v2/models/tiny/stats").json()["model_stats"][0]["execution_count"])

    before = executions()
    assert not asyncio.run(send_half(unharmed.base_url.host, unharmed.base_url.port or 80)).startswith(b"HTTP/1.1 200")
    assert executions() == before
