"""A valid safetensors request cut off at every byte, and with every bit of its header turned over (faults 98, 99)."""

import struct
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from service.check import check, check_inputs
from service.codec.safetensors import decode
from service.errors import GlassblockError
from service.manifest import ModelSpec, read_manifest
from tests.service.inference import MASK, ROWS
from tests.service.refusal import post

BODY = save(
    {
        "hidden_states": ROWS,
        "attention_mask": MASK,
        "sequence_lengths": np.array([3, 2]),
        "layers.0.query[:, 1].add": np.ones((2, 4), np.float32),
    },
    {
        "outputs": '["block_output", "layers.0.query"]',
        "interventions": '[{"layers.1.key[0]": {"set": {"from": 1}, "add": [0.5]}}, null]',
        "timeout_s": "60.5",
        "priority": "1",
    },
)
LENGTH = 8 + struct.unpack("<Q", BODY[:8])[0]  # of the header, and of the number that says it


@pytest.fixture(scope="module")
def spec(artifact: Callable[[str], Path]) -> ModelSpec:
    path = artifact("tiny") / "manifest.json"
    return read_manifest(path.read_bytes(), str(path))


def status(body: bytes, spec: ModelSpec) -> int:
    """What decode and check would answer; anything but our own errors goes through, and fails the test."""
    try:
        tensors = decode(body)
        check_inputs(tensors, spec)
        check(tensors, spec, 1024, 256)
    except GlassblockError as error:
        return error.status
    return 200


def flipped(bit: int) -> bytes:
    body = bytearray(BODY)
    body[bit // 8] ^= 1 << bit % 8
    return bytes(body)


def ask(client: httpx.Client, body: bytes) -> httpx.Response:
    return post(client, body, content_type="application/x-safetensors")


def test_the_whole_request_is_answered(client: httpx.Client, spec: ModelSpec) -> None:
    assert status(BODY, spec) == 200
    assert ask(client, BODY).status_code == httpx.codes.OK


def test_cut_off_in_its_header_under_a_length_that_agrees_it_is_400(spec: ModelSpec) -> None:
    cut = (struct.pack("<Q", end - 8) + BODY[8:end] + rest for end in range(8, LENGTH) for rest in (b"", BODY[LENGTH:]))
    spaces = len(BODY[:LENGTH]) - len(BODY[:LENGTH].rstrip(b" "))  # the header is whole without what fills it up
    found = [status(body, spec) for body in cut]
    assert found.count(200) == spaces
    assert set(found) <= {200, 400}


def test_with_any_bit_of_its_header_turned_over_it_is_answered_or_refused(spec: ModelSpec) -> None:
    found = [status(flipped(bit), spec) for bit in range(8 * LENGTH)]
    assert set(found) == {200, 400, 422}
    assert found.count(200) < len(found) / 20  # a digit of the timeout and the like


@pytest.mark.long
def test_over_http_cut_off_at_any_byte_it_is_400_in_words(unharmed: httpx.Client) -> None:
    for end in range(len(BODY)):
        answer = ask(unharmed, BODY[:end])
        assert (answer.status_code, list(answer.json())) == (400, ["error", "code", "at", "request_id"])


@pytest.mark.long
def test_over_http_with_every_third_bit_of_its_header_turned_over_it_is_answered_or_refused(
    unharmed: httpx.Client,
) -> None:
    for bit in range(0, 8 * LENGTH, 3):
        assert ask(unharmed, flipped(bit)).status_code in {200, 400, 422, 504}
