"""Two gates: the door, before the body is read, and the ticket, after the check and before the queue."""

import asyncio
from collections import Counter
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTooLargeError,
    GlassblockError,
    IllegalRequestError,
    OverloadedError,
    SwitchedOffError,
)
from service.keys import ApiKeys
from service.lifecycle import Lifecycle, unavailable
from service.manifest import ModelSpec
from service.places import Places
from service.settings import Settings
from service.tensors import BlockRequest, Tensors

PROBE_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})  # asked by machines
_ROOMLESS_BYTES = 65_536  # of a body; the server buffers as many before anyone asks for them


class Door:
    """Pure ASGI: refuses early what cannot be served, reads the body under its limit, ends work for who has left.

    A request is under way once its body is whole or needs room: who sends it byte by byte takes no place from others.

    Args:
        app: the application behind the door.
        settings: the limits.
        lifecycle: read at every request.
        places: shared with the other faces.
        waiting: positions that wait for the model that a path names, 0 if it names none.
        keys: those that open the door; None opens it for all.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        lifecycle: Lifecycle,
        places: Places,
        waiting: Callable[[str], int],
        keys: ApiKeys | None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._lifecycle = lifecycle
        self._places = places
        self._waiting = waiting
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._turn_away(scope)
            if scope["path"] in PROBE_PATHS:
                scope["probe"] = True
                await self._app(scope, receive, send)
            else:
                self._shed(scope)
                await self._serve(scope, receive, send)
        except GlassblockError as error:
            await refuse(scope, send, error)

    def _turn_away(self, scope: Scope) -> None:
        """Refuses what is no request, and who has no key."""
        if "fault" in scope:
            raise scope["fault"]
        if self._keys is not None and (name := self._keys.check(scope["path"], scope["headers"])):
            scope["api_key"] = name

    def _shed(self, scope: Scope) -> None:
        """Refuses, before the body is read, what cannot be served now or at all."""
        self._lifecycle.hold_open()
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        self._places.hold()
        if scope["method"] == "POST":
            hold_queue(self._waiting(scope["path"]), self._settings)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(scope, receive)
            if body is not None:
                await self._work(scope, body, receive, send)
        except asyncio.CancelledError:  # drain_timeout_s is over, and the server cancels what is left
            if "status" in scope:
                raise
            raise unavailable("closed") from None
        finally:
            self._leave(scope)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client left before it was sent."""
        chunks, size = [], 0
        while True:
            message = await receive()
            if "fault" in scope:
                raise scope["fault"]
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._settings.max_body_bytes:
                raise _too_large(self._settings)
            chunks.append(chunk)
            whole = not message.get("more_body", False)
            if whole or size >= _ROOMLESS_BYTES:
                self._take_place(scope)
            if whole:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take_place(self, scope: Scope) -> None:
        if "under_way" not in scope:
            self._places.take()
            scope["under_way"] = True

    def _leave(self, scope: Scope) -> None:
        if scope.pop("under_way", False):
            self._places.leave()

    async def _work(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Runs the application, and cancels it when the client leaves; its place is free before its last byte goes."""

        async def send_and_leave(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._leave(scope)
            await send(message)

        replay = _Replay(body, receive)
        work = asyncio.ensure_future(self._app(scope, replay, send_and_leave))
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


async def refuse(scope: Scope, send: Send, error: GlassblockError) -> None:
    """Sends an error without the application.

    After a 429 the connection stays open, unless the client may send no body; what comes of it is thrown away.
    """
    scope["error_code"] = error.code
    body = error.body(scope["request_id"])
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if error.status != OverloadedError.status or b"expect" in dict(scope["headers"]):
        headers.append((b"connection", b"close"))
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def weigh_positions(tensors: Tensors, settings: Settings) -> None:
    """The ticket's first part, before the check looks at each sequence: at a million of them, that takes seconds.

    Raises:
        IllegalRequestError: more positions than the limit.
    """
    total = sum(map(len, tensors.hidden_states or tensors.input_ids or ()))
    _weigh("positions in all sequences", total, settings.max_request_tokens, "too_many_tokens")


def ticket(request: BlockRequest, spec: ModelSpec, settings: Settings, *, padded: bool) -> int:
    """Weighs H·S² of a layer, and the answer as float32 (`padded`: all as long as the longest); returns its bytes.

    Raises:
        IllegalRequestError: heavier than a limit; says the limit and the weight.
        SwitchedOffError: a probe was asked for, and the layers' graphs are off.
    """
    if settings.layer_graphs == "off" and any(output.layer is not None for output in request.outputs):
        raise SwitchedOffError("only block_output is served: the layers' graphs are off", code="layer_graphs_off")
    cells = (spec.num_attention_heads or 1) * sum(length**2 for length in request.lengths)
    _weigh("cells of heads times squared length", cells, settings.max_attention_cells, "too_much_attention")
    # By powers of the length, so that a request of many sequences and many outputs is weighed in no time.
    powers = Counter[int]()
    for output in request.outputs:
        elements, power = spec.tensor(output).growth
        powers[power] += elements
    lengths = (max(request.lengths),) * len(request.lengths) if padded else request.lengths
    size: int = 4 * sum(elements * sum(n**power for n in lengths) for power, elements in powers.items())
    _weigh("bytes in the answer as float32", size, settings.max_answer_bytes, "answer_too_large")
    return size


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
