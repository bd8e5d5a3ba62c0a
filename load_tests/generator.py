"""A closed loop in a process of its own: prepared requests out, answers counted and not parsed.

One thread and one selector drive all connections. An answer's bytes are read into one buffer and dropped, so that the
generator costs next to nothing beside a server on the same cores; what it does cost is measured too.
"""

import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context

from load_tests.usage import cpu_s

_BUFFER_BYTES = 2**20
_MAX_HEAD_BYTES = 2**13
_DRAIN_S = 60.0
_TICK_S = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_UNKNOWN, _IN_CHUNKS = 0, -1


@dataclass(frozen=True, slots=True)
class Job:
    """What to send and for how long.

    Attributes:
        address: host:port.
        requests: whole HTTP requests, sent in turn by whichever connection is free.
        connections: kept open, one exchange under way on each.
        warm_s: load before the window.
        window_s: load that is counted; more where a server takes longer for its first answer.
        pids: the server's processes, for their CPU.
    """

    address: str
    requests: tuple[bytes, ...]
    connections: int
    warm_s: float
    window_s: float
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer: index in `Job.requests`, seconds on one clock, whether it was a 200."""

    index: int
    start_s: float
    end_s: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """What the window saw.

    Attributes:
        answered: index of the request of each 200 that was completed within the window.
        latencies_s: of every request sent within the window, first byte out to last byte in.
        failed: answers within the window that were not 200.
        window_s: as it was.
        server_cpu_s: of the server's processes within the window.
        client_cpu_s: of this process within the window.
    """

    answered: list[int]
    latencies_s: list[float]
    failed: int
    window_s: float
    server_cpu_s: float
    client_cpu_s: float


class _Connection:
    """One keep-alive connection and the exchange under way on it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.index, self.start_s, self.ok = -1, 0.0, False
        self._unsent = memoryview(b"")
        self._head = self._tail = b""
        self._got_bytes, self._size_bytes = 0, _UNKNOWN

    def begin(self, index: int, request: bytes) -> bool:
        """Starts the next exchange; see `send`."""
        self.index, self._unsent = index, memoryview(request)
        self._head = self._tail = b""
        self._got_bytes, self._size_bytes = 0, _UNKNOWN
        self.start_s = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Sends what the socket takes; false if some of the request still waits for room in it."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def receive(self, buffer: bytearray) -> bool:
        """Reads what has come; true once the answer is whole.

        Raises:
            ConnectionError: the server closed the connection, or its answer does not say how long it is.
        """
        got = self.socket.recv_into(buffer)
        if not got:
            raise ConnectionError("the server closed the connection")
        self._got_bytes += got
        if self._size_bytes == _UNKNOWN:
            self._head += buffer[: min(got, _MAX_HEAD_BYTES)]
            self._size_bytes = self._find_size()
        if self._size_bytes == _IN_CHUNKS:  # one exchange at a time: nothing comes after the last chunk
            self._tail = (self._tail + buffer[max(0, got - len(_LAST_CHUNK)) : got])[-len(_LAST_CHUNK) :]
            return self._tail == _LAST_CHUNK
        return _UNKNOWN < self._size_bytes <= self._got_bytes

    def _find_size(self) -> int:
        """Bytes of the whole answer, _IN_CHUNKS, or _UNKNOWN while its head is incomplete."""
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and self._got_bytes < _MAX_HEAD_BYTES:
            return _UNKNOWN
        head = self._head[: max(end, 0)]
        self.ok = head.startswith(b"HTTP/1.1 200")
        if length := _LENGTH.search(head):
            return end + 4 + int(length[1])
        if _CHUNKED.search(head):
            return _IN_CHUNKS
        raise ConnectionError("the answer does not say how long it is, or has too long a head")


class _Loop:
    """All connections of a job and what has been exchanged on them."""

    def __init__(self, job: Job) -> None:
        self.exchanges: list[Exchange] = []
        self._requests = job.requests
        self._turn = count()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._selector = selectors.DefaultSelector()
        self._busy = 0
        for _ in range(job.connections):
            connection = _Connection(job.address)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._begin(connection)

    def drive(self, until_s: float, *, more: bool = True) -> None:
        """Turns until then; without `more`, ends with the last answer and sends nothing new."""
        while self._busy and (left_s := until_s - time.perf_counter()) > 0:
            for key, events in self._selector.select(left_s):
                connection: _Connection = key.data
                if events & selectors.EVENT_WRITE and connection.send():
                    self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                if events & selectors.EVENT_READ and connection.receive(self._buffer):
                    self._finish(connection, more=more)

    def _begin(self, connection: _Connection) -> None:
        index = next(self._turn) % len(self._requests)
        self._busy += 1
        if not connection.begin(index, self._requests[index]):
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _finish(self, connection: _Connection, *, more: bool) -> None:
        end_s = time.perf_counter()
        self.exchanges.append(Exchange(connection.index, connection.start_s, end_s, connection.ok))
        self._busy -= 1
        if more:
            self._begin(connection)

    def drain(self) -> None:
        """Waits for the answers still missing.

        Raises:
            TimeoutError: some never came.
        """
        self.drive(time.perf_counter() + _DRAIN_S, more=False)
        if self._busy:
            raise TimeoutError(f"{self._busy} requests were not answered within {_DRAIN_S:.0f} s")

    def close(self) -> None:
        """Closes every connection."""
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()


def run_job(job: Job) -> Counted:
    """Drives the load: warm-up, window, and the answers still missing; a window lasts until an answer has come.

    Raises:
        ConnectionError: a connection broke, or an answer could not be delimited.
        TimeoutError: a request was not answered.
    """
    pids = list(job.pids)
    with closing(_Loop(job)) as loop:
        loop.drive(time.perf_counter() + job.warm_s)
        start_s, server_s, client_s = time.perf_counter(), cpu_s(pids), time.process_time()
        before = len(loop.exchanges)
        loop.drive(start_s + job.window_s)
        while len(loop.exchanges) == before and time.perf_counter() < start_s + _DRAIN_S:
            loop.drive(time.perf_counter() + _TICK_S)
        end_s, server_cpu_s, client_cpu_s = time.perf_counter(), cpu_s(pids) - server_s, time.process_time() - client_s
        loop.drain()
    within = [exchange for exchange in loop.exchanges if start_s <= exchange.end_s < end_s]
    return Counted(
        answered=[exchange.index for exchange in within if exchange.ok],
        latencies_s=[e.end_s - e.start_s for e in loop.exchanges if start_s <= e.start_s < end_s],
        failed=sum(not exchange.ok for exchange in within),
        window_s=end_s - start_s,
        server_cpu_s=server_cpu_s,
        client_cpu_s=client_cpu_s,
    )


@contextmanager
def generator() -> Iterator[Callable[[Job], Counted]]:
    """A process that runs jobs; yields the function that hands it one and waits."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda job: pool.submit(run_job, job).result()
