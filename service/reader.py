"""Where a transport puts what it reads: a body where it will lie, all else in one place for a moment."""

import asyncio
from typing import Any, ClassVar

import numpy as np

_AT_ONCE = memoryview(bytearray(2**18))  # what is read here is looked at before the one event loop reads more
_FIRST_BYTES = 2**16  # that are read there unless more waits: of a body that gets a place, so many at most are copied
_MOST_PLACE_BYTES, _MOST_PLACES_BYTES = 2**22, 2**25  # of a body that gets a place before it is there, and of all
_ALIGNMENT = 16  # of what is fresh from the allocator


class Body:
    """What has come of a request's body, until it is whole or somebody reads it piece by piece."""

    _places_bytes: ClassVar[int] = 0  # of all bodies

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._place: memoryview | None = None
        self._bytes = 0

    def expect(self, size: int, lead: int) -> None:
        """So many bytes will come; they get their place now, unless there are too many.

        Args:
            size: of all that is to come.
            lead: of what lies before the first tensor, which is to lie aligned for any number.
        """
        if 0 < size <= min(_MOST_PLACE_BYTES, _MOST_PLACES_BYTES - Body._places_bytes):
            start = -lead % _ALIGNMENT
            self._place = memoryview(np.empty(start + size, np.uint8))[start:]  # type: ignore[arg-type]
            Body._places_bytes += size

    def add(self, piece: bytes | memoryview) -> None:
        """More has come."""
        if self._place is None:
            self._pieces.append(bytes(piece))
        else:
            self._place[self._bytes : self._bytes + len(piece)] = piece
            self._bytes += len(piece)

    def room(self) -> memoryview | None:
        """Where the rest is to be read to, of which `fill` tells; None if it has no place."""
        return self._place and self._place[self._bytes :]

    def fill(self, size: int) -> None:
        """So many bytes have been read there."""
        self._bytes += size

    def pop(self) -> bytes | memoryview | None:
        """All that has come, None if nothing has; a body that comes next begins anew."""
        pieces, place, size = self._pieces, self._place, self._bytes
        self._pieces, self._place, self._bytes = [], None, 0
        if place is None:
            return b"".join(pieces) if pieces else None
        Body._places_bytes -= len(place)
        return place[:size] if size else None


class Reader(asyncio.BufferedProtocol):
    """Reads for a connection, which is told of everything else itself.

    A protocol that is given bytes gets a copy of them each time, of which a body is put together by another.

    Args:
        connection: an Inlet.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._in_place = False
        self._at_once_bytes = _FIRST_BYTES

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - of asyncio
        """Where to read to."""
        room: memoryview | None = self._connection.room()
        self._in_place = room is not None  # not the room: nothing may come, and it would keep the whole place
        return _AT_ONCE[: self._at_once_bytes] if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have been read there."""
        if not self._in_place:
            self._at_once_bytes = len(_AT_ONCE) if nbytes == self._at_once_bytes else _FIRST_BYTES
            self._connection.data_received(_AT_ONCE[:nbytes])
        else:
            self._at_once_bytes = _FIRST_BYTES
            self._connection.fill(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the connection."""
        self._connection.connection_lost(exc)

    def eof_received(self) -> None:
        """Tells the connection."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """Tells the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tells the connection."""
        self._connection.resume_writing()
