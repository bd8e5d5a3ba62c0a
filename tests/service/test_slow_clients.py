"""Clients that do not keep their deadlines (faults A1 to A5), and those that must not be touched."""

import contextlib
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server import Server, link_models, running
from tests.service.faulty_service import SLOW
from tests.service.log_lines import lines_of
from tests.service.refusal import GOOD, assert_refused, hidden_states, post
from tests.service.wire import HEAD, REQUEST, connect, read_all, read_one, read_some, receive, until_served

DEADLINE_S = 0.4
DEADLINES = dict.fromkeys(("idle_timeout_s", "header_timeout_s", "body_timeout_s", "answer_timeout_s"), DEADLINE_S)
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server with short deadlines, whose runs of SLOW positions take longer than any of them."""
    folder = tmp_path_factory.mktemp("slow-clients")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, "tests.service.faulty_service", **DEADLINES) as started:
        yield started


def trickle(connection: socket.socket, data: bytes) -> None:
    """Sends a byte every 50 ms until the other side has closed."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


@contextlib.contextmanager
def closed_in_time() -> Iterator[None]:
    start_s = time.monotonic()
    yield
    assert DEADLINE_S - 0.05 < time.monotonic() - start_s < DEADLINE_S + 1


def test_who_connects_and_says_nothing_is_closed_without_a_word(server: Server) -> None:
    with connect(server) as connection, closed_in_time():
        assert read_all(connection) == []


def test_empty_lines_before_a_request_win_no_time(server: Server) -> None:
    with connect(server) as connection, ThreadPoolExecutor(1) as threads, closed_in_time():
        threads.submit(trickle, connection, b"\r\n" * 10)
        assert read_all(connection) == []


def test_an_idle_connection_is_closed_after_its_last_answer(server: Server) -> None:
    with connect(server) as connection:
        for _ in range(3):
            time.sleep(DEADLINE_S / 2)
            connection.sendall(REQUEST)
            assert read_one(connection).status == 200
        with closed_in_time():
            assert read_all(connection) == []


SLOW_HEAD = (HEAD + b"X-Slow: " + b"y" * 1000, "head_timeout", "expected the whole head within 0.4 s")
SLOW_BODY = (HEAD + b"Content-Length: 9999\r\n\r\n", "body_timeout", "expected the whole body within 0.4 s")
SLOW_CHUNKS = (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *SLOW_BODY[1:])


@pytest.mark.parametrize(
    ("head", "code", "message"),
    [
        pytest.param(*SLOW_HEAD, id="head"),
        pytest.param(*SLOW_BODY, id="body", marks=pytest.mark.long),
        pytest.param(*SLOW_CHUNKS, id="chunks", marks=pytest.mark.long),
    ],
)
def test_a_trickled_request_is_answered_with_408_at_its_deadline(
    server: Server, head: bytes, code: str, message: str
) -> None:
    with connect(server) as connection, ThreadPoolExecutor(1) as threads:
        connection.sendall(head[:-500] if head.endswith(b"y") else head)
        with closed_in_time():
            threads.submit(trickle, connection, b"y" * 30 if head.endswith(b"y") else b"1\r\nx\r\n" * 10)
            (answer,) = read_all(connection)
    assert answer.failure() == (408, code, "", message)
    assert answer.headers["connection"] == "close"
    (line,) = lines_of(server, answer.headers["x-request-id"])
    assert (line["status"], line["code"]) == (408, code)


