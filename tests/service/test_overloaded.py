"""Ten times as many requests as the runs can serve: probes, slow clients, retries, a stop, noise (O8, O10 to O12, F31).

Runs of SLOW positions sleep, so that little of the machine is used: 8 requests under way take about a second.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvloop

from load_tests.connection import Connection
from load_tests.open_loop import Load, Run, open_loop
from load_tests.sender import BROKEN
from service.settings import read_settings
from service.shedding import shed
from tests.server import Server, link_models, running
from tests.service.faulty_service import SLOW
from tests.service.in_flight import FORWARD, body
from tests.service.wire import HEAD

FAULTY = "tests.service.faulty_service"
PLACES, RATE = 8, 80
DEADLINE_S = 0.5
PROBES = [f"GET {path} HTTP/1.1\r\nHost: glassblock\r\n\r\n".encode() for path in ("/livez", "/readyz")]


@pytest.fixture
def models(tmp_path: Path, artifact: Callable[[str], Path]) -> Path:
    return link_models(tmp_path / "models", {"tiny": artifact("tiny")})


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server with few places, and little patience with slow clients."""
    folder = tmp_path_factory.mktemp("overloaded")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    deadlines = {"header_timeout_s": DEADLINE_S, "body_timeout_s": DEADLINE_S}
    with running(models, folder, FAULTY, max_in_flight=PLACES, **deadlines) as started:
        httpx.post(started.url + FORWARD, json=body(SLOW))  # a first one costs more than the others
        yield started


def address_of(server: Server) -> str:
    return server.url.removeprefix("http://")


def slow_load(server: Server, **fields: object) -> Load:
    """Requests that take a run of SLOW each; with these fields beside their sequence."""
    data = json.dumps(body(SLOW) | fields).encode()
    return Load(address_of(server), HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)


def overload(server: Server, seconds: float, **fields: object) -> "asyncio.Task[Run]":
    """Far more requests than there are places for, for so long."""
    return asyncio.ensure_future(open_loop(slow_load(server, **fields), RATE, seconds))


def assert_served_and_shed(run: Run) -> None:
    assert run.outcomes.keys() == {"200", "429"}
    assert run.outcomes["200"] >= PLACES
    assert run.outcomes["429"] > run.outcomes["200"]
    assert all(exchange.retry_after for exchange in run.exchanges if exchange.outcome == "429")


@pytest.mark.long
def test_probes_are_answered_at_once_during_overload(narrow: Server) -> None:
    async def scenario() -> None:
        loading = overload(narrow, 1.5)
        await asyncio.sleep(0.3)
        probes = [await open_loop(Load(address_of(narrow), request), 20, 0.5) for request in PROBES]
        run = await loading
        assert_served_and_shed(run)
        for probe in probes:
            assert probe.outcomes == {"200": 10}
            assert probe.latencies_ms()["p50"] < run.latencies_ms()["p50"] / 2

    uvloop.run(scenario())


