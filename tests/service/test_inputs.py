"""Which of hidden_states, input_ids and text a request has, and how long they may be."""

import json

import httpx
import numpy as np
import pytest

from tests.service.refusal import assert_refused, post

ONE_OF = "expected one of hidden_states, input_ids, text, got"
NO_FRONT = "expected hidden_states: model tiny has no text front, so it takes no"
INPUTS = {
    "none": ("tiny", b"{}", "wrong_inputs", "", f"{ONE_OF} none"),
    "outputs alone": ("tiny", b'{"outputs":["block_output"]}', "wrong_inputs", "", f"{ONE_OF} none"),
    "mask alone": ("tiny", b'{"attention_mask":[[1]]}', "wrong_inputs", "", f"{ONE_OF} none"),
    "two": ("minilm", b'{"text":"a","input_ids":[[101]]}', "wrong_inputs", "", f"{ONE_OF} input_ids and text"),
    "text for a block": ("tiny", b'{"text":"a"}', "no_text_front", "text", f"{NO_FRONT} text"),
    "ids for a block": ("tiny", b'{"input_ids":[[1]]}', "no_text_front", "input_ids", f"{NO_FRONT} input_ids"),
    "mask with text": (
        "minilm",
        b'{"text":"a","attention_mask":[[1,1,1]]}',
        "mask_with_text",
        "attention_mask",
        "attention_mask does not go with text: the tokenizer decides on positions",
    ),
    "no ids": (
        "minilm",
        b'{"input_ids":[]}',
        "empty_batch",
        "input_ids",
        "expected at least one sequence, got an empty list",
    ),
    "no id": (
        "minilm",
        b'{"input_ids":[[101],[]]}',
        "empty_sequence",
        "input_ids[1]",
        "expected at least 1 position, got 0",
    ),
    "ids of rank 1": (
        "minilm",
        b'{"input_ids":[101]}',
        "wrong_type",
        "input_ids[0]",
        "expected a list of whole numbers, got a number",
    ),
    "ids of rank 3": (
        "minilm",
        b'{"input_ids":[[[101]]]}',
        "wrong_type",
        "input_ids[0][0]",
        "expected a whole number of 64 bits, got a list",
    ),
    "513 ids": (
        "minilm",
        json.dumps({"input_ids": [[101], [101] * 513]}).encode(),
        "sequence_too_long",
        "input_ids[1]",
        "expected at most 512 positions, got 513",
    ),
    "mask for other ids": (
        "minilm",
        b'{"input_ids":[[101,102]],"attention_mask":[[1]]}',
        "wrong_shape",
        "attention_mask[0]",
        "expected as many positions as the input has (2), got 1",
    ),
    "no text": ("minilm", b'{"text":[]}', "empty_batch", "text", "expected at least one sequence, got an empty list"),
    "text null": ("minilm", b'{"text":null}', "wrong_type", "text", "expected a string or a list of strings, got null"),
    "text a number": (
        "minilm",
        b'{"text":1}',
        "wrong_type",
        "text",
        "expected a string or a list of strings, got a number",
    ),
    "text with a list": ("minilm", b'{"text":["a",["b"]]}', "wrong_type", "text[1]", "expected a string, got a list"),
    "text with null": ("minilm", b'{"text":["a",null]}', "wrong_type", "text[1]", "expected a string, got null"),
    "513 tokens": (
        "minilm",
        json.dumps({"text": ["a", "cat " * 511]}).encode(),
        "sequence_too_long",
        "text[1]",
        "expected at most 512 tokens, got 513",
    ),
}


@pytest.mark.parametrize(("model", "body", "code", "at", "message"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_the_model_cannot_take_are_refused(
    unharmed: httpx.Client, model: str, body: bytes, code: str, at: str, message: str
) -> None:
    assert_refused(post(unharmed, body, model), 422, code, at, message, body)


def test_the_longest_sequence_of_ids_is_answered(unharmed: httpx.Client) -> None:
    response = post(unharmed, json.dumps({"input_ids": [[101] * 512]}).encode(), "minilm")
    assert np.asarray(response.json()["outputs"]["block_output"]).shape == (1, 512, 384)
