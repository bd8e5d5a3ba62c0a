"""Answers that a client does not take: all of them are counted, and who leaves them is logged as having left."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from service.api.grpc_status import hold_until_taken
from service.outlet import UNSENT, Outlet
from tests.server import link_models, running
from tests.service.log_lines import log_of
from tests.service.wire import HEAD, REQUEST, connect

POSITIONS = 500


def test_an_answer_that_waits_behind_another_is_counted() -> None:
    async def wait() -> list[int]:
        before, taken = UNSENT.bytes, asyncio.Event()
        transport: Any = SimpleNamespace(is_closing=lambda: False)
        outlet = Outlet(transport, lambda: None, asyncio.get_running_loop(), 30)
        waiting = asyncio.create_task(outlet.wait(1000, taken.wait))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        counts = [UNSENT.bytes - before]
        taken.set()
        await waiting
        return [*counts, UNSENT.bytes - before]

    assert asyncio.run(wait()) == [1000, 0]


def test_an_answer_of_grpc_is_counted_until_its_call_ends_and_one_that_is_not_taken_is_cut_off() -> None:
    async def call(*, takes: bool) -> tuple[int, int, bool]:
        before, ends = UNSENT.bytes, list[Callable[[Any], None]]()
        context = Mock(add_done_callback=ends.append)

        async def answer() -> None:
            hold_until_taken(context, 3 * 2**20, 0.1)
            await asyncio.sleep(0.2 if takes else 5)

        task = asyncio.create_task(answer())
        await asyncio.sleep(0.05)
        counted = UNSENT.bytes - before
        (done,) = await asyncio.gather(task, return_exceptions=True)
        ends[0](context)
        return counted, UNSENT.bytes - before, isinstance(done, asyncio.CancelledError)

    assert asyncio.run(call(takes=True)) == (3 * 2**20, 0, False)
    assert asyncio.run(call(takes=False)) == (3 * 2**20, 0, True)


@pytest.mark.long
def test_who_leaves_a_large_answer_and_what_is_in_line_behind_it_leaves_no_error(
    artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    rows = [[0.1 * (place % 7)] * 8 for place in range(POSITIONS)]
    large = json.dumps({"hidden_states": [rows] * 12, "outputs": ["attention_weights"]}).encode()
    with running(models, tmp_path) as server:
        for behind in (REQUEST, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"):
            with connect(server) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves with RST
                for request in (HEAD + b"Content-Length: %d\r\n\r\n" % len(large) + large, behind, behind):
                    connection.sendall(request)
                    time.sleep(1)
        log = log_of(server)
    assert '"level":"error"' not in log
    lines = [line for line in map(json.loads, log.splitlines()) if line.get("event") == "request"]
    assert [line["status"] for line in lines if line["route"].endswith("/forward")] == [200, 499, 200]