@pytest.mark.long
def test_a_burst_of_new_clients_is_refused_in_one_go_however_long_the_door_rests(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rest behind each of them, 80 would take 1.6 s."""
    monkeypatch.setenv("FAULT", "resting")

    async def scenario(server: Server) -> None:
        loading = overload(server, 1.2)
        await asyncio.sleep(0.5)
        burst = await open_loop(slow_load(server), 10_000, 0.008)
        assert burst.outcomes["429"] > 70
        assert burst.latencies_ms("429")["p100"] < 600
        assert_served_and_shed(await loading)

    with running(models, tmp_path, FAULTY, max_in_flight=PLACES) as server:
        uvloop.run(scenario(server))


async def trickle(server: Server, head: bytes) -> tuple[int, float]:
    """Sends a head and then a byte every 0.1 s: the status that comes of it, and after how long."""
    connection, start_s = await Connection.open(address_of(server)), time.monotonic()
    connection.send(head)
    answer = asyncio.ensure_future(connection.receive())
    while not answer.done():
        await asyncio.wait([answer], timeout=0.1)
        connection.send(b"x")
    connection.leave()
    return answer.result().status, time.monotonic() - start_s


@pytest.mark.long
def test_slow_clients_are_cut_off_during_overload_and_take_no_place(narrow: Server) -> None:
    async def scenario() -> None:
        loading = overload(narrow, 1.5)
        await asyncio.sleep(0.3)
        heads = [HEAD + b"X-Slow: ", HEAD + b"Content-Length: 50000\r\n\r\n"] * 20
        found = await asyncio.gather(*(trickle(narrow, head) for head in heads))
        # A head that is whole is told of the overload like any other.
        assert {status for status, _ in found} <= {408, 429}
        assert [status for status, _ in found[::2]] == [408] * 20
        assert all(DEADLINE_S - 0.05 < seconds < DEADLINE_S + 1 for status, seconds in found if status == 408)
        assert_served_and_shed(await loading)

    uvloop.run(scenario())


@pytest.mark.long
def test_sigterm_during_overload_answers_every_request_or_refuses_it(models: Path, tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        loading = overload(server, 2)
        await asyncio.sleep(0.7)
        signal_s = time.perf_counter()
        server.send(signal.SIGTERM)
        run = await loading
        early = Counter(one.outcome for one in run.exchanges if one.sent_s < signal_s)
        assert early.keys() == {"200", "429"}
        assert run.outcomes.keys() <= {"200", "429", "503", BROKEN}
        refused = [one for one in run.exchanges if one.outcome == BROKEN]
        assert refused, "the listener never closed: nothing was shown"
        assert min(one.sent_s for one in refused) > signal_s + 0.3

    with running(models, tmp_path, FAULTY, max_in_flight=PLACES, drain_delay_s=0.4) as server:
        uvloop.run(scenario(server))
        assert server.wait(5) == 0


@contextlib.contextmanager
def noisy_neighbours(server: Server, count: int) -> Iterator[None]:
    """Everything of the server's on one core, and beside it processes that take all they are given."""
    core = {min(os.sched_getaffinity(0))}
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), core)
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for neighbour in neighbours:
            os.sched_setaffinity(neighbour.pid, core)
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


@pytest.mark.long
def test_deadlines_are_kept_and_probes_answered_beside_noisy_neighbours(models: Path, tmp_path: Path) -> None:
    timeout_s, slack_s = 0.8, 0.3

    async def scenario(server: Server) -> None:
        loading = overload(server, 3, timeout_s=timeout_s)
        probes = [await open_loop(Load(address_of(server), request), 10, 1) for request in PROBES]
        assert (await loading).outcomes.keys() == {"200", "429", "504"}
        assert [probe.outcomes for probe in probes] == [{"200": 10}] * 2

    with running(models, tmp_path, FAULTY, max_in_flight=2 * PLACES) as server:
        httpx.post(server.url + FORWARD, json=body(SLOW))
        with noisy_neighbours(server, 2):
            uvloop.run(scenario(server))
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.stdout.read_text().splitlines()]
    kept_ms = [line["duration_ms"] for line in lines if line.get("status") in {200, 504}]
    assert max(kept_ms) < (timeout_s + slack_s) * 1e3


async def ask_until_served(client: httpx.AsyncClient, waited_s: list[int]) -> None:
    """Asks again when it is told to, or up to half a second later."""
    while (answer := await client.post(FORWARD, json=body(SLOW))).status_code == httpx.codes.TOO_MANY_REQUESTS:
        waited_s.append(int(answer.headers["retry-after"]))
        await asyncio.sleep(waited_s[-1] + random.uniform(0, 0.5))  # noqa: S311 - it need not be unguessable
    assert answer.status_code == httpx.codes.OK


@pytest.mark.long
def test_a_crowd_that_comes_again_when_it_is_told_to_is_served_soon(narrow: Server) -> None:
    async def scenario() -> list[int]:
        waited_s: list[int] = []
        async with httpx.AsyncClient(base_url=narrow.url, timeout=30) as client:
            await asyncio.gather(*(ask_until_served(client, waited_s) for _ in range(4 * PLACES)))
        return waited_s

    start_s = time.monotonic()
    waited_s = uvloop.run(scenario())
    assert time.monotonic() - start_s < 15
    assert {1, 2} <= set(waited_s)
    assert len(waited_s) < 5 * 4 * PLACES


@pytest.mark.parametrize(("wait_s", "expected"), [(0.0, {1, 2}), (1.0, {1, 2}), (2.4, {3, 4, 5, 6})])
def test_those_refused_at_once_are_not_told_to_come_again_at_once(wait_s: float, expected: set[int]) -> None:
    settings = read_settings([])
    errors = [shed("try again", wait_s, settings, code="queue_full") for _ in range(300)]
    assert {int(error.headers["Retry-After"]) for error in errors} == expected
