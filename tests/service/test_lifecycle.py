"""The life of a real process: loading, signals, draining, death."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import forked
from tests.server import link_models, running
from tests.service.faulty_service import BREAKS_THE_LOOP, HELD, STUCK
from tests.service.in_flight import FORWARD, body, failure, in_flight
from tests.service.scraping import scrape
from tests.service.wire import HEAD, connect, read_one

FAULTY = "tests.service.faulty_service"


@pytest.fixture
def models(tmp_path: Path, artifact: Callable[[str], Path]) -> Path:
    """A models folder with `tiny` alone."""
    return link_models(tmp_path / "models", {"tiny": artifact("tiny")})


def test_sigterm_ends_an_idle_server_with_exit_code_0_at_once(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path) as server:
        start_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start_s < 1.5


def test_sigint_ends_an_idle_server_with_exit_code_0_at_once(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, drain_delay_s=20) as server:
        start_s = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - start_s < 1.5


def test_sigterm_lets_requests_in_flight_finish_with_their_full_answers(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY) as server:
        alone = [httpx.post(server.url + FORWARD, json=body(length)).content for length in (HELD, 3)]
        with in_flight(server, HELD, 3) as futures:
            server.send(signal.SIGTERM)
            answers = [future.result() for future in futures]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.content for answer in answers] == alone
        assert [answer.headers["connection"] for answer in answers] == ["close", "close"]
        assert server.wait(2) == 0


@pytest.mark.long
def test_a_connection_that_goes_on_asking_after_sigterm_is_closed(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY) as server, server.client() as client:
        assert client.get("/livez").headers.get("connection") != "close"
        with in_flight(server, HELD):
            server.send(signal.SIGTERM)
            start_s = time.monotonic()
            while client.get("/livez").headers.get("connection") != "close":
                assert time.monotonic() - start_s < 1
                time.sleep(0.01)


def test_while_draining_readiness_is_503_at_once_and_requests_are_still_served(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, drain_delay_s=1.5) as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        start_s = time.monotonic()
        server.send(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() - start_s < 0.5
        assert failure(client.get("/readyz")) == (503, "draining", "the server is draining")
        assert client.get("/livez").status_code == 200
        served = 0
        while time.monotonic() - start_s < 1:
            assert client.post(FORWARD, json=body(3)).status_code == 200
            assert httpx.post(server.url + FORWARD, json=body(3)).status_code == 200  # on a new connection, too
            served += 2
        assert served >= 2
        assert server.wait(5) == 0
        assert 1.5 <= time.monotonic() - start_s < 4


@pytest.mark.long
def test_what_the_drain_timeout_cuts_off_is_told_so_and_counted_in_the_log(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, drain_timeout_s=1) as server, in_flight(server, STUCK, 3) as futures:
        start_s = time.monotonic()
        server.send(signal.SIGTERM)
        answers = [failure(future.result()) for future in futures]
        assert answers == [(503, "closed", "the server is shutting down")] * 2
        assert server.wait(3) == 0
        assert time.monotonic() - start_s < 3
    assert "Cancel 2 running task(s)" in server.stdout.read_text()
    assert "Traceback" not in server.stdout.read_text()


def test_a_second_signal_ends_the_process_at_once_with_another_exit_code(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY) as server, in_flight(server, STUCK) as (future,):
        server.send(signal.SIGTERM)
        time.sleep(0.2)
        start_s = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - start_s < 0.5
        with pytest.raises(httpx.RemoteProtocolError):
            future.result()


def test_sigterm_while_loading_ends_the_process_with_exit_code_0(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["serve", f"--models={models}", f"--http-port={port}", "--layer-graphs=eager"]
    environment = {**os.environ, "FAULT": "loading"}
    process = forked.start(FAULTY, words, environment, tmp_path / "stdout", tmp_path / "stderr")
    try:
        url = f"http://127.0.0.1:{port}"
        assert failure(_first_answer(f"{url}/readyz")) == (503, "loading", "the server is loading")
        assert failure(httpx.post(url + FORWARD, json=body(1))) == (503, "loading", "the models are still loading")
        assert httpx.get(f"{url}/livez").status_code == 200
        start_s = time.monotonic()
        process.terminate()
        process.join(10)
        assert time.monotonic() - start_s < 1.5
        assert (process.exitcode, (tmp_path / "stderr").read_text()) == (0, "")
    finally:
        process.kill()
        process.join()


def _first_answer(url: str) -> httpx.Response:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.ConnectError):
            return httpx.get(url)
        time.sleep(0.01)
    raise AssertionError(f"no answer from {url}")


@pytest.mark.long
def test_a_dying_batcher_fails_its_waiters_within_a_second_and_ends_the_process(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY) as server, in_flight(server, HELD, 3, BREAKS_THE_LOOP) as futures:
        assert futures[0].result().status_code == 200
        start_s = time.monotonic()
        dead = (503, "dead", "model tiny can no longer run; the server is about to stop")
        assert [failure(future.result()) for future in futures[1:]] == [dead, dead]
        assert server.wait(3) == 1
        assert time.monotonic() - start_s < 1
    assert server.stderr.read_text().endswith("glassblock-serve: a batcher died; see the log\n")
    assert "the choice of batches is broken" in server.stdout.read_text()


@pytest.mark.long
def test_a_log_that_nobody_reads_blocks_no_request_and_no_stop(models: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdout")
    reader = os.open(tmp_path / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    with running(models, tmp_path) as server, server.client() as client:
        for _ in range(400):  # a pipe holds 64 KiB, a line has about 190 bytes
            assert client.get("/v1/models", timeout=5).status_code == 200
        assert client.get("/livez", timeout=5).status_code == 200
        assert server.stop(timeout_s=4) == 0
    assert os.read(reader, 2**20).count(b"\n") < 400  # it was full
    os.close(reader)


def test_a_full_disk_under_its_log_harms_no_request_and_what_is_lost_is_counted(models: Path, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/full")  # each write to it fails as on a disk without room
    with running(models, tmp_path) as server, server.client() as client:
        for _ in range(20):
            assert client.post(FORWARD, json=body(3)).status_code == 200
        lost = "glassblock_lost_log_lines_total", ()
        deadline_s = time.monotonic() + 5
        while scrape(client)[lost] < 20 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert scrape(client)[lost] >= 20
        assert client.post(FORWARD, json=body(3)).status_code == 200
        assert server.stop() == 0


@pytest.mark.long
def test_a_stop_does_not_wait_for_the_body_of_a_refused_request(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path, FAULTY, max_in_flight=1) as server, connect(server) as connection:
        with in_flight(server, HELD):
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
            assert read_one(connection).status == 429
        start_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start_s < 5
