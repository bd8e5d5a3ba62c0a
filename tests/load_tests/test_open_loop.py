"""The open loop counts from when a request was due, knows how late it was itself, and loses no outcome."""

import asyncio
import time
from collections import Counter
from itertools import cycle, pairwise

import pytest
import uvloop

from load_tests.open_loop import LATE_S, MOST_LATE_SHARE, Load, Run, closed_loop, open_loop
from tests.load_tests.stub import OK, REQUEST, answering

pytestmark = pytest.mark.long
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Stall:
    """Answers, but blocks the server once, a while after its first request."""

    def __init__(self, after_s: float, seconds: float) -> None:
        self._after_s, self._seconds = after_s, seconds
        self._first_s = 0.0

    def __call__(self) -> bytes:
        now_s = time.perf_counter()
        self._first_s = self._first_s or now_s
        if self._seconds and now_s - self._first_s >= self._after_s:
            time.sleep(self._seconds)
            self._seconds = 0
        return OK


def opened(address: str, rate: float, seconds: float, timeout_s: float = 5, *, poisson: bool = False) -> Run:
    return uvloop.run(open_loop(Load(address, REQUEST, 300, timeout_s), rate, seconds, poisson=poisson))


def test_every_request_is_sent_when_due_and_its_latency_is_the_servers_delay() -> None:
    with answering(lambda: OK, delay_s=0.02) as address:
        run = opened(address, rate=100, seconds=1)
    assert [exchange.due_s - run.start_s for exchange in run.exchanges] == pytest.approx([n / 100 for n in range(100)])
    assert run.outcomes == {"200": 100}
    assert 20 <= run.latencies_ms()["p50"] < 100
    assert 0 <= run.lateness_ms()["p50"] < 20
    assert 70 <= run.goodput <= 100
    assert 2 <= run.opened < 100


def test_a_stall_of_a_second_shows_in_an_open_loop_and_not_in_a_closed_one() -> None:
    with answering(Stall(0.5, 1)) as address:
        run = opened(address, rate=100, seconds=2)
    assert run.outcomes == {"200": 200}
    latencies_ms = run.latencies_ms()
    assert 900 < latencies_ms["p99"] < 3000
    assert 0.3 < sum(exchange.done_s - exchange.due_s > 0.25 for exchange in run.exchanges) / 200 < 0.7
    assert run.lateness_ms()["p99"] < 500  # it went on sending
    with answering(Stall(0.5, 1)) as address:
        closed = uvloop.run(closed_loop(Load(address, REQUEST, 1, 5), 1, 2))
    assert closed.latencies_ms()["p99"] < 400
    assert closed.latencies_ms()["p100"] > 900


def test_a_generator_that_was_late_says_so() -> None:
    async def held_up(address: str) -> Run:
        asyncio.get_running_loop().call_later(0.3, time.sleep, 0.4)
        return await open_loop(Load(address, REQUEST), 100, 1)

    with answering(lambda: OK) as address:
        run = uvloop.run(held_up(address))
    assert run.late_share() > 0.3 > MOST_LATE_SHARE
    assert run.lateness_ms()["p100"] > 350
    assert run.latencies_ms()["p100"] >= run.lateness_ms()["p100"]
    assert max(exchange.sent_s - exchange.due_s for exchange in run.exchanges) > LATE_S


def test_poisson_arrivals_are_as_many_on_average_and_uneven() -> None:
    with answering(lambda: OK) as address:
        run = opened(address, rate=400, seconds=1, poisson=True)
    assert 300 < len(run.exchanges) < 500
    due_s = [exchange.due_s for exchange in run.exchanges]
    gaps_s = [later - earlier for earlier, later in pairwise(due_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    variance = sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)
    assert 0.5 < variance / mean_s**2 < 2  # 1 for exponential gaps, 0 for even ones


def test_refusals_broken_connections_and_silence_are_counted_apart_and_nothing_is_sent_twice() -> None:
    answers, seen = cycle((OK, REFUSAL, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")), []

    def behave() -> bytes:
        seen.append(next(answers))
        return seen[-1]

    with answering(behave) as address:
        run = opened(address, rate=100, seconds=0.4, timeout_s=0.5)
    assert len(seen) == len(run.exchanges) == 40
    assert run.outcomes == Counter({"200": 10, "429": 10, "broken": 10, "timed out": 10})
    assert all(exchange.retry_after == (exchange.outcome == "429") for exchange in run.exchanges)
    assert run.latencies_ms("timed out")["p50"] == pytest.approx(500, abs=200)


def test_a_server_that_is_not_there_breaks_every_request() -> None:
    with answering(lambda: OK) as address:
        pass
    assert opened(address, rate=50, seconds=0.2).outcomes == {"broken": 10}


def test_requests_beyond_the_connections_wait_in_line_from_when_they_were_due() -> None:
    with answering(lambda: OK, delay_s=0.05) as address:
        run = uvloop.run(open_loop(Load(address, REQUEST, most_connections=1), 100, 0.2))
    assert run.opened == 1
    assert run.outcomes == {"200": 20}
    assert run.latencies_ms()["p100"] > 700  # 20 of 50 ms, one after another, the last due after 190
    assert run.lateness_ms()["p100"] < run.latencies_ms()["p100"] / 2
