"""One JSON line a request, and never what a client sent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs, metrics
from tests.server import Server, link_models, running
from tests.service.log_lines import lines_of, log_of
from tests.service.refusal import GOOD, assert_refused

CANARY_NUMBER, CANARY_TEXT = 0.7231946, "xylophonist"


@pytest.mark.parametrize(
    ("method", "url", "content", "route", "status", "code"),
    [
        ("GET", "/v1/models", b"", "/v1/models", 200, None),
        (
            "POST",
            "/v1/models/tiny/forward",
            b'{"hidden_states": [[[1,0,0,0,0,0,0,1]]]}',
            "/v1/models/{model}/forward",
            200,
            None,
        ),
        ("POST", "/v1/models/tiny/forward", b"{", "/v1/models/{model}/forward", 400, "invalid_json"),
        ("GET", "/nowhere?secret=1", b"", "none", 404, "unknown_route"),
    ],
)
def test_a_request_leaves_one_line_with_its_id_route_status_code_and_size(
    server: Server,
    client: httpx.Client,
    method: str,
    url: str,
    content: bytes,
    route: str,
    status: int,
    code: str | None,
) -> None:
    answer = client.request(method, url, content=content)
    (line,) = lines_of(server, answer.headers["x-request-id"])
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": answer.headers["x-request-id"],
        "method": method,
        "route": route,
        "status": status,
        **({"code": code} if code else {}),
        "answer_bytes": len(answer.content),
    }


def test_probes_leave_no_line(server: Server, client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path, headers={"X-Request-ID": "a-probe"})
    client.get("/v1/models", headers={"X-Request-ID": "after-the-probes"})
    lines_of(server, "after-the-probes")
    assert "a-probe" not in server.stdout.read_text()


def test_no_value_text_header_or_query_of_a_client_is_logged(server: Server, client: httpx.Client) -> None:
    row = [CANARY_NUMBER] * 8
    forward = f"/v1/models/tiny/forward?{CANARY_TEXT}={CANARY_TEXT}"
    bodies: list[Any] = [
        {"hidden_states": [[row]]},
        {"hidden_states": [[row[:3]]]},
        {"hidden_states": [[[CANARY_TEXT]]]},
        {"hidden_states": [[row]], CANARY_TEXT: 1},
        {"hidden_states": [[row]], "outputs": [CANARY_TEXT]},
        [CANARY_TEXT],
    ]
    headers = {"Authorization": f"Bearer {CANARY_TEXT}", "User-Agent": CANARY_TEXT}
    for body in bodies:
        client.post(forward, json=body, headers=headers)
    client.post(forward, content=f'{{"{CANARY_TEXT}": '.encode(), headers=headers)
    client.post("/v1/models/minilm/forward", json={"text": CANARY_TEXT}, headers=headers)
    client.post("/v1/models/minilm/forward", json={"text": CANARY_TEXT * 1000}, headers=headers)
    client.get(f"/v1/models/{CANARY_TEXT}", headers={**headers, "X-Request-ID": "last-of-canaries"})
    lines_of(server, "last-of-canaries")
    written = server.stdout.read_text() + server.stderr.read_text()
    assert str(CANARY_NUMBER) not in written
    assert CANARY_TEXT not in written


def test_every_line_is_json_of_at_most_4_kb(server: Server, client: httpx.Client) -> None:
    client.get("/v1/models", headers={"X-Request-ID": "x" * 128})
    lines_of(server, "x" * 128)
    lines = server.stdout.read_bytes().splitlines()
    assert max(map(len, lines)) <= 4096
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/models/tiny/forward"), ("GET", "/v2")], ids=["a busy route", "FastAPI's"]
)
def test_a_bug_is_told_as_one_in_the_one_form_and_logged_with_its_place(
    method: str, path: str, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, "tests.service.buggy_service") as server, server.client() as client:
        answer = client.request(method, path, content=GOOD)
        assert_refused(answer, 500, "internal", "", "the server failed; this is a bug of the server", GOOD)
        (line,) = lines_of(server, answer.headers["x-request-id"])
        assert (line["status"], line["code"]) == (500, "internal")
        assert client.get("/v1/models").status_code == 200
        log = log_of(server)
    (bug,) = [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"]
    assert "TypeError: no such thing: \\udc80" in bug["exception"]
    assert "buggy_service.py" in bug["exception"]
    assert datetime.fromisoformat(bug["time"]) <= datetime.now(UTC)


def test_lines_that_are_written_in_part_are_counted_once_and_the_next_one_stands_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, room = bytearray(), [40, 0, 10_000]

    def write(_: int, data: memoryview) -> int:
        if not (most := room.pop(0)):
            raise BlockingIOError
        written.extend(data[:most])
        return min(most, len(data))

    monkeypatch.setattr("service.logs.os.write", write)
    writer, lost = logs._LineWriter(-1), metrics.LOST_LOG_LINES._value.get()
    for _ in range(3):
        writer.put({"event": "thirty bytes long"})
    writer.flush()
    writer.put({"event": "next"})
    writer.flush()
    line = b'{"event":"thirty bytes long"}'
    assert bytes(written).split(b"\n") == [line, line[:10], b'{"event":"next"}', b""]
    assert metrics.LOST_LOG_LINES._value.get() - lost == 2
