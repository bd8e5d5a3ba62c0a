"""What a server has logged."""

import json
import time
from typing import Any

from tests.server import Server


def lines_of(server: Server, request_id: str) -> list[dict[str, Any]]:
    """The log's lines on one request; the log is written by a thread of its own, a moment later."""
    deadline_s = time.monotonic() + 2
    while time.monotonic() < deadline_s:
        whole, _, _ = server.stdout.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines() if request_id in line]
        if found := [line for line in lines if line.get("request_id") == request_id]:
            return found
        time.sleep(0.01)
    raise AssertionError(f"no line for {request_id}")


def log_of(server: Server) -> str:
    """All that it has logged until now."""
    request_id = f"until-{time.monotonic_ns()}"
    with server.client() as client:
        client.get("/v1/models", headers={"X-Request-ID": request_id})
    lines_of(server, request_id)
    return server.stdout.read_text(encoding="utf-8")
