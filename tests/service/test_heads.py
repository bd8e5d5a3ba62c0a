"""A head that is known by its bytes is what the parser would read again, and bytes that are more than it are not."""

import socket
import time
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.connection import PATIENCE_S
from service.framing import combine
from service.heads import Head, Heads, read_head
from tests.server import Server
from tests.service.refusal import GOOD
from tests.service.wire import HEAD, REQUEST, Answer, connect, read_one, read_some

OTHER = GOOD.replace(b"1", b"2")
LENGTH = b"Content-Length: %d\r\n\r\n" % len(GOOD)


class Parsed:
    """What httptools finds in bytes on a fresh connection.

    Attributes:
        heads: of each request that began.
        body: of the last.
        whole: whether the bytes end where a request does.
    """

    def __init__(self, data: bytes) -> None:
        self.heads: list[Head] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = False
        self._parser: Any = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # its head is whole
        except httptools.HttpParserError:
            self.whole = False

    def on_message_begin(self) -> None:
        self.whole, self.url, self.headers, self.body = False, b"", [], b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads.append(read_head(self._parser, self.url, self.headers, combine(self.headers)))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


def known(*requests: bytes) -> Heads:
    """What a server remembers that has read these, each at once."""
    heads = Heads()
    for data in requests:
        found = Parsed(data)
        if found.heads:
            heads.learn(memoryview(data), found.heads[-1], len(found.body))
    return heads


STARTS = [
    f"{start}\r\n".encode() for start in ("POST / HTTP/1.1", "GET /%41?q HTTP/1.1", "get / HTTP/1.1", "PUT / HTTP/1.0")
]
LINES = [f"{line}\r\n".encode() for line in (
    "Host: a", "X-A: b", "X-A:  b ", "Connection: close", "Connection: upgrade", "Upgrade: h2c", "Expect: 100-continue",
    "Transfer-Encoding: chunked", *(f"Content-Length: {size}" for size in ("0", "4", "5", "05", "9", "24")),
)]  # fmt: skip
BARE = [b"POST / HTTP/1.1\n", b"X-A: b\n"]
ENDS = [b"\r\n", b"\n", b"\r\n\r\n", b"\n\n"]
BODIES = [*ENDS, b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n", STARTS[0]]


def some(pieces: list[bytes], most: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=most).map(b"".join)


WELL_FORMED = st.tuples(st.sampled_from(STARTS), some(LINES, 3), st.sampled_from(ENDS), some(BODIES, 3)).map(b"".join)
ANY = WELL_FORMED | some([*STARTS, *LINES, *BARE, *BODIES], 8)


@st.composite
def sent(draw: st.DrawFn) -> list[bytes]:
    """What comes at once, several times: requests and what is none, each more than once and beside others."""
    few = st.sampled_from(draw(st.lists(ANY, min_size=1, max_size=3)))
    return draw(st.lists(st.lists(few, max_size=3).map(b"".join), min_size=2, max_size=6))


@given(sent())
def test_what_is_found_is_what_the_parser_finds(pieces: list[bytes]) -> None:
    *read_before, data = pieces
    found = known(*read_before).find(memoryview(data))
    if found is not None:
        head, body = found
        length = head.length or 0
        parsed = Parsed(data)
        assert parsed.heads == [head]
        assert parsed.body == body
        assert parsed.whole == (len(body) == length)
        assert Parsed(data + bytes(length - len(body))).whole


@pytest.mark.parametrize("before", [GOOD_BEFORE := HEAD + b"X-A: b\r\n" + LENGTH + GOOD, b"\r\n", b"\r\n\r\n"])
def test_what_came_behind_something_else_is_not_taken_for_the_first_of_it(before: bytes) -> None:
    heads = known(before + REQUEST)
    assert heads.find(memoryview(before)) is None
    assert heads.find(memoryview(GOOD_BEFORE)) is None


@pytest.mark.parametrize("before", [b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", GOOD_BEFORE])
def test_a_head_whose_body_has_not_come_whole_is_not_taken_for_what_came_before_it(before: bytes) -> None:
    data = before + HEAD + b"Content-Length: 1000\r\n\r\nabc"
    assert known(data).find(memoryview(before)) is None
    assert known(data).find(memoryview(data)) is None


@given(st.sampled_from([b"", b"hello", b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]), st.integers(1, 20))
def test_a_request_is_found_again_by_its_head_whatever_there_is_of_its_body_and_not_if_it_is_longer(
    body: bytes, size: int
) -> None:
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    heads = known(head + body[: size - 1])
    found = heads.find(memoryview(head + bytes(len(body))))
    assert found is not None
    assert found[0].path == "/v1/models/tiny/forward"
    assert (bytes(found[1]), found[0].length) == (bytes(len(body)), len(body))
    part = heads.find(memoryview(head + body[: size - 1]))
    assert part is not None
    assert (bytes(part[1]), part[0].length) == (body[: size - 1], len(body))
    assert heads.find(memoryview(head[:-size])) is None
    assert heads.find(memoryview(head + body + b"x" * size)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer secret",
        b"Proxy-Authorization: Basic secret",
        b"Cookie: secret",
        b"Connection: close",
        b"Connection: upgrade\r\nUpgrade: h2c",
        b"Transfer-Encoding: chunked",
        b"X-Long: " + b"x" * 2048,
    ],
)
def test_secrets_long_heads_bodies_of_any_length_and_what_ends_the_connection_are_not_kept(line: bytes) -> None:
    data = HEAD + line + b"\r\n\r\n"
    assert len(Parsed(data).heads) == 1
    assert known(data).find(memoryview(data)) is None


def test_the_last_256_heads_are_remembered() -> None:
    requests = [HEAD + b"X-Number: %d\r\n\r\n" % number for number in range(300)]
    heads = known(*requests)
    assert [heads.find(memoryview(data)) is not None for data in requests] == [False] * 44 + [True] * 256


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([REQUEST], id="at once"),
        pytest.param([HEAD, LENGTH, GOOD], id="in three pieces"),
        pytest.param([HEAD + LENGTH, GOOD], id="the body behind its head"),
        pytest.param([HEAD + LENGTH + GOOD[:-1], GOOD[-1:]], id="without the last byte"),
        pytest.param([b"\r\n" + REQUEST], id="behind an empty line"),
    ],
)
def test_behind_a_known_head_each_body_gets_its_own_answer_however_it_comes(
    server: Server, pieces: list[bytes]
) -> None:
    with connect(server) as connection:
        first, other = (_ask(connection, HEAD + LENGTH + body) for body in (GOOD, OTHER))
        assert first.body != other.body
        for turn in range(3):
            for piece in pieces[:-1]:
                connection.sendall(piece)
                time.sleep(0.01)  # so that it is read by itself
            assert _ask(connection, pieces[-1]).body == first.body, turn
            assert _ask(connection, HEAD + LENGTH + OTHER).body == other.body


