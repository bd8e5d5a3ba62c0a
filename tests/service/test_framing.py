"""What is no HTTP request, or one that two servers might read differently (faults A6 to A23), over raw sockets."""

import socket
import struct
import time

import httpx
import psutil
import pytest

from service.framing import combine
from tests.server import Server
from tests.service.log_lines import lines_of, log_of
from tests.service.refusal import GOOD
from tests.service.scraping import scrape_at_rest
from tests.service.wire import HEAD, LINE, REQUEST, connect, exchange, read_all, read_one

GET = b"GET /v1/models HTTP/1.1\r\n"
HOST = b"Host: glassblock\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
READ = "expected an HTTP/1.1 request"
ONE_HOST = ("Host", "expected one Host: a name or an address, with or without a port")
TARGET = ("URL", "expected a target that begins with /")
VERSION = ("version", "expected HTTP/1.1 or HTTP/1.0")
CODING = ("Transfer-Encoding", "expected no Transfer-Encoding but chunked")
MALFORMED = {
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ("", f"{READ}: Invalid method encountered")),
    "random bytes": (bytes(range(0, 256, 7)), ("", f"{READ}: Invalid method encountered")),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ("", f"{READ}: Pause on PRI/Upgrade")),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", VERSION),
    "HTTP/2.0": (b"GET /livez HTTP/2.0\r\n" + HOST + b"\r\n", VERSION),
    "HTTP/3.7": (b"GET /livez HTTP/3.7\r\n" + HOST + b"\r\n", ("", f"{READ}: Invalid HTTP version")),
    "method in lower case": (REQUEST.replace(b"POST", b"post"), ("", f"{READ}: Invalid method encountered")),
    "method unheard of": (REQUEST.replace(b"POST", b"BREW"), ("", f"{READ}: Invalid method encountered")),
    "length -1": (HEAD + b"Content-Length: -1\r\n\r\n", ("", f"{READ}: Invalid character in Content-Length")),
    "length +5": (HEAD + b"Content-Length: +5\r\n\r\n", ("", f"{READ}: Invalid character in Content-Length")),
    "length 0x10": (HEAD + b"Content-Length: 0x10\r\n\r\n", ("", f"{READ}: Invalid character in Content-Length")),
    "length 5, 5": (HEAD + b"Content-Length: 5, 5\r\n\r\n", ("", f"{READ}: Invalid character in Content-Length")),
    "length 2^64": (HEAD + b"Content-Length: 18446744073709551616\r\n\r\n", ("", f"{READ}: Content-Length overflow")),
    "two lengths": (
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        ("", f"{READ}: Duplicate Content-Length"),
    ),
    "coding, then length": (
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ("", f"{READ}: Content-Length can't be present with Transfer-Encoding"),
    ),
    "length, then coding": (
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ("", f"{READ}: Transfer-Encoding can't be present with Content-Length"),
    ),
    "coding gzip, chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", CODING),
    "coding gzip": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", CODING),
    "coding xchunked": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", CODING),
    "tab behind the coding": (
        HEAD + b"Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
        ("", f"{READ}: Request has invalid `Transfer-Encoding`"),
    ),
    "vertical tab before the coding": (
        HEAD + b"Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
        ("", f"{READ}: Invalid header value char"),
    ),
    "coding twice": (
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ("", f"{READ}: Invalid `Transfer-Encoding` header value"),
    ),
    "space before the colon": (
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n",
        ("", f"{READ}: Invalid header field char"),
    ),
    "chunk size": (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", ("", f"{READ}: Invalid character in chunk size")),
    "chunk size below 0": (CHUNKED + b"-5\r\nhello\r\n", ("", f"{READ}: Invalid character in chunk size")),
    "chunk size of 17 digits": (CHUNKED + b"ffffffffffffffff1\r\n", ("", f"{READ}: Chunk size overflow")),
    "chunk without end": (CHUNKED + b"5\r\nhelloXX0\r\n\r\n", ("", f"{READ}: Expected LF after chunk data")),
    "extension without end": (
        CHUNKED + b"5;" + b"x" * 300_000,
        ("body", "expected less between the chunks of the body"),
    ),
    "trailer without end": (
        CHUNKED + b"5\r\nhello\r\n0\r\nX: " + b"x" * 300_000,
        ("body", "expected less between the chunks of the body"),
    ),
    "folded header": (
        HEAD + b"X-A: b\r\n c\r\n" + LENGTH,
        ("", f"{READ}: Unexpected whitespace after header value"),
    ),
    "folded before its value": (HEAD + b"X-A: \r\n c\r\n" + LENGTH, ("", f"{READ}: Invalid header value char")),
    "NUL in a header": (HEAD + b"X-A: b\x00c\r\n" + LENGTH, ("", f"{READ}: Invalid header value char")),
    "bare CR": (HEAD + b"X-A: b\rc\r\n" + LENGTH, ("", f"{READ}: Missing expected LF after header value")),
    "NUL behind a blank": (HEAD + b"X-A: b \x00\r\n" + LENGTH, ("", f"{READ}: Invalid header value char")),
    "bare CR behind a blank": (
        HEAD + b"X-A: b \r \r\n" + LENGTH,
        ("", f"{READ}: Missing expected LF after header value"),
    ),
    "bare LF": (REQUEST.replace(b"\r\n", b"\n"), ("", f"{READ}: Expected CRLF after version")),
    "no Host": (GET + b"\r\n", ONE_HOST),
    "two Hosts": (GET + HOST + HOST + b"\r\n", ONE_HOST),
    "two Hosts, one empty": (GET + b"Host: \r\n" + HOST + b"\r\n", ONE_HOST),
    "empty Host": (GET + b"Host:\r\n\r\n", ONE_HOST),
    "blank Host": (GET + b"Host: \t \r\n\r\n", ONE_HOST),
    **{f"Host with {sign}": (GET + f"Host: a{sign}b\r\n\r\n".encode(), ONE_HOST) for sign in ("/", "?", "#", "@", " ")},
    "probe with a forged Host": (b"GET /livez HTTP/1.1\r\nHost: a/v1/models?\r\n\r\n", ONE_HOST),
    "absolute target": (b"GET http://glassblock/livez HTTP/1.1\r\n" + HOST + b"\r\n", TARGET),
    "target *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", TARGET),
    "CONNECT": (b"CONNECT glassblock:80 HTTP/1.1\r\n" + HOST + b"\r\n", TARGET),
    "authority as target": (
        b"GET glassblock:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        ("", f"{READ}: Unexpected char in url schema"),
    ),
    "target without /": (b"GET livez HTTP/1.1\r\n" + HOST + b"\r\n", ("", f"{READ}: Invalid characters in url")),
    "target beyond ASCII": (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", ("", f"{READ}: Invalid char in url path")),
    "upgrade beside a body": (
        HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + LENGTH,
        ("Upgrade", "expected no Upgrade beside a body: this server speaks HTTP/1.1"),
    ),
}


