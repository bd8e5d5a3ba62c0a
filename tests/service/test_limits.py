"""Requests that are right and too heavy (faults 35, 36, 71 to 73): refused by a sum, before anything runs."""

import json
import time

import httpx
import pytest

from tests.service.refusal import GOOD_ROW, assert_refused, hidden_states, post


def _sequences(*lengths: int, asking: str = "") -> bytes:
    rows = ",".join(f"[{','.join([GOOD_ROW] * length)}]" for length in lengths)
    return hidden_states(f"[{rows}]", f',"outputs":["{asking}"]' if asking else "")


TOKENS = "expected at most 16,384 positions in all sequences, got"
CELLS = "expected at most 268,435,456 cells of heads times squared length, got"
BYTES = "expected at most 67,108,864 bytes in the answer as float32, got"
BLOCKS = {
    "long sequence": (_sequences(16_385), "too_many_tokens", f"{TOKENS} 16,385"),
    "many sequences": (_sequences(*[1] * 16_385), "too_many_tokens", f"{TOKENS} 16,385"),
    "attention of one": (_sequences(11_586), "too_much_attention", f"{CELLS} 268,470,792"),
    "maps": (_sequences(2_049, asking="attention_weights"), "answer_too_large", f"{BYTES} 67,174,416"),
}


@pytest.mark.parametrize(("body", "code", "message"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_too_heavy_is_refused_before_it_runs(
    unharmed: httpx.Client, body: bytes, code: str, message: str
) -> None:
    response = post(unharmed, body)
    assert response.elapsed.total_seconds() < 2
    assert_refused(response, 422, code, "", message)


CHARACTERS = "expected at most 16,384 characters for 512 tokens, got"
IN_ALL = "expected at most 524,288 characters for 16,384 tokens, got"
TEXTS = {
    "one long": (["a " * 8_000_000], "sequence_too_long", "text[0]", f"{CHARACTERS} 16,000,000"),
    "one word": (["a" * 16_385], "sequence_too_long", "text[0]", f"{CHARACTERS} 16,385"),
    "many": (["a" * 16_384] * 33, "too_many_tokens", "text", f"{IN_ALL} 540,672"),
    "many short": ([""] * 16_385, "too_many_tokens", "text", "expected at most 16,384 strings, got 16,385"),
    "many empty": ([""] * 8_193, "too_many_tokens", "", f"{TOKENS} 16,386"),
}


@pytest.mark.parametrize(("text", "code", "at", "message"), TEXTS.values(), ids=TEXTS)
def test_too_much_text_is_refused_before_it_is_tokenized(
    unharmed: httpx.Client, text: list[str], code: str, at: str, message: str
) -> None:
    response = post(unharmed, json.dumps({"text": text}).encode(), "minilm")
    assert response.elapsed.total_seconds() < 3
    assert_refused(response, 422, code, at, message)


def test_many_sequences_with_every_probe_are_weighed_in_no_time(unharmed: httpx.Client) -> None:
    probes = ["query", "key", "value", "context", "resid_mid", "ffn_output", "layer_output", "attention_weights"]
    body = json.dumps({"input_ids": [[1]] * 16_384, "outputs": probes}).encode()
    response = post(unharmed, body, "minilm")
    assert response.elapsed.total_seconds() < 1
    assert_refused(response, 422, "answer_too_large", "", f"{BYTES} 1,061,683,200")


@pytest.mark.long
def test_the_most_sequences_of_a_request_are_answered(unharmed: httpx.Client) -> None:
    answer = post(unharmed, _sequences(*[1] * 16_384)).json()
    first = post(unharmed, _sequences(1)).json()["outputs"]["block_output"][0]
    assert answer["outputs"]["block_output"] == [first] * 16_384


def test_a_bad_request_does_not_wait_for_the_good_ones(unharmed: httpx.Client) -> None:
    start_s = time.perf_counter()
    for _ in range(200):
        assert post(unharmed, b"{").status_code == httpx.codes.BAD_REQUEST
    assert (time.perf_counter() - start_s) / 200 < 0.05
