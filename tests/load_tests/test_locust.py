"""Locust finds out what a server serves, loads it in every way it can be asked, and says when an answer is wrong."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.server import Server, link_models, running

pytestmark = pytest.mark.long
LOCUSTFILE = Path(__file__).parent.parent.parent / "load_tests/locustfile.py"
DESCRIPTION = {
    "name": "stub",
    "hidden_size": 2,
    "limits": {"max_sequence_length": 8},
    "accepts": ["hidden_states"],
    "outputs": [{"address": "block_output"}],
}
PREPARED = 8  # four bodies of each of two kinds, sent once before the load
RIGHT, OTHER_SHAPE, OTHER_VALUES = [[[0.5, 1.0]]], [[[0.5]]], [[[0.5, 1.1]]]
DRIPPING = [[[0.5, 1.00]], "a byte of this answer every 0.2 s"]


def locust(host: str, *flags: str, seconds: int = 3) -> tuple[int, str]:
    """Exit code and output of a headless run of four users."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += [f"--host={host}", "--users=4", "--spawn-rate=4", f"--run-time={seconds}s", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=50,
        env={name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_every_model_is_asked_in_every_way_it_can_be(server: Server, client: httpx.Client) -> None:
    code, said = locust(server.url, "--max-p99-ms=30000", "--min-rate=0.1", seconds=3)
    assert code == 0, said
    kinds = {"short", "ragged", "attention", "text"}
    for model in client.get("/v1/models").json()["models"]:
        asked = set(re.findall(rf"^POST +{model['name']}: (\w+) ", said, re.MULTILINE))
        assert asked <= (kinds if "text" in model["accepts"] else kinds - {"text"})
    assert set(re.findall(r"^POST +\S+: (\w+) ", said, re.MULTILINE)) == kinds


def test_a_server_that_refuses_some_of_the_load_fails_it(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, max_in_flight=2) as server:
        code, said = locust(server.url, seconds=2)
    assert code == 1
    assert re.search(r"\d+ of \d+ requests failed", said)
    assert "2 requests are under way already" in said


def test_a_server_that_cannot_answer_before_the_load_is_not_loaded(server: Server) -> None:
    code, said = locust(server.url, "--model=no-such-model")
    assert code == 1
    assert "does not answer as a Glassblock does before the load: HTTP Error 404" in said
    assert "POST" not in said


@contextmanager
def stub(answers: Callable[[int], object]) -> Iterator[str]:
    """A server that describes one small model and gives `answers(n)` as block_output of the n-th request."""
    count = iter(range(10**9))

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"models": [DESCRIPTION]} if self.path == "/v1/models" else DESCRIPTION)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers(next(count))
            self._send({"model": "stub", "outputs": {"block_output": answer}}, every_s=0.2 * (answer is DRIPPING))

        def _send(self, document: object, every_s: float = 0.0) -> None:
            data = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for part in data if every_s else [data]:
                self.wfile.write(part if isinstance(part, bytes) else bytes([part]))
                time.sleep(every_s)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def test_answers_of_another_shape_or_with_other_values_than_before_the_load_fail_it() -> None:
    with stub(lambda number: RIGHT if number < PREPARED else (OTHER_SHAPE, OTHER_VALUES)[number % 2]) as host:
        code, said = locust(host, seconds=2)
    assert "the answer has another shape than before the load" in said
    assert "the answer has other values than before the load" in said
    assert code == 1


def test_right_answers_fail_the_run_where_a_threshold_is_missed() -> None:
    with stub(lambda _: RIGHT) as host:
        code, said = locust(host, "--min-rate=1000000", "--max-p99-ms=0.01", seconds=1)
    assert re.search(r"the 99th percentile is \d+ ms, above 0\.01\n", said)
    assert re.search(r"answers a second, below 1e\+06\n", said)
    assert "requests failed" not in said
    assert code == 1


def test_a_server_that_hangs_fails_the_load() -> None:
    awake = threading.Event()
    with stub(lambda number: RIGHT if number < PREPARED + 20 else awake.wait(40)) as host:
        code, said = locust(host, "--timeout-s=1", "--min-rate=15", seconds=2)
        awake.set()
    assert re.search(r"\d+ of \d+ requests failed\n", said)
    assert re.search(r"POST stub: \w+: no answer: .* original=timed out", said)
    assert re.search(r"\d\.\d answers a second, below 15\n", said)  # of 20, in all that time
    assert code == 1


def test_an_answer_that_is_not_whole_long_after_the_end_fails_the_load() -> None:
    with stub(lambda number: RIGHT if number < PREPARED + 20 else DRIPPING) as host:
        code, said = locust(host, "--timeout-s=0.5", seconds=2)
    assert len(re.findall(r"stub: \w+ had no whole answer when the run ended\n", said)) == 4
    assert code == 1


def test_what_is_under_way_when_the_time_is_over_is_waited_for_and_counted() -> None:
    asked = []

    def answer_slowly(number: int) -> object:
        asked.append(number)
        time.sleep(0.7 * (number >= PREPARED))
        return RIGHT

    with stub(answer_slowly) as host:
        code, said = locust(host, "--min-rate=0.1", seconds=2)
    assert code == 0, said
    counted = re.search(r"^ +Aggregated +(\d+) +0\(", said, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) == len(asked) - PREPARED
