"""A tiny HTTP server of known delays, in a thread and an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REQUEST = b"POST / HTTP/1.1\r\nHost: stub\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Stub(asyncio.Protocol):
    def __init__(self, behave: Callable[[], bytes], delay_s: float, transports: set[asyncio.Transport]) -> None:
        self._behave, self._delay_s, self._transports = behave, delay_s, transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._transports.add(transport)

    def data_received(self, data: bytes) -> None:
        assert data == REQUEST
        asyncio.get_running_loop().call_later(self._delay_s, self._answer, self._behave())

    def _answer(self, answer: bytes) -> None:
        self._transport.write(answer)
        if not answer or b"Connection: close" in answer:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._transports.discard(self._transport)


@contextmanager
def answering(behave: Callable[[], bytes], delay_s: float = 0.001) -> Iterator[str]:
    """Yields the host:port of a server that gives what `behave` returns to each request, `delay_s` after it came.

    A connection is closed after an answer that says so, and after an empty one, which is none.
    """
    transports: set[asyncio.Transport] = set()
    loop = asyncio.new_event_loop()
    listening = loop.create_server(lambda: _Stub(behave, delay_s, transports), "127.0.0.1", 0)
    server = loop.run_until_complete(listening)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server, transports), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server, transports: set[asyncio.Transport]) -> None:
    server.close()
    for transport in list(transports):
        transport.abort()
    await asyncio.sleep(0)  # each is told in the loop's next turn
