"""An answer of HTTP that is whole before its first byte goes, and its bytes."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Reply(NamedTuple):
    """An answer.

    Attributes:
        status: of HTTP.
        headers: all but those of the connection, the length and the request's id; names and values of ours.
        body: whole.
        closes: whether the connection must close after it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    closes: bool = False


def write_head(reply: Reply, request_id: str, given: Iterable[tuple[bytes, bytes]], *, closes: bool) -> bytes:
    """What goes before the body.

    Args:
        reply: the answer.
        request_id: of the request.
        given: the server's own headers.
        closes: whether the connection closes after it.
    """
    lines = [_LINES[reply.status], _decode(tuple(given))]
    lines += [f"{name.lower()}: {value}\r\n" for name, value in reply.headers.items()]
    close = "connection: close\r\n" if closes else ""
    lines.append(f"content-length: {len(reply.body)}\r\nx-request-id: {request_id}\r\n{close}\r\n")
    return "".join(lines).encode("latin-1")


@lru_cache(4)  # the date is one of them
def _decode(given: tuple[tuple[bytes, bytes], ...]) -> str:
    return "".join([f"{name.decode()}: {value.decode()}\r\n" for name, value in given])
