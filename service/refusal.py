"""An error as an answer of HTTP."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.errors import GlassblockError
from service.reply import Reply
from service.shedding import SHED_CODES

_Scope = MutableMapping[str, Any]


def as_reply(scope: _Scope, error: GlassblockError, *, closes: bool = False) -> Reply:
    """The answer to a request that was read and cannot be served; notes the error's code in its scope."""
    scope["error_code"] = error.code
    headers = {"Content-Type": "application/json", **error.headers}
    return Reply(error.status, headers, error.body(scope["request_id"]), closes)


def turn_away(scope: _Scope, error: GlassblockError) -> Reply:
    """The answer to a request that may not have been read as a whole: but for some, its connection closes.

    After a shed request it stays open, unless the client may send no body, and what comes is dropped.
    """
    closes = error.code not in SHED_CODES or b"expect" in scope["fields"]
    return as_reply(scope, error, closes=closes)


async def refuse(scope: _Scope, send: Callable[[_Scope], Awaitable[None]], error: GlassblockError) -> None:
    """Turns a request away through ASGI."""
    reply = turn_away(scope, error)
    headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    headers.append((b"content-length", b"%d" % len(reply.body)))
    if reply.closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
