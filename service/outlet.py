"""How answers leave: head and body in one system call, and no longer than a client may take to read them."""

import asyncio
from collections.abc import Callable

LEAST_TAKEN_BYTES = 2**20  # of an answer, in each timeout
_CONTINUE = b"HTTP/1.1 100 "


class Outlet:
    """All that uvicorn's cycle needs of a transport; its close is the connection's, which lets the client read first.

    Args:
        transport: of the connection.
        close: called for the cycle's close.
        loop: that runs it.
        timeout_s: in which a client must take `LEAST_TAKEN_BYTES` of what waits, or the rest; else it is cut off.
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
        self._unsent_bytes = 0
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

    def watch(self) -> None:
        """Starts the clock for what the client has not taken yet."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        if self._unsent_bytes and self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)

    def unwatch(self) -> None:
        """Stops the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size() > max(0, self._unsent_bytes - LEAST_TAKEN_BYTES):
            self._transport.abort()
        else:
            self.watch()