def assert_refused_once(server: Server, data: bytes, status: int, code: str, at: str, message: str) -> None:
    """One answer, whole, then the end of the connection; one line in the log."""
    (answer,) = exchange(server, data)
    sentence = f"{message} - at {at}" if at else message
    assert answer.failure() == (status, code, at, sentence)
    assert answer.headers["connection"] == "close"
    (line,) = lines_of(server, answer.headers["x-request-id"])
    assert (line["status"], line["code"], line["route"]) == (status, code, "none")


@pytest.mark.parametrize(("data", "said"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_refused_in_one_sentence_and_one_line(
    server: Server, unharmed: httpx.Client, data: bytes, said: tuple[str, str]
) -> None:
    assert_refused_once(server, data, 400, "invalid_http", *said)


IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
BLANKS_AROUND = {
    "Host": LINE + b"Host:\t glassblock \t\r\nConnection: close\r\n" + LENGTH,
    "Content-Length": REQUEST.replace(b"\r\n\r\n", b" \t\r\nConnection: close\r\n\r\n"),
    "Transfer-Encoding": HEAD + b"Connection: close\r\nTransfer-Encoding: \t chunked  \r\n\r\n" + IN_CHUNKS,
    "Content-Encoding": HEAD + b"Connection: close\r\nContent-Encoding: identity \r\n" + LENGTH,
    "Connection": HEAD + b"Connection: close \r\n" + LENGTH,
}


@pytest.mark.parametrize("data", BLANKS_AROUND.values(), ids=BLANKS_AROUND)
def test_blanks_and_tabs_around_a_value_are_no_part_of_it(server: Server, unharmed: httpx.Client, data: bytes) -> None:
    (answer,) = exchange(server, data)
    assert (answer.status, answer.body) == (200, unharmed.post("/v1/models/tiny/forward", content=GOOD).content)


def test_blanks_behind_a_request_id_and_a_length_beyond_the_limit_hide_neither(
    server: Server, unharmed: httpx.Client
) -> None:
    asking = b"X-Request-ID: with-blanks \t\r\nExpect: 100-continue \r\nContent-Length: 16777217 \r\n\r\n"
    (answer,) = exchange(server, HEAD + asking)
    assert answer.failure() == (413, "body_too_large", "", "expected a body of at most 16,777,216 bytes")
    assert answer.headers["x-request-id"] == "with-blanks"


def test_values_of_one_name_are_joined_without_the_blanks_around_each_and_nothing_else_is_taken_off() -> None:
    headers = [(b"a", b" 1\t"), (b"b", b"\t"), (b"a", b"\v2, 3\xa0 \t")]
    assert combine(headers) == {b"a": b"1, \v2, 3\xa0", b"b": b""}
    assert combine(headers[1:]) == {b"b": b"", b"a": b"\v2, 3\xa0"}


LARGE_HEAD = "expected headers of at most 16,384 bytes"
LINES = "expected at most 100 header lines"
TOO_LARGE = {
    "101 lines": (HEAD + b"X: y\r\n" * 100 + b"\r\n", 431, "too_many_headers", LINES),
    "20,000 lines": (HEAD + b"X: y\r\n" * 20_000, 431, "too_many_headers", LINES),
    "17 kB": (HEAD + b"X: " + b"y" * 17_000 + b"\r\n\r\n", 431, "headers_too_large", LARGE_HEAD),
    "20 MB value": (HEAD + b"X: " + b"y" * 20_000_000, 431, "headers_too_large", LARGE_HEAD),
    "20 MB name": (HEAD + b"y" * 20_000_000, 431, "headers_too_large", LARGE_HEAD),
}


@pytest.mark.parametrize(("data", "status", "code", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_head_beyond_its_limits_is_refused_before_its_end(
    server: Server, unharmed: httpx.Client, data: bytes, status: int, code: str, message: str
) -> None:
    with connect(server) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            assert len(data) > 16 * 2**20  # what is sent after a refusal is thrown away up to a body's limit
            return
        (answer,) = read_all(connection)
    assert answer.failure() == (status, code, "headers", f"{message} - at headers")


@pytest.mark.parametrize("length", [2049, 1_000_000])
def test_a_long_url_is_refused(server: Server, unharmed: httpx.Client, length: int) -> None:
    data = b"GET /" + b"a" * (length - 1) + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    assert_refused_once(server, data, 414, "url_too_long", "URL", "expected a URL of at most 2,048 bytes")


def test_a_head_at_its_limits_is_read(server: Server, unharmed: httpx.Client) -> None:
    assert unharmed.get("/" + "a" * 2047).status_code == httpx.codes.NOT_FOUND
    head = HEAD + b"Connection: close\r\n" + b"X: y\r\n" * 97
    assert [answer.status for answer in exchange(server, head + LENGTH)] == [200]
    filled = HEAD[len(LINE) :] + b"Connection: close\r\nContent-Length: %d\r\n" % len(GOOD)
    padded = b"X: " + b"y" * (16_384 - len(filled) - 5) + b"\r\n"
    assert [answer.status for answer in exchange(server, LINE + filled + padded + b"\r\n" + GOOD)] == [200]


def test_bytes_after_a_request_are_refused_after_its_answer(server: Server, unharmed: httpx.Client) -> None:
    first, second = exchange(server, REQUEST + b"and some more\r\n\r\n")
    assert (first.status, first.body) == (200, unharmed.post("/v1/models/tiny/forward", content=GOOD).content)
    assert second.failure() == (400, "invalid_http", "", f"{READ}: Invalid method encountered")


def test_a_hundred_requests_in_one_packet_are_answered_in_order_and_each_is_logged(
    server: Server, unharmed: httpx.Client
) -> None:
    names = [b"tiny", b"none"] * 50
    heads = [b"GET /v1/models/%s HTTP/1.1\r\nX-Request-ID: packed-%d\r\n" % (name, i) for i, name in enumerate(names)]
    heads[-1] += b"Connection: close\r\n"
    answers = exchange(server, b"".join(head + HOST + b"\r\n" for head in heads))
    assert [answer.status for answer in answers] == [200, 404] * 50
    lines_of(server, "packed-99")
    log = server.stdout.read_text()
    assert [log.count(f'"packed-{i}"') for i in range(100)] == [1] * 100


def test_a_body_cut_short_is_never_run(server: Server, unharmed: httpx.Client) -> None:
    tokens = "glassblock_tokens_total", (("model", "tiny"), ("version", "1"))
    before = scrape_at_rest(unharmed)
    with connect(server) as connection:
        connection.sendall(HEAD + b"X-Request-ID: cut-short\r\nContent-Length: %d\r\n\r\n" % (len(GOOD) + 1) + GOOD)
    (line,) = lines_of(server, "cut-short")
    assert line["status"] == 499
    assert scrape_at_rest(unharmed)[tokens] == before[tokens]


def test_a_client_that_closes_its_half_is_taken_to_have_left(server: Server, unharmed: httpx.Client) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + b"X-Request-ID: half\r\nContent-Length: %d\r\n\r\n" % (len(GOOD) + 1) + GOOD)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == []
    (line,) = lines_of(server, "half")
    assert line["status"] == 499


@pytest.mark.parametrize(
    "data", [REQUEST[:-9], REQUEST, HEAD[:-5]], ids=["in the body", "in the answer", "in the head"]
)
def test_a_reset_leaves_nothing_behind(server: Server, unharmed: httpx.Client, data: bytes) -> None:
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    for _ in range(20):
        connection = connect(server)
        connection.sendall(data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    while process.num_fds() > before:  # until the test's own time is over
        time.sleep(0.02)
    assert "Traceback" not in log_of(server)


def test_a_body_in_chunks_of_one_byte_costs_no_memory(server: Server, unharmed: httpx.Client) -> None:
    process = psutil.Process(server.process.pid)
    body = GOOD + b" " * 200_000
    data = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    data += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    exchange(server, data)
    before = process.memory_info().rss
    assert [answer.status for answer in exchange(server, data)] == [200]
    assert process.memory_info().rss - before < 4 * 2**20  # allocators grow by a MiB at a time


def test_a_trailer_is_no_header(server: Server, unharmed: httpx.Client) -> None:
    data = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    trailers = b"X-Request-ID: from-the-trailer\r\nContent-Type: text/plain\r\n" + b"X: y\r\n" * 200
    (answer,) = exchange(server, data + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(GOOD), GOOD, trailers))
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "from-the-trailer"


ODD_PATHS = ["//livez", "/livez/", "/LIVEZ", "/v1/../livez", "/v1/models/tiny;x", "/v1/models/%252e%252e"]
ODD_PATHS += ["/v1/models/%2e%2e%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/%ff", "/v1/models/tiny%00"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_an_odd_path_is_404(server: Server, unharmed: httpx.Client, path: str) -> None:
    (answer,) = exchange(server, f"GET {path} HTTP/1.1\r\nConnection: close\r\n".encode() + HOST + b"\r\n")
    assert answer.failure()[0] == 404


def test_a_request_of_http_1_0_is_answered_and_the_connection_closed(server: Server, unharmed: httpx.Client) -> None:
    (answer,) = exchange(server, b"GET /livez HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_an_offered_upgrade_is_left_alone_and_the_connection_closed(server: Server, unharmed: httpx.Client) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: aGVsbG8=\r\nSec-WebSocket-Version: 13\r\n"
    )
    (answer,) = exchange(server, GET + HOST + upgrade + b"\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_head_gets_405_without_a_body(server: Server, unharmed: httpx.Client) -> None:
    for path, allowed in (("/v1/models/tiny/forward", "POST"), ("/livez", "GET")):
        answer = unharmed.head(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, allowed, b"")


def test_who_asks_before_sending_is_told_to_go_on(server: Server, unharmed: httpx.Client) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(GOOD))
        assert read_one(connection).status == 100
        connection.sendall(GOOD)
        assert read_one(connection).status == 200


def test_who_asks_before_sending_in_http_1_0_is_not_told_to_go_on(server: Server, unharmed: httpx.Client) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\n" + LENGTH[: -len(GOOD)])
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        connection.sendall(GOOD)
        assert [answer.status for answer in read_all(connection)] == [200]


def test_who_asks_before_sending_too_much_is_refused_at_once(server: Server, unharmed: httpx.Client) -> None:
    (answer,) = exchange(server, HEAD + b"Expect: 100-continue\r\nContent-Length: 16777217\r\n\r\n")
    assert answer.failure() == (413, "body_too_large", "", "expected a body of at most 16,777,216 bytes")


def test_who_sends_ten_megabytes_that_were_refused_can_read_why(server: Server, unharmed: httpx.Client) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 20000000\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"x" * 1_000_000)
            time.sleep(0.02)
        (answer,) = read_all(connection)
    assert answer.failure()[:2] == (413, "body_too_large")


def test_a_length_may_have_more_zeros_than_python_reads_digits(server: Server, unharmed: httpx.Client) -> None:
    length = b"0" * 5000 + b"%d" % len(GOOD)
    (answer,) = exchange(server, HEAD + b"Connection: close\r\nContent-Length: " + length + b"\r\n\r\n" + GOOD)
    assert answer.status == 200
