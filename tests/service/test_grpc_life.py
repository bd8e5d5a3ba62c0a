"""gRPC through a server's life: keys, limits shared with HTTP, clients who leave, loading, draining, and no port."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import forked
from tests.server import Server, link_models, running
from tests.service.faulty_service import HELD, SLOW, STUCK
from tests.service.grpc_client import Grpc, failure, raw
from tests.service.log_lines import lines_of, log_of

FAULTY = "tests.service.faulty_service"
KEY = "a-key-of-alice"
BEARER = ("authorization", f"Bearer {KEY}")
FORWARD = "/v1/models/tiny/forward"
FOUR = {"hidden_states": [[[0.5] * 8] * 4]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Path:
    """A models folder with `tiny` alone."""
    return link_models(tmp_path_factory.mktemp("models"), {"tiny": artifact("tiny")})


@pytest.fixture(scope="module")
def locked(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for keys and takes two requests at once, some of which are slow."""
    folder = tmp_path_factory.mktemp("locked")
    keys = folder / "keys.txt"
    keys.write_text(f"alice:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    with running(
        models, folder, FAULTY, grpc_port=0, api_keys_file=keys, max_in_flight=2, body_timeout_s=0.8
    ) as server:
        yield server


def rows(length: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((1, length, 8), 0.5, np.float32)


def wait_until_in_flight(server: Server, count: int) -> None:
    deadline_s = time.monotonic() + 5
    headers = {"Authorization": f"Bearer {KEY}"}
    while f"glassblock_in_flight_requests {count:.1f}" not in httpx.get(f"{server.url}/metrics", headers=headers).text:
        assert time.monotonic() < deadline_s, f"{count} requests are not under way"
        time.sleep(0.01)


def test_without_a_key_only_health_is_told(locked: Server) -> None:
    said = "expected the header Authorization: Bearer with a key of this server - at Authorization"
    for metadata in ((), (("authorization", "Bearer another"),), (BEARER, BEARER)):
        with Grpc(locked.grpc, *metadata) as caller:
            for name in ("ModelInfer", "ModelReady", "ServerMetadata", "RepositoryIndex"):
                assert caller.failure(name) == ("UNAUTHENTICATED", said)
            assert failure(caller.begin("Nothing", b"")) == ("UNAUTHENTICATED", said)
            assert caller.call("ServerLive").live
            assert caller.call("ServerReady").ready
            assert caller.health() == 1


def test_a_key_opens_every_call_and_its_name_is_logged(locked: Server) -> None:
    with Grpc(locked.grpc, BEARER, ("x-request-id", "with-a-key")) as caller:
        assert caller.begin("ModelInfer", raw(rows(3))).result().outputs
    (line,) = lines_of(locked, "with-a-key")
    assert (line["api_key"], line["status"]) == ("alice", 200)
    assert KEY not in locked.stdout.read_text()


def test_a_call_that_is_cancelled_gives_its_place_back(locked: Server) -> None:
    with Grpc(locked.grpc, BEARER, ("x-request-id", "leaves")) as caller:
        call = caller.begin("ModelInfer", raw(rows(HELD)))
        wait_until_in_flight(locked, 1)
        call.cancel()
        start_s = time.monotonic()
        wait_until_in_flight(locked, 0)
        assert time.monotonic() - start_s < 1
    (line,) = lines_of(locked, "leaves")
    assert line["status"] == 499


def test_the_calls_own_deadline_ends_its_work(locked: Server) -> None:
    with Grpc(locked.grpc, BEARER, ("x-request-id", "late")) as caller:
        assert failure(caller.begin("ModelInfer", raw(rows(HELD)), timeout_s=0.3))[0] == "DEADLINE_EXCEEDED"
    (line,) = lines_of(locked, "late")
    assert (line["status"], line["code"]) == (504, "deadline_exceeded")
    wait_until_in_flight(locked, 0)


def test_both_faces_share_one_limit_of_requests_under_way(locked: Server) -> None:
    with Grpc(locked.grpc, BEARER) as caller, locked.client() as client:
        calls = [caller.begin("ModelInfer", raw(rows(SLOW))) for _ in range(2)]
        wait_until_in_flight(locked, 2)
        said = "2 requests are under way already; try again in a moment"
        refused = caller.begin("ModelInfer", raw(rows(3)))
        assert failure(refused) == ("RESOURCE_EXHAUSTED", said)
        assert int(dict(refused.trailing_metadata())["retry-after"]) in {1, 2}
        answer = client.post(FORWARD, json=FOUR, headers={"Authorization": f"Bearer {KEY}"})
        assert (answer.status_code, answer.json()["error"]) == (429, said)
        assert caller.health() == 1
        assert all(call.result().outputs for call in calls)


def test_calls_whose_message_does_not_come_take_no_place_and_are_as_many_at_most(locked: Server) -> None:
    silent = threading.Event()
    with Grpc(locked.grpc, BEARER) as caller, locked.client() as client:
        send = caller.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [send.future((b"" for _ in range(1) if silent.wait(20)), metadata=caller.metadata) for _ in range(3)]
        assert client.post(FORWARD, json=FOUR, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        codes = sorted(failure(call)[0] for call in calls)
        assert codes == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"]
        silent.set()


def test_a_message_that_does_not_come_gives_its_place_back(locked: Server) -> None:
    silent = threading.Event()
    with Grpc(locked.grpc, BEARER) as caller:
        send = caller.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        call = send.future((b"" for _ in range(1) if silent.wait(20)), metadata=caller.metadata)
        assert failure(call) == ("DEADLINE_EXCEEDED", "expected the whole body within 0.8 s")
        silent.set()
    wait_until_in_flight(locked, 0)


def test_models_are_loaded_and_unloaded_where_that_is_switched_on(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, grpc_port=0, model_control=True) as server, Grpc(server.grpc) as caller:
        caller.call("RepositoryModelUnload", model_name="tiny", parameters={"unload_dependents": {"bool_param": True}})
        assert not caller.call("ModelReady", name="tiny").ready
        assert caller.call("RepositoryIndex").models[0].state == "UNAVAILABLE"
        assert list(caller.call("RepositoryIndex", ready=True).models) == []
        caller.call("RepositoryModelLoad", model_name="tiny")
        assert caller.begin("ModelInfer", raw()).result().outputs
        files = {"file:1/model.onnx": {"bytes_param": b"no"}}
        said = "this server loads what is in its models folder, without configurations or files of a request"
        refused = caller.failure("RepositoryModelLoad", None, model_name="tiny", parameters=files)
        assert refused == ("UNIMPLEMENTED", f"{said} - at parameters")
        refused = caller.failure("RepositoryModelUnload", None, model_name="tiny", repository_name="mine")
        assert refused == ("UNIMPLEMENTED", "this server has no repository_name - at repository_name")
        assert caller.failure("RepositoryModelLoad", None, model_name="tiny.probes")[0] == "INVALID_ARGUMENT"
        code, said = caller.failure("RepositoryModelLoad", None, model_name="none")
        assert (code, said) == ("NOT_FOUND", "no such model in the models folder - at model_name")


def test_while_draining_health_says_no_and_calls_are_served(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, grpc_port=0, drain_delay_s=0.7) as server, Grpc(server.grpc) as caller:
        watching = caller.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert next(watching) == b"\x08\x01"
        slow = caller.begin("ModelInfer", raw(rows(HELD)))
        wait_until_in_flight(server, 1)
        server.send(signal.SIGTERM)
        assert next(watching) == b"\x08\x02"
        assert not caller.call("ServerReady").ready
        assert (caller.health(), caller.health("tiny")) == (2, 2)
        assert caller.call("ModelReady", name="tiny").ready
        assert caller.begin("ModelInfer", raw(rows(3))).done() is False
        assert slow.result().outputs
        assert list(watching) == []
        assert server.wait(3) == 0


@pytest.mark.long
def test_what_the_drain_timeout_cuts_off_is_told_so(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, grpc_port=0, drain_timeout_s=1) as server, Grpc(server.grpc) as caller:
        stuck = caller.begin("ModelInfer", raw(rows(STUCK)))
        wait_until_in_flight(server, 1)
        start_s = time.monotonic()
        server.send(signal.SIGTERM)
        assert failure(stuck) == ("UNAVAILABLE", "the server is shutting down")
        assert server.wait(3) == 0
        assert time.monotonic() - start_s < 3
    assert "Traceback" not in server.stdout.read_text()


def test_an_idle_server_with_open_channels_ends_at_once(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, grpc_port=0) as server, Grpc(server.grpc) as caller:
        assert caller.call("ServerReady").ready
        start_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start_s < 1.5


@pytest.mark.long
def test_an_older_protobuf_than_the_servers_is_said_in_a_sentence(models: Path) -> None:
    older = """
import sys
from google.protobuf import runtime_version as found
def validate(*words):
    if "open_inference.proto" in words[-1]:
        raise found.VersionError("gencode 7.35.1 runtime 6.33.6")
found.ValidateProtobufRuntimeVersion = validate
from service.__main__ import main
main()
"""
    command = [sys.executable, "-c", older, f"--models={models}", "--http-port=0", "--grpc-port=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    missing = "a protobuf as new as the one that it was built with is not installed"
    message = f"grpc_port is set, but {missing}: install Glassblock with its extra grpc"
    assert (done.returncode, done.stderr) == (1, f"glassblock-serve: {message}\n")


@pytest.mark.long
def test_while_the_models_load_calls_are_unavailable_and_liveness_is_told(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        http_port, grpc_port = first.getsockname()[1], second.getsockname()[1]
    flags = (f"--models={models}", f"--http-port={http_port}", f"--grpc-port={grpc_port}", "--layer-graphs=eager")
    environment = {**os.environ, "FAULT": "loading"}
    process = forked.start(FAULTY, ["serve", *flags], environment, Path(os.devnull), tmp_path / "stderr")
    try:
        with Grpc(f"127.0.0.1:{grpc_port}") as caller:
            _wait_for_channel(caller)
            assert not caller.call("ServerReady").ready
            assert (caller.health(), caller.health("inference.GRPCInferenceService")) == (2, 2)
            assert not caller.call("ModelReady", name="tiny").ready
            assert caller.health("tiny") == 2
            assert caller.failure("ModelInfer", raw(rows(3))) == ("UNAVAILABLE", "the models are still loading")
            process.terminate()
            process.join(5)
            assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def _wait_for_channel(caller: Grpc) -> None:
    deadline_s = time.monotonic() + 20
    while caller.begin("ServerLive").exception() is not None:
        assert time.monotonic() < deadline_s, "gRPC does not listen"
        time.sleep(0.05)


def test_a_port_that_is_taken_stops_the_start(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = forked.run(tmp_path, "serve", f"--models={models}", "--http-port=0", GLASSBLOCK_GRPC_PORT=str(port))
    assert done.returncode == 1
    message = f"cannot listen on 127.0.0.1 port {port} for gRPC; set --http-host or --grpc-port"
    assert done.stderr == f"glassblock-serve: {message}\n"


@pytest.mark.long
def test_the_port_without_its_extra_stops_the_start_and_says_what_to_install(models: Path) -> None:
    program = (
        "import os, sys; os.environ['GLASSBLOCK_GRPC_PORT'] = '0'; sys.modules['grpc'] = None; "
        "from service.__main__ import main; main()"
    )
    message = "grpc_port is set, but grpc is not installed: install Glassblock with its extra grpc"
    command = [sys.executable, "-c", program, "serve", f"--models={models}", "--http-port=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, f"glassblock-serve: {message}\n")


def test_a_bug_is_told_as_one_and_gives_nothing_away(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, "tests.service.buggy_service", grpc_port=0) as server, Grpc(server.grpc) as caller:
        said = "the server failed; this is a bug of the server"
        assert caller.failure("ModelInfer", raw()) == ("INTERNAL", said)
        assert caller.call("ModelReady", name="tiny").ready
        assert "TypeError" in log_of(server)
