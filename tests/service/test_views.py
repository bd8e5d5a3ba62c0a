"""Cuts and reductions on every face: numpy cuts the whole tensor, the server the same one before it answers."""

from functools import partial
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.address import HOOKS
from service.codec import open_inference_pb2 as messages
from tests.server import Server
from tests.service.grpc_client import Grpc, raw, typed
from tests.service.grpc_client import read as read_grpc
from tests.service.inference import ask, framed, read, tensor
from tests.service.refusal import assert_refused, post

RANDOM = np.random.default_rng(11)
SEQUENCES = [RANDOM.standard_normal((length, 384)).astype(np.float32) for length in (9, 4, 2, 9)]
# Address, and what numpy makes of the whole tensor of its name.
VIEWS: dict[str, Any] = {
    "block_output[-1]": lambda x: x[-1],
    "block_output[0, 5]": lambda x: x[0, 5],
    "layers.5.attention_weights[11, 0:8]": lambda x: x[11, 0:8],
    "layers.0.attention_weights[ :, -1 , ::-2 ]": lambda x: x[:, -1, ::-2],
    "layers.2.context[..., 3:1:-1]": lambda x: x[..., 3:1:-1],
    "layers.1.query[1:1]": lambda x: x[1:1],
    "layers.1.attention_weights|entropy": lambda x: -(x * np.log(np.where(x > 0, x, 1))).sum(-1),
    "layers.1.attention_weights[0:3, ::2, :]|entropy": lambda x: -(x * np.log(x))[0:3, ::2].sum(-1),
    "layers.4.attention_weights|mean(head)": lambda x: x.mean(0),
    "layers.4.attention_scores[..., 1:]|max(query)": lambda x: x[..., 1:].max(1),
    "layers.3.resid_mid|norm": lambda x: np.sqrt((x * x).sum(-1)),
    "block_output|mean(sequence)": lambda x: x.mean(0),
}


def whole(client: httpx.Client, name: str) -> list[NDArray[np.float64]]:
    return [np.asarray(array, np.float64) for array in forward(client, [name])[name]]


def forward(client: httpx.Client, outputs: list[str], sequences: Any = SEQUENCES) -> dict[str, Any]:
    body = {"hidden_states": [sequence.tolist() for sequence in sequences], "outputs": outputs}
    answer = client.post("/v1/models/minilm/forward", content=orjson.dumps(body))
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()["outputs"]
    return found


def name_of(address: str) -> str:
    return address.partition("[")[0].partition("|")[0]


@pytest.mark.parametrize("address", VIEWS)
def test_json_has_what_numpy_makes_of_the_whole_tensor(client: httpx.Client, address: str) -> None:
    found = forward(client, [address])
    assert list(found) == [address]
    want = [VIEWS[address](array) for array in whole(client, name_of(address))]
    for got, exact in zip(found[address], want, strict=True):
        array = np.asarray(got, np.float64).reshape(exact.shape)
        assert (np.abs(array - exact) <= 1e-6 * np.abs(exact) + 1e-7).all()
        assert "|" in address or np.array_equal(array, exact)


def test_a_cut_of_nothing_and_a_single_number_are_json(client: httpx.Client) -> None:
    found = forward(client, ["layers.1.query[1:1]", "block_output[0, 5]"])
    assert found["layers.1.query[1:1]"] == [[], [], [], []]
    assert all(isinstance(number, float) for number in found["block_output[0, 5]"])


def test_top_gives_values_and_indices_in_json(client: httpx.Client) -> None:
    address = "layers.5.attention_weights[3]|top(3)"
    for entry, array in zip(forward(client, [address])[address], whole(client, name_of(address)), strict=True):
        rows = array[3]
        order = np.argsort(-rows, axis=-1, kind="stable")[:, :3]
        assert entry == {"values": np.take_along_axis(rows, order, -1).tolist(), "indices": order.tolist()}


