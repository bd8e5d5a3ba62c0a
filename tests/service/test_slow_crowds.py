"""200 clients of each slow kind at once, with the default deadlines, while a good one works (faults A5, goal G10)."""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server import Server, link_models, running
from tests.service.refusal import GOOD, hidden_states
from tests.service.wire import HEAD

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
COUNT = 200
IDLE_S = HEADER_S = 5.0
BODY_S = ANSWER_S = 30.0
SLACK_S = 1.0
LARGE = hidden_states(json.dumps([[[0.123] * 8] * 512]), ',"outputs":["layers.*.attention_weights"]')
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def trickle(writer: asyncio.StreamWriter, head: bytes) -> None:
    """Sends a head, then a byte a second."""
    writer.write(head)
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")
            await writer.drain()


async def until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await until_closed(reader)


async def trickle_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sending = asyncio.create_task(trickle(writer, HEAD + b"X-Slow: "))
    await until_closed(reader)
    sending.cancel()


async def trickle_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sending = asyncio.create_task(trickle(writer, HEAD + b"Content-Length: 16777216\r\n\r\n" + b" " * 66_000))
    await until_closed(reader)
    sending.cancel()


async def duration_s(server: Server, client: Client) -> float:
    """How long the server bears with a client."""
    url = httpx.URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=4096)
    start_s = time.monotonic()
    await client(reader, writer)
    writer.close()
    return time.monotonic() - start_s


@contextlib.asynccontextmanager
async def not_reading(server: Server) -> AsyncIterator[None]:
    """COUNT clients that ask for some 9 MB each and read none of it."""
    url = httpx.URL(server.url)
    writers = []
    for _ in range(COUNT):
        reader, writer = await asyncio.open_connection(url.host, url.port, limit=4096)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
        writers.append(writer)
        await asyncio.sleep(0.1)  # each answer takes the server some 50 ms
    yield
    for writer in writers:
        writer.transport.abort()


async def work(server: Server, stop: asyncio.Event) -> list[tuple[bool, float]]:
    """A good client: whether each answer was right, and its latency."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        right = (await client.post("/v1/models/tiny/forward", content=GOOD)).content
        found = []
        while not stop.is_set():
            start_s = time.monotonic()
            answer = await client.post("/v1/models/tiny/forward", content=GOOD)
            found.append((answer.content == right, time.monotonic() - start_s))
            await asyncio.sleep(0.01)
    return found


async def descriptors_back(process: psutil.Process, before: int) -> float:
    """Seconds until no more descriptors are open than before."""
    start_s = time.monotonic()
    while process.num_fds() > before:
        assert time.monotonic() - start_s < 60
        await asyncio.sleep(0.1)
    return time.monotonic() - start_s


def test_a_good_client_does_not_notice_six_hundred_slow_ones(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    kinds: dict[Client, float] = {say_nothing: IDLE_S, trickle_head: HEADER_S, trickle_body: BODY_S}

    async def scenario(server: Server) -> None:
        process, stop = psutil.Process(server.process.pid), asyncio.Event()
        good = asyncio.create_task(work(server, stop))
        await asyncio.sleep(1)
        descriptors, memory = process.num_fds(), process.memory_info().rss
        crowds = [asyncio.gather(*(duration_s(server, kind) for _ in range(COUNT))) for kind in kinds]
        for (kind, deadline_s), crowd in zip(kinds.items(), crowds, strict=True):
            found = sorted(await crowd)
            sys.stdout.write(f"{kind.__name__}: closed after {found[0]:.2f} to {found[-1]:.2f} s\n")
            assert deadline_s - SLACK_S < found[0] <= found[-1] < deadline_s + SLACK_S
        await descriptors_back(process, descriptors)
        stop.set()
        report(await good, process.memory_info().rss - memory)

    with running(models, tmp_path) as server:
        asyncio.run(scenario(server))


def test_two_hundred_clients_that_do_not_read_are_cut_off(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})

    async def scenario(server: Server) -> None:
        process, stop = psutil.Process(server.process.pid), asyncio.Event()
        good = asyncio.create_task(work(server, stop))
        await asyncio.sleep(1)
        descriptors, memory = process.num_fds(), process.memory_info().rss
        async with not_reading(server):
            waited_s = await descriptors_back(process, descriptors)
            sys.stdout.write(f"the last was cut off {waited_s:.1f} s after it had asked\n")
            assert waited_s < ANSWER_S + 5
        stop.set()
        report(await good, process.memory_info().rss - memory)

    with running(models, tmp_path) as server:
        asyncio.run(scenario(server))


def report(found: list[tuple[bool, float]], grown_bytes: int) -> None:
    """Holds a good client's answers against the goal, and prints its latency and the server's memory."""
    latencies_ms = [latency_s * 1e3 for _, latency_s in found]
    p50_ms, p99_ms = statistics.median(latencies_ms), statistics.quantiles(latencies_ms, n=100)[-1]
    right = sum(right for right, _ in found)
    sys.stdout.write(f"{right} of {len(found)} good requests right, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms; ")
    sys.stdout.write(f"memory {grown_bytes / 2**20:+.1f} MiB\n")
    assert len(found) >= 1000
    assert right >= 0.999 * len(found)
