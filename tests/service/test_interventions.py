"""Interventions in JSON: each refusal in one whole sentence, at its place; what is allowed beside it is answered."""

import json

import httpx
import pytest

from tests.service.refusal import assert_refused, post

ROWS = [[[1, 0, 0, 0, 0, 0, 0, 1], [0, 2, 0, 0, 0, 0, 1, 0], [0, 0, 3, 0, 0, 1, 0, 0]], [[1, 2, 3, 4, 5, 6, 7, 8]] * 2]


def body(interventions: object) -> bytes:
    """Two sequences, of three positions and of two; interventions as they are, or as JSON's text."""
    text = interventions if isinstance(interventions, str) else json.dumps(interventions)
    return f'{{"hidden_states":{json.dumps(ROWS)},"interventions":{text}}}'.encode()


def change(value: object, address: str = "layers.0.query", verb: str = "set") -> dict[str, object]:
    return {address: {verb: value}}


NUMBERS = 'expected a number, lists of numbers, or {"from": a sequence}, got'
WHERE = "interventions[0]"
VALUE = f"{WHERE}.set"
SHAPE = "expected an object, or a list with an object or null a sequence, got"
FINITE = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
SITES = (
    "expected a tensor on the way to the output, of layers.N one of layer_input, attention_input, query, key, value, "
    "attention_scores, attention_weights, context, attention_output, resid_mid, ffn_input, ffn_pre_activation, "
    "ffn_post_activation, ffn_output, resid_post, layer_output"
)
MOST = "expected at most 256 changed tensors after expansion"
DEEP = json.loads("[" * 9 + "1" + "]" * 9)
CHAIN = {"set": {"from": 1}}

