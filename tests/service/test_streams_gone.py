"""stdout and stderr that are closed, full, or read by nobody: the server serves on, and ends when it should."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.server import link_models

pytestmark = pytest.mark.long


def start(models: Path, redirections: str) -> tuple[subprocess.Popen[bytes], str]:
    """`python -m service` by a shell that closes or redirects its streams, and where it will listen."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = f"exec {sys.executable} -m service --models={models} --http-port={port} --threads=1 {redirections}"
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return process, f"http://127.0.0.1:{port}"


def wait_until_ready(url: str) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it is not ready")


@pytest.mark.parametrize("redirections", ["", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">&-"])
def test_a_server_whose_streams_are_gone_serves_and_stops(
    artifact: Callable[[str], Path], tmp_path: Path, redirections: str
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    process, url = start(models, redirections)
    try:
        assert process.stderr
        process.stderr.close()  # its reader has gone before the banner comes
        wait_until_ready(url)
        body = {"hidden_states": [[[1.0] * 8] * 3]}
        assert httpx.post(f"{url}/v1/models/tiny/forward", json=body).status_code == httpx.codes.OK
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()


def test_a_start_that_fails_ends_though_its_reason_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models" / "broken" / "1").mkdir(parents=True)
    process, _ = start(tmp_path / "models", "2>/dev/full")
    try:
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.communicate()
