"""Raw sockets, for what no HTTP client would send."""

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.server import Server
from tests.service.refusal import GOOD, post

LINE = b"POST /v1/models/tiny/forward HTTP/1.1\r\n"
HEAD = LINE + b"Host: glassblock\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD


@dataclass(frozen=True)
class Answer:
    """One answer as it came.

    Attributes:
        status: its code.
        headers: by name in lower case.
        body: of Content-Length bytes.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def failure(self) -> tuple[int, str, str, str]:
        """Status, code, place and sentence of a refusal, whose form is checked on the way."""
        found: dict[str, Any] = json.loads(self.body)
        assert self.headers["content-type"] == "application/json"
        assert len(self.body) <= 2048
        assert found.keys() == {"error", "code", "at", "request_id"}
        assert found["request_id"] == self.headers["x-request-id"]
        return self.status, found["code"], found["at"], found["error"]


def connect(server: Server, timeout_s: float = 20) -> socket.socket:
    """A new connection to the server."""
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), timeout=timeout_s)


def until_served(server: Server) -> float:
    """Seconds until a new client is."""
    start_s = time.monotonic()
    while True:
        with contextlib.suppress(httpx.TransportError), server.client() as client:
            if post(client, GOOD).status_code == httpx.codes.OK:
                return time.monotonic() - start_s
        time.sleep(0.05)


def receive(connection: socket.socket, most: int = 2**20) -> bytes:
    """What comes next, of a server that must not have closed."""
    chunk = connection.recv(most)
    assert chunk, "the server has closed the connection"
    return chunk


def read_all(connection: socket.socket) -> list[Answer]:
    """The answers that come until the server closes."""
    data = b""
    while chunk := connection.recv(2**20):
        data += chunk
    answers = []
    while data:
        answer, data = _split(data)
        answers.append(answer)
    return answers


def read_one(connection: socket.socket) -> Answer:
    """The next answer, of a server that has no other to give yet."""
    (answer,) = read_some(connection, 1)
    return answer


def read_some(connection: socket.socket, count: int) -> list[Answer]:
    """The next answers, of a server that has no more to give yet."""
    data = b""
    answers: list[Answer] = []
    while len(answers) < count:
        data += receive(connection)
        while _is_whole(data):
            answer, data = _split(data)
            answers.append(answer)
    assert data == b""
    assert len(answers) == count
    return answers


def exchange(server: Server, data: bytes) -> list[Answer]:
    """Sends these bytes over a connection of their own and reads until the server closes it."""
    with connect(server) as connection:
        connection.sendall(data)
        return read_all(connection)


def _split(data: bytes) -> tuple[Answer, bytes]:
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, rest[: _length(head)]), rest[_length(head) :]


def _is_whole(data: bytes) -> bool:
    head, end, rest = data.partition(b"\r\n\r\n")
    return bool(end) and len(rest) >= _length(head)


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
