"""Requests that a server has taken up and not answered yet."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from tests.server import Server
from tests.service.faulty_service import ENDLESS
from tests.service.wire import HEAD, connect

FORWARD = "/v1/models/tiny/forward"


def body(length: int) -> dict[str, Any]:
    """A request of one sequence for `tiny`."""
    return {"hidden_states": [[[0.5, -1.0, 0.25, 2.0, 1.0, 0.0, 0.0, 1.0]] * length]}


@contextlib.contextmanager
def in_flight(server: Server, *lengths: int, **fields: object) -> Iterator[list[Future[httpx.Response]]]:
    """One request a length, each over a connection of its own: the first is in its run, and the others wait.

    Args:
        server: of `tiny`; nothing else is under way there.
        lengths: of each request's sequence.
        fields: of every request's body, beside its sequence.
    """
    with ThreadPoolExecutor(len(lengths)) as threads, server.client() as client:
        futures = []
        for count, length in enumerate(lengths, 1):
            futures.append(threads.submit(client.post, FORWARD, json=body(length) | fields))
            _wait_until_in_flight(client, count, sum(lengths[1:count]))
        yield futures


@contextlib.contextmanager
def endless(server: Server) -> Iterator[None]:
    """A request whose run does not end, on a server with faults, which must be killed before the block ends."""
    data = json.dumps(body(ENDLESS)).encode()
    with connect(server) as connection, server.client() as client:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        _wait_until_in_flight(client, 1, 0)
        yield


def _wait_until_in_flight(client: httpx.Client, count: int, queued_tokens: int) -> None:
    wanted = {
        f"glassblock_in_flight_requests {count:.1f}",
        f'glassblock_queued_tokens{{model="tiny",version="1"}} {queued_tokens:.1f}',
    }
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        if wanted <= {*client.get("/metrics").text.splitlines()}:
            return
    raise AssertionError(f"{count} requests are not under way, and {queued_tokens} positions do not wait")


def failure(response: httpx.Response) -> tuple[int, str, str]:
    """Status, code and sentence of a refusal."""
    answer = response.json()
    return response.status_code, answer["code"], answer["error"]
