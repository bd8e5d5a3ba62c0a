"""A process that is killed or dies in a run, and the next one in its place (faults F10, F15)."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from load_tests.replicas import free_address
from tests.server import link_models, running
from tests.service.faulty_service import HELD
from tests.service.in_flight import FORWARD, body, in_flight


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_after_a_death_in_a_run_the_next_process_answers_on_the_same_port(
    artifact: Callable[[str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    (again := tmp_path / "again").mkdir()
    port = free_address().rpartition(":")[2]
    with running(models, tmp_path, "tests.service.faulty_service", http_port=port) as server:
        alone = httpx.post(server.url + FORWARD, json=body(3)).content
        files = {path for folder in (tmp_path, artifact("tiny")) for path in folder.rglob("*")}
        assert psutil.Process(server.process.pid).children() == []
        with in_flight(server, HELD, 3) as futures:
            start_s = time.monotonic()
            assert server.stop(number) == -number
            for future in futures:
                with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                    future.result()
            assert time.monotonic() - start_s < 1
    assert {path for folder in (tmp_path, artifact("tiny")) for path in folder.rglob("*")} == files
    with running(models, again, http_port=port) as server:
        assert httpx.post(server.url + FORWARD, json=body(3)).content == alone
