"""API keys (faults H): deny by default, one answer for every cause, and no key in any log."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import Application
from service.errors import StartError
from service.keys import read_keys
from service.settings import read_settings
from tests.server import Server, link_models, running
from tests.service.log_lines import lines_of
from tests.service.refusal import GOOD, assert_refused
from tests.service.wire import HEAD, connect, read_all

ROOT = Path(__file__).parent.parent.parent
KEY, OTHER_KEY = "a-key-of-alice", "ein-Schlüssel"
FORWARD = "/v1/models/tiny/forward"
SENTENCE = "expected the header Authorization: Bearer with a key of this server"
ALICE = {"Authorization": f"Bearer {KEY}"}


def line_of(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server that asks for keys."""
    folder = tmp_path_factory.mktemp("keys")
    keys = folder / "keys.txt"
    keys.write_text(f"# who may ask\n\n{line_of('alice', KEY)}{line_of('bob', OTHER_KEY)}", encoding="utf-8")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, api_keys_file=keys) as server:
        yield server


def test_the_banners_request_brings_a_key(locked: Server) -> None:
    request = locked.stderr.read_text().partition("Try:")[2]
    done = subprocess.run(
        ["bash", "-c", request], env={**os.environ, "GLASSBLOCK_KEY": KEY}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["model"] == "tiny"


@pytest.fixture
def visitor(locked: Server) -> Iterator[httpx.Client]:
    with locked.client() as client:
        yield client


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer   {KEY}", f"BEARER {OTHER_KEY}"])
def test_each_key_opens_every_route(visitor: httpx.Client, header: str) -> None:
    headers = {b"Authorization": header.encode()}
    assert visitor.post(FORWARD, content=GOOD, headers=headers).status_code == 200
    for path in ("/v1/models", "/metrics", "/docs", "/openapi.json"):
        assert visitor.get(path, headers=headers).status_code == 200


WRONG: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "wrong": [(b"Authorization", b"Bearer wrong")],
    "empty": [(b"Authorization", b"")],
    "scheme alone": [(b"Authorization", b"Bearer")],
    "no scheme": [(b"Authorization", KEY.encode())],
    "another scheme": [(b"Authorization", b"Basic " + KEY.encode())],
    "no space": [(b"Authorization", b"Bearer" + KEY.encode())],
    "its beginning": [(b"Authorization", b"Bearer " + KEY[:-1].encode())],
    "its digest": [(b"Authorization", b"Bearer " + hashlib.sha256(KEY.encode()).hexdigest().encode())],
    "its name": [(b"Authorization", b"Bearer alice")],
    "beyond ASCII": [(b"Authorization", b"Bearer \xff\xfe\xc3\xbc")],
    "16 kB": [(b"Authorization", b"Bearer " + b"k" * 15_000)],
    "two headers": [(b"Authorization", b"Bearer " + KEY.encode())] * 2,
    "another header": [(b"X-API-Key", KEY.encode()), (b"Cookie", b"Authorization=Bearer " + KEY.encode())],
    "a proxy's words": [(b"X-Original-URL", b"/livez"), (b"X-Forwarded-For", b"127.0.0.1"), (b"X-Real-IP", b"::1")],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_without_a_key_every_cause_gets_the_same_401(visitor: httpx.Client, headers: list[tuple[bytes, bytes]]) -> None:
    answer = visitor.post(FORWARD, content=GOOD, headers=headers)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert_refused(answer, 401, "unauthorized", "Authorization", SENTENCE)


def test_a_key_in_the_url_or_in_the_body_is_none(visitor: httpx.Client) -> None:
    body = json.dumps({"api_key": KEY, "Authorization": f"Bearer {KEY}"}).encode()
    answer = visitor.post(f"{FORWARD}?api_key={KEY}&authorization=Bearer%20{KEY}", content=body)
    assert_refused(answer, 401, "unauthorized", "Authorization", SENTENCE)


def test_a_401_comes_before_the_body_and_before_100_continue(locked: Server) -> None:
    for more in (b"", b"Expect: 100-continue\r\n"):
        with connect(locked) as connection:
            connection.sendall(HEAD + more + b"Content-Length: 1000000\r\n\r\n")
            (answer,) = read_all(connection)
        assert answer.failure()[:2] == (401, "unauthorized")
        assert answer.headers["connection"] == "close"


def test_every_route_but_the_open_ones_asks_for_a_key(visitor: httpx.Client) -> None:
    routes: list[Any] = Application(read_settings([]))._api().routes
    paths = {re.sub(r"\{\w+(:path)?\}", "x", route.path) for route in routes}
    paths.add("/nowhere")
    assert {FORWARD.replace("tiny", "x"), "/metrics", "/docs", "/livez", "/openapi.json", "/"} <= paths
    for path in paths:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            status = visitor.request(method, path).status_code
            is_open = path in {"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"} or path.startswith(
                "/static/"
            )
            assert (status != 401) == is_open, (method, path)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/static/docs.html", "/v2/health/live", "/v2/health/ready", "/"])
def test_what_is_open_needs_no_key(visitor: httpx.Client, path: str) -> None:
    assert visitor.get(path).status_code == 200


CRAFTED = ["//livez", "/livez/", "/LIVEZ", "/livez/../v1/models", "/v2/health/../models", "/v2/health", "/livez%2f"]
CRAFTED += ["/v1/models?/livez", "/v1/models;/livez", "/v1/models%3f/livez", "/Static/docs.html", "/livez%00"]


@pytest.mark.parametrize("path", CRAFTED)
def test_a_path_that_only_looks_open_asks_for_a_key(visitor: httpx.Client, locked: Server, path: str) -> None:
    with connect(locked) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        (answer,) = read_all(connection)
    assert answer.failure()[0] == 401


@pytest.mark.parametrize("host", ["localhost/livez?", "localhost#", "a@localhost", "localhost/v2/health/live"])
def test_a_crafted_host_opens_nothing(locked: Server, host: str) -> None:
    with connect(locked) as connection:
        connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        (answer,) = read_all(connection)
    assert answer.failure()[0] == 400


def test_the_log_names_the_key_and_never_holds_it(visitor: httpx.Client, locked: Server) -> None:
    answer = visitor.get(f"/v1/models?key={KEY}", headers=ALICE)
    (line,) = lines_of(locked, answer.headers["x-request-id"])
    assert line["api_key"] == "alice"
    refused = visitor.get("/metrics", headers={"Authorization": f"Bearer {KEY}x"})
    (line,) = lines_of(locked, refused.headers["x-request-id"])
    assert (line["status"], line["code"], "api_key" in line) == (401, "unauthorized", False)
    written = locked.stdout.read_text() + locked.stderr.read_text()
    assert KEY not in written
    assert hashlib.sha256(KEY.encode()).hexdigest() not in written


def test_a_file_that_changes_later_changes_no_key_of_a_running_server(visitor: httpx.Client, locked: Server) -> None:
    keys = locked.stdout.parent / "keys.txt"
    before = keys.read_bytes()
    keys.write_text(line_of("carol", "another"), encoding="utf-8")
    try:
        assert visitor.post(FORWARD, content=GOOD, headers=ALICE).status_code == 200
        assert visitor.post(FORWARD, content=GOOD, headers={"Authorization": "Bearer another"}).status_code == 401
    finally:
        keys.write_bytes(before)


FAULTY_FILES = {
    "empty": ("", "expected at least one key; without the setting none is asked for"),
    "comments alone": ("# soon\n", "expected at least one key; without the setting none is asked for"),
    "a key itself": ("alice:secret\n", "line 1: expected NAME:SHA256, 64 hex digits in lower case"),
    "no name": (line_of("", KEY), "line 1: expected NAME:SHA256, 64 hex digits in lower case"),
    "odd name": (line_of("al ice", KEY), "line 1: expected NAME:SHA256, 64 hex digits in lower case"),
    "upper case": (line_of("alice", KEY).upper(), "line 1: expected NAME:SHA256, 64 hex digits in lower case"),
    "name twice": (line_of("alice", "1") + line_of("alice", "2"), "line 2: this name or this key is there already"),
    "key twice": (line_of("alice", "1") + line_of("bob", "1"), "line 2: this name or this key is there already"),
    "not UTF-8": ("ü", "not UTF-8"),
}


@pytest.mark.parametrize(("text", "sentence"), FAULTY_FILES.values(), ids=FAULTY_FILES)
def test_a_file_of_keys_that_is_none_stops_the_start(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StartError) as raised:
        Application(read_settings([f"--api-keys-file={path}"]))
    assert str(raised.value) == f"api_keys_file: {path}: {sentence}"


def test_a_missing_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"keys\.txt: No such file or directory$"):
        read_keys(tmp_path / "keys.txt")


def test_the_documented_command_makes_a_key_and_its_line(tmp_path: Path) -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^key=.*$", page, re.MULTILINE)
    done = [
        subprocess.run(["sh", "-c", command.replace("alice", name)], cwd=tmp_path, capture_output=True, check=True)
        for name in ("alice", "bob")
    ]
    keys = read_keys(tmp_path / "keys.txt")
    for name, result in zip(("alice", "bob"), done, strict=True):
        assert keys.check("/v1/models", {b"authorization": b"Bearer " + result.stdout.strip()}) == name
