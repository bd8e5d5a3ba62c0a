"""An error as an answer of HTTP: through ASGI, or as bytes for a request that nothing has been begun for."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from service.errors import GlassblockError
from service.logs import choose_request_id, note_request
from service.shedding import SHED_CODES

_Scope = MutableMapping[str, Any]
_Header = tuple[bytes, bytes]
_CLOSE = (b"connection", b"close")
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


async def refuse(scope: _Scope, send: Callable[[_Scope], Awaitable[None]], error: GlassblockError) -> None:
    """Sends an error without the application."""
    headers, body = _form(scope, error)
    if _closes(scope, error):
        headers.append(_CLOSE)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def answer_at_once(cycle: Any, error: GlassblockError) -> bytes:
    """What `refuse`, and the request log in front of it, would have made of an error: answer, line and count.

    Args:
        cycle: uvicorn's, of a request that the application has not seen; it is complete with that.
        error: what the request is refused with.
    """
    start_s, scope = time.perf_counter(), cycle.scope
    scope["request_id"] = request_id = choose_request_id(scope["headers"])
    headers, body = _form(scope, error)
    headers.append((b"x-request-id", request_id.encode()))
    cycle.response_complete = True
    cycle.keep_alive = cycle.keep_alive and not _closes(scope, error)
    if not cycle.keep_alive:
        headers.append(_CLOSE)
    head = b"".join([b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)])
    note_request(scope, scope["method"], "none", error.status, time.perf_counter() - start_s, len(body))
    return b"%b%b\r\n%b" % (_LINES[error.status], head, b"" if scope["method"] == "HEAD" else body)


def _form(scope: _Scope, error: GlassblockError) -> tuple[list[_Header], bytes]:
    scope["error_code"] = error.code
    body = error.body(scope["request_id"])
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return headers, body


def _closes(scope: _Scope, error: GlassblockError) -> bool:
    """After a shed request the connection stays open, unless the client may send no body, and what comes is dropped."""
    return error.code not in SHED_CODES or b"expect" in dict(scope["headers"])
