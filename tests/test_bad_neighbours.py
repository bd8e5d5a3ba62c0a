"""Good answers stay byte-equal while neighbours are malformed, masked, huge, or gone."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.neighbourhood import THREADS, Case, ask_alone, assert_equal_alone_and_together, connect, hidden_case, samples
from tests.server import Server, link_models, running

pytestmark = pytest.mark.thorough
LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 66, 100)
HUGE = 3e38
ROW = [0.5, -1.0, 0.25, 2.0, 1.0, 0.0, 0.0, 1.0]
NON_FINITE = "the answer to these finite inputs is beyond float32's range, which JSON cannot write - at block_output"
# What a neighbour sends, and the status and code of its own answer.
POISONS: dict[str, tuple[bytes, int, str]] = {
    "cut off": (b'{"hidden_states": [[[0.5, 1', 400, "invalid_json"),
    "NaN": (b'{"hidden_states": [[[NaN, 1, 1, 1, 1, 1, 1, 1]]]}', 400, "invalid_json"),
    "null": (b'{"hidden_states": [[[null, 1, 1, 1, 1, 1, 1, 1]]]}', 422, "wrong_type"),
    "overflow": (b'{"hidden_states": [[[1e39, 1, 1, 1, 1, 1, 1, 1]]]}', 422, "value_overflow"),
    "narrow": (b'{"hidden_states": [[[1, 2, 3]]]}', 422, "wrong_shape"),
    "ragged": (b'{"hidden_states": [[[1, 1, 1, 1, 1, 1, 1, 1], [1]]]}', 422, "wrong_shape"),
    "unknown output": (json.dumps({"hidden_states": [[ROW]], "outputs": ["nothing"]}).encode(), 422, "unknown_output"),
    "text": (b'{"text": "a model without a text front"}', 422, "no_text_front"),
}


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory, artifact: Callable[[str], Path]) -> Iterator[Server]:
    """A server for these tests alone, since they disturb it."""
    folder = tmp_path_factory.mktemp("neighbours")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, threads=THREADS) as started:
        yield started


@pytest.fixture
def good() -> list[Case]:
    """Requests whose answers are to stay as they are."""
    return [hidden_case("tiny", length, [length]) for length in LENGTHS]


@contextlib.contextmanager
def meanwhile(action: Callable[[np.random.Generator], None], count: int = 2) -> Iterator[None]:
    """Repeats an action from some threads until the block ends, which fails if the action failed."""
    done, failures = threading.Event(), list[Exception]()

    def repeat(seed: int) -> None:
        chance = np.random.default_rng(seed)
        try:
            while not done.is_set():
                action(chance)
        except Exception as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert failures == []


def ask(server: Server, body: bytes) -> tuple[int, bytes]:
    connection = connect(server)
    connection.request("POST", "/v1/models/tiny/forward", body)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_good_answers_stay_while_neighbours_are_malformed(neighbours: Server, good: list[Case]) -> None:
    poisons = list(POISONS.values())

    def send_poison(chance: np.random.Generator) -> None:
        body, status, code = poisons[chance.integers(len(poisons))]
        found, answer = ask(neighbours, body)
        assert (found, json.loads(answer)["code"]) == (status, code)

    with meanwhile(send_poison):
        assert_equal_alone_and_together(neighbours, good)


def test_good_answers_stay_while_neighbours_are_all_masked(neighbours: Server, good: list[Case]) -> None:
    masked = [hidden_case("tiny", 1000 + n, [n], attention_mask=[[0] * n]) for n in (1, 2, 9, 33, 65)]
    alone = [ask(neighbours, case.body) for case in masked]
    assert [status for status, _ in alone] == [200] * len(masked)

    def send_masked(chance: np.random.Generator) -> None:
        index = int(chance.integers(len(masked)))
        assert ask(neighbours, masked[index].body) == alone[index]

    with meanwhile(send_masked):
        assert_equal_alone_and_together(neighbours, good)


def test_good_answers_stay_while_neighbours_are_full_of_3e38(neighbours: Server, good: list[Case]) -> None:
    huge = [json.dumps({"hidden_states": [[[HUGE, -HUGE] * 4] * n]}).encode() for n in (1, 2, 8, 16, 33, 64, 100)]
    alone = [ask(neighbours, body) for body in huge]
    for status, answer in alone:
        assert status == 200 or (status, json.loads(answer)["error"]) == (422, NON_FINITE)

    def send_huge(chance: np.random.Generator) -> None:
        index = int(chance.integers(len(huge)))
        status, answer = ask(neighbours, huge[index])
        assert status == alone[index][0]
        assert status == 422 or answer == alone[index][1]

    with meanwhile(send_huge, count=4):
        assert_equal_alone_and_together(neighbours, good)


def test_content_under_a_mask_of_0_changes_no_answer(neighbours: Server) -> None:
    mask = [[1, 1, 0, 1, 0]]
    quiet = json.dumps({"hidden_states": [[ROW, ROW, [0] * 8, ROW, [0] * 8]], "attention_mask": mask}).encode()
    loud = json.dumps({"hidden_states": [[ROW, ROW, [HUGE] * 8, ROW, [-HUGE] * 8]], "attention_mask": mask}).encode()
    status, answer = ask(neighbours, quiet)
    assert status == 200
    assert ask(neighbours, loud) == (status, answer)


def leave(server: Server, body: bytes, after_s: float, sent: float) -> None:
    """Sends a part of a request, waits, and leaves with a reset."""
    url = httpx.URL(server.url)
    head = f"POST /v1/models/tiny/forward HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    request = head + body
    with socket.create_connection((url.host, url.port or 80), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(request[: max(1, int(len(request) * sent))])
        time.sleep(after_s)


def test_good_answers_stay_while_neighbours_leave_at_random_moments(neighbours: Server, good: list[Case]) -> None:
    bodies = [hidden_case("tiny", 2000 + n, [n] * 4).body for n in (2, 16, 33, 64, 100)]

    def send_and_leave(chance: np.random.Generator) -> None:
        body = bodies[chance.integers(len(bodies))]
        leave(neighbours, body, float(chance.exponential(0.004)), 1.0 if chance.random() < 0.7 else chance.random())
        time.sleep(0.01)  # or requests of those who have left pile up before the listener

    with meanwhile(send_and_leave, count=3):
        assert_equal_alone_and_together(neighbours, good)
    wait_for_rest(neighbours)


def test_all_is_well_after_a_time_in_which_everybody_left(neighbours: Server, good: list[Case]) -> None:
    before = samples(neighbours, "tiny")["cancelled"]
    body = hidden_case("tiny", 7, [1500] * 3).body  # long runs: some wait while everybody leaves
    leavers = [threading.Thread(target=leave, args=(neighbours, body, 0.01 * (n % 4), 1.0)) for n in range(60)]
    for leaver in leavers:
        leaver.start()
    for leaver in leavers:
        leaver.join(20)
    wait_for_rest(neighbours)
    assert samples(neighbours, "tiny")["cancelled"] > before
    assert_equal_alone_and_together(neighbours, good)


def wait_for_rest(server: Server) -> None:
    """Within a second nothing is under way any more."""
    deadline_s = time.monotonic() + 1
    with server.client() as client:
        while "glassblock_in_flight_requests 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < deadline_s


def scrape(server: Server, path: str, more: str = "") -> socket.socket:
    """A connection over which an answer has been asked for."""
    url = httpx.URL(server.url)
    connection = socket.create_connection((url.host, url.port or 80), timeout=10)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n{more}\r\n".encode())
    return connection


@pytest.mark.long
def test_good_answers_stay_while_scrapers_hang_or_ask_all_the_time(neighbours: Server, good: list[Case]) -> None:
    def scrape_again(_: np.random.Generator) -> None:
        with scrape(neighbours, "/metrics", "Connection: close\r\n") as connection, connection.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 200 OK")
        time.sleep(0.01)

    with contextlib.ExitStack() as hanging, meanwhile(scrape_again, count=2):
        for _ in range(20):
            hanging.enter_context(scrape(neighbours, "/metrics"))
        assert_equal_alone_and_together(neighbours, good)


def test_each_gets_its_own_answer_though_all_have_one_id(neighbours: Server, good: list[Case]) -> None:
    ask_alone(neighbours, good)
    at_once = threading.Barrier(len(good))

    def ask_with_id(case: Case) -> tuple[int, bytes]:
        connection = connect(neighbours)
        at_once.wait(10)
        connection.request("POST", f"/v1/models/{case.model}/forward", case.body, {"X-Request-ID": "the-same"})
        response = connection.getresponse()
        assert response.headers["X-Request-ID"] == "the-same"
        found = response.status, response.read()
        connection.close()
        return found

    with ThreadPoolExecutor(len(good)) as threads:
        for _ in range(5):
            assert list(threads.map(ask_with_id, good)) == [case.alone for case in good]


@pytest.mark.long
def test_probes_and_small_requests_go_on_while_the_threads_for_large_bodies_are_used_up(neighbours: Server) -> None:
    large = json.dumps({"hidden_states": [[ROW] * 150_000]}).encode()  # some 6 MB: read, then refused for its length
    small = json.dumps({"hidden_states": [[ROW]]}).encode()
    with ThreadPoolExecutor(8) as threads, neighbours.client() as client:
        sent = [threads.submit(ask, neighbours, large) for _ in range(8)]
        asked = 0
        while not all(future.done() for future in sent):
            assert client.get("/livez", timeout=2).status_code == 200
            assert client.post("/v1/models/tiny/forward", content=small, timeout=2).status_code == 200
            asked += 1
        assert asked >= 3
        for future in sent:
            status, answer = future.result()
            assert (status, json.loads(answer)["code"]) == (422, "too_many_tokens")