def test_behind_a_known_head_a_body_that_takes_longer_than_patience_is_read_piece_by_piece(server: Server) -> None:
    with connect(server) as connection:
        first = _ask(connection, HEAD + LENGTH + GOOD)
        for _ in range(2):
            for piece in (HEAD + LENGTH + GOOD[:3], GOOD[3:9], GOOD[9:-1]):
                connection.sendall(piece)
                time.sleep(2 * PATIENCE_S)
            assert _ask(connection, GOOD[-1:]).body == first.body


def test_what_comes_with_the_last_byte_of_a_body_behind_a_known_head_is_the_next_request(server: Server) -> None:
    with connect(server) as connection:
        first, other = (_ask(connection, HEAD + LENGTH + body) for body in (GOOD, OTHER))
        connection.sendall(HEAD + LENGTH + GOOD[:-1])
        time.sleep(0.01)
        connection.sendall(GOOD[-1:] + HEAD + LENGTH + OTHER + HEAD + LENGTH + GOOD[:-1])
        assert [answer.body for answer in read_some(connection, 2)] == [first.body, other.body]
        assert _ask(connection, GOOD[-1:]).body == first.body


def test_a_whole_request_does_not_wait_for_the_body_of_the_one_behind_it(server: Server) -> None:
    took_s = []
    with connect(server) as connection:
        for _ in range(5):
            start_s = time.monotonic()
            _ask(connection, HEAD + LENGTH + GOOD + HEAD + LENGTH + GOOD[:-1])
            took_s.append(time.monotonic() - start_s)
            _ask(connection, GOOD[-1:])
    assert min(took_s) < PATIENCE_S


@pytest.mark.parametrize("path", [b"/livez", b"/v2/health/live"])
def test_a_probe_does_not_wait_for_its_body(server: Server, path: bytes) -> None:
    probe = b"GET %b HTTP/1.1\r\nHost: glassblock\r\nContent-Length: 5\r\n\r\n" % path
    took_s = []
    for _ in range(10):
        with connect(server) as connection:
            start_s = time.monotonic()
            connection.sendall(probe)
            assert connection.recv(2**20).startswith(b"HTTP/1.1 200")
            took_s.append(time.monotonic() - start_s)
    assert min(took_s) < PATIENCE_S


def test_behind_a_known_head_who_waits_to_be_told_to_go_on_is_told_at_once(server: Server) -> None:
    head, took_s = HEAD + b"Expect: 100-continue\r\n" + LENGTH, []
    with connect(server) as connection:
        for _ in range(5):
            start_s = time.monotonic()
            connection.sendall(head)
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            took_s.append(time.monotonic() - start_s)
            _ask(connection, GOOD)
    assert min(took_s) < PATIENCE_S


def _ask(connection: socket.socket, data: bytes) -> Answer:
    connection.sendall(data)
    answer = read_one(connection)
    assert answer.status == 200
    return answer
