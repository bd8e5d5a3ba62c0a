"""A refusal at the door costs at most 100 µs of the server's CPU.

Counted is all that the process spends, its system calls and the log's thread included: uvicorn's parser and its task,
the log line, the metrics. A 429 leaves the connection open. A 413 closes it, and a connection costs uvicorn more than
the refusal: a bare application that gives a constant answer and closes is measured beside it and taken off. The least
of the rounds counts: other processes on the same cores only ever add.
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.server import Server, link_models, running
from tests.service.wire import HEAD, REQUEST, connect

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
GOAL_S = 100e-6
COUNT, ROUNDS = 1500, 7
LARGE = HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 90_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server whose one place is taken, by who has sent most of a body."""
    folder = tmp_path_factory.mktemp("refusal-cost")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, max_in_flight=1, body_timeout_s=600) as started, connect(started) as connection:
        connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 80_000)
        yield started


def ask(connection: socket.socket, data: bytes, status: bytes) -> None:
    connection.sendall(data)
    answer = b""
    while b"}" not in answer:
        answer += connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 " + status)


def cpu_s(server: Server, what: str, action: Callable[[], None]) -> float:
    """The least of the rounds' CPU seconds of the server for one of the COUNT requests of `action`."""
    process = psutil.Process(server.process.pid)
    found = []
    for _ in range(ROUNDS):
        before = process.cpu_times()
        action()
        after = process.cpu_times()
        found.append((after.user + after.system - before.user - before.system) / COUNT)
    sys.stdout.write(f"{what}: {' '.join(f'{seconds * 1e6:.0f}' for seconds in found)} µs\n")
    return min(found)


def keep_asking(server: Server, data: bytes) -> None:
    with connect(server) as connection:
        for _ in range(COUNT):
            ask(connection, data, b"429")


def test_a_429_costs_at_most_100_us(server: Server) -> None:
    assert cpu_s(server, "429, connection kept", lambda: keep_asking(server, REQUEST)) <= GOAL_S


def test_a_429_for_a_body_of_90_kb_costs_at_most_twice_as_much(server: Server) -> None:
    assert cpu_s(server, "429, 90 kB thrown away", lambda: keep_asking(server, LARGE)) <= 2 * GOAL_S


BARE = """
import sys, uvicorn
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b'{"error":"too large"}'})
uvicorn.run(app, port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
"""


@pytest.fixture
def bare() -> Iterator[Server]:
    """Uvicorn with an application that does nothing but answer and close."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    started = Server(f"http://127.0.0.1:{port}", process, Path(), Path())
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                connect(started).close()
                break
        yield started
    finally:
        process.terminate()
        process.wait(10)


def test_a_413_costs_at_most_100_us_beside_its_connection(server: Server, bare: Server) -> None:
    def refuse(by: Server) -> None:
        for _ in range(COUNT):
            with connect(by) as connection:
                ask(connection, HEAD + b"Content-Length: 20000000\r\n\r\n", b"413")

    alone_s = cpu_s(bare, "413 by uvicorn alone, connection closed", lambda: refuse(bare))
    assert cpu_s(server, "413, connection closed", lambda: refuse(server)) - alone_s <= GOAL_S
