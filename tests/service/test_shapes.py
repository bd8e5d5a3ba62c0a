"""Fields, shapes and sizes that the model cannot take (faults D and E), each refused where it is wrong."""

import httpx
import pytest

from tests.service.refusal import GOOD, GOOD_ROW, assert_refused, hidden_states, post

ROW = GOOD_ROW
HIDDEN = {
    "number": ("1", "", "a list of sequences, got a number"),
    "string": ('"[[[1]]]"', "", "a list of sequences, got a string"),
    "boolean": ("true", "", "a list of sequences, got a boolean"),
    "null": ("null", "", "a list of sequences, got null"),
    "object": ("{}", "", "a list of sequences, got an object"),
    "rank 1": (ROW, "[0]", "a list of positions, got a number"),
    "rank 2": (f"[{ROW}]", "[0][0]", "a list of numbers, got a number"),
    "rank 4": (f"[[[{ROW}]]]", "[0][0][0]", "a number, got a list"),
    "rank 5": (f"[[[[{ROW}]]]]", "[0][0][0]", "a number, got a list"),
    "sequence null": ("[null]", "[0]", "a list of positions, got null"),
    "sequence object": ("[{}]", "[0]", "a list of positions, got an object"),
    "position null": ("[[null]]", "[0][0]", "a list of numbers, got null"),
    "position string": ('[["x"]]', "[0][0]", "a list of numbers, got a string"),
    "second sequence a number": (f"[[{ROW}],3]", "[1]", "a list of positions, got a number"),
    "second position a number": (f"[[{ROW},3]]", "[0][1]", "a list of numbers, got a number"),
    "too deep, the count fits": ("[[[[1],[0],[0],[0],[0],[0],[0],[0]]]]", "[0][0][0]", "a number, got a list"),
    "too deep in pairs, the count fits": ("[[[[1,0],[0,0],[0,0],[0,0]]]]", "[0][0][0]", "a number, got a list"),
    "one number too deep": ("[[[1,0,0,[0],0,0,0,1]]]", "[0][0][3]", "a number, got a list"),
    "empty list among numbers": ("[[[1,0,0,0,0,0,0,[]]]]", "[0][0][7]", "a number, got a list"),
}


@pytest.mark.parametrize(("lists", "place", "message"), HIDDEN.values(), ids=HIDDEN)
def test_hidden_states_of_another_rank_are_refused(
    unharmed: httpx.Client, lists: str, place: str, message: str
) -> None:
    body = hidden_states(lists)
    assert_refused(post(unharmed, body), 422, "wrong_type", f"hidden_states{place}", f"expected {message}", body)


def test_an_escape_does_not_hide_a_bracket(unharmed: httpx.Client) -> None:
    body = hidden_states("[[[[1],0,0,0,0,0,0,0]]]", ',"outputs":["\\u005b"]')
    place = "hidden_states[0][0][0]"
    assert_refused(post(unharmed, body), 422, "wrong_type", place, "expected a number, got a list", body)


FIRST = "expected as many numbers as in the first position"
LENGTHS = {
    "no sequence": ("[]", "empty_batch", "", "expected at least one sequence, got an empty list"),
    "no position": ("[[]]", "empty_sequence", "[0]", "expected at least 1 position, got 0"),
    "no position in the second": (f"[[{ROW}],[]]", "empty_sequence", "[1]", "expected at least 1 position, got 0"),
    "no number": ("[[[]]]", "wrong_shape", "[0][0]", "expected at least 1 number, got 0"),
    "no number in the second": ("[[[1],[]]]", "wrong_shape", "[0][1]", "expected at least 1 number, got 0"),
    "ragged, shorter": (f"[[{ROW},[1,2]]]", "wrong_shape", "[0][1]", f"{FIRST} (8), got 2"),
    "ragged, longer": (f"[[{ROW},[1,0,0,0,0,0,0,0,0]]]", "wrong_shape", "[0][1]", f"{FIRST} (8), got 9"),
    "ragged, the count fits": (
        "[[[1,0,0,0,0,0,0],[0,0,0,0,0,0,0,0,0]]]",
        "wrong_shape",
        "[0][1]",
        f"{FIRST} (7), got 9",
    ),
    "hidden size - 1": ("[[[1,0,0,0,0,0,0]]]", "wrong_shape", "[0][0]", "expected hidden_size 8, got 7"),
    "hidden size + 1": ("[[[1,0,0,0,0,0,0,0,0]]]", "wrong_shape", "[0][0]", "expected hidden_size 8, got 9"),
    "two halves": ("[[[1,0,0,0],[0,0,0,0]]]", "wrong_shape", "[0][0]", "expected hidden_size 8, got 4"),
    "second sequence narrow": (f"[[{ROW}],[[1,2]]]", "wrong_shape", "[1][0]", "expected hidden_size 8, got 2"),
}


