"""Uvicorn with an application that only answers; its words are a port, and what it says of its connection."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def main() -> None:
    """Serves until it is stopped."""
    headers = [(b"content-length", b"21"), (b"connection", sys.argv[2].encode())]

    async def app(scope: object, receive: object, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error":"too large"}'})

    uvicorn.run(
        app, port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
