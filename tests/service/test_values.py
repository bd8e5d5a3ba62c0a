"""Values that no tensor can hold (faults F), and odd ones that it can: each with its defined answer."""

import json

import httpx
import numpy as np
import pytest

from tests.service.refusal import GOOD_ROW, assert_refused, hidden_states, post

ELEMENTS = {
    "null": ("null", "null"),
    "true": ("true", "a boolean"),
    "false": ("false", "a boolean"),
    "string": ('"0.5"', "a string"),
    "string nan": ('"nan"', "a string"),
    "string with underscore": ('"1_0"', "a string"),
    "string of a wide digit": ('"１"', "a string"),  # noqa: RUF001
    "object": ("{}", "an object"),
    "object of a number": ('{"a":1}', "an object"),
    "list": ("[0.5]", "a list"),
}


@pytest.mark.parametrize(("element", "came"), ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("index", [0, 7])
def test_an_element_that_is_no_number_is_refused(unharmed: httpx.Client, element: str, came: str, index: int) -> None:
    row = ["0.5"] * 8
    row[index] = element
    body = hidden_states(f"[[{GOOD_ROW}],[{GOOD_ROW},[{','.join(row)}]]]")
    place = f"hidden_states[1][1][{index}]"
    assert_refused(post(unharmed, body), 422, "wrong_type", place, f"expected a number, got {came}", body)


@pytest.mark.parametrize("number", ["1e39", "-1e39", "3.4028236e38", "3.4028235677973366e38", "1e308"])
def test_a_number_beyond_float32_is_refused(unharmed: httpx.Client, number: str) -> None:
    body = hidden_states(f"[[{GOOD_ROW},[0,0,0,0,0,{number},0,0]]]")
    message = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
    assert_refused(post(unharmed, body), 422, "value_overflow", "hidden_states[0][1][5]", message, body)


MASK_VALUES = {
    "2": "another number",
    "-1": "another number",
    "0.5": "another number",
    "1.0": "another number",
    "1e0": "another number",
    "18446744073709551615": "another number",
    "null": "null",
    '"1"': "a string",
    "{}": "an object",
    "[]": "a list",
}


@pytest.mark.parametrize(("value", "came"), MASK_VALUES.items())
def test_a_mask_value_other_than_0_and_1_is_refused(unharmed: httpx.Client, value: str, came: str) -> None:
    body = hidden_states(f"[[{GOOD_ROW},{GOOD_ROW}]]", f',"attention_mask":[[1,{value}]]')
    message = f"expected 0, 1, true or false, got {came}"
    assert_refused(post(unharmed, body), 422, "wrong_type", "attention_mask[0][1]", message, body)


OUTSIDE = ("id_out_of_range", "expected ids from 0 to 30521, got one outside")
ID_VALUES = {
    "-1": OUTSIDE,
    "30522": OUTSIDE,
    "9223372036854775807": OUTSIDE,
    "-9223372036854775808": OUTSIDE,
    "9223372036854775808": ("wrong_type", "expected a whole number of 64 bits, got another number"),
    "101.0": ("wrong_type", "expected a whole number of 64 bits, got another number"),
    "1.5": ("wrong_type", "expected a whole number of 64 bits, got another number"),
    "1e2": ("wrong_type", "expected a whole number of 64 bits, got another number"),
    "true": ("wrong_type", "expected a whole number of 64 bits, got a boolean"),
    "null": ("wrong_type", "expected a whole number of 64 bits, got null"),
    '"101"': ("wrong_type", "expected a whole number of 64 bits, got a string"),
    "{}": ("wrong_type", "expected a whole number of 64 bits, got an object"),
}


@pytest.mark.parametrize(("value", "refusal"), ID_VALUES.items())
def test_an_id_that_is_no_token_is_refused(unharmed: httpx.Client, value: str, refusal: tuple[str, str]) -> None:
    body = f'{{"input_ids":[[101],[101,{value}]]}}'.encode()
    code, message = refusal
    assert_refused(post(unharmed, body, "minilm"), 422, code, "input_ids[1][1]", message, body)


def _block_output(client: httpx.Client, body: bytes) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    response = post(client, body)
    assert response.status_code == httpx.codes.OK, response.text
    return [np.asarray(rows, np.float32) for rows in response.json()["outputs"]["block_output"]]


def test_masked_content_of_any_finite_or_infinite_size_changes_nothing(unharmed: httpx.Client) -> None:
    clean = post(unharmed, hidden_states(f"[[{GOOD_ROW},[0,0,0,0,0,0,0,0]]]", ',"attention_mask":[[1,0]]'))
    wild = post(unharmed, hidden_states(f"[[{GOOD_ROW},[1e39,-1e39,9,0,0,0,0,1e300]]]", ',"attention_mask":[[1,0]]'))
    assert (wild.status_code, wild.content) == (200, clean.content)


def test_the_least_and_the_largest_float32_leave_their_neighbours_alone(unharmed: httpx.Client) -> None:
    alone = _block_output(unharmed, hidden_states(f"[[{GOOD_ROW}]]"))[0]
    odd = ["[1e-40,1e-45,-1e-40,1e-46,-0.0,-0,1e-400,1e-40]", f"[{','.join(['3.4028235e38', '-3.4028235e38'] * 4)}]"]
    for row in odd:
        both = _block_output(unharmed, hidden_states(f"[[{row}],[{GOOD_ROW}]]"))
        assert np.array_equal(both[1], alone)


def test_a_sequence_masked_as_a_whole_has_finite_answers_and_no_attention(unharmed: httpx.Client) -> None:
    body = hidden_states(
        f"[[{GOOD_ROW},{GOOD_ROW}]]", ',"attention_mask":[[0,false]],"outputs":["block_output","attention_weights"]'
    )
    outputs = post(unharmed, body).json()["outputs"]
    assert np.isfinite(np.asarray(outputs["block_output"])).all()
    assert not np.asarray(outputs["layers.0.attention_weights"]).any()
    assert not np.asarray(outputs["layers.1.attention_weights"]).any()


def test_masks_of_holes_and_left_padding_answer_as_the_short_sequence_does(unharmed: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 8)).round(3)
    seen = [1, 2, 4]
    mask = [int(i in seen) for i in range(5)]
    masked = _block_output(unharmed, json.dumps({"hidden_states": [rows.tolist()], "attention_mask": [mask]}).encode())
    short = _block_output(unharmed, json.dumps({"hidden_states": [rows[seen].tolist()]}).encode())
    np.testing.assert_allclose(masked[0][seen], short[0], rtol=1e-5, atol=1e-5)


def test_an_answer_beyond_float32_is_refused_where_it_is_not_finite(unharmed: httpx.Client) -> None:
    # Thirty-two times 3e38 is beyond float32 already in the norm's mean.
    row = f"[{','.join(['3e38'] * 32)}]"
    body = f'{{"hidden_states":[[{row}]],"outputs":["block_output"]}}'.encode()
    message = "the answer to these finite inputs is beyond float32's range, which JSON cannot write"
    assert_refused(post(unharmed, body, "encoder-post-relu"), 422, "non_finite_output", "block_output", message, body)