def test_a_trickled_head_after_a_request_still_gets_the_answer_to_that(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(REQUEST + HEAD)
        first, second = read_all(connection)
    assert (first.status, second.failure()[:2]) == (200, (408, "head_timeout"))


BEGUN = {
    "a byte of 60 kB": HEAD + b"Content-Length: 60000\r\n\r\n{",
    "most of 70 kB": HEAD + b"Content-Length: 70000\r\n\r\n" + b" " * 66_000,
    "66 kB of the largest": HEAD + b"Content-Length: 16777216\r\n\r\n" + b" " * 66_000,
    "66 kB in a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n101d0\r\n" + b" " * 66_000 + b"\r\n",
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server with one place, and room for one of the largest bodies and for answers of 20 MiB."""
    folder = tmp_path_factory.mktemp("narrow")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, max_in_flight=1, max_bodies_bytes=16 * MIB, max_answers_bytes=20 * MIB) as started:
        yield started


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_who_sends_a_body_slowly_takes_no_place_from_others(narrow: Server, begun: bytes) -> None:
    with contextlib.ExitStack() as stack, narrow.client() as client:
        for _ in range(20):
            stack.enter_context(connect(narrow)).sendall(begun)
        time.sleep(0.1)
        assert [post(client, GOOD).status_code for _ in range(5)] == [200] * 5


def test_a_request_in_its_run_has_no_deadline(server: Server) -> None:
    with server.client() as client:
        answer = client.post("/v1/models/tiny/forward", json={"hidden_states": [[[0.5] * 8] * SLOW]})
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() > DEADLINE_S + 0.05


def test_a_request_behind_a_slow_one_has_no_deadline_while_it_is_kept_waiting(server: Server) -> None:
    body = json.dumps({"hidden_states": [[[0.5] * 8] * SLOW]}).encode()
    slow = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connect(server) as connection:
        connection.sendall(slow + REQUEST[:-10])
        assert read_one(connection).status == 200
        time.sleep(DEADLINE_S / 2)
        connection.sendall(REQUEST[-10:])
        assert read_one(connection).status == 200


LARGE = hidden_states(json.dumps([[[0.123] * 8] * 1000]), ',"outputs":["attention_weights[0]"]').replace(b"[0]", b"")
OF_SMALL_ROWS = hidden_states(json.dumps([[[0.1] * 8] * 100] * 100), ',"outputs":["layers.0.attention_weights"]')


def ask_for_much(server: Server, window: int = 4096) -> socket.socket:
    """A connection with a small window, in bytes, over which an answer of some 20 MB has been asked for."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(20)
    url = httpx.URL(server.url)
    connection.connect((url.host, url.port))
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
    return connection


def length_of(head: bytes) -> int:
    """The Content-Length in the beginning of an answer."""
    (line,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(line[15:])


def test_who_does_not_take_an_answer_is_cut_off_and_its_memory_is_freed(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    with ask_for_much(server) as connection:
        head = connection.recv(400)
        assert head.startswith(b"HTTP/1.1 200 OK")
        deadline_s = time.monotonic() + 5
        while process.num_fds() > before:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(MIB):
                received += len(chunk)
        assert received < length_of(head)


def test_large_answers_are_refused_beside_one_that_is_not_taken_and_small_ones_are_not(narrow: Server) -> None:
    with narrow.client() as client, ask_for_much(narrow) as connection:
        assert connection.recv(400).startswith(b"HTTP/1.1 200 OK")
        message = "no room for this answer: all that are not sent may take 20,971,520 bytes; try again in a moment"
        for body in (LARGE, OF_SMALL_ROWS):
            assert_refused(post(client, body), 429, "answers_full", "", message)
        assert post(client, GOOD).status_code == 200
    with narrow.client() as client:
        deadline_s = time.monotonic() + 5
        while post(client, LARGE).status_code != 200:
            assert time.monotonic() < deadline_s


@pytest.mark.long
def test_who_takes_an_answer_slowly_but_steadily_gets_all(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, answer_timeout_s=2) as server, ask_for_much(server, window=MIB // 4) as connection:
        start_s, data = time.monotonic(), b""
        while not (head := data.partition(b"\r\n\r\n"))[1]:
            data += receive(connection, 4096)
        length, size = length_of(data), len(head[2])
        while size < length:
            size += len(receive(connection, MIB))
            allowed_s = size / (4 * MIB)  # a second: six times the least, yet longer than a deadline in all
            time.sleep(max(0.0, start_s + allowed_s - time.monotonic()))
    assert size == length
    assert time.monotonic() - start_s > 2 * 2


@pytest.mark.long
def test_beyond_max_connections_a_client_is_told_so(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, max_connections=3, idle_timeout_s=1) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(server))
        with connect(server) as connection:
            (answer,) = read_all(connection)
        message = "3 connections are open already; try again in a moment"
        assert answer.failure() == (503, "too_many_connections", "", message)
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        time.sleep(1.2)
        with server.client() as client:
            assert post(client, GOOD).status_code == 200


LIMITED = "tests.service.limited_service"


def test_a_low_limit_of_descriptors_is_raised_for_max_connections(
    artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setenv("DESCRIPTORS", str(hard))
    with running(models, tmp_path, LIMITED) as server, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(server))
        with server.client() as client:
            assert post(client, GOOD).status_code == 200


@pytest.mark.long
def test_a_server_without_descriptors_serves_who_is_there_and_recovers(
    artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    monkeypatch.setenv("DESCRIPTORS", "64")
    with running(models, tmp_path, LIMITED, idle_timeout_s=2) as server:
        process = psutil.Process(server.process.pid)
        with server.client() as client, contextlib.ExitStack() as stack:
            assert post(client, GOOD).status_code == 200
            for _ in range(100):
                stack.enter_context(connect(server))
            assert post(client, GOOD).status_code == 200
            before_s = process.cpu_times().user
            time.sleep(0.5)
            assert process.cpu_times().user - before_s < 0.25
        assert until_served(server) < 5  # a client that comes while the others are being closed is turned away


def test_a_head_that_waits_behind_other_requests_has_its_time_once_they_are_answered(server: Server) -> None:
    slow = hidden_states(json.dumps([[[0.5] * 8] * SLOW]))
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(slow) + slow)
        time.sleep(0.05)
        connection.sendall(REQUEST + REQUEST[:10])
        time.sleep(0.05)
        connection.sendall(REQUEST[10:])
        assert [answer.status for answer in read_some(connection, 3)] == [200, 200, 200]
