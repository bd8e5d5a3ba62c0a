"""Bodies lie where they were read to: whole, whatever they came in, and the numbers in them where numbers may lie."""

import random
import time
import weakref
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.connection import PATIENCE_S
from service.reader import _MOST_PLACE_BYTES, _MOST_PLACES_BYTES, Body, Reader
from tests.server import Server
from tests.service.refusal import GOOD
from tests.service.wire import HEAD, connect, read_some

PLACE, PLACES = _MOST_PLACE_BYTES, _MOST_PLACES_BYTES


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.booleans()), min_size=1), st.integers(0, 500))
def test_a_body_is_what_came_of_it_however_it_came(pieces: list[tuple[bytes, bool]], lead: int) -> None:
    body, whole = Body(), b"".join(piece for piece, _ in pieces)
    body.expect(len(whole), lead)
    for piece, is_read_there in pieces:
        room = body.room()
        if is_read_there and room is not None:
            room[: len(piece)] = piece
            body.fill(len(piece))
        else:
            body.add(piece)
    found = body.pop()
    assert found is not None
    assert bytes(found) == whole
    if len(whole) > lead:
        assert np.frombuffer(found, np.uint8)[lead:].ctypes.data % 8 == 0
    assert body.pop() is None


def test_only_so_many_bodies_get_a_place_before_they_are_there() -> None:
    bodies = [Body() for _ in range(PLACES // PLACE + 1)]
    for body in bodies:
        body.expect(PLACE, 0)
    assert [body.room() is not None for body in bodies] == [True] * (len(bodies) - 1) + [False]
    bodies[0].pop()
    bodies[-1].expect(PLACE, 0)
    assert bodies[-1].room() is not None
    for body in bodies:
        body.pop()
    bodies[0].expect(PLACE + 1, 0)
    assert bodies[0].room() is None
    assert Body._places_bytes == 0


def test_a_connection_keeps_no_place_once_its_body_has_been_taken() -> None:
    class Connection:
        def __init__(self) -> None:
            self.body = Body()
            self.body.expect(1000, 0)

        def room(self) -> memoryview | None:
            return self.body.room()

        def fill(self, size: int) -> None:
            self.body.fill(size)

    connection = Connection()
    reader = Reader(connection)
    reader.get_buffer(-1)[:10] = bytes(10)
    reader.buffer_updated(10)
    place = weakref.ref(cast("np.ndarray[Any, Any]", cast("memoryview", connection.room()).obj))
    assert place() is not None
    connection.body.pop()
    assert place() is None


@pytest.mark.parametrize("size", [300_000, PLACE - 1000, PLACE + 1000])
@pytest.mark.parametrize("slow", [False, True])
def test_behind_a_known_head_a_large_body_is_read_as_it_was_sent(server: Server, size: int, slow: bool) -> None:  # noqa: FBT001
    body = b" " * (size - len(GOOD)) + GOOD
    request = HEAD + b"Content-Length: %d\r\n\r\n" % size + body
    cuts = random.Random(size)  # noqa: S311
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        [first] = read_some(connection, 1)
        for _ in range(3):
            start, middle, end = sorted(cuts.sample(range(1, len(request)), 3))
            for piece in (request[:start], request[start:middle], request[middle:end]):
                connection.sendall(piece)
                time.sleep(2 * PATIENCE_S if slow else 0)
            connection.sendall(request[end:] + request + request[:end])
            connection.sendall(request[end:])
            assert [answer.body for answer in read_some(connection, 3)] == [first.body] * 3
    assert first.status == 200
