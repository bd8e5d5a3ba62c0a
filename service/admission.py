"""The door: the gate before the body is read; the ticket (ticket.py) is the one after the check."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.coalescing import Coalescing
from service.errors import BodyTooLargeError, GlassblockError
from service.keys import ApiKeys
from service.lifecycle import Lifecycle, unavailable
from service.places import Places
from service.queue import Load
from service.refusal import refuse
from service.settings import Settings
from service.shedding import hold_queue

T = TypeVar("T")

PROBE_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})  # asked by machines


class Door:
    """Refuses early what cannot be served, reads the body under its limit, ends work for who has left.

    A request is under way once its body is whole, and a body takes as much room as has come of it: who sends it slowly
    takes no place from others.

    Args:
        app: the application behind the door.
        settings: the limits.
        lifecycle: read at every request.
        places: shared with the other faces.
        load_of: what waits for the model that a path names, nothing if it names none.
        keys: those that open the door; None opens it for all.

    Attributes:
        coalescing: of what it refuses for the load.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        lifecycle: Lifecycle,
        places: Places,
        load_of: Callable[[str], Load],
        keys: ApiKeys | None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._lifecycle = lifecycle
        self._places = places
        self._load_of = load_of
        self._keys = keys
        self.coalescing = Coalescing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"] in PROBE_PATHS:
                self._hold(scope)
                await self._app(scope, receive, send)
            else:
                await self.through(scope, receive, lambda body: self._pass_on(scope, body, receive, send))
        except GlassblockError as error:
            await refuse(scope, send, error)

    def admit(self, scope: Scope) -> None:
        """Refuses what can be refused by its head alone; asked once for a request, by the connection or here.

        Raises:
            GlassblockError: no request, no key, too much, too many, or nobody serves.
        """
        if "fault" in scope:
            raise scope["fault"]
        if self._keys is not None and (name := self._keys.check(scope["path"], scope["fields"])):
            scope["api_key"] = name
        if scope["path"] in PROBE_PATHS:
            scope["probe"] = True
        else:
            self._shed(scope)
        scope["admitted"] = True

    def _hold(self, scope: Scope) -> None:
        if "admitted" not in scope:
            self.admit(scope)

    def _shed(self, scope: Scope) -> None:
        self._lifecycle.hold_open()
        if (length := scope["length"] or 0) > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        load = self._load_of(scope["path"])
        try:
            self._places.hold(length)
            if scope["method"] == "POST":
                hold_queue(load, self._settings)
        except GlassblockError:
            self.coalescing.rest(load.wait_s)
            raise

    async def through(
        self, scope: Scope, receive: Receive, work: Callable[[bytes | memoryview], Coroutine[Any, Any, T]]
    ) -> T | None:
        """Reads a request's body, and has it worked on; None if its client left before that was done.

        Raises:
            GlassblockError: as `admit`; or the body is too large, or late, or there is no place for it.
        """
        self._hold(scope)
        try:
            body = await self._read(scope, receive)
            return None if body is None else await _until_gone(scope, work(body))
        except asyncio.CancelledError:  # drain_timeout_s is over, and the server cancels what is left
            if "status" in scope:
                raise
            raise unavailable("closed") from None
        finally:
            self._leave(scope)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | memoryview | None:
        """The whole body; None if the client left before it was sent."""
        body: bytes | memoryview | None = scope.pop("body", None)
        if body is not None:  # it came with its head
            if len(body) > self._settings.max_body_bytes:
                raise _too_large(self._settings)
            self._count(scope, len(body))
            self._take_place(scope)
            return body
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
            self._count(scope, len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                self._take_place(scope)
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _count(self, scope: Scope, size_bytes: int) -> None:
        self._places.add(size_bytes)
        scope["body_bytes"] = scope.get("body_bytes", 0) + size_bytes

    def _take_place(self, scope: Scope) -> None:
        self._places.take()
        scope["under_way"] = True

    def _leave(self, scope: Scope) -> None:
        self._places.remove(scope.pop("body_bytes", 0))
        if scope.pop("under_way", False):
            self._places.leave()

    async def _pass_on(self, scope: Scope, body: bytes | memoryview, receive: Receive, send: Send) -> None:
        """Runs the application; the request's place is free before its last byte goes."""
        unread: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal unread
            message, unread = unread, None
            return message or await receive()

        async def send_and_leave(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._leave(scope)
            await send(message)

        await self._app(scope, replay, send_and_leave)


async def _until_gone(scope: Scope, work: Awaitable[T]) -> T | None:
    """Works, and is cancelled when the client leaves."""
    task, gone = asyncio.current_task(), False

    def leave() -> None:
        nonlocal gone
        gone = True
        if task is not None:
            task.cancel()

    scope["on_client_gone"] = leave
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        return None


def _too_large(settings: Settings) -> BodyTooLargeError:
    return BodyTooLargeError(f"expected a body of at most {settings.max_body_bytes:,} bytes", code="body_too_large")
