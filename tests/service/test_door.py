"""What the door refuses before the body is read, and what then becomes of the connection."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server import Server, link_models, running
from tests.service.faulty_service import HELD
from tests.service.in_flight import endless
from tests.service.log_lines import lines_of
from tests.service.refusal import GOOD
from tests.service.wire import HEAD, REQUEST, connect, exchange, read_one

FAULTY = "tests.service.faulty_service"
UNSENT = HEAD + b"Content-Length: 10000000\r\n\r\n"
IN_FLIGHT = (429, "in_flight", "", "1 requests are under way already; try again in a moment")
QUEUE_FULL = (429, "queue_full", "", "more than 100 positions wait for this model; try again in a moment")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Path:
    names = ("tiny", "head-256")
    return link_models(tmp_path_factory.mktemp("door") / "models", {name: artifact(name) for name in names})


def ask(server: Server, length: int) -> int:
    """The status that a good request of this length gets."""
    body = {"hidden_states": [[[0.5] * 8] * length]}
    return httpx.post(f"{server.url}/v1/models/tiny/forward", json=body, timeout=30).status_code


def until_in_flight(server: Server, count: int) -> None:
    deadline_s = time.monotonic() + 5
    with server.client() as client:
        while f"glassblock_in_flight_requests {float(count)}" not in client.get("/metrics").text:
            assert time.monotonic() < deadline_s


@contextlib.contextmanager
def under_way(server: Server, *lengths: int) -> Iterator[None]:
    """Good requests, of which the first has begun its run and the others wait; at the end, all have been answered."""
    with ThreadPoolExecutor(len(lengths)) as threads:
        futures = []
        for count, length in enumerate(lengths, 1):
            futures.append(threads.submit(ask, server, length))
            until_in_flight(server, count)
            time.sleep(0.1)  # the first one's run begins, and what comes after it waits
        yield
        assert [future.result() for future in futures] == [200] * len(lengths)


def test_with_too_many_under_way_a_request_is_refused_before_its_body(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, max_in_flight=1) as server, connect(server) as connection:
        with under_way(server, HELD):
            connection.sendall(UNSENT)
            refusal = read_one(connection)
            assert refusal.failure() == IN_FLIGHT
            assert int(refusal.headers["retry-after"]) in {1, 2}
            assert "connection" not in refusal.headers
            (other,) = exchange(server, UNSENT.replace(b"Content-", b"Expect: 100-continue\r\nContent-"))
            assert (other.failure(), other.headers["connection"]) == (IN_FLIGHT, "close")
            assert httpx.get(f"{server.url}/livez").status_code == 200
        for _ in range(10):  # the body that was not waited for; what comes of it now is thrown away
            connection.sendall(b"x" * 1_000_000)
        connection.sendall(REQUEST)
        assert read_one(connection).status == 200
        assert len(lines_of(server, refusal.headers["x-request-id"])) == 1


def test_with_a_full_queue_a_request_is_refused_before_its_body_and_other_models_are_served(
    models: Path, tmp_path: Path
) -> None:
    with running(models, tmp_path, FAULTY, max_queued_tokens=100) as server, under_way(server, HELD, 101):
        (answer,) = exchange(server, UNSENT.replace(b"Content-", b"Expect: 100-continue\r\nContent-"))
        assert answer.failure() == QUEUE_FULL
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/v1/models/tiny").status_code == 200
        body = {"hidden_states": [[[0.5] * 512]]}
        assert httpx.post(f"{server.url}/v1/models/head-256/forward", json=body).status_code == 200


def test_bodies_take_no_more_memory_than_a_limit_and_one_of_the_largest_is_always_taken(
    models: Path, tmp_path: Path
) -> None:
    head = b"POST /v1/models/tiny/forward HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n"
    with (
        running(models, tmp_path, max_body_bytes=200_000, max_bodies_bytes=100_000) as server,
        connect(server) as first,
        connect(server) as second,
    ):
        first.sendall(head % 180_000 + b" " * 175_000)
        time.sleep(0.2)  # what has been sent is here
        second.sendall(head % 30_000)
        refusal = read_one(second)
        message = "no room for this body: all that are here may take 200,000 bytes; try again in a moment"
        assert refusal.failure() == (429, "bodies_full", "", message)
        assert int(refusal.headers["retry-after"]) in {1, 2}
        assert httpx.post(f"{server.url}/v1/models/tiny/forward", content=GOOD).status_code == 200
        first.sendall(b" " * 5_000)
        assert read_one(first).status == 400
        second.sendall(b" " * 30_000 + head % len(GOOD) + GOOD)
        assert read_one(second).status == 200


@pytest.mark.long
def test_a_place_that_is_gone_when_the_body_is_whole_is_refused_too(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, max_in_flight=1) as server, connect(server) as connection:
        connection.sendall(REQUEST[:-1])
        with under_way(server, HELD):
            connection.sendall(REQUEST[-1:])
            assert read_one(connection).failure() == IN_FLIGHT


@pytest.fixture(scope="module")
def full(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose one place is taken, by who waits for a run without an end."""
    folder = tmp_path_factory.mktemp("full")
    limits = {"max_in_flight": 1, "max_header_bytes": 1024, "run_timeout_s": 3600}
    with running(models, folder, FAULTY, **limits) as server, endless(server):
        yield server
        server.stop(signal.SIGKILL)


