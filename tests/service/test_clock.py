"""The wall clock jumps by an hour while the server works (fault F25): libfaketime lies to it about that clock alone."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from load_tests.server import running_server
from tests.server import link_models
from tests.service.faulty_service import SLOW, SLOW_S
from tests.service.in_flight import FORWARD, body, failure
from tests.service.scraping import scrape

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
HOUR_S = 3600
LAST_RUN = ("glassblock_last_run_timestamp_seconds", (("model", "tiny"), ("version", "1")))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file from which processes that are started now take how far their wall clock is off."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "apt-get install faketime"
    offset = tmp_path / "offset"
    offset.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(found[0]))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    return offset


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_jump_of_the_wall_clock_moves_no_deadline(
    artifact: Callable[[str], Path], tmp_path: Path, clock: Path, jump_s: int
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running_server(models, tmp_path, program="tests.service.faulty_service") as server:
        url = f"http://{server.address}"
        with httpx.Client(base_url=url, timeout=30) as client:
            assert client.post(FORWARD, json=body(3)).status_code == 200
            clock.write_text(f"{jump_s:+d}")
            # Over the connection that was there before: no deadline of its own moved either.
            assert client.post(FORWARD, json=body(SLOW) | {"timeout_s": 20}).status_code == 200
            assert abs(scrape(client)[LAST_RUN] - time.time() - jump_s) < 60
            start_s = time.monotonic()
            late = failure(client.post(FORWARD, json=body(SLOW) | {"timeout_s": SLOW_S / 5}))
            assert late[:2] == (504, "deadline_exceeded")
            assert SLOW_S / 5 <= time.monotonic() - start_s < 10
            assert client.get("/readyz").status_code == 200
