"""One client's connection: a request, its whole answer, or a departure without it."""

import asyncio
from dataclasses import dataclass
from typing import Self

READ_LIMIT = 1 << 20
ANSWER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: such as 200.
        body: its bytes.
        closes: whether it announced that the connection ends with it.
    """

    status: int
    body: bytes
    closes: bool


class Connection:
    """A connection that carries one request after another; `Connection.open` makes one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, address: str) -> Self:
        """Connects to host:port.

        Raises:
            OSError: nobody listens there.
        """
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=READ_LIMIT))

    def send(self, request: bytes) -> None:
        """Hands a request to the system, as much of it as the system takes at once."""
        self._writer.write(request)

    async def receive(self) -> Answer:
        """The answer to the oldest request without one.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection ended before the answer did.
            TimeoutError: it did not come.
        """
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        return Answer(int(head[9:12]), body, b"\r\nconnection: close\r\n" in head)

    async def ask(self, request: bytes) -> Answer:
        """Sends a request and receives its answer; raises what `receive` does."""
        self.send(request)
        return await self.receive()

    def leave(self) -> None:
        """Ends the connection at once, whatever is under way."""
        self._writer.transport.abort()
