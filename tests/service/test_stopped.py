"""A process that stands still for a while, or whose event loop does (fault F12)."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server import Server, link_models, running
from tests.service.faulty_service import BLOCKED_S, HELD
from tests.service.in_flight import FORWARD, body, failure, in_flight
from tests.service.scraping import scrape_at_rest

TOKENS = ("glassblock_tokens_total", (("model", "tiny"), ("version", "1")))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("stopped")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, "tests.service.faulty_service") as started:
        yield started


def tokens_run(server: Server) -> float:
    with server.client() as client:
        return scrape_at_rest(client)[TOKENS]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGUSR1], ids=["the process", "its event loop"])
def test_liveness_tells_a_standstill_and_what_is_late_after_it_is_not_run(
    faulty: Server, number: signal.Signals
) -> None:
    before = tokens_run(faulty)
    with in_flight(faulty, HELD) as (begun,), ThreadPoolExecutor(2) as threads, faulty.client() as client:
        late = threads.submit(client.post, FORWARD, json=body(3) | {"timeout_s": 0.3})
        time.sleep(0.1)
        faulty.send(number)
        sent = threads.submit(client.post, FORWARD, json=body(5))
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{faulty.url}/livez", timeout=0.5)
        time.sleep(BLOCKED_S - 0.5)
        faulty.send(signal.SIGCONT)
        assert begun.result().status_code == 200
        message = "expected an answer within the request's timeout, but it was not computed by then"
        assert failure(late.result()) == (504, "deadline_exceeded", message)
        assert sent.result().status_code == 200
    assert tokens_run(faulty) - before == HELD + 5
    assert httpx.get(f"{faulty.url}/livez", timeout=0.5).status_code == 200
