"""How answers leave: head and body in one system call, and no longer than a client may take to read them."""

import asyncio
from collections.abc import Awaitable, Callable

from service.memory import Held

LEAST_TAKEN_BYTES, LEAST_TAKEN_PART = 2**20, 16  # of an answer, in each timeout: as many bytes, and such a part of it
UNSENT = Held()  # what clients have not taken yet of their answers
_CONTINUE = b"HTTP/1.1 100 "


class Outlet:
    """All that uvicorn's cycle needs of a transport; its close is the connection's, which lets the client read first.

    Args:
        transport: of the connection.
        close: called for the cycle's close.
        loop: that runs it.
        timeout_s: in which a client must take `LEAST_TAKEN_BYTES` of what waits, and a `LEAST_TAKEN_PART`th of what
            waited at first, or the rest; else it is cut off.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        close: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
    ) -> None:
        self.close = close
        self.is_closing = transport.is_closing
        self._transport = transport
        self._loop = loop
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = self._least_bytes = 0
        self._head: bytes | None = None
        self._begins = False

    def begin(self) -> None:
        """What is written next is the head of an answer."""
        self._begins = True

    def write(self, data: bytes) -> None:
        """Sends, but holds a head until its body comes: a system call costs a tenth of a small request."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif self._begins and not data.startswith(_CONTINUE):
            self._begins, self._head = False, data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Sends the head of an answer that has no body."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    async def wait(self, size_bytes: int, drain: Callable[[], Awaitable[None]]) -> None:
        """Has an answer of this size wait until the client has taken those before it; it is counted like them."""
        waiting = object()
        UNSENT.set(waiting, size_bytes)
        try:
            await drain()
        finally:
            UNSENT.set(waiting, 0)

    def watch(self) -> None:
        """Starts the clock for what the client has not taken yet."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes and self._timer is None:
            self._least_bytes = max(LEAST_TAKEN_BYTES, unsent_bytes // LEAST_TAKEN_PART)
            self._await_client(unsent_bytes)

    def unwatch(self) -> None:
        """Stops the clock."""
        UNSENT.set(self, 0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_client(self, unsent_bytes: int) -> None:
        self._unsent_bytes = unsent_bytes
        UNSENT.set(self, unsent_bytes)
        if unsent_bytes:
            self._timer = self._loop.call_later(self._timeout_s, self._look)

    def _look(self) -> None:
        self._timer = None
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes > max(0, self._unsent_bytes - self._least_bytes):
            self._transport.abort()
        else:
            self._await_client(unsent_bytes)
