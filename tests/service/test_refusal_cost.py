"""A refusal at the door costs at most 100 µs of the server's CPU beside what the wire costs.

Counted is all that the process spends, its system calls and the log's thread included. A bare application that gives a
constant answer over uvicorn is measured in turn, round by round, and taken off: what reading a request, writing an
answer and, for a 413, a connection cost, which depends on the machine and its hour. The median of the rounds counts.
"""

import contextlib
import operator
import os
import signal
import socket
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import forked
from tests.server import Server, link_models, running
from tests.service.in_flight import endless
from tests.service.wire import HEAD, REQUEST, connect, receive

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
GOAL_S = 100e-6
COUNT, ROUNDS = 1500, 7
LARGE = HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 90_000
TOO_LARGE = HEAD + b"Content-Length: 20000000\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server whose one place is taken, by who waits for a run without an end."""
    folder = tmp_path_factory.mktemp("refusal-cost")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with (
        running(models, folder, "tests.service.faulty_service", max_in_flight=1, run_timeout_s=3600) as started,
        endless(started),
    ):
        yield started
        started.stop(signal.SIGKILL)


def ask(connection: socket.socket, data: bytes, status: bytes) -> None:
    connection.sendall(data)
    answer = b""
    while b"}" not in answer:
        answer += receive(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)


def cpu_s(server: Server, action: Callable[[], None]) -> float:
    """CPU seconds of the server for one of the COUNT requests of `action`."""
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    action()
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / COUNT


def print_rounds(what: str, each_s: Iterable[float]) -> None:
    sys.stdout.write(f"{what}: {' '.join(f'{seconds * 1e6:.0f}' for seconds in each_s)} µs\n")


def keep_asking(server: Server, data: bytes, status: bytes) -> None:
    """On one connection, which stays open."""
    with connect(server) as connection:
        for _ in range(COUNT):
            ask(connection, data, status)


def ask_anew(server: Server, data: bytes, status: bytes) -> None:
    """On a connection for each."""
    for _ in range(COUNT):
        with connect(server) as connection:
            ask(connection, data, status)


@contextlib.contextmanager
def bare(connection: str, folder: Path) -> Iterator[Server]:
    """Uvicorn with an application that does nothing but answer; `connection` is close or keep-alive."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words, outputs = [str(port), connection], (folder / "stdout", folder / "stderr")
    process = forked.start("tests.service.bare_uvicorn", words, os.environ, *outputs)
    started = Server(f"http://127.0.0.1:{port}", process, *outputs)
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                connect(started).close()
                break
        yield started
    finally:
        process.terminate()
        process.join(10)


@pytest.mark.parametrize(
    ("what", "data", "status", "connection", "action"),
    [
        ("429, connection kept", REQUEST, b"429", "keep-alive", keep_asking),
        ("429, 90 kB thrown away", LARGE, b"429", "keep-alive", keep_asking),
        ("413, connection closed", TOO_LARGE, b"413", "close", ask_anew),
    ],
)
def test_a_refusal_costs_at_most_100_us_beside_the_wire(
    server: Server,
    tmp_path: Path,
    what: str,
    data: bytes,
    status: bytes,
    connection: str,
    action: Callable[[Server, bytes, bytes], None],
) -> None:
    refusals_s, wires_s = [], []
    with bare(connection, tmp_path) as other:
        for _ in range(ROUNDS):
            refusals_s.append(cpu_s(server, lambda: action(server, data, status)))
            wires_s.append(cpu_s(other, lambda: action(other, data, b"400")))
    print_rounds(what, refusals_s)
    print_rounds("the same by uvicorn alone", wires_s)
    assert statistics.median(map(operator.sub, refusals_s, wires_s)) <= GOAL_S
