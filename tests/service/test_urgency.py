"""How long a request may wait and who is served first, while a long run keeps the others waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.server import link_models, running
from tests.service.faulty_service import HELD, SLOW
from tests.service.inference import ask, tensor
from tests.service.refusal import assert_refused, hidden_states, post

ROWS, SLOW_ROWS = np.zeros((1, 3, 8), np.float32), np.zeros((1, SLOW, 8), np.float32)
LATE = "expected an answer within the request's timeout, but it was not computed by then"
Rows = NDArray[np.float32]
Ask = Callable[..., httpx.Response]


def infer(client: httpx.Client, output: str = "query", rows: Rows = ROWS, **urgency: float) -> httpx.Response:
    """On /v2, whose `timeout` is in microseconds."""
    if "timeout_s" in urgency:
        urgency["timeout"] = int(urgency.pop("timeout_s") * 1e6)
    asked = tensor("hidden_states", rows)
    return ask(client, asked, model="tiny.probes", outputs=[{"name": output}], parameters=urgency)


def forward(client: httpx.Client, output: str = "query", rows: Rows = ROWS, **urgency: float) -> httpx.Response:
    body = {"hidden_states": rows.tolist(), "outputs": [output], **urgency}
    return client.post("/v1/models/tiny/forward", json=body)


def forward_bytes(client: httpx.Client, output: str = "query", rows: Rows = ROWS, **urgency: float) -> httpx.Response:
    fields = {name: orjson.dumps(value).decode() for name, value in {"outputs": [output], **urgency}.items()}
    return post(client, save({"hidden_states": rows}, fields), content_type="application/x-safetensors")


FACES = [infer, forward, forward_bytes]


@pytest.fixture(scope="module")
def slow(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server some of whose runs take long."""
    folder = tmp_path_factory.mktemp("slow")
    models = link_models(folder / "models", {"tiny": artifact("tiny")})
    with running(models, folder, "tests.service.faulty_service") as server, server.client() as opened:
        yield opened


@contextmanager
def busy(client: httpx.Client, length: int) -> Iterator[None]:
    """A long run keeps the others waiting."""
    thread = threading.Thread(target=ask, args=(client, tensor("hidden_states", np.zeros((1, length, 8), np.float32))))
    thread.start()
    deadline_s = time.monotonic() + 10
    while "glassblock_in_flight_requests 0.0" in client.get("/metrics").text:
        assert time.monotonic() < deadline_s
    time.sleep(0.05)  # under way, and soon in its run
    yield
    thread.join()


def test_a_request_whose_time_passes_in_the_queue_is_504_at_once(slow: httpx.Client) -> None:
    with busy(slow, HELD):
        for face in FACES:
            answer = face(slow, timeout_s=0.001)
            assert_refused(answer, 504, "deadline_exceeded", "", LATE)
            assert answer.elapsed.total_seconds() < 0.5


@pytest.mark.parametrize("face", FACES)
def test_a_timeout_of_0_and_a_long_one_let_a_request_wait(client: httpx.Client, face: Ask) -> None:
    for timeout_s in (0, 60, 2**43):
        assert face(client, timeout_s=timeout_s).status_code == httpx.codes.OK


@pytest.mark.long
def test_who_has_priority_is_answered_first(slow: httpx.Client) -> None:
    finished: list[int] = []

    def ask_with(face: Ask, priority: int, output: str) -> None:  # who asks for fewer layers shares no batch
        assert face(slow, output, SLOW_ROWS, priority=priority).status_code == httpx.codes.OK
        finished.append(priority)

    with busy(slow, HELD):
        asked = [(9, "layers.1.query"), (0, "layers.0.query"), (1, "block_output")]
        threads = [threading.Thread(target=ask_with, args=(face, *pair)) for pair in asked for face in FACES]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    assert finished == [1] * 3 + [0] * 3 + [9] * 3


SECONDS = "expected a number of seconds of at least 0"
WHOLE = "expected a whole number of at least 0"
WRONG = {
    "timeout_s": (SECONDS, ["-1", "-0.5", "-1e-9", '"1"', '"NaN"', "true", "null", "[1]", "{}"]),
    "priority": (WHOLE, ["-1", "1.0", "0.5", "1e18", '"1"', "true", "null", "[1]", "{}"]),
}
PAIRS = [(name, value) for name, (_, values) in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), PAIRS)
def test_what_is_no_such_number_is_refused(client: httpx.Client, name: str, value: str) -> None:
    for body in (hidden_states("[[[1,0,0,0,0,0,0,1]]]", f',"{name}":{value}'), f'{{"{name}":{value}}}'.encode()):
        assert_refused(post(client, body), 422, "wrong_type", name, WRONG[name][0])
    metadata = save({"hidden_states": ROWS[..., :8]}, {name: value})
    answer = post(client, metadata, content_type="application/x-safetensors")
    assert_refused(answer, 422, "wrong_type", name, WRONG[name][0])


@pytest.mark.parametrize(
    "field",
    ['"timeout_s":1e18', '"timeout_s":1000000000000000000', '"timeout_s":5e-324', '"priority":1', '"priority":0'],
)
def test_any_other_number_is_taken(client: httpx.Client, field: str) -> None:
    answer = post(client, hidden_states("[[[1,0,0,0,0,0,0,1]]]", f",{field}"))
    if answer.status_code != httpx.codes.OK:
        assert_refused(answer, 504, "deadline_exceeded", "", LATE)
        assert "e-324" in field  # no run begins as soon as that


@pytest.mark.parametrize("name", ["timeout_s", "priority"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "01", "+1", "1" * 30])
def test_what_is_no_number_of_json_is_unreadable(client: httpx.Client, name: str, value: str) -> None:
    answer = post(client, hidden_states("[[[1,0,0,0,0,0,0,1]]]", f',"{name}":{value}'))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    text = f'{{"parameters":{{"{name.removesuffix("_s")}":{value}}},"inputs":[]}}'
    answer = client.post("/v2/models/tiny/infer", content=text)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