FORM: dict[str, tuple[object, str, str, str]] = {
    "null": (None, "wrong_type", "interventions", f"{SHAPE} null"),
    "a number": (1, "wrong_type", "interventions", f"{SHAPE} a number"),
    "a string": ("layers.0.query".join('""'), "wrong_type", "interventions", f"{SHAPE} a string"),
    "a list of numbers": ([1, 2], "wrong_type", WHERE, "expected an object or null, got a number"),
    "a list of lists": ([{}, []], "wrong_type", "interventions[1]", "expected an object or null, got a list"),
    "an empty list": (
        [], "wrong_shape", "interventions", "expected an object or null for each of 2 sequences, got 0"
    ),
    "a list for one sequence": (
        [change(0)], "wrong_shape", "interventions", "expected an object or null for each of 2 sequences, got 1"
    ),
    "a list for three": (
        [None] * 3, "wrong_shape", "interventions", "expected an object or null for each of 2 sequences, got 3"
    ),
    "no verbs": ({"layers.0.query": {}}, "missing_field", WHERE, "expected scale, add or set, got none"),
    "a number for verbs": (
        {"layers.0.query": 0}, "wrong_type", WHERE, "expected an object of scale, add or set, got a number"
    ),
    "a list for verbs": (
        {"layers.0.query": ["set"]}, "wrong_type", WHERE, "expected an object of scale, add or set, got a list"
    ),
    "null for verbs": (
        {"layers.0.query": None}, "wrong_type", WHERE, "expected an object of scale, add or set, got null"
    ),
    "a misspelt verb": (
        change(0, verb="scael"), "unknown_field", WHERE,
        "unknown field, number 1 of interventions[0]; did you mean scale?",
    ),
    "another verb": (
        change(0, verb="zero"), "unknown_field", WHERE,
        "unknown field, number 1 of interventions[0]; the fields are scale, add, set",
    ),
    "a verb twice": (
        '{"layers.0.query":{"set":0,"set":0}}', "duplicate_field", WHERE, "field set came twice"
    ),
    "an address twice": (
        '{"layers.0.query":{"set":0},"layers.0.key":{"set":0},"layers.0.query":{"add":0}}', "duplicate_field",
        "interventions[2]", "an address came twice",
    ),
    "an address twice, where another field is not plain": (
        '{"layers.0.query":{"set":0},"layers.0.query":{"add":0}},"attention_mask":[[true,1,1],[1,1]]',
        "duplicate_field", "interventions[1]", "an address came twice",
    ),
    "a string for a value": (change("0"), "wrong_type", VALUE, f"{NUMBERS} a string"),
    "null for a value": (change(None), "wrong_type", VALUE, f"{NUMBERS} null"),
    "true for a value": ({"layers.0.query": {"set": True}}, "wrong_type", VALUE, f"{NUMBERS} a boolean"),
    "null among numbers": (change([0, None]), "wrong_type", f"{VALUE}[1]", "expected a number, got null"),
    "true among numbers": (change([[0, True]]), "wrong_type", f"{VALUE}[0][1]", "expected a number, got a boolean"),
    "a list among numbers": (change([0, [0]]), "wrong_type", f"{VALUE}[1]", "expected a number, got a list"),
    "a number among lists": (
        change([[0], 0]), "wrong_shape", f"{VALUE}[1]", "expected lists as long as the first ones, [1], got []"
    ),
    "uneven lists": (
        change([[0, 0], [0]]), "wrong_shape", f"{VALUE}[1]", "expected lists as long as the first ones, [2], got [1]"
    ),
    "lists of nine levels": (change(DEEP), "wrong_type", VALUE + "[0]" * 8, f"{NUMBERS} a list"),
    "an object for a value": (change({}), "missing_field", VALUE, "expected from, got none"),
    "another field than from": (
        change({"sequence": 0}), "unknown_field", VALUE,
        "unknown field, number 1 of interventions[0].set; the fields are from",
    ),
    "from a float": (
        change({"from": 1.0}), "wrong_type", f"{VALUE}.from", "expected a whole number of at least 0"
    ),
    "from a negative number": (
        change({"from": -1}), "wrong_type", f"{VALUE}.from", "expected a whole number of at least 0"
    ),
    "from two sequences": (
        change({"from": [0, 1]}), "wrong_type", f"{VALUE}.from", "expected a whole number of at least 0"
    ),
    "4,097 addresses": (
        {f"layers.0.query[0, 0, {i}]": {"set": 0} for i in range(4097)}, "too_many_interventions", "interventions",
        "expected at most 4,096 interventions, got more",
    ),
    "4,097 in lists": (
        [{f"layers.0.query[{i}]": {"add": 0, "scale": 1} for i in range(1025)}] * 2, "too_many_interventions",
        "interventions[1]", "expected at most 4,096 interventions, got more",
    ),
    "more objects than any request has": (
        "[" + "{}," * 2**18 + "{}]", "too_many_lists", "body",
        "expected at most 262,144 lists, objects or strings in all, got more",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("interventions", "code", "at", "message"), FORM.values(), ids=FORM)
def test_what_has_not_the_form_of_interventions_is_refused(
    unharmed: httpx.Client, interventions: object, code: str, at: str, message: str
) -> None:
    assert_refused(post(unharmed, body(interventions)), 422, code, at, message, body(interventions))


MEANING: dict[str, tuple[object, str, str, str]] = {
    "an unknown probe": (
        change(0, "layers.0.qurey"), "unknown_output", WHERE,
        "expected block_output, a probe, or layers.N.PROBE; did you mean query?",
    ),
    "an empty address": (
        change(0, ""), "unknown_output", WHERE,
        "expected block_output, a probe, or layers.N.PROBE; GET the model to see its probes",
    ),
    "an address with a NUL": (
        change(0, "layers.0.query\0"), "unknown_output", WHERE, "expected an address, got a NUL"
    ),
    "an address with a NUL, that begins as another": (
        change(0, "layers.0.query") | change(0, "layers.0.query\0[0]"), "unknown_output", "interventions[1]",
        "expected an address, got a NUL",
    ),
    "a probe that this model lacks": (
        change(0, "layers.0.key_unrotated"), "unknown_output", WHERE,
        "expected what this model has, and it has no key_unrotated; GET the model to see its probes",
    ),
    "a layer that is not there": (
        change(0, "layers.2.query"), "layer_out_of_range", WHERE, "expected a layer from 0 to 1"
    ),
    "a reduction": (
        change(0, "layers.0.query|mean(head)"), "wrong_reduction", WHERE, "expected cells to change: no reduction"
    ),
    "a cut that is none": (
        change(0, "layers.0.query[a]"), "wrong_slice", WHERE,
        "expected integers, slices A:B or A:B:STEP and ... between the brackets",
    ),
    "more items than axes": (
        change(0, "layers.0.query[0, 0, 0, 0]"), "wrong_slice", WHERE,
        "expected at most 3 items (sequence, head, head_dim) and one ..., got others",
    ),
    "a head that is not there": (
        change(0, "layers.0.query[:, 2]"), "index_out_of_range", WHERE,
        "expected an index from -2 to 1 of axis head",
    ),
    "a position that one sequence lacks": (
        change(0, "layers.0.query[2]"), "index_out_of_range", WHERE,
        "expected an index from -2 to 1 of axis sequence in sequence 1",
    ),
    "a position of another sequence": (
        [None, change(0, "layers.0.query[-3]")], "index_out_of_range", "interventions[1][0]",
        "expected an index from -2 to 1 of axis sequence in sequence 1",
    ),
    "a position that the source lacks": (
        [change({"from": 1}, "layers.0.query[2]"), None], "index_out_of_range", "interventions[0][0]",
        "expected an index from -2 to 1 of axis sequence in sequence 1",
    ),
    "the model's output": (change(0, "block_output"), "unknown_site", WHERE, SITES),
    "the rollout": (change(0, "attention_rollout"), "unknown_site", WHERE, SITES),
    "from, to scale": (
        change({"from": 1}, verb="scale"), "wrong_type", WHERE,
        "expected a number or lists of numbers: only set takes from another sequence",
    ),
    "from, to add": (
        change({"from": 1}, verb="add"), "wrong_type", WHERE,
        "expected a number or lists of numbers: only set takes from another sequence",
    ),
    "from a sequence that is not there": (
        [change({"from": 2}, "layers.0.query[0]"), None], "unknown_sequence", "interventions[0][0]",
        "expected a sequence from 0 to 1",
    ),
    "from a sequence beyond 63 bits": (
        [None, change({"from": 2**64 - 1}, "layers.0.query[0]")], "unknown_sequence", "interventions[1][0]",
        "expected a sequence from 0 to 1",
    ),
    "from a shorter sequence": (
        [change({"from": 1}), None], "wrong_shape", "interventions[0][0]",
        "expected cells of the same shape in sequence 1, which has [2, 2, 4] there, sequence 0 [3, 2, 4]",
    ),
    "from a longer sequence": (
        [None, change({"from": 0}, "layers.0.attention_weights[0]")], "wrong_shape", "interventions[1][0]",
        "expected cells of the same shape in sequence 0, which has [3, 3] there, sequence 1 [2, 2]",
    ),
    "a number beyond float32": (change(1e39), "value_overflow", WHERE, FINITE),
    "a number beyond float32 among others": (change([0, 0, 0, -1e300]), "value_overflow", WHERE, FINITE),
    "an array that does not broadcast": (
        change([0, 0, 0]), "wrong_shape", WHERE, "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [3]"
    ),
    "an array for longer sequences": (
        change([[[0]]] * 3), "wrong_shape", WHERE,
        "expected a value that broadcasts to [2, 2, 4] in sequence 1, got [3, 1, 1]",
    ),
    "an array of a rank more": (
        change([[0]], "layers.0.query[0, 0]"), "wrong_shape", WHERE,
        "expected a value that broadcasts to [4] in sequence 0, got [1, 1]",
    ),
    "an empty array": (
        change([]), "wrong_shape", WHERE, "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [0]"
    ),
    "a cell set twice": (
        change(0) | change(0, "layers.0.query[0, 1]"), "overlapping_set", "interventions",
        "expected each cell to be set once, but two of layers.0.query overlap in sequence 0",
    ),
    "a cell set twice in one sequence": (
        change(0, "layers.0.query[0]") | change(0, "layers.0.query[-2]"), "overlapping_set", "interventions",
        "expected each cell to be set once, but two of layers.0.query overlap in sequence 1",
    ),
    "a cell set twice by steps": (
        change(0, "layers.0.query[..., ::2]") | change(1, "layers.0.query[..., 1:3]"), "overlapping_set",
        "interventions", "expected each cell to be set once, but two of layers.0.query overlap in sequence 0",
    ),
    "a cell set twice under two names": (
        change(0, "layers.*.query") | change(0, "blocks.1.attn.hook_q"), "overlapping_set", "interventions",
        "expected each cell to be set once, but two of layers.1.query overlap in sequence 0",
    ),
    "a sequence from itself": (
        [change({"from": 0}), None], "intervention_cycle", "interventions",
        "expected layers.0.query from another sequence, but sequence 0 takes it from itself",
    ),
    "two sequences from each other": (
        [change({"from": 1}, "layers.0.query[0]"), change({"from": 0}, "layers.0.query[1]")], "intervention_cycle",
        "interventions", "expected layers.0.query from another sequence, but sequence 0 takes it from itself",
    ),
    "every sequence from one": (
        change({"from": 1}, "layers.0.query[0]"), "intervention_cycle", "interventions",
        "expected layers.0.query from another sequence, but sequence 1 takes it from itself",
    ),
    "257 tensors": (
        {f"layers.{i % 2}.query[0, 0, {'0' * (i // 2)}0]": {"scale": 1} for i in range(2)}
        | {f"layers.0.query[...,{' ' * i}0]": {"scale": 1} for i in range(200)}
        | {f"layers.0.key[...,{' ' * i}0]": {"scale": 1} for i in range(56)},
        "too_many_interventions", "interventions[256]", MOST,
    ),
    "257 tensors by expansion": (
        {f"layers.*.query[...,{' ' * i}0]": {"scale": 1} for i in range(129)}, "too_many_interventions",
        "interventions[128]", MOST,
    ),
    "257 tensors of one sequence each": (
        [{f"layers.0.query[...,{' ' * i}0]": {"scale": 1} for i in range(size)} for size in (128, 129)],
        "too_many_interventions", "interventions[1][128]", MOST,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("interventions", "code", "at", "message"), MEANING.values(), ids=MEANING)
def test_what_cannot_be_done_is_refused(
    unharmed: httpx.Client, interventions: object, code: str, at: str, message: str
) -> None:
    assert_refused(post(unharmed, body(interventions)), 422, code, at, message, body(interventions))


def test_a_model_that_takes_no_interventions_says_so(unharmed: httpx.Client) -> None:
    sent = {"hidden_states": [[[0.5] * 16]], "interventions": {"layers.0.gate": {"scale": 0}}}
    message = "model my-block takes no interventions: it is a module of its own, or an older export"
    response = post(unharmed, json.dumps(sent).encode(), "my-block")
    assert_refused(response, 422, "no_interventions", WHERE, message)
    sent["interventions"] = {"block_output": {"scale": 0}}
    response = post(unharmed, json.dumps(sent).encode(), "my-block")
    assert_refused(response, 422, "no_interventions", WHERE, message)


ALLOWED = {
    "nothing": {},
    "nothing for each": [None, {}],
    "cells side by side": change(0, "layers.0.query[0]") | change(1, "layers.0.query[1:]"),
    "cells between each other": change(0, "layers.0.query[..., ::2]") | change(1, "layers.0.query[..., 1::2]"),
    "cells of none": change(0, "layers.0.query[9:]") | change(1, "layers.0.query[:0]"),
    "a chain of sequences": [change({"from": 1}, "layers.0.query[0]"), change(1, "layers.0.query[0]")],
    "each from the other, in other tensors": [
        change({"from": 1}, "layers.0.query[0]"),
        change({"from": 0}, "layers.0.key[0]"),
    ],
    "all verbs in one cell": {"layers.0.query": {"scale": 2, "add": [1, 2, 3, 4], "set": [[[0]]]}},
    "256 tensors": {f"layers.*.query[...,{' ' * i}0]": {"scale": 1} for i in range(128)},
}


@pytest.mark.parametrize("interventions", ALLOWED.values(), ids=ALLOWED)
def test_what_is_near_to_a_refusal_and_allowed_is_answered(unharmed: httpx.Client, interventions: object) -> None:
    response = post(unharmed, body(interventions))
    assert response.status_code == httpx.codes.OK, response.text
    assert [len(entry) for entry in response.json()["outputs"]["block_output"]] == [3, 2]
