"""Interventions as tensors of /v2, gRPC and safetensors: each does, bit for bit, what it does in the JSON of /v1."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.codec import open_inference_pb2 as messages
from tests.server import Server
from tests.service import grpc_client, inference
from tests.service.grpc_client import Grpc
from tests.service.inference import ROWS, ask, ask_binary, assert_same, binary, framed, states, tensor
from tests.service.refusal import assert_refused, post

Changes = dict[str, NDArray[Any]]
Outputs = dict[str, NDArray[np.float32]]
OUTPUTS = ("block_output", "layers.0.attention_weights", "layers.1.query")
SAFETENSORS = "application/x-safetensors"
NUMBERS = np.random.default_rng(7)


def numbers(*shape: int) -> NDArray[np.float32]:
    return NUMBERS.standard_normal(shape).astype(np.float32)


CHANGES: dict[str, Changes] = {
    "a number for all": {"layers.0.context[:, 1].scale": np.zeros(1, np.float32)},
    "a number for each": {"layers.0.context[:, 1].scale": numbers(2)},
    "a row for all": {"layers.0.resid_mid[-1].set": numbers(1, 8)},
    "a row for each": {"layers.0.resid_mid[-1].add": numbers(2, 8)},
    "a row that broadcasts": {"layers.*.ffn_output.add": numbers(1, 8)},
    "a matrix for all": {"layers.1.layer_input.set": numbers(1, 3, 8)},
    "a matrix for each": {"layers.1.layer_input.set": numbers(2, 3, 8)},
    "maps for each": {"layers.0.attention_weights.set": np.abs(numbers(2, 2, 3, 3))},
    "maps that broadcast": {"layers.*.attention_scores.add": numbers(2, 2, 1, 3)},
    "halves": {"layers.0.query[0].add": numbers(2, 2, 4).astype(np.float16)},
    "all verbs in a cell": {
        "layers.0.value[..., :2].set": numbers(1, 1, 2),
        "layers.0.value.scale": numbers(2, 3, 2, 4),
        "layers.0.value.add": numbers(1, 4),
    },
    "one tensor under three names": {
        "attention_weights.scale": numbers(1),
        "layers.*.attention_weights[1, 2].scale": numbers(2, 3),
        "blocks.1.attn.hook_pattern[0].add": numbers(1),
    },
}


def nested(changes: Changes) -> Any:
    """The same as JSON's: an object for all sequences, or a list with one for each."""
    objects: list[dict[str, dict[str, Any]]] = [{} for _ in ROWS]
    for name, values in changes.items():
        address, _, verb = name.rpartition(".")
        for index, own in enumerate(objects):
            row = values[index if len(values) > 1 else 0]
            own.setdefault(address, {})[verb] = row.astype(np.float32).tolist()
    return objects if any(len(values) > 1 for values in changes.values()) else objects[0]


def forward(client: httpx.Client, changes: Changes) -> Outputs:
    """What /v1 answers."""
    return inference.forward(client, *OUTPUTS, masked=False, interventions=nested(changes))


@pytest.fixture(scope="module", params=list(CHANGES.values()), ids=list(CHANGES))
def changes(request: pytest.FixtureRequest) -> Changes:
    found: Changes = request.param
    return found


@pytest.fixture(scope="module")
def expected(client: httpx.Client, changes: Changes) -> Outputs:
    found = forward(client, changes)
    assert any(found[name].tobytes() != values.tobytes() for name, values in forward(client, {}).items())
    return found


@pytest.fixture(scope="module")
def caller(server: Server) -> Iterator[Grpc]:
    with Grpc(server.grpc) as opened:
        yield opened


def wanted() -> list[dict[str, str]]:
    return [{"name": name} for name in OUTPUTS]


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "nested"])
def test_v2_takes_them_in_json(unharmed: httpx.Client, changes: Changes, expected: Outputs, flat: bool) -> None:  # noqa: FBT001
    inputs = [tensor(name, values, None if flat else values.tolist()) for name, values in changes.items()]
    for sent in ([states(), *inputs], [*inputs, states()]):
        assert_same(inference.read(ask(unharmed, *sent, model="tiny.probes", outputs=wanted())), expected)


