"""Media types, encodings, methods and sizes that the door or the route refuses (faults B)."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.server import Server
from tests.service.refusal import GOOD, assert_refused, post

MIB = 2**20
LARGE = "expected a body of at most 16,777,216 bytes"
BINARY = "application/x-safetensors"
TYPES = [
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/octet-stream"),
    *("application/vnd.api+json", "application/json; charset=utf-16", "application/json;charset=latin-1", "json", ""),
    *("application/vnd.safetensors", "application/*", f"{BINARY}, application/json"),
]


@pytest.mark.parametrize("declared", TYPES)
def test_a_type_that_is_not_read_is_refused(unharmed: httpx.Client, declared: str) -> None:
    message = "expected Content-Type application/json (in UTF-8) or application/x-safetensors, got another one"
    response = post(unharmed, GOOD, content_type=declared)
    assert_refused(response, 415, "unsupported_media_type", "Content-Type", message)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, br", "unheard-of"])
def test_an_encoded_body_is_refused(unharmed: httpx.Client, encoding: str) -> None:
    response = post(unharmed, GOOD, content_encoding=encoding)
    assert_refused(
        response, 415, "unsupported_encoding", "Content-Encoding", "expected a body without Content-Encoding"
    )


REFUSED = [
    *("text/html", "image/*", "nonsense", "application/json;q=0", "application/json;q=0, text/html", "*/*;q=0.0"),
    *(f"*/*, application/json;q=0, {BINARY};q=0", "application/*;q=0, */*", "*/*;q=nonsense", "*/*;q=2", ","),
]


@pytest.mark.parametrize("accepted", REFUSED)
def test_an_answer_that_the_caller_cannot_read_is_refused(unharmed: httpx.Client, accepted: str) -> None:
    message = "this route answers with application/json or application/x-safetensors, which Accept leaves out"
    assert_refused(post(unharmed, GOOD, accept=accepted), 406, "not_acceptable", "Accept", message)


READ = [
    {},
    {"content_type": "application/json"},
    {"content_type": 'Application/JSON; charset="UTF-8"'},
    {"content_encoding": "identity"},
    {"accept": "text/html, application/*;q=0.5"},
    {"accept": ""},
    {"accept": f"Application/JSON; charset=utf-8, {BINARY}"},
    {"accept": f"{BINARY};q=0.5, application/json ; q=0.501"},
    {"accept": f"*/*;q=0.9, {BINARY};q=0.8"},
]


@pytest.mark.parametrize("headers", READ, ids=str)
def test_the_same_body_under_any_legal_header_gets_the_same_bytes(
    unharmed: httpx.Client, headers: dict[str, str]
) -> None:
    assert post(unharmed, GOOD, **headers).content == post(unharmed, GOOD).content


WISHES = [
    (BINARY, BINARY),
    (f"text/html, {BINARY.upper()};q=0.001", BINARY),
    (f"application/json;q=0.5, {BINARY}", BINARY),
    ("*/*, application/json;q=0.1", BINARY),
    ("application/*, application/json;q=0", BINARY),
    (f"application/*;q=0.2, {BINARY};q=0, */*", "application/json"),
    (f"{BINARY};q=0.3, application/json;q=0.4", "application/json"),
]


@pytest.mark.parametrize(("accepted", "written"), WISHES)
def test_the_answer_is_of_the_type_that_the_caller_likes_best(
    unharmed: httpx.Client, accepted: str, written: str
) -> None:
    response = post(unharmed, GOOD, accept=accepted)
    assert (response.status_code, response.headers["content-type"]) == (200, written)
    assert response.headers["vary"] == "Accept, Content-Type"


def test_several_accept_headers_are_one_list(unharmed: httpx.Client) -> None:
    headers = [("Accept", "text/html"), ("Accept", BINARY)]
    response = unharmed.post("/v1/models/tiny/forward", content=GOOD, headers=headers)
    assert response.headers["content-type"] == BINARY


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_another_method_is_refused_and_the_right_one_named(unharmed: httpx.Client, method: str) -> None:
    response = unharmed.request(method, "/v1/models/tiny/forward")
    assert response.headers["allow"] == "POST"
    assert_refused(response, 405, "method_not_allowed", "method", "expected method POST")


@pytest.mark.parametrize("wanted", ["a b", "<script>", "x" * 129, ""], ids=["space", "markup", "129 long", "empty"])
def test_a_request_id_that_is_none_is_replaced(unharmed: httpx.Client, wanted: str) -> None:
    response = post(unharmed, b"", x_request_id=wanted)
    assert response.headers["x-request-id"] != wanted
    assert_refused(response, 400, "invalid_json", "", "expected JSON: the body is empty")


def test_a_request_id_comes_back_in_header_and_body(unharmed: httpx.Client) -> None:
    response = post(unharmed, b"", x_request_id="r" * 128)
    assert response.headers["x-request-id"] == "r" * 128
    assert_refused(response, 400, "invalid_json", "", "expected JSON: the body is empty")


def test_a_body_of_just_the_limit_is_read(unharmed: httpx.Client) -> None:
    body = GOOD + b" " * (16 * MIB - len(GOOD))
    assert post(unharmed, body).content == post(unharmed, GOOD).content


def test_a_body_of_a_byte_more_is_refused_while_it_comes_in_chunks(unharmed: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield GOOD
        rest = 16 * MIB + 1 - len(GOOD)
        while rest:
            size = min(rest, MIB)
            rest -= size
            yield b" " * size

    response = unharmed.post("/v1/models/tiny/forward", content=chunks())
    assert_refused(response, 413, "body_too_large", "", LARGE)


@pytest.mark.parametrize("declared", [16 * MIB + 1, 2 * 2**30])
def test_a_declared_size_beyond_the_limit_is_refused_before_a_byte_of_it(
    server: Server, unharmed: httpx.Client, declared: int
) -> None:
    url = httpx.URL(server.url)
    head = f"POST /v1/models/tiny/forward HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {declared}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    lines, _, body = answer.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 413 ")
    assert {name: value for name, value in json.loads(body).items() if name != "request_id"} == {
        "error": LARGE,
        "code": "body_too_large",
        "at": "",
    }
