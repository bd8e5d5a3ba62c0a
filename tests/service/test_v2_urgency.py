"""`timeout` and `priority` over HTTP, while a long run keeps the others waiting."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np

from tests.service.inference import ask, tensor
from tests.service.refusal import assert_refused

LONG = tensor("hidden_states", np.zeros((6, 500, 384), np.float32))
SHORT = tensor("hidden_states", np.zeros((1, 2, 384), np.float32))
LATE = "expected an answer within the request's timeout, but it was not computed by then"


@contextmanager
def busy(client: httpx.Client) -> Iterator[None]:
    """Six long sequences wait for MiniLM: several batches one after another."""
    thread = threading.Thread(target=ask, args=(client, LONG), kwargs={"model": "minilm"})
    thread.start()
    deadline_s = time.monotonic() + 10
    while 'queued_tokens{model="minilm",version="1"} 0.0' in client.get("/metrics").text:
        assert time.monotonic() < deadline_s
    yield
    thread.join()


def test_a_request_whose_time_passes_in_the_queue_is_504_at_once(client: httpx.Client) -> None:
    with busy(client):
        answer = ask(client, SHORT, model="minilm", parameters={"timeout": 1000})
    assert_refused(answer, 504, "deadline_exceeded", "", LATE)
    assert answer.elapsed.total_seconds() < 1


def test_a_timeout_of_0_and_a_long_one_let_a_request_wait(client: httpx.Client) -> None:
    for timeout in (0, 60_000_000, 2**63):
        assert ask(client, SHORT, model="minilm", parameters={"timeout": timeout}).status_code == httpx.codes.OK


def test_who_has_priority_is_answered_first(client: httpx.Client) -> None:
    finished: list[int] = []

    def ask_with(priority: int, probe: str) -> None:  # who asks for other tensors shares no batch
        fields = {"parameters": {"priority": priority}, "outputs": [{"name": f"layers.0.{probe}"}]}
        assert ask(client, SHORT, model="minilm.probes", **fields).status_code == httpx.codes.OK
        finished.append(priority)

    with busy(client):
        pairs = [(9, "query"), (0, "key"), (1, "value")]
        threads = [threading.Thread(target=ask_with, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    assert finished == [1, 0, 9]