@pytest.mark.parametrize(("lists", "code", "place", "message"), LENGTHS.values(), ids=LENGTHS)
def test_empty_ragged_and_misfit_hidden_states_are_refused(
    unharmed: httpx.Client, lists: str, code: str, place: str, message: str
) -> None:
    body = hidden_states(lists)
    assert_refused(post(unharmed, body), 422, code, f"hidden_states{place}", message, body)


SEQUENCES = "expected as many sequences as the input has"
POSITIONS = "expected as many positions as the input has"
TWO = f"[[{ROW},{ROW}],[{ROW}]]"
MASKS = {
    "number": ("1", "wrong_type", "", "expected a list of sequences, got a number"),
    "null": ("null", "wrong_type", "", "expected a list of sequences, got null"),
    "string": ('"11"', "wrong_type", "", "expected a list of sequences, got a string"),
    "[S]": ("[1,1]", "wrong_type", "[0]", "expected a list of 0 or 1, got a number"),
    "[B,S,1]": ("[[[1],[1]],[[1]]]", "wrong_type", "[0][0]", "expected 0, 1, true or false, got a list"),
    "empty": ("[]", "wrong_shape", "", f"{SEQUENCES} (2), got 0"),
    "[1,S]": ("[[1,1]]", "wrong_shape", "", f"{SEQUENCES} (2), got 1"),
    "a sequence more": ("[[1,1],[1],[1]]", "wrong_shape", "", f"{SEQUENCES} (2), got 3"),
    "[B,1]": ("[[1],[1]]", "wrong_shape", "[0]", f"{POSITIONS} (2), got 1"),
    "[B,S], not ragged": ("[[1,1],[1,1]]", "wrong_shape", "[1]", f"{POSITIONS} (1), got 2"),
    "[B,S+1]": ("[[1,1,1],[1]]", "wrong_shape", "[0]", f"{POSITIONS} (2), got 3"),
    "empty sequence": ("[[1,1],[]]", "wrong_shape", "[1]", f"{POSITIONS} (1), got 0"),
}


@pytest.mark.parametrize(("mask", "code", "place", "message"), MASKS.values(), ids=MASKS)
def test_a_mask_of_another_shape_is_refused(
    unharmed: httpx.Client, mask: str, code: str, place: str, message: str
) -> None:
    body = hidden_states(TWO, f',"attention_mask":{mask}')
    assert_refused(post(unharmed, body), 422, code, f"attention_mask{place}", message, body)


def test_one_position_attends_to_itself_alone(unharmed: httpx.Client) -> None:
    body = hidden_states(f"[[{ROW}]]", ',"outputs":["attention_weights"]')
    outputs = post(unharmed, body).json()["outputs"]
    assert outputs == {f"layers.{i}.attention_weights": [[[[1.0]], [[1.0]]]] for i in (0, 1)}


def test_a_request_that_is_right_but_escaped_gets_the_same_bytes(unharmed: httpx.Client) -> None:
    escaped = GOOD[:-1] + b',"outputs":["block\\u005foutput"]}'
    assert post(unharmed, escaped).content == post(unharmed, GOOD).content
