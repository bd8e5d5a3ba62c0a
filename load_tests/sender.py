"""Sends one prepared request again and again over keep-alive connections, and notes what became of each."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

BROKEN, TIMED_OUT = "broken", "timed out"


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what became of it; times are of `time.perf_counter`.

    Attributes:
        due_s: when it should have been sent.
        sent_s: when the generator got to it; that a connection was free then is not said.
        done_s: when its answer was whole, or it was given up.
        outcome: the status, or BROKEN (no answer, or half of one), or TIMED_OUT; empty while it is under way.
        retry_after: whether the answer said when to come again.
    """

    due_s: float
    sent_s: float
    done_s: float = 0.0
    outcome: str = ""
    retry_after: bool = False
    timer: asyncio.TimerHandle | None = None


class Sender:
    """A pool of connections, as many as are needed and no more than a limit; beyond it, requests wait in line.

    A connection that the server closes is replaced when the next request needs one. Nothing is sent twice.

    Args:
        address: host:port.
        request: head and body, as they are sent.
        most_connections: open at once.
        timeout_s: from when a request was due to when it is given up, and its connection with it.
        on_done: called with every exchange as it ends.

    Attributes:
        opened: connections that have been opened so far.
    """

    def __init__(
        self,
        address: str,
        request: bytes,
        most_connections: int,
        timeout_s: float,
        on_done: Callable[[Exchange], None] = lambda _: None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self.request = request
        self._most_connections = most_connections
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._idle: dict[_Connection, None] = {}  # the last one used is the first one taken
        self._connections: set[_Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._resting = asyncio.Event()
        self.opened = 0

    def send(self, due_s: float) -> Exchange:
        """Sends the request as soon as a connection is free."""
        exchange = Exchange(due_s, time.perf_counter())
        self._under_way += 1
        self._resting.clear()
        patience_s = max(due_s + self._timeout_s - exchange.sent_s, 0)
        exchange.timer = asyncio.get_running_loop().call_later(patience_s, self.finish, exchange, TIMED_OUT)
        self._waiting.append(exchange)
        self._serve_waiting()
        return exchange

    def finish(self, exchange: Exchange, outcome: str) -> None:
        """Notes what became of an exchange, once."""
        if exchange.outcome:
            return
        exchange.outcome, exchange.done_s = outcome, time.perf_counter()
        assert exchange.timer is not None
        exchange.timer.cancel()
        if outcome == TIMED_OUT:
            for connection in [c for c in self._connections if c.exchange is exchange]:
                connection.abort()
        self._under_way -= 1
        self._on_done(exchange)
        if not self._under_way:
            self._resting.set()

    def free(self, connection: "_Connection") -> None:
        """Takes a connection back that can carry another request."""
        self._idle[connection] = None
        self._serve_waiting()

    def lose(self, connection: "_Connection") -> None:
        """Forgets a connection that has ended."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        self._serve_waiting()

    async def rest(self) -> None:
        """Returns when nothing is under way, after the timeout at the latest."""
        if self._under_way:
            await self._resting.wait()

    async def close(self) -> None:
        """Closes every connection."""
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()

    def _serve_waiting(self) -> None:
        while self._waiting:
            if self._waiting[0].outcome:  # given up in line
                self._waiting.popleft()
            elif self._idle:
                connection, _ = self._idle.popitem()
                connection.start(self._waiting.popleft())
            elif len(self._connections) < self._most_connections:
                connection = _Connection(self, self._waiting.popleft())
                self._connections.add(connection)
                self._opening.add(opening := asyncio.ensure_future(self._open(connection)))
                opening.add_done_callback(self._opening.discard)
            else:
                return

    async def _open(self, connection: "_Connection") -> None:
        self.opened += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, self._host, self._port)
        except OSError:
            connection.connection_lost(None)


class _Connection(asyncio.Protocol):
    """One connection and the exchange that it carries; made for its first one."""

    def __init__(self, sender: Sender, exchange: Exchange) -> None:
        self._sender = sender
        self.exchange: Exchange | None = exchange
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def start(self, exchange: Exchange) -> None:
        assert self._transport is not None
        self.exchange = exchange
        self._transport.write(self._sender.request)

    def abort(self) -> None:
        self.exchange = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if self.exchange is None:  # given up meanwhile
            self._transport.abort()
        else:
            self.start(self.exchange)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.abort()

    def on_header(self, name: bytes, _: bytes) -> None:
        if self.exchange is not None and name.lower() == b"retry-after":
            self.exchange.retry_after = True

    def on_message_complete(self) -> None:
        exchange, self.exchange = self.exchange, None
        assert self._transport is not None
        if self._parser.should_keep_alive() and exchange is not None:
            self._sender.free(self)
        else:
            self._transport.close()
        if exchange is not None:
            self._sender.finish(exchange, str(self._parser.get_status_code()))

    def connection_lost(self, _: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        self._sender.lose(self)
        if exchange is not None:
            self._sender.finish(exchange, BROKEN)
