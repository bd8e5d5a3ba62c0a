"""gRPC's calls: the same answers as over HTTP, to the last bit, and every refusal in its words."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from google.protobuf.json_format import MessageToDict

from service.codec import open_inference_pb2 as messages
from tests.server import Server
from tests.service.grpc_client import HEALTH, Grpc, failure, parameter, raw, read, typed
from tests.service.inference import MASK, ROWS, assert_same, forward
from tests.service.log_lines import lines_of

HALVES = "expected FP16 and BF16 in raw_input_contents: the protocol has no list for their numbers"
CALLED = (
    "expected an input called hidden_states or attention_mask, or ADDRESS.VERB with scale, add or set "
    "for VERB, got another one"
)
ADDRESSES = ("layers.1.attention_weights", "layers.0.query", "block_output")


@pytest.fixture(scope="module")
def caller(server: Server, unharmed: httpx.Client) -> Iterator[Grpc]:
    with Grpc(server.grpc) as opened:
        yield opened


def outputs(*names: str) -> list[Any]:
    return [messages.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]


def test_numbers_in_the_request_give_numbers_in_the_answer(caller: Grpc, client: httpx.Client) -> None:
    answer = caller.begin("ModelInfer", typed(id="seven")).result()
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1", "seven")
    assert not answer.raw_output_contents
    assert_same(read(answer), forward(client, "block_output"))


def test_bytes_in_the_request_give_bytes_in_the_answer(caller: Grpc, client: httpx.Client) -> None:
    answer = caller.begin("ModelInfer", raw()).result()
    assert len(answer.raw_output_contents) == 1
    assert_same(read(answer), forward(client, "block_output", masked=False))


@pytest.mark.parametrize("write", [typed, raw])
def test_any_address_is_an_output(write: Any, caller: Grpc, client: httpx.Client) -> None:
    request = write(model_name="tiny.probes", model_version="1", outputs=outputs(*ADDRESSES))
    answer = caller.begin("ModelInfer", request).result()
    assert answer.model_name == "tiny.probes"
    assert_same(read(answer), forward(client, *ADDRESSES, masked=write is typed))


def test_an_address_of_several_layers_becomes_several_outputs(caller: Grpc) -> None:
    request = raw(model_name="tiny.probes", outputs=outputs("layers.*.query"))
    assert list(read(caller.begin("ModelInfer", request).result())) == ["layers.0.query", "layers.1.query"]


def test_half_precision_comes_as_bytes_and_is_widened(caller: Grpc, client: httpx.Client) -> None:
    half = ROWS.astype(np.float16)
    answer = caller.begin("ModelInfer", raw(half, "FP16")).result()
    assert_same(read(answer), forward(client, "block_output", rows=half, masked=False))
    upper = (ROWS.view(np.uint32) >> 16).astype(np.uint16)
    answer = caller.begin("ModelInfer", raw(upper, "BF16")).result()
    widened = (upper.astype(np.uint32) << 16).view(np.float32)
    assert_same(read(answer), forward(client, "block_output", rows=widened, masked=False))


def test_a_mask_may_be_boolean(caller: Grpc, client: httpx.Client) -> None:
    request = typed(mask=None)
    given = request.inputs.add(name="attention_mask", datatype="BOOL", shape=MASK.shape)
    given.contents.bool_contents.extend(MASK.ravel().tolist())
    assert_same(read(caller.begin("ModelInfer", request).result()), forward(client, "block_output"))


def test_numbers_that_are_not_finite_are_sent_as_they_are(caller: Grpc) -> None:
    rows = np.full((1, 2, 8), 3e38, np.float32)
    rows[0, 0, 1] *= -1
    request = typed(rows, None, model_name="tiny.probes", outputs=outputs("layers.0.attention_scores"))
    found = read(caller.begin("ModelInfer", request).result())["layers.0.attention_scores"]
    assert not np.isfinite(found).all()


def test_urgency_is_taken_as_parameters(caller: Grpc) -> None:
    request = raw(parameters={"timeout": parameter(5_000_000), "priority": parameter(1)})
    assert caller.begin("ModelInfer", request).result().outputs
    request = raw(parameters={"timeout": parameter(1)})
    sentence = "expected an answer within the request's timeout, but it was not computed by then"
    assert caller.failure("ModelInfer", request) == ("DEADLINE_EXCEEDED", sentence)


def changed(change: Any, write: Any = typed, **fields: Any) -> Any:
    request = write(**fields)
    change(request)
    return request


def set_shape(request: Any, *shape: int) -> None:
    request.inputs[0].shape[:] = shape


TYPED_BAD: dict[str, tuple[Any, str]] = {
    "no inputs": (
        messages.ModelInferRequest(model_name="tiny"),
        "expected at least one input, got none - at inputs",
    ),
    "wrong hidden size": (
        changed(lambda r: set_shape(r, 2, 6, 4)),
        "expected hidden_size 8, got 4 - at inputs[0].shape[2]",
    ),
    "a negative size": (
        changed(lambda r: set_shape(r, 2, -3, 8)),
        "expected a whole number of at least 1 - at inputs[0].shape[1]",
    ),
    "another rank": (
        changed(lambda r: set_shape(r, 48)),
        "expected a shape of 3 sizes (batch, sequence, hidden), got 1 - at inputs[0].shape",
    ),
    "too few numbers": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.pop()),
        "expected 48 elements, as the shape says, got 47 - at inputs[0].contents.fp32_contents",
    ),
    "numbers of another kind": (
        changed(lambda r: r.inputs[0].contents.int_contents.append(1)),
        "expected numbers in fp32_contents, and in no other list - at inputs[0].contents",
    ),
    "no numbers": (
        changed(lambda r: r.inputs[0].ClearField("contents")),
        "expected numbers in fp32_contents, and in no other list - at inputs[0].contents",
    ),
    "halves as numbers": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "FP16")),
        f"{HALVES} - at inputs[0].datatype",
    ),
    "another datatype": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "FP64")),
        "expected datatype FP32 or FP16 or BF16, got another one - at inputs[0].datatype",
    ),
    "an unknown input": (
        changed(lambda r: setattr(r.inputs[1], "name", "mask")),
        f"{CALLED} - at inputs[1].name",
    ),
    "a mask of other numbers": (
        changed(lambda r: r.inputs[1].contents.int64_contents.__setitem__(0, 2)),
        "expected 0 or 1, got another number - at inputs[1]",
    ),
    "bytes and numbers": (
        changed(lambda r: r.raw_input_contents.extend([ROWS.tobytes(), MASK.tobytes()])),
        "expected either contents in every input or raw_input_contents, got both - at inputs[0]",
    ),
    "too few tensors as bytes": (
        changed(lambda r: r.inputs.add(name="attention_mask", datatype="INT64", shape=MASK.shape), raw),
        "expected one a tensor of 2 inputs, got 1 - at raw_input_contents",
    ),
    "a byte too few": (
        changed(lambda r: r.raw_input_contents.__setitem__(0, ROWS.tobytes()[:-1]), raw),
        "expected 192 bytes, as shape and datatype say, got 191 - at raw_input_contents[0]",
    ),
    "not finite": (
        raw(np.full((1, 1, 8), np.nan, np.float32)),
        "expected finite float32 numbers, got NaN, an infinity or one beyond their range - at hidden_states[0][0][0]",
    ),
    "the inside of the lean model": (
        raw(outputs=outputs("layers.0.query")),
        "expected block_output: what is inside is an output of model tiny.probes - at outputs[0].name",
    ),
    "an unknown parameter": (
        raw(parameters={"priorty": parameter(1)}),
        "unknown parameter; did you mean priority? - at parameters",
    ),
    "a parameter of an input": (
        changed(lambda r: r.inputs[0].parameters["mine"].CopyFrom(parameter("x")), raw),
        "unknown parameter; the parameters are binary_data_size - at inputs[0].parameters",
    ),
    "a parameter without a value": (
        raw(parameters={"timeout": messages.InferParameter()}),
        "expected a whole number of at least 0 - at parameters.timeout",
    ),
    "a negative timeout": (
        raw(parameters={"timeout": parameter(-1)}),
        "expected a whole number of at least 0 - at parameters.timeout",
    ),
    "an id that does not print": (
        raw(id="\n"),
        "expected at most 128 printable ASCII characters - at id",
    ),
    "no message": (b"\xff\xff\xff", "expected a message of the protocol, as protobuf writes it"),
    "a message cut off": (raw().SerializeToString()[:-1], "expected a message of the protocol, as protobuf writes it"),
    "a field of another type": (b"\x0a\x04tiny\x28\x01", "expected at least one input, got none - at inputs"),
    "an input that is no message": (
        b"\x0a\x04tiny\x2a\x01\xff",
        "expected a message of the protocol, as protobuf writes it",
    ),
    "a name that is no text": (b"\x0a\x01\xff", "expected a message of the protocol, as protobuf writes it"),
    "a crowd of empty inputs": (
        b"\x0a\x04tiny" + b"\x2a\x00" * 2**22,
        "expected at most 8,192 fields in all, got more - at body",
    ),
    "a crowd of parameters": (
        b"\x0a\x04tiny\x2a\x80\x80\x80\x01" + b"\x22\x00" * 2**20,
        "expected at most 8,192 fields in all, got more - at body",
    ),
    "a crowd of empty strings": (
        b"\x0a\x04tiny\x2a\x85\x80\x80\x01\x2a\x80\x80\x80\x01" + b"\x42\x00" * 2**20,
        "expected at most 8,192 fields in all, got more - at body",
    ),
    "a shape of many sizes": (
        changed(lambda r: set_shape(r, *[1] * 1_000_000)),
        "expected a shape of 1 to 9 sizes, got 1000000 - at inputs[0].shape",
    ),
}


@pytest.mark.parametrize("name", TYPED_BAD)
def test_a_bad_request_is_told_what_was_expected(name: str, caller: Grpc) -> None:
    request, sentence = TYPED_BAD[name]
    assert caller.failure("ModelInfer", request) == ("INVALID_ARGUMENT", sentence)


def test_calls_that_were_refused_leave_nothing_of_their_bodies(caller: Grpc, server: Server) -> None:
    process = psutil.Process(server.process.pid)
    wrong = raw(np.ones((1, 2**18, 9), np.float32))  # 9 MiB
    for count in (3, 20):
        before = process.memory_info().rss
        for _ in range(count):
            assert failure(caller.begin("ModelInfer", wrong))[0] == "INVALID_ARGUMENT"
    assert process.memory_info().rss - before < 60 * 2**20


@pytest.mark.parametrize("lacking", ["sequence_id", "sequence_start", "sequence_end"])
def test_what_the_server_lacks_is_unimplemented(lacking: str, caller: Grpc) -> None:
    request = raw(parameters={lacking: parameter(1)})
    assert caller.failure("ModelInfer", request) == ("UNIMPLEMENTED", f"this server has no {lacking} - at parameters")


def test_parameters_of_outputs_that_the_server_lacks_are_unimplemented(caller: Grpc) -> None:
    request = raw(outputs=outputs("block_output"))
    request.outputs[0].parameters["classification"].CopyFrom(parameter(3))
    said = "this server has no classification - at outputs[0].parameters"
    assert caller.failure("ModelInfer", request) == ("UNIMPLEMENTED", said)


@pytest.mark.parametrize("name", ["SystemSharedMemoryStatus", "TraceSetting", "LogSettings", "Nothing"])
def test_calls_that_are_not_here_are_unimplemented(name: str, caller: Grpc) -> None:
    code, said = failure(caller.begin(name, b""))
    assert code == "UNIMPLEMENTED"
    assert said.startswith("this server has no such call; ")


def test_an_unknown_model_or_version_is_not_found(caller: Grpc) -> None:
    code, said = caller.failure("ModelInfer", raw(model_name="none"))
    assert (code, said[:30], said[-13:]) == ("NOT_FOUND", "no such model; this server has", "at model_name")
    version = ("NOT_FOUND", "model tiny has no such version; it has 1 - at model_version")
    assert caller.failure("ModelInfer", raw(model_version="9")) == version
    for name in ("ModelMetadata", "ModelConfig", "ModelStatistics"):
        code, said = caller.failure(name, name="none")
        assert (code, said[-10:]) == ("NOT_FOUND", " - at name")


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_beyond_the_limit_is_refused_and_counted(compression: grpc.Compression, server: Server) -> None:
    request_id = f"too-long-{compression.name}"
    with Grpc(server.grpc, ("x-request-id", request_id)) as caller:
        big = raw(np.zeros((1, 2**19 + 1, 8), np.float32)).SerializeToString()
        send = caller.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        code, said = failure(send.future(big, compression=compression, metadata=caller.metadata))
    assert code == "RESOURCE_EXHAUSTED"
    assert said.endswith("essage larger than max") or said.startswith("SERVER: Received message larger than max")
    (line,) = lines_of(server, request_id)
    assert (line["status"], line["code"]) == (413, "body_too_large")


def test_what_the_models_say_is_what_they_say_over_http(caller: Grpc, client: httpx.Client) -> None:
    def over_grpc(name: str, /, **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = MessageToDict(caller.call(name, **fields), preserving_proto_field_name=True)
        return found

    assert over_grpc("ServerMetadata") == client.get("/v2").json()
    said, expected = over_grpc("ModelMetadata", name="tiny.probes"), client.get("/v2/models/tiny.probes").json()
    for tensor in (*said["inputs"], *said["outputs"]):  # JSON writes 64 bits as text
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    assert said == expected
    config = caller.call("ModelConfig", name="tiny", version="1").config
    expected = client.get("/v2/models/tiny/config").json()
    assert [list(tensor.dims) for tensor in config.input] == [tensor["dims"] for tensor in expected["input"]]
    assert [tensor.optional for tensor in config.input] == [False, True]
    assert (config.max_batch_size, config.backend) == (expected["max_batch_size"], "onnxruntime")
    index = over_grpc("RepositoryIndex")["models"]
    assert index == [{k: v for k, v in one.items() if v} for one in client.post("/v2/repository/index").json()]
    assert len(caller.call("ModelStatistics").model_stats) == len(index)


def test_a_call_counts_in_the_models_statistics(caller: Grpc) -> None:
    before = caller.call("ModelStatistics", name="tiny").model_stats[0]
    caller.begin("ModelInfer", raw()).result()
    after = caller.call("ModelStatistics", name="tiny").model_stats[0]
    assert after.inference_count - before.inference_count == 2
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1


def test_live_ready_and_health_tell_of_server_and_models(caller: Grpc) -> None:
    assert caller.call("ServerLive").live
    assert caller.call("ServerReady").ready
    ready = [caller.call("ModelReady", name=name).ready for name in ("tiny", "tiny.probes", "none", "")]
    assert ready == [True, True, False, False]
    assert [caller.call("ModelReady", name="tiny", version=version).ready for version in ("1", "9")] == [True, False]
    for service in ("", "inference.GRPCInferenceService", "tiny", "tiny.probes"):
        assert caller.health(service) == 1
    watching = caller.channel.unary_stream(HEALTH + "Watch")(b"", timeout=5)
    assert next(watching) == b"\x08\x01"
    watching.cancel()
    with pytest.raises(grpc.RpcError, match=r"expected a message of the protocol, as protobuf writes it"):
        next(caller.channel.unary_stream(HEALTH + "Watch")(b"\xff\xff", timeout=5))
    with pytest.raises(grpc.RpcError, match=r"expected the name of a model, .*Service, or none - at service"):
        caller.health("none")


def test_loading_and_unloading_are_switched_off(caller: Grpc) -> None:
    said = "loading and unloading are switched off: see the setting model_control"
    for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
        assert caller.failure(name, model_name="tiny") == ("PERMISSION_DENIED", said)


def test_an_answer_says_who_gave_it_and_how_long_it_took(server: Server) -> None:
    with Grpc(server.grpc, ("x-request-id", "grpc-1")) as caller:
        call = caller.begin("ModelInfer", raw())
        call.result()
        trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "grpc-1"
    assert (trailing["x-model-version"], len(trailing["x-model-sha256"])) == ("1", 64)
    assert trailing["server-timing"].startswith("decode;dur=")
    (line,) = lines_of(server, "grpc-1")
    assert (line["method"], line["status"]) == ("gRPC", 200)
    assert line["route"] == "/inference.GRPCInferenceService/ModelInfer"


def test_a_refusal_carries_its_code_for_programs(server: Server) -> None:
    with Grpc(server.grpc, ("x-request-id", "grpc-2")) as caller:
        call = caller.begin("ModelInfer", raw(model_name="none"))
        assert failure(call)[0] == "NOT_FOUND"
        trailing = dict(call.trailing_metadata())
    assert (trailing["x-request-id"], trailing["error-code"]) == ("grpc-2", "unknown_model")
    (line,) = lines_of(server, "grpc-2")
    assert (line["status"], line["code"]) == (404, "unknown_model")
