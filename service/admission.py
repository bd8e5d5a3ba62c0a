"""Two gates: the door, before the body is read, and the ticket, after the check and before the queue."""

import asyncio
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import (
    BodyTooLargeError,
    GlassblockError,
    IllegalRequestError,
    OverloadedError,
    SwitchedOffError,
    UnavailableError,
)
from service.logs import PROBE_PATHS
from service.manifest import ModelSpec
from service.settings import Settings
from service.tensors import BlockRequest


@dataclass(slots=True)
class Lifecycle:
    """Where the process is: loading → ready → draining (still serves) → closed; or dead.

    Attributes:
        state: set by the app, and by the command line when it stops.
    """

    state: Literal["loading", "ready", "draining", "closed", "dead"] = "loading"


_SENTENCES = {
    "loading": "the models are still loading",
    "closed": "the server is shutting down",
    "dead": "the server can no longer run its models and is about to stop",
}


class Door:
    """Pure ASGI: refuses early what cannot be served, reads the body under its limit, ends work for who has left.

    Args:
        app: the application behind the door.
        settings: the limits.
        lifecycle: read at every request.
    """

    def __init__(self, app: ASGIApp, settings: Settings, lifecycle: Lifecycle) -> None:
        self._app = app
        self._settings = settings
        self._lifecycle = lifecycle
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            self._refuse(scope)
        except GlassblockError as error:
            await refuse(scope, send, error)
            return
        self._in_flight += 1
        metrics.IN_FLIGHT.set(self._in_flight)
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:  # drain_timeout_s is over, and the server cancels what is left
            if "status" in scope:
                raise
            await refuse(scope, send, UnavailableError(_SENTENCES["closed"], code="closed"))
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.set(self._in_flight)

    def _refuse(self, scope: Scope) -> None:
        if sentence := _SENTENCES.get(self._lifecycle.state):
            raise UnavailableError(sentence, code=self._lifecycle.state, headers={"Retry-After": "1"})
        if self._in_flight >= self._settings.max_in_flight:
            message = f"{self._settings.max_in_flight} requests are under way already; try again in a moment"
            raise OverloadedError(message, code="in_flight", headers={"Retry-After": "1"})
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(receive)
        except GlassblockError as error:
            await refuse(scope, send, error)
            return
        if body is None:
            return
        replay = _Replay(body, receive)
        work = asyncio.ensure_future(self._app(scope, replay, send))
        leaving = asyncio.ensure_future(replay.wait_for_disconnect())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await asyncio.wait((work,))
        finally:
            leaving.cancel()
            work.cancel()
        if not work.cancelled():
            work.result()

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if the client left before it was sent."""
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._settings.max_body_bytes:
                raise _too_large(self._settings)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Replay:
    """`receive` for the application: the body once; the rest of the connection's events wake who waits for the end."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive
        self._gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self._message is not None:
            message, self._message = self._message, None
            return message
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


async def refuse(scope: MutableMapping[str, Any], send: Send, error: GlassblockError) -> None:
    """Sends an error without the application; the connection closes, since its body may still be on the way."""
    scope["error_code"] = error.code
    body = error.body(scope["request_id"])
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ticket(request: BlockRequest, spec: ModelSpec, settings: Settings) -> None:
    """Weighs a checked request: tokens, H·S² of a layer, and the answer's size, before it may queue.

    Raises:
        IllegalRequestError: heavier than a limit; says the limit and the weight.
        SwitchedOffError: a probe was asked for, and the layers' graphs are off.
    """
    if settings.layer_graphs == "off" and any(output.layer is not None for output in request.outputs):
        raise SwitchedOffError("only block_output is served: the layers' graphs are off", code="layer_graphs_off")
    tokens = sum(request.lengths)
    _weigh("positions in all sequences", tokens, settings.max_request_tokens, "too_many_tokens")
    cells = (spec.num_attention_heads or 1) * sum(length**2 for length in request.lengths)
    _weigh("cells of heads times squared length", cells, settings.max_attention_cells, "too_much_attention")
    # By powers of the length, so that a request of many sequences and many outputs is weighed in no time.
    powers = Counter[int]()
    for output in request.outputs:
        elements, power = spec.tensor(output).growth
        powers[power] += elements
    size = 4 * sum(elements * sum(n**power for n in request.lengths) for power, elements in powers.items())
    _weigh("bytes in the answer as float32", size, settings.max_answer_bytes, "answer_too_large")


def hold_queue(waiting: int, settings: Settings) -> None:
    """Refuses while too much waits for a model's run.

    Args:
        waiting: positions that wait.
        settings: the limit.

    Raises:
        OverloadedError: more than the limit.
    """
    if waiting > settings.max_queued_tokens:
        message = f"more than {settings.max_queued_tokens:,} positions wait for this model; try again in a moment"
        raise OverloadedError(message, code="queue_full", headers={"Retry-After": "1"})


def _weigh(what: str, weight: int, limit: int, code: str) -> None:
    if weight > limit:
        raise IllegalRequestError(f"expected at most {limit:,} {what}, got {weight:,}", code=code)


def _too_large(settings: Settings) -> BodyTooLargeError:
    return BodyTooLargeError(f"expected a body of at most {settings.max_body_bytes:,} bytes", code="body_too_large")