@pytest.mark.long
def test_a_client_that_is_silent_after_a_refused_body_is_closed_as_any_idle_one(models: Path, tmp_path: Path) -> None:
    short = running(models, tmp_path, FAULTY, max_in_flight=1, idle_timeout_s=0.5)
    with short as server, under_way(server, HELD), connect(server) as connection:
        for _ in range(3):  # from the second on its head is known
            connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 1000)
            assert read_one(connection).failure() == IN_FLIGHT
            connection.sendall(b" " * 89_000)
        start_s = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - start_s < 5


def test_refused_requests_of_one_packet_are_answered_in_order_and_each_leaves_one_line(full: Server) -> None:
    packed = [
        HEAD + b"X-Request-ID: packed-%d\r\nContent-Length: %d\r\n\r\n" % (i, len(GOOD)) + GOOD for i in range(50)
    ]
    last = b"GET /livez HTTP/1.1\r\nHost: test\r\nX-Request-ID: live\r\nConnection: close\r\n\r\n"
    answers = exchange(full, b"".join(packed) + last)
    assert [answer.status for answer in answers] == [429] * 50 + [200]
    assert [answer.headers["x-request-id"] for answer in answers] == [*(f"packed-{i}" for i in range(50)), "live"]
    assert [answer.failure() for answer in answers[:50]] == [IN_FLIGHT] * 50
    assert [len(lines_of(full, f"packed-{i}")) for i in range(50)] == [1] * 50


def test_blank_lines_between_refused_requests_do_not_add_up_to_a_head_that_is_too_long(full: Server) -> None:
    with connect(full) as connection:
        for _ in range(600):
            connection.sendall(REQUEST)
            assert read_one(connection).failure() == IN_FLIGHT
            connection.sendall(b"\r\n")


def test_a_refused_head_gets_no_body_and_its_connection_stays_open(full: Server) -> None:
    with full.client() as client:
        refused = [client.head("/v1/models", headers={"X-Request-ID": f"head-{i}"}) for i in range(2)]
        assert [(answer.status_code, answer.content) for answer in refused] == [(429, b"")] * 2
        assert int(refused[0].headers["content-length"]) > 0
        (line,) = lines_of(full, "head-1")
        assert (line["method"], line["route"], line["status"], line["code"]) == ("HEAD", "none", 429, "in_flight")


def test_a_refusal_says_when_the_client_wants_the_connection_closed_after_it(full: Server) -> None:
    (modern,) = exchange(full, REQUEST.replace(b"Content-", b"Connection: close\r\nContent-"))
    (old,) = exchange(full, REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert [(answer.failure(), answer.headers["connection"]) for answer in (modern, old)] == [(IN_FLIGHT, "close")] * 2


def test_who_leaves_during_a_run_is_noticed_though_the_last_piece_of_the_body_was_large(
    models: Path, tmp_path: Path
) -> None:
    body = json.dumps({"hidden_states": [[[0.5] * 8] * HELD]}).encode().ljust(170_000)
    with running(models, tmp_path, FAULTY) as server:
        with connect(server) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:100_000])
            time.sleep(0.1)  # longer than a body is given to come whole
            connection.sendall(body[100_000:])
            until_in_flight(server, 1)
        start_s = time.monotonic()
        until_in_flight(server, 0)
        assert time.monotonic() - start_s < 1


LIVE = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.long
@pytest.mark.parametrize("data", [REQUEST, LIVE], ids=["refused", "answered"])
def test_who_reads_no_answer_is_soon_read_from_no_more(full: Server, data: bytes) -> None:
    process, sent, limit = psutil.Process(full.process.pid), 0, 24 * 2**20
    before, url = process.memory_info().rss, httpx.URL(full.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(1)
        connection.connect((url.host, url.port))
        with contextlib.suppress(TimeoutError):
            while sent < limit:
                sent += connection.send(data * 500)
    assert sent < limit
    assert process.memory_info().rss - before < limit


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
def test_no_cors_header_is_ever_sent(client: httpx.Client, method: str) -> None:
    headers = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for path in ("/v1/models/tiny/forward", "/v1/models", "/livez", "/docs", "/nowhere"):
        answer = client.request(method, path, headers=headers, content=GOOD if method == "POST" else None)
        assert [name for name in answer.headers if name.startswith("access-control")] == []
        assert "origin" not in answer.headers.get("vary", "").lower()
        if method == "OPTIONS" and path != "/nowhere":
            assert answer.status_code == 405
            assert json.loads(answer.content)["code"] == "method_not_allowed"
