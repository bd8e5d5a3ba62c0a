"""tritonclient over gRPC, in a process and an environment of its own; and the messages that both sides speak."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from load_tests.peer_servers import PROGRAMS
from service.codec import open_inference_pb2
from tests.server import Server
from tests.service.inference import ROWS, forward
from tests.test_clients import CHANGE, CLIENTS, ROOT, environment, run, use

pytestmark = pytest.mark.long  # their packages are downloaded and installed first
PINS = CLIENTS / "tritonclient.txt"
WEIGHTS = "layers.1.attention_weights"
TRIMMED = {f"inference.Model{name}" for name in ("Config", "Input", "Output", "VersionPolicy", "DynamicBatching")}


@pytest.fixture(scope="module")
def tritonclient(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return use(PINS, "triton_grpc.py", server.grpc, tmp_path_factory.mktemp("tritonclient"))


@pytest.mark.timeout(400)  # the first time, its packages are installed
def test_tritonclient_is_served_over_grpc_in_every_way_it_has_of_asking(
    tritonclient: tuple[dict[str, Any], dict[str, NDArray[Any]]], client: httpx.Client
) -> None:
    facts, answers = tritonclient[0], dict(tritonclient[1])
    expected = forward(client, "block_output", WEIGHTS)
    for name in ("lean", "block_output", "gzip", "deflate"):
        np.testing.assert_array_equal(answers.pop(name), expected["block_output"])
    np.testing.assert_array_equal(answers.pop(WEIGHTS), expected[WEIGHTS])
    np.testing.assert_array_equal(answers.pop("asynchronous"), np.stack([expected["block_output"]] * 8))
    np.testing.assert_array_equal(answers.pop("half"), forward(client, rows=ROWS.astype(np.float16))["block_output"])
    np.testing.assert_array_equal(answers.pop("changed"), forward(client, interventions=CHANGE)["block_output"])
    rounded = forward(client, rows=answers.pop("bfloat_rows"))
    np.testing.assert_array_equal(answers.pop("bfloat"), rounded["block_output"])
    assert answers == {}
    assert facts["live"] is facts["ready"] is facts["version_ready"] is True
    assert facts["models_ready"] == [True, True, False]
    assert (facts["names"], facts["id"], facts["statistics"]) == ([WEIGHTS, "block_output"], "an-id", "tiny")


def test_tritonclient_learns_over_grpc_what_it_learns_over_http(
    tritonclient: tuple[dict[str, Any], dict[str, Any]], client: httpx.Client
) -> None:
    facts = tritonclient[0]
    assert facts["server"] == client.get("/v2").json()
    assert facts["metadata"] == as_protobuf_writes(client.get("/v2/models/tiny.probes").json())
    config = as_protobuf_writes(client.get("/v2/models/tiny/config").json())
    config["dynamic_batching"], config["max_batch_size"] = {}, int(config["max_batch_size"])
    config["version_policy"]["latest"]["num_versions"] = 1
    assert facts["config"] == config
    assert facts["index"] == [as_protobuf_writes(one) for one in client.post("/v2/repository/index").json()]


@pytest.mark.timeout(400)
def test_kserves_client_is_served_over_grpc(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    facts, answers = use(PROGRAMS / "kserve.txt", "kserve_grpc.py", server.grpc, tmp_path)
    expected = forward(client, "block_output", "layers.0.query")
    for way in ("binary", "numbers"):
        np.testing.assert_array_equal(answers.pop(way), expected["block_output"])
        np.testing.assert_array_equal(answers.pop(f"query_{way}"), expected["layers.0.query"])
    assert answers == {}
    assert facts == {
        "live": True, "ready": True, "models_ready": [True, False], "id_binary": "k", "id_numbers": "k"
    }  # fmt: skip


def as_protobuf_writes(value: Any) -> Any:
    """Whole numbers as text, since they may have 64 bits; what is empty or false left out."""
    if isinstance(value, dict):
        written = {name: as_protobuf_writes(inner) for name, inner in value.items()}
        return {name: inner for name, inner in written.items() if inner not in ("", [], False)}
    if isinstance(value, list):
        return [as_protobuf_writes(inner) for inner in value]
    return str(value) if type(value) is int else value


def test_what_tritonclient_raises_over_grpc_is_the_servers_sentence(
    tritonclient: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    facts = tritonclient[0]
    lean = "block_output: what is inside is an output of model tiny.probes - at outputs[0].name"
    off = "loading and unloading are switched off: see the setting model_control"
    none = "this server has no such call; of inference.GRPCInferenceService it has none for streams, shared memory, .*"
    sentences = {
        "no_time": "DEADLINE_EXCEEDED expected an answer within the request's timeout, but it was not .*",
        "no_model": "NOT_FOUND no such model; this server has .* - at model_name",
        "no_version": "NOT_FOUND model tiny has no such version; it has 1 - at model_version",
        "wrong_shape": r"INVALID_ARGUMENT expected hidden_size 8, got 4 - at inputs\[0\].shape\[2\]",
        "wrong_output": f"INVALID_ARGUMENT expected {re.escape(lean)}",
        "unknown_parameter": "INVALID_ARGUMENT unknown parameter; the parameters are timeout, priority, "
        "binary_data_output - at parameters",
        "classification": r"UNIMPLEMENTED this server has no classification - at outputs\[0\].parameters",
        "sequence": "UNIMPLEMENTED this server has no sequence_.* - at parameters",
        "no_metadata": "NOT_FOUND no such model; this server has .* - at name",
        "trace": f"UNIMPLEMENTED {none}",
        "log": f"UNIMPLEMENTED {none}",
        "load": f"PERMISSION_DENIED {off}",
        "unload": f"PERMISSION_DENIED {off}",
    }
    for name, sentence in sentences.items():
        assert re.fullmatch(rf"StatusCode\.{sentence}", facts[name]), (name, facts[name])


@pytest.mark.timeout(180)
def test_our_messages_are_those_that_tritonclient_speaks() -> None:
    theirs = json.loads(run(environment(PINS), CLIENTS / "triton_messages.py"))
    ours = open_inference_pb2.DESCRIPTOR
    for message in ours.message_types_by_name.values():
        hold_message(message, theirs)
    for enum in ours.enum_types_by_name.values():
        assert {value.name: value.number for value in enum.values} == theirs[enum.full_name]
    (service,) = ours.services_by_name.values()
    for method in service.methods:
        assert theirs[service.full_name][method.name] == [method.input_type.full_name, method.output_type.full_name]
    left_out = theirs[service.full_name].keys() - {method.name for method in service.methods}
    shared = {
        f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")
    }
    assert left_out == shared | {"ModelStreamInfer", "TraceSetting", "LogSettings"}


def hold_message(message: Any, theirs: dict[str, Any]) -> None:
    """Each field has the number, the type and the repetition that it has there, and none is missing but in TRIMMED."""
    for field in message.fields:
        inner = field.message_type or field.enum_type
        found = [field.number, field.type, field.is_repeated, inner.full_name if inner else ""]
        assert found == theirs[message.full_name][field.name], (message.full_name, field.name)
    if message.full_name not in TRIMMED:
        assert theirs[message.full_name].keys() == {field.name for field in message.fields}
    for nested in message.nested_types:
        hold_message(nested, theirs)


def test_the_grpc_example_prints_what_it_got(server: Server) -> None:
    printed = run(environment(PINS), ROOT / "examples" / "tritonclient_grpc.py", server.grpc).splitlines()
    assert printed == [
        "minilm serves versions 1",
        "layers.5.attention_weights (1, 12, 5, 5), rows sum to 1",
        "INVALID_ARGUMENT expected hidden_size 384, got 2 - at inputs[0].shape[2]",
    ]
