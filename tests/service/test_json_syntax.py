"""Bytes that are not JSON, or JSON that no request can be (faults C): refused in words, at once, at any size."""

import time

import httpx
import pytest

from tests.service.refusal import GOOD, assert_refused, hidden_states, post

GRAMMAR = "expected JSON: the text breaks its grammar (NaN and Infinity are not JSON)"
NUMBER = "expected JSON: a number is not written as JSON writes numbers, or is beyond float64 (64 bits, if whole)"
WHOLE = "expected JSON: a whole number has more than 64 bits"
STRING = "expected JSON: a string is not valid"
CONTROL = "expected JSON: a string holds a control character"
UTF_8 = "expected JSON in UTF-8"
DEEP = "expected JSON: lists are nested too deep"
EMPTY = "expected JSON: the body is empty"
FIELDS = "hidden_states, input_ids, text, attention_mask, position_ids, outputs, interventions, timeout_s, priority"

UNREADABLE = {
    "empty": (b"", EMPTY),
    "white space": (b" \r\n\t", EMPTY),
    "cut in a list": (b'{"hidden_states":[[[1,2', GRAMMAR),
    "cut in a string": (b'{"hidden_states":[[["a', "expected JSON: a string does not end"),
    "comma before ]": (hidden_states("[[[1,]]]"), GRAMMAR),
    "comma before }": (b'{"hidden_states":[[[1]]],}', GRAMMAR),
    "comment in a list": (hidden_states("[[[1/*x*/]]]"), NUMBER),
    "comment before": (b"// comment\n" + GOOD, GRAMMAR),
    "single quotes": (b"{'hidden_states':[[[1]]]}", GRAMMAR),
    "bare key": (b"{hidden_states:[[[1]]]}", GRAMMAR),
    "garbage after the end": (GOOD + b"garbage", GRAMMAR),
    "bracket after the end": (GOOD + b"]", GRAMMAR),
    "NUL after the end": (GOOD + b"\0", GRAMMAR),
    "two documents": (GOOD + GOOD, GRAMMAR),
    "two documents by line": (GOOD + b"\n" + GOOD, GRAMMAR),
    "NaN": (hidden_states("[[[NaN]]]"), GRAMMAR),
    "Infinity": (hidden_states("[[[Infinity]]]"), GRAMMAR),
    "-Infinity": (hidden_states("[[[-Infinity]]]"), NUMBER),
    "1e999": (hidden_states("[[[1e999]]]"), NUMBER),
    "-1e999": (hidden_states("[[[-1e999]]]"), NUMBER),
    "leading zero": (hidden_states("[[[01]]]"), NUMBER),
    "plus": (hidden_states("[[[+1]]]"), NUMBER),
    "no digit after the point": (hidden_states("[[[1.]]]"), NUMBER),
    "no digit before the point": (hidden_states("[[[.5]]]"), NUMBER),
    "hexadecimal": (hidden_states("[[[0x1F]]]"), NUMBER),
    "minus alone": (hidden_states("[[[-]]]"), NUMBER),
    "no exponent": (hidden_states("[[[1e]]]"), NUMBER),
    "underscore": (hidden_states("[[[1_000]]]"), NUMBER),
    "integer of 10,000 digits": (hidden_states(f"[[[{'7' * 10_000}]]]"), WHOLE),
    "id of 67 bits": (b'{"input_ids":[[99999999999999999999]]}', NUMBER),
    "UTF-8 cut": (b'{"text":["caf\xc3"]}', UTF_8),
    "Latin-1": (b'{"text":["caf\xe9"]}', UTF_8),
    "overlong": (b'{"text":["\xc0\xaf"]}', UTF_8),
    "surrogate in UTF-8": (b'{"text":["\xed\xa0\x80"]}', UTF_8),
    "lone high surrogate": (b'{"text":["\\ud800"]}', STRING),
    "lone low surrogate": (b'{"text":["\\udc00"]}', STRING),
    "lone surrogate in a key": (b'{"\\ud800":1}', STRING),
    "unknown escape": (b'{"text":["\\x41"]}', STRING),
    "short escape": (b'{"text":["\\u12"]}', STRING),
    "line end in a string": (b'{"text":["a\nb"]}', CONTROL),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "expected JSON without a byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), UTF_8),
    "UTF-16, little end first": (GOOD.decode().encode("utf-16-le"), UTF_8),
    "UTF-16, big end first": (GOOD.decode().encode("utf-16-be"), UTF_8),
    "UTF-32": (GOOD.decode().encode("utf-32"), UTF_8),
    "pickle": (b"\x80\x04\x95\x0a\x00", UTF_8),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", UTF_8),
    "1,025 brackets": (b"[" * 1_025, GRAMMAR),
    "100,000 brackets": (b'{"hidden_states":' + b"[" * 100_000, GRAMMAR),
    "5,000,000 brackets": (b'{"hidden_states":' + b"[" * 5_000_000, GRAMMAR),
    "1,000,000 objects": (b'{"text":' * 1_000_000, GRAMMAR),
    "1,024 lists, closed": (b'{"hidden_states":' + b"[" * 1_024 + b"]" * 1_024 + b"}", DEEP),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_json_is_refused_with_400(unharmed: httpx.Client, body: bytes, message: str) -> None:
    assert_refused(post(unharmed, body), 400, "invalid_json", "", message, body)


@pytest.mark.parametrize("body", [b"[1]", b"[]", b'"text"', b"1", b"null", b"true"], ids=repr)
def test_a_body_that_is_no_object_is_refused(unharmed: httpx.Client, body: bytes) -> None:
    assert_refused(post(unharmed, body), 422, "wrong_type", "body", "expected a JSON object", body)


MANY = ",".join([f'"key{i}":1' for i in range(100_000)]).encode()


UNKNOWN = {
    "__proto__": (b'{"__proto__":1}', 1, f"; the fields are {FIELDS}"),
    "__class__": (b'{"__class__":{}}', 1, f"; the fields are {FIELDS}"),
    "empty": (b'{"":1}', 1, f"; the fields are {FIELDS}"),
    "NUL": (b'{"\\u0000":1}', 1, f"; the fields are {FIELDS}"),
    "of 1 MB": (b'{"' + b"k" * 10**6 + b'":1}', 1, f"; the fields are {FIELDS}"),
    "misspelt": (b'{"hiden_states":1}', 1, "; did you mean hidden_states?"),
    "after a known one": (GOOD[:-1] + b',"timeout":1}', 2, "; did you mean timeout_s?"),
    "one of 100,000": (b"{" + MANY + b"}", 1, f"; the fields are {FIELDS}"),
    "one of 100,000 after a good request": (GOOD[:-1] + b"," + MANY + b"}", 2, f"; the fields are {FIELDS}"),
}


@pytest.mark.parametrize(("body", "number", "hint"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_is_refused_by_its_number(unharmed: httpx.Client, body: bytes, number: int, hint: str) -> None:
    message = f"unknown field, number {number} of the body{hint}"
    assert_refused(post(unharmed, body), 422, "unknown_field", "body", message, body)


TWICE = {
    "plain": (GOOD[:-1] + b"," + GOOD[1:], "hidden_states"),
    "escaped": (GOOD[:-1] + b',"hidden\\u005fstates":1}', "hidden_states"),
    "100,000 times": (b"{" + b",".join([b'"text":"a"'] * 100_000) + b"}", "text"),
}


@pytest.mark.parametrize(("body", "name"), TWICE.values(), ids=TWICE)
def test_a_field_that_came_twice_is_refused(unharmed: httpx.Client, body: bytes, name: str) -> None:
    assert_refused(post(unharmed, body), 422, "duplicate_field", "body", f"field {name} came twice", body)


HEAVY = {
    "empty lists": b"[" + b"[]," * 5_000_000 + b"[]]",
    "nested empty lists": b"[" + b"[[]]," * 3_000_000 + b"[[]]]",
    "objects": b"[" + b"{}," * 5_000_000 + b"{}]",
    "objects in a position": b"[[[" + b"{}," * 5_000_000 + b"{}]]]",
}


@pytest.mark.parametrize("lists", HEAVY.values(), ids=HEAVY)
def test_millions_of_lists_are_refused_before_they_become_objects(unharmed: httpx.Client, lists: bytes) -> None:
    body = b'{"hidden_states":' + lists + b"}"
    start_s = time.perf_counter()
    response = post(unharmed, body)
    assert time.perf_counter() - start_s < 2
    assert_refused(
        response, 422, "too_many_lists", "body", "expected at most 262,144 lists, objects or strings in all, got more"
    )


@pytest.mark.parametrize(
    ("lists", "code", "place", "message"),
    [
        (
            b"[[" + b"[1]," * 3_000_000 + b"[1]]]",
            "too_many_tokens",
            "",
            "expected at most 16,384 positions in all sequences, got 3,000,001",
        ),
        (
            b"[" + b"0," * 5_000_000 + b"0]",
            "wrong_type",
            "hidden_states[0]",
            "expected a list of positions, got a number",
        ),
    ],
    ids=["positions of one number", "numbers for sequences"],
)
def test_millions_of_numbers_in_the_wrong_place_are_refused_in_time(
    unharmed: httpx.Client, lists: bytes, code: str, place: str, message: str
) -> None:
    start_s = time.perf_counter()
    response = post(unharmed, b'{"hidden_states":' + lists + b"}")
    assert time.perf_counter() - start_s < 2
    assert_refused(response, 422, code, place, message)


@pytest.mark.parametrize("depth", [4, 5, 65, 1_000, 1_023])
def test_lists_too_deep_for_the_rank_are_refused_where_a_number_belongs(unharmed: httpx.Client, depth: int) -> None:
    body = b'{"hidden_states":' + b"[" * depth + b"]" * depth + b"}"
    place = "hidden_states[0][0][0]"
    assert_refused(post(unharmed, body), 422, "wrong_type", place, "expected a number, got a list", body)