def test_rollout_is_the_product_of_every_layers_mean_attention(client: httpx.Client) -> None:
    found = forward(client, ["attention_rollout", "attention_rollout[0]|top(2)"])
    maps = [whole(client, f"layers.{layer}.attention_weights") for layer in range(6)]
    for i, sequence in enumerate(SEQUENCES):
        want = np.eye(len(sequence))
        for layer in maps:
            mixed = layer[i].mean(0) / 2 + np.eye(len(sequence)) / 2
            want = mixed / mixed.sum(1, keepdims=True) @ want
        got = np.asarray(found["attention_rollout"][i])
        assert (np.abs(got - want) <= 1e-6).all()
        assert found["attention_rollout[0]|top(2)"][i]["indices"] == np.argsort(-got[0], kind="stable")[:2].tolist()


def test_an_address_of_every_layer_is_answered_under_each_layers_name(client: httpx.Client) -> None:
    found = forward(client, ["layers.*.attention_weights[0, -1]|top(1)", "blocks.2:4.hook_resid_mid[0]"])
    assert list(found) == [
        *(f"layers.{layer}.attention_weights[0, -1]|top(1)" for layer in range(6)),
        "blocks.2.hook_resid_mid[0]",
        "blocks.3.hook_resid_mid[0]",
    ]


def test_transformer_lens_names_are_the_probes(client: httpx.Client) -> None:
    for hook, probe in HOOKS.items():
        found = forward(client, [f"blocks.1.{hook}[:2]", f"layers.1.{probe}[:2]"])
        assert found[f"blocks.1.{hook}[:2]"] == found[f"layers.1.{probe}[:2]"]


MIXED = [*VIEWS, "layers.5.attention_weights[3]|top(3)", "attention_rollout|top(2)"]


def test_the_bits_are_those_of_the_sequence_alone(client: httpx.Client) -> None:
    together = forward(client, MIXED)
    for i, sequence in enumerate(SEQUENCES):
        alone = forward(client, MIXED, [sequence])
        assert {key: entries[0] for key, entries in alone.items()} == {key: e[i] for key, e in together.items()}


