"""Where a load goes is read in one way, a key goes with it, and what is no Glassblock is told of in a sentence."""

import argparse
import hashlib
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from load_tests.target import KEY_VARIABLE, key_headers, read_address
from tests.server import Server, link_models, running

KEY = "a-key-of-the-load"
LOADS = {
    "load_tests.load": ("--users=2", "--time=2"),
    "load_tests.open_loop": ("--rate=5", "--time=1", "--positions=2"),
}
each_load = pytest.mark.parametrize("module", LOADS)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://gpu-3.lab:8000/", "gpu-3.lab:8000"),
        ("http://[::1]:80", "[::1]:80"),
    ],
)
def test_a_host_is_read_with_a_slash_at_its_end_or_without(host: str, address: str) -> None:
    assert read_address(host) == address


@pytest.mark.parametrize(
    "host",
    ["https://lab:8000", "lab:8000", "lab", "http://lab", "http://lab:", "http://lab:x", "http://lab:99999",
     "http://lab:8000/v1", "http://lab:8000//", "http://me:secret@lab:8000", "http://lab:8000?", "http://lab:8000#"],
)  # fmt: skip
def test_any_other_host_is_refused_in_one_sentence(host: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        read_address(host)
    assert str(raised.value) == f"expected http://HOST:PORT (the load tests speak no TLS), got {host}"


def test_the_key_in_the_environment_is_sent_and_an_empty_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")
    assert key_headers() == {"Authorization": f"Bearer {KEY}"}
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert key_headers() == {}


def run(module: str, host: str, *flags: str, key: str = "") -> tuple[int, str]:
    """Exit code and output of a load test of a running server."""
    done = subprocess.run(
        [sys.executable, "-m", module, *LOADS[module], *flags, host],
        capture_output=True, text=True, check=False, timeout=50, env={**os.environ, KEY_VARIABLE: key},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def guarded(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants the key."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"load:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, api_keys_file=folder / "keys") as server:
        yield server


@pytest.mark.long
@each_load
def test_a_server_with_keys_is_loaded_with_one_and_refuses_without(module: str, guarded: Server) -> None:
    code, said = run(module, f"{guarded.url}/", key=KEY)
    assert code == 0, said
    code, said = run(module, guarded.url)
    sentence = f"{guarded.url} does not answer as a Glassblock does before the load: HTTP Error 401: Unauthorized\n"
    assert code == 1
    assert said.endswith(sentence)
    assert "Traceback" not in said


@pytest.mark.long
@each_load
def test_a_host_that_cannot_be_read_stops_a_load_with_a_sentence(module: str) -> None:
    code, said = run(module, "127.0.0.1:8000")
    assert code == 2
    assert said.endswith("expected http://HOST:PORT (the load tests speak no TLS), got 127.0.0.1:8000\n")


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """The host:port of a server that says the same to whoever asks, and closes."""

    class Talker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Talker) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@pytest.mark.long
@each_load
@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_what_is_no_glassblock_is_told_of_in_a_sentence(module: str, answer: bytes) -> None:
    with saying(answer) as address:
        code, said = run(module, f"http://{address}")
    assert code == 1
    assert f"http://{address} does not answer as a Glassblock does before the load: " in said
    assert "Traceback" not in said


@pytest.mark.long
def test_a_model_that_is_not_served_stops_the_open_loop_with_those_that_are(guarded: Server) -> None:
    code, said = run("load_tests.open_loop", guarded.url, "--model=huge", key=KEY)
    assert code == 1
    assert said.endswith("before the load: expected one of its models, tiny, got 'huge'\n")
