"""position_ids of a rotary model, on every face: against the float64 oracle, alone and among neighbours, refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from export.block import Stack
from export.config import StackConfig
from export.sources import random
from service.codec.open_inference_pb2 import ModelInferRequest
from tests import artifacts
from tests.export import oracle
from tests.neighbourhood import Case, assert_equal_alone_and_together
from tests.server import Server, link_models, running
from tests.service.grpc_client import Grpc
from tests.service.inference import ask, ask_binary, binary, framed, read, tensor

pytestmark = pytest.mark.long
GENERATOR = np.random.default_rng(8)
LENGTHS = (7, 3, 1)
ROWS = [GENERATOR.standard_normal((length, 24)).round(4).astype(np.float32) for length in LENGTHS]
# Padded on the left and counted from there on; far out and backwards, one twice; one alone.
POSITIONS = [np.array([0, 0, 0, 1, 2, 3, 4]), np.array([95, 40, 40]), np.array([17])]
MASKS = [np.array([0, 0, 1, 1, 1, 1, 1]), np.array([1, 1, 1]), np.array([1])]
OUTPUTS = ("block_output", "layers.0.query", "layers.1.key", "layers.1.key_unrotated", "layers.1.attention_weights")
BODY = {
    "hidden_states": [rows.tolist() for rows in ROWS],
    "attention_mask": [mask.tolist() for mask in MASKS],
    "position_ids": [positions.tolist() for positions in POSITIONS],
    "outputs": OUTPUTS,
}
RECTANGLE = np.stack([ROWS[0], ROWS[0][::-1]])
RECTANGULAR = np.stack([POSITIONS[0], np.arange(90, 83, -1)])

OUTSIDE = "expected positions from 0 to 95, got one outside"
WHOLE, MANY = "expected a whole number of 64 bits, got ", "expected as many"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A rotary model, and one that takes no positions."""
    folder = tmp_path_factory.mktemp("positions")
    models = link_models(folder / "models", {name: artifact(name) for name in ("rotary", "tiny")})
    with running(models, folder, grpc_port=0) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def outputs(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/models/rotary/forward", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()["outputs"]
    return found


def refusal(client: httpx.Client, model: str = "rotary", **changes: Any) -> tuple[int, str, str, str]:
    answer = client.post(f"/v1/models/{model}/forward", json={**BODY, **changes})
    said = answer.json()
    return answer.status_code, said["code"], said["at"], said["error"].rpartition(" - at ")[0]


def truth(row: NDArray[Any], mask: NDArray[Any], positions: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every probe of one sequence, and block_output, in float64."""
    config = StackConfig.from_dict(artifacts.ROTARY)
    model = random.load(config).model
    assert isinstance(model, Stack)
    found: dict[str, NDArray[Any]] = {}
    x = row.astype(np.float64) * mask[:, None]
    for index, (layer, block) in enumerate(zip(model.layers, config.layers, strict=True)):
        state = {name: values.numpy() for name, values in layer.state_dict().items()}
        probes = oracle.block(block, state, x, mask, positions)
        found |= {f"layers.{index}.{name}": values for name, values in probes.items()}
        x = probes["layer_output"]
    return found | {"block_output": x}


def test_every_tensor_is_the_oracles_at_the_positions_that_were_sent(client: httpx.Client) -> None:
    found = outputs(client, BODY)
    for index, sequence in enumerate(zip(ROWS, MASKS, POSITIONS, strict=True)):
        want, kept = truth(*sequence), np.flatnonzero(MASKS[index])
        for name in OUTPUTS:
            got, wanted = np.array(found[name][index]), want[name]
            if name.endswith("weights"):
                got, wanted = got[:, kept], wanted[:, kept]
            else:
                got, wanted = got[kept], wanted[kept]
            assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4), name


def test_absent_they_count_up_whatever_the_mask(client: httpx.Client) -> None:
    without = {name: value for name, value in BODY.items() if name != "position_ids"}
    counted = [list(range(length)) for length in LENGTHS]
    assert outputs(client, without) == outputs(client, {**BODY, "position_ids": counted})
    assert outputs(client, without) != outputs(client, BODY)


def test_safetensors_take_them_and_what_lies_behind_a_sequence_is_not_looked_at(client: httpx.Client) -> None:
    padded: dict[str, NDArray[Any]] = {
        "hidden_states": np.zeros((3, 7, 24), np.float32),
        "attention_mask": np.ones((3, 7), np.int64),
        "position_ids": np.full((3, 7), -5, np.int64),
        "sequence_lengths": np.array(LENGTHS),
    }
    for name, arrays in (("hidden_states", ROWS), ("attention_mask", MASKS), ("position_ids", POSITIONS)):
        for index, array in enumerate(arrays):
            padded[name][index, : len(array)] = array
    kind = {"Content-Type": "application/x-safetensors", "Accept": "application/x-safetensors"}
    answer = client.post("/v1/models/rotary/forward", content=save(padded), headers=kind)
    assert answer.status_code == httpx.codes.OK, answer.text
    found = load(answer.content)["block_output"]
    for index, rows in enumerate(outputs(client, BODY)["block_output"]):
        assert np.array_equal(found[index, : LENGTHS[index]], np.array(rows, np.float32))


def test_the_open_inference_protocol_takes_them_as_numbers_and_as_bytes(server: Server, client: httpx.Client) -> None:
    body = {"hidden_states": RECTANGLE.tolist(), "position_ids": RECTANGULAR.tolist()}
    want = np.array(outputs(client, body)["block_output"], np.float32)
    for data in (None, RECTANGULAR.tolist()):
        given = tensor("position_ids", RECTANGULAR, data=data)
        answer = ask(client, tensor("hidden_states", RECTANGLE), given, model="rotary")
        assert np.array_equal(read(answer)["block_output"], want)
    parts = {"hidden_states": (RECTANGLE, "FP32"), "position_ids": (RECTANGULAR, "INT64")}
    inputs = [binary(name, array.tobytes(), [*array.shape], kind) for name, (array, kind) in parts.items()]
    framed_body, headers = framed({"inputs": inputs}, *(array.tobytes() for array, _ in parts.values()))
    assert np.array_equal(read(ask_binary(client, framed_body, headers, model="rotary"))["block_output"], want)
    request = ModelInferRequest(model_name="rotary")
    for name, (array, kind) in parts.items():
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    with Grpc(server.grpc) as caller:
        (raw,) = caller.begin("ModelInfer", request).result().raw_output_contents
    assert raw == want.tobytes()


def test_answers_are_the_same_alone_and_among_neighbours(server: Server) -> None:
    cases = []
    for seed in range(24):
        chance = np.random.default_rng(seed)
        length = int(chance.integers(1, 60))
        body: dict[str, Any] = {"hidden_states": [chance.normal(0, 1, (length, 24)).round(3).tolist()]}
        if seed % 3:
            body["position_ids"] = [chance.integers(0, 96, length).tolist()]
        if seed % 4 == 0:
            body["outputs"] = ["block_output", "layers.1.query"]
        cases.append(Case("rotary", body))
    assert_equal_alone_and_together(server, cases)


def test_unrotated_queries_and_single_key_value_heads_can_be_changed(client: httpx.Client) -> None:
    body = {name: value for name, value in BODY.items() if name != "attention_mask"}
    body["outputs"] = ["layers.0.query", "layers.0.key", "layers.0.attention_weights"]
    before = outputs(client, body)
    changes = {"layers.0.query_unrotated[:, 2]": {"scale": 0}, "layers.0.key[:, 1]": {"scale": 0}}
    after = outputs(client, {**body, "interventions": changes})
    for index, length in enumerate(LENGTHS):
        query, key = (np.array(after[f"layers.0.{name}"][index]) for name in ("query", "key"))
        assert not query[:, 2].any()
        assert not key[:, 1].any()
        assert np.array_equal(key[:, 0], np.array(before["layers.0.key"][index])[:, 0])
        weights, old = (np.array(one["layers.0.attention_weights"][index]) for one in (after, before))
        uniform = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
        # Heads 3 to 5 attend to the second key-value head; the others but head 2 are as they were.
        assert np.allclose(weights[2:], uniform, atol=1e-6)
        assert np.array_equal(weights[:2], old[:2])


def test_positions_are_listed_as_an_optional_input(client: httpx.Client) -> None:
    described = client.get("/v1/models/rotary").json()
    assert [one["name"] for one in described["inputs"]] == ["hidden_states", "attention_mask", "position_ids"]
    assert described["limits"]["max_sequence_length"] == 96
    listed = client.get("/v2/models/rotary").json()["inputs"][-1]
    assert listed == {"name": "position_ids", "datatype": "INT64", "shape": [-1, -1]}
    entries = client.get("/v2/models/rotary/config").json()["input"]
    assert {entry["name"]: entry["optional"] for entry in entries} == {
        "hidden_states": False, "attention_mask": True, "position_ids": True,
    }  # fmt: skip
    assert len(client.get("/v2/models/tiny").json()["inputs"]) == 2


@pytest.mark.parametrize(
    ("given", "code", "at", "sentence"),
    [
        ([[0] * 7, [1, 96, 2], [0]], "position_out_of_range", "position_ids[1][1]", OUTSIDE),
        ([[0] * 7, [1, 2, 3], [-1]], "position_out_of_range", "position_ids[2][0]", OUTSIDE),
        ([[0] * 7, [1, 2], [0]], "wrong_shape", "position_ids[1]", f"{MANY} positions as the input has (3), got 2"),
        ([[0] * 7, [1, 2, 3]], "wrong_shape", "position_ids", f"{MANY} sequences as the input has (3), got 2"),
        ([[0] * 7, [1, 2.5, 3], [0]], "wrong_type", "position_ids[1][1]", f"{WHOLE}another number"),
        ([[0] * 7, [1, True, 3], [0]], "wrong_type", "position_ids[1][1]", f"{WHOLE}a boolean"),
        ([0, 1], "wrong_type", "position_ids[0]", "expected a list of whole numbers, got a number"),
        (None, "wrong_type", "position_ids", "expected a list of sequences, got null"),
    ],
)  # fmt: skip
def test_what_are_no_positions_of_the_model_is_refused(
    given: Any, code: str, at: str, sentence: str, client: httpx.Client
) -> None:
    assert refusal(client, position_ids=given) == (422, code, at, sentence)


def test_a_model_that_turns_nothing_takes_none(client: httpx.Client) -> None:
    body = {"hidden_states": [[[1.0] * 8]], "attention_mask": [[1]], "position_ids": [[0]], "outputs": ["block_output"]}
    sentence = "expected no position_ids: the layers of model tiny turn nothing by positions"
    assert refusal(client, "tiny", **body) == (422, "no_positions", "position_ids", sentence)
    one = np.ones((1, 1, 8), np.float32)
    answer = ask(client, tensor("hidden_states", one), tensor("position_ids", np.zeros((1, 1), np.int64)))
    assert (answer.status_code, answer.json()["code"]) == (422, "no_positions")


@pytest.mark.parametrize(
    ("changes", "code", "at", "sentence"),
    [
        ({"datatype": "FP32"}, "dtype_mismatch", "inputs[1].datatype", "expected datatype INT64, got another one"),
        ({"shape": [2, 8]}, "wrong_shape", "inputs[1].shape[1]", "expected 7, as hidden_states has, got 8"),
        ({"data": [0.5] * 14}, "wrong_type", "inputs[1].data[0]", f"{WHOLE}another number"),
        ({"data": [96] * 14}, "position_out_of_range", "position_ids[0][0]", OUTSIDE),
    ],
)  # fmt: skip
def test_the_open_inference_protocols_are_held_to_the_same(
    changes: dict[str, Any], code: str, at: str, sentence: str, client: httpx.Client
) -> None:
    given = tensor("position_ids", RECTANGULAR, **changes)
    answer = ask(client, tensor("hidden_states", RECTANGLE), given, model="rotary")
    said = answer.json()
    assert (answer.status_code, said["code"], said["at"]) == (422, code, at)
    assert said["error"].rpartition(" - at ")[0] == sentence