def test_v2_takes_them_as_bytes_in_the_order_of_the_inputs(
    unharmed: httpx.Client, changes: Changes, expected: Outputs
) -> None:
    tensors = {"hidden_states": ROWS, **changes}
    for names in ([*tensors], [*changes, "hidden_states"]):
        inputs = [binary_of(name, tensors[name]) for name in names]
        sent = {"inputs": inputs, "outputs": wanted(), "parameters": {"binary_data_output": True}}
        body, headers = framed(sent, *(tensors[name].tobytes() for name in names))
        assert_same(inference.read(ask_binary(unharmed, body, headers, "tiny.probes")), expected)


def binary_of(name: str, values: NDArray[Any]) -> dict[str, Any]:
    datatype = {np.dtype(np.float32): "FP32", np.dtype(np.float16): "FP16"}[values.dtype]
    return binary(name, values.tobytes(), list(values.shape), datatype)


def test_grpc_takes_them_as_bytes(caller: Grpc, changes: Changes, expected: Outputs) -> None:
    request = grpc_client.raw(model_name="tiny.probes", outputs=requested())
    for name, values in changes.items():
        add_raw(request, name, values)
    assert_same(grpc_client.read(caller.begin("ModelInfer", request).result()), expected)


def test_grpc_takes_them_as_numbers(caller: Grpc, changes: Changes, expected: Outputs) -> None:
    request = grpc_client.typed(mask=None, model_name="tiny.probes", outputs=requested())
    for name, values in changes.items():
        given = request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        given.contents.fp32_contents.extend(values.ravel().tolist())
    assert_same(grpc_client.read(caller.begin("ModelInfer", request).result()), expected)


def requested() -> list[Any]:
    return [messages.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in OUTPUTS]


def add_raw(request: Any, name: str, values: NDArray[Any]) -> None:
    request.inputs.add(name=name, datatype=binary_of(name, values)["datatype"], shape=values.shape)
    request.raw_input_contents.append(values.tobytes())


def send(client: httpx.Client, tensors: dict[str, NDArray[Any]], **metadata: Any) -> httpx.Response:
    """Asks in safetensors."""
    texts = {name: json.dumps(value) for name, value in {"outputs": OUTPUTS, **metadata}.items()}
    return post(client, save(tensors, texts), content_type=SAFETENSORS)


def load_outputs(answer: httpx.Response) -> Outputs:
    assert answer.status_code == httpx.codes.OK, answer.text
    found = load(answer.content)
    return {name: found[name] for name in OUTPUTS}


def test_safetensors_has_them_as_tensors(unharmed: httpx.Client, changes: Changes, expected: Outputs) -> None:
    assert_same(load_outputs(send(unharmed, {"hidden_states": ROWS, **changes})), expected)


def test_safetensors_has_them_in_its_metadata(unharmed: httpx.Client, changes: Changes, expected: Outputs) -> None:
    found = load_outputs(send(unharmed, {"hidden_states": ROWS}, interventions=nested(changes)))
    assert_same(found, expected)


def test_in_safetensors_those_of_the_metadata_and_of_tensors_add_up(unharmed: httpx.Client) -> None:
    first, second = {"layers.0.query.add": numbers(1, 4)}, {"layers.0.query[0].add": numbers(2, 4)}
    both = load_outputs(send(unharmed, {"hidden_states": ROWS, **second}, interventions=nested(first)))
    assert_same(both, forward(unharmed, first | second))


def test_safetensors_takes_from_another_sequence(unharmed: httpx.Client) -> None:
    patch = [{"layers.0.resid_mid[1]": {"set": {"from": 1}}}, None]
    expected = inference.forward(unharmed, *OUTPUTS, masked=False, interventions=patch)
    assert_same(load_outputs(send(unharmed, {"hidden_states": ROWS}, interventions=patch)), expected)