def expected(client: httpx.Client, addresses: list[str], rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What /v1 says, as the protocol's tensors."""
    found: dict[str, NDArray[Any]] = {}
    for key, entries in forward(client, addresses, rows).items():
        if isinstance(entries[0], dict):
            found[f"{key}.values"] = np.asarray([entry["values"] for entry in entries], np.float32)
            found[f"{key}.indices"] = np.asarray([entry["indices"] for entry in entries], np.int64)
        else:
            found[key] = np.asarray(entries, np.float32)
    return found


def assert_equal(got: dict[str, NDArray[Any]], want: dict[str, NDArray[Any]]) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert (got[name].dtype, got[name].size) == (array.dtype, array.size), name
        assert np.array_equal(got[name].ravel(), array.ravel()), name


ROWS = np.stack([SEQUENCES[0], SEQUENCES[3]])


@pytest.mark.parametrize("binary", [1, 0])
def test_the_protocol_has_each_as_an_output(client: httpx.Client, binary: int) -> None:
    outputs = [{"name": address, "parameters": {"binary_data": bool(binary)}} for address in MIXED]
    answer = ask(client, tensor("hidden_states", ROWS), model="minilm.probes", outputs=outputs)
    found = read(answer)
    assert_equal(found, expected(client, MIXED, ROWS))
    assert found["block_output[0, 5]"].shape == (2,)
    assert found["attention_rollout|top(2).indices"].shape == (2, 9, 2)


def test_the_lean_name_takes_cuts_of_its_output_alone(client: httpx.Client) -> None:
    answer = ask(client, tensor("hidden_states", ROWS), model="minilm", outputs=[{"name": "block_output[-1]|norm"}])
    assert_equal(read(answer), expected(client, ["block_output[-1]|norm"], ROWS))
    inside = ask(client, tensor("hidden_states", ROWS), model="minilm", outputs=[{"name": "query[0]"}])
    message = "expected block_output: what is inside is an output of model minilm.probes"
    assert_refused(inside, 422, "unknown_output", "outputs[0].name", message)


@pytest.mark.parametrize("write", [raw, partial(typed, mask=None)])
def test_grpc_has_each_as_an_output(server: Server, client: httpx.Client, write: Any) -> None:
    with Grpc(server.grpc) as caller:
        outputs = [messages.ModelInferRequest.InferRequestedOutputTensor(name=address) for address in MIXED]
        request = write(ROWS, model_name="minilm.probes", outputs=outputs)
        assert_equal(read_grpc(caller.begin("ModelInfer", request).result()), expected(client, MIXED, ROWS))


def test_safetensors_pads_what_is_left_to_the_largest(client: httpx.Client) -> None:
    padded = np.zeros((4, 9, 384), np.float32)
    for row, sequence in zip(padded, SEQUENCES, strict=True):
        row[: len(sequence)] = sequence
    lengths = np.asarray([len(sequence) for sequence in SEQUENCES])
    fields = {"outputs": orjson.dumps(MIXED).decode()}
    body = save({"hidden_states": padded, "sequence_lengths": lengths}, fields)
    answer = client.post(
        "/v1/models/minilm/forward",
        content=body,
        headers={"Content-Type": "application/x-safetensors", "Accept": "application/x-safetensors"},
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    found = load(answer.content)
    for i, sequence in enumerate(SEQUENCES):
        for name, array in expected(client, MIXED, sequence[None]).items():
            part = np.asarray(found[name][i])
            inner = part[tuple(map(slice, array.shape[1:]))]
            assert part.dtype == array.dtype
            assert inner.size == array[0].size, name
            assert np.array_equal(inner.ravel(), array[0].ravel()), name
            assert np.count_nonzero(part) == np.count_nonzero(inner), name


def test_little_of_a_long_sequence_is_little(client: httpx.Client) -> None:
    rows = RANDOM.standard_normal((1, 512, 384)).astype(np.float32)
    body, headers = framed(
        {
            "inputs": [{"name": "hidden_states", "shape": [1, 512, 384], "datatype": "FP32",
                        "parameters": {"binary_data_size": rows.nbytes}}],
            "outputs": [{"name": "layers.5.attention_weights[3, 10:20]|top(8)"}],
        },
        rows.tobytes(),
    )  # fmt: skip
    answer = client.post("/v2/models/minilm.probes/infer", content=body, headers=headers)
    assert answer.status_code == httpx.codes.OK
    assert len(answer.content) < 10_000


@pytest.mark.parametrize("rest", ["[0", "[0][0]", "[[0]]", "[0]norm", "[", "[]]"])
def test_brackets_that_do_not_fit_are_refused(client: httpx.Client, rest: str) -> None:
    address = f"block_output{rest}"
    body = orjson.dumps({"hidden_states": [SEQUENCES[0].tolist()], "outputs": [address]})
    message = "expected NAME[ITEMS], and behind it perhaps |REDUCTION"
    assert_refused(post(client, body, "minilm"), 422, "wrong_slice", "outputs[0]", message)


def test_an_index_outside_one_sequence_names_it(client: httpx.Client) -> None:
    body = orjson.dumps(
        {"hidden_states": [s.tolist() for s in SEQUENCES], "outputs": ["block_output", "layers.*.query[3]"]}
    )
    message = "expected an index from -2 to 1 of axis sequence in sequence 2"
    assert_refused(post(client, body, "minilm"), 422, "index_out_of_range", "outputs[1]", message)


@pytest.mark.long
def test_the_answers_limit_counts_what_is_left(server: Server, client: httpx.Client) -> None:
    rows = np.zeros((16, 512, 384), np.float32)
    outputs = [{"name": f"layers.{layer}.attention_weights"} for layer in range(6)]
    asked = ask(client, tensor("hidden_states", rows), model="minilm.probes", outputs=outputs)
    assert asked.json()["code"] in {"answer_too_large", "too_many_tokens"}
    small = [{"name": "attention_weights|top(1)", "parameters": {"binary_data": True}}]
    answer = ask(client, tensor("hidden_states", rows[:1]), model="minilm.probes", outputs=small)
    assert answer.status_code == httpx.codes.OK


def test_very_many_single_numbers_are_refused_before_the_run(client: httpx.Client) -> None:
    outputs = [f"block_output[0, {i}]" for i in range(384)]
    body = orjson.dumps({"input_ids": [[1]] * 1_000, "outputs": outputs})
    answer = post(client, body, "minilm")
    message = "expected at most 67,108,864 bytes in the answer as float32, got 98,304,000"
    assert_refused(answer, 422, "answer_too_large", "", message)