def test_safetensors_takes_them_beside_text_and_for_sequences_of_different_lengths(unharmed: httpx.Client) -> None:
    texts = ["The cat sat.", "A"]
    value = numbers(2, 384)
    sent = {"text": texts, "interventions": [{"layers.1.resid_mid[0]": {"add": row.tolist()}} for row in value]}
    as_json = post(unharmed, json.dumps(sent).encode(), "minilm").json()["outputs"]["block_output"]
    body = save({"layers.1.resid_mid[0].add": value}, {"text": json.dumps(texts)})
    answer = load(post(unharmed, body, "minilm", content_type=SAFETENSORS).content)
    for index, rows in enumerate(as_json):
        assert answer["block_output"][index][: len(rows)].tobytes() == np.array(rows, np.float32).tobytes()


def write(header: bytes, data: bytes = b"") -> bytes:
    """The format by hand."""
    return len(header).to_bytes(8, "little") + header + data


def upper(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """As bfloat16, cut off."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_is_widened_exactly_on_each_face(unharmed: httpx.Client, caller: Grpc) -> None:
    name, values = "layers.0.query[..., 0].set", numbers(2, 1, 2)
    cut = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    expected, data = forward(unharmed, {name: cut}), upper(values).tobytes()
    head = {"inputs": [states(), binary(name, data, [2, 1, 2], "BF16")], "outputs": wanted()}
    assert_same(inference.read(ask_binary(unharmed, *framed(head, data), "tiny.probes")), expected)
    text = tensor(name, cut, datatype="BF16")
    assert_same(inference.read(ask(unharmed, states(), text, model="tiny.probes", outputs=wanted())), expected)
    request = grpc_client.raw(model_name="tiny.probes", outputs=requested())
    request.inputs.add(name=name, datatype="BF16", shape=values.shape)
    request.raw_input_contents.append(data)
    assert_same(grpc_client.read(caller.begin("ModelInfer", request).result()), expected)
    header = {
        "__metadata__": {"outputs": json.dumps(OUTPUTS)},
        "hidden_states": {"dtype": "F32", "shape": ROWS.shape, "data_offsets": [0, ROWS.nbytes]},
        name: {"dtype": "BF16", "shape": values.shape, "data_offsets": [ROWS.nbytes, ROWS.nbytes + len(data)]},
    }
    body = write(orjson.dumps(header), ROWS.tobytes() + data)
    assert_same(load_outputs(post(unharmed, body, content_type=SAFETENSORS)), expected)


def test_one_head_sent_again_with_other_bytes_behind_it_does_what_these_say(unharmed: httpx.Client) -> None:
    name = "layers.0.resid_mid[-1].set"
    for _ in range(3):
        values = numbers(2, 8)
        inputs = [binary_of("hidden_states", ROWS), binary_of(name, values)]
        body, headers = framed({"inputs": inputs, "outputs": wanted()}, ROWS.tobytes(), values.tobytes())
        found = inference.read(ask_binary(unharmed, body, headers, "tiny.probes"))
        assert_same(found, forward(unharmed, {name: values}))


def test_the_metadata_does_not_list_them(unharmed: httpx.Client) -> None:
    for model in ("tiny", "tiny.probes"):
        listed = unharmed.get(f"/v2/models/{model}").json()["inputs"]
        assert [one["name"] for one in listed] == ["hidden_states", "attention_mask"]


def one(name: str = "layers.0.query.add", shape: tuple[int, ...] = (1,), **more: Any) -> dict[str, Any]:
    return tensor(name, np.ones(shape, np.float32), **more)


CALLED = (
    "expected an input called hidden_states or attention_mask, or ADDRESS.VERB with scale, add or set "
    "for VERB, got another one"
)
LEAN = "expected hidden_states or attention_mask: what is inside is changed by inputs of model tiny.probes"
AXIS = "expected 1, for all sequences, or 2, one for each, got"
FINITE = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
ONE, TWO = "inputs[1]", "inputs[2]"
REFUSED: dict[str, tuple[list[dict[str, Any]], str, str, str]] = {
    "without a verb": ([one("layers.0.query")], "unknown_input", f"{ONE}.name", CALLED),
    "with an unknown verb": ([one("layers.0.query.zero")], "unknown_input", f"{ONE}.name", CALLED),
    "a verb alone": ([one("scale")], "unknown_input", f"{ONE}.name", CALLED),
    "a verb of nothing": ([one(".scale")], "unknown_input", f"{ONE}.name", CALLED),
    "a NUL": ([one("layers.0.query\0.add")], "unknown_input", f"{ONE}.name", CALLED),
    "a dot in a cut": ([one("layers.0.query[...]")], "unknown_input", f"{ONE}.name", CALLED),
    "twice": ([one(), one()], "duplicate_input", f"{TWO}.name", "an input came twice"),
    "whole numbers": (
        [one(datatype="INT64")], "dtype_mismatch", f"{ONE}.datatype",
        "expected datatype FP32 or FP16 or BF16, got another one",
    ),
    "another batch": ([one(shape=(3,))], "wrong_shape", f"{ONE}.shape[0]", f"{AXIS} 3"),
    "of no batch": ([one(shape=(4, 1))], "wrong_shape", f"{ONE}.shape[0]", f"{AXIS} 4"),
    "of 10 axes": (
        [one(shape=(1,) * 10)], "wrong_shape", f"{ONE}.shape", "expected a shape of 1 to 9 sizes, got 10"
    ),
    "of 65 axes": (
        [one(shape=(1,), data=[1]) | {"shape": [1] * 65}], "wrong_shape", f"{ONE}.shape",
        "expected a shape of 1 to 9 sizes, got 65",
    ),
    "fewer numbers than the shape says": (
        [one(shape=(2, 4), data=[1.0] * 7)], "wrong_shape", f"{ONE}.data",
        "expected 8 elements, as the shape says, got 7",
    ),
    "nested deeper than the shape says": (
        [one(shape=(2, 4), data=[[[1.0] * 4]] * 2)], "wrong_shape", f"{ONE}.data[0]",
        "expected 4 elements, as the shape says, got 1",
    ),
    "nested less than the shape says": (
        [one(shape=(2, 1, 1, 4), data=[[[1.0] * 4]] * 2)], "wrong_shape", f"{ONE}.data[0][0]",
        "expected 1 elements, as the shape says, got 4",
    ),
    "null among the numbers": (
        [one(shape=(2, 2), data=[[1, 2], [3, None]])], "wrong_type", f"{ONE}.data[1][1]", "expected a number, got null"
    ),
    "a value that does not broadcast": (
        [one(shape=(1, 3))], "wrong_shape", ONE,
        "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [3]",
    ),
    "a value of one sequence that does not broadcast": (
        [one(shape=(2, 3))], "wrong_shape", ONE,
        "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [3]",
    ),
    "a number beyond FP16": (
        [one(datatype="FP16", data=[65520])], "value_overflow", ONE, FINITE
    ),
    "an unknown address": (
        [one("layers.0.qurey.set")], "unknown_output", ONE,
        "expected block_output, a probe, or layers.N.PROBE; did you mean query?",
    ),
    "an index out of range": (
        [one("layers.0.query[0, 7].set")], "index_out_of_range", ONE, "expected an index from -2 to 1 of axis head"
    ),
    "a reduction": (
        [one("layers.0.query|norm.set")], "wrong_reduction", ONE, "expected cells to change: no reduction"
    ),
    "a cell set twice": (
        [one("layers.0.query.set"), one("layers.0.query[0].set")], "overlapping_set", "interventions",
        "expected each cell to be set once, but two of layers.0.query overlap in sequence 0",
    ),
    "257 of all sequences": (
        [one(f"layers.{i % 2}.query[...,{' ' * (i // 2)}0].scale") for i in range(257)], "too_many_interventions",
        "inputs[257]", "expected at most 256 changed tensors after expansion",
    ),
    "257 of each": (
        [one(f"layers.0.query[...,{' ' * i}0].scale", (2,)) for i in range(129)], "too_many_interventions",
        "inputs[129]", "expected at most 256 changed tensors after expansion",
    ),
    "4,097": (
        [one(f"layers.0.query[{i}].scale") for i in range(4097)], "too_many_interventions", "inputs[4097]",
        "expected at most 4,096 interventions, got more",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "code", "at", "message"), REFUSED.values(), ids=REFUSED)
def test_v2_refuses_what_v1_does_and_what_is_no_such_tensor(
    unharmed: httpx.Client, inputs: list[dict[str, Any]], code: str, at: str, message: str
) -> None:
    response = ask(unharmed, states(), *inputs, model="tiny.probes")
    names = " ".join(one["name"].replace("layers.0.query", "") for one in inputs)
    assert_refused(response, 422, code, at, message, names.encode())


def test_the_lean_name_says_who_takes_them(unharmed: httpx.Client) -> None:
    response = ask(unharmed, states(), one())
    assert_refused(response, 422, "unknown_input", "inputs[1].name", LEAN)


def test_they_alone_are_no_request(unharmed: httpx.Client) -> None:
    response = ask(unharmed, one(), model="tiny.probes")
    message = "expected an input called hidden_states, got none"
    assert_refused(response, 422, "missing_input", "inputs", message)
    response = send(unharmed, {"layers.0.query.add": numbers(7)})
    message = "expected one of hidden_states, input_ids, text, got none"
    assert_refused(response, 422, "wrong_inputs", "", message)


def test_bytes_of_another_size_are_400(unharmed: httpx.Client) -> None:
    values = numbers(2, 4)
    for size, came in ((31, "expected 32 bytes, as shape and datatype say, got 31"), (32, "")):
        change = binary("layers.0.query.add", bytes(size), [2, 4], "FP32")
        body, headers = framed({"inputs": [states(), change]}, values.tobytes()[:31])
        at = "inputs[1].parameters.binary_data_size" if came else "inputs[1]"
        message = came or "expected 32 bytes behind the JSON, got 31"
        assert_refused(ask_binary(unharmed, body, headers, "tiny.probes"), 400, "size_mismatch", at, message)


OVER_GRPC: dict[str, tuple[str, str, tuple[int, ...], str]] = {
    "the lean name": (
        "tiny", "layers.0.query.add", (1,),
        f"{LEAN} - at inputs[1].name",
    ),
    "an unknown verb": ("tiny.probes", "layers.0.query.zero", (1,), f"{CALLED} - at inputs[1].name"),
    "another batch": ("tiny.probes", "layers.0.query.add", (3,), f"{AXIS} 3 - at inputs[1].shape[0]"),
    "no axes": (
        "tiny.probes", "layers.0.query.add", (), "expected a shape of 1 to 9 sizes, got 0 - at inputs[1].shape"
    ),
    "a shape that does not broadcast": (
        "tiny.probes", "layers.0.query.add", (1, 3),
        "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [3] - at inputs[1]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "name", "shape", "sentence"), OVER_GRPC.values(), ids=OVER_GRPC)
def test_grpc_refuses_them_in_the_same_words(
    caller: Grpc, model: str, name: str, shape: tuple[int, ...], sentence: str
) -> None:
    request = grpc_client.raw(model_name=model)
    add_raw(request, name, np.ones(shape, np.float32))
    assert caller.failure("ModelInfer", request) == ("INVALID_ARGUMENT", sentence)


def test_grpc_has_no_halves_as_numbers(caller: Grpc) -> None:
    request = grpc_client.typed(mask=None, model_name="tiny.probes")
    request.inputs.add(name="layers.0.query.add", datatype="FP16", shape=[1])
    said = "expected FP16 and BF16 in raw_input_contents: the protocol has no list for their numbers"
    assert caller.failure("ModelInfer", request) == ("INVALID_ARGUMENT", f"{said} - at inputs[1].datatype")


KNOWN = "hidden_states, input_ids, attention_mask, position_ids, sequence_lengths, __metadata__"
PART = b'"dtype":"F32","shape":[1,1,8],"data_offsets":[0,32]'
IN_HEADER: dict[str, tuple[Callable[[], bytes], int, str, str, str]] = {
    "without a verb": (
        lambda: saved("layers.0.query", numbers(1)), 422, "unknown_field", "header",
        f"unknown field, number 3 of header; the fields are {KNOWN}, ADDRESS.scale, .add and .set",
    ),
    "with an unknown verb": (
        lambda: saved("layers.0.query.zero", numbers(1)), 422, "unknown_field", "header",
        f"unknown field, number 3 of header; the fields are {KNOWN}, ADDRESS.scale, .add and .set",
    ),
    "of 64 bits": (
        lambda: saved("layers.0.query.add", np.ones(1, np.int64)), 422, "dtype_mismatch", "header[1].dtype",
        "expected dtype F32 or F16 or BF16, got another one",
    ),
    "another batch": (
        lambda: saved("layers.0.query.add", numbers(3)), 422, "wrong_shape", "header[2].shape[0]", f"{AXIS} 3"
    ),
    "no axes": (
        lambda: saved("layers.0.query.add", np.ones((), np.float32)), 422, "wrong_shape",
        "header[2].shape", "expected a shape of 1 to 9 sizes, got 0",
    ),
    "10 axes": (
        lambda: saved("layers.0.query.add", numbers(*[1] * 10)), 422, "wrong_shape", "header[2].shape",
        "expected a shape of 1 to 9 sizes, got 10",
    ),
    "a value that does not broadcast": (
        lambda: saved("layers.0.query.add", numbers(1, 3)), 422, "wrong_shape", "header[2]",
        "expected a value that broadcasts to [3, 2, 4] in sequence 0, got [3]",
    ),
    "not a number": (
        lambda: saved("layers.0.query.add", np.full(2, np.nan, np.float32)), 422, "value_overflow", "header[2]", FINITE
    ),
    "an unknown address": (
        lambda: saved("layers.0.qurey.add", numbers(1)), 422, "unknown_output", "header[2]",
        "expected block_output, a probe, or layers.N.PROBE; did you mean query?",
    ),
    "twice": (
        lambda: write(b'{"hidden_states":{%b},"a.add":{%b},"a.add":{%b}}' % (PART, PART, PART)), 422, "duplicate_field",
        "header[2]", "a field came twice",
    ),
    "with a NUL": (
        lambda: write(b'{"a.add":{%b},"a.add\\u0000.add":{%b}}' % (PART, PART)), 422, "unknown_field", "header",
        f"unknown field, number 2 of header; the fields are {KNOWN}, ADDRESS.scale, .add and .set",
    ),
    "4,097 times": (
        lambda: write(orjson.dumps({f"layers.0.query[{i}].add": {} for i in range(4103)})), 422,
        "too_many_interventions", "header", "expected at most 4,096 interventions, got more",
    ),
    "fields that do not fit": (
        lambda: saved("layers.0.query.add", numbers(1)).replace(b'"shape":[1]', b'"shaqe":[1]'), 422, "unknown_field",
        "header[2]", "unknown field, number 2 of header[2]; did you mean shape?",
    ),
    "more bytes than its shape": (
        lambda: saved("layers.0.query.add", numbers(2)).replace(b'"shape":[2]', b'"shape":[1]'), 400, "size_mismatch",
        "header[2].data_offsets", "expected 4 bytes, as dtype and shape say, got 8",
    ),
}  # fmt: skip


def saved(name: str, values: Any) -> bytes:
    return save({"hidden_states": ROWS, name: values}, {"outputs": '["block_output"]'})


@pytest.mark.parametrize(("make", "status", "code", "at", "message"), IN_HEADER.values(), ids=IN_HEADER)
def test_safetensors_refuses_them_by_their_number_in_the_header(
    unharmed: httpx.Client, make: Callable[[], bytes], status: int, code: str, at: str, message: str
) -> None:
    response = post(unharmed, make(), content_type=SAFETENSORS)
    assert_refused(response, status, code, at, message)
