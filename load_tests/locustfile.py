"""Locust against any running Glassblock: it asks the server for its models and their sizes, and needs nothing else.

`make load` starts a server and runs this without a page. With locust's page, from any machine that has locust:

    locust -f load_tests/locustfile.py --host http://localhost:8000

Every answer is held against its status and the number of lists and numbers it must have; a few in a hundred are parsed
and compared with the answer that the same body got before the load. Users are a closed loop: each waits for its
answer, so a slow server is asked less, but not for ever: what is not answered in time has failed, and the end of the
run waits for what is under way. For latency at a given rate see open_loop.py.
"""

import http.client
import json
import logging
import math
import random
import sys
import time
import urllib.request
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from gevent import GreenletExit  # type: ignore[import-untyped]
from locust import FastHttpUser, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopTest

BODIES_A_KIND = 4
DEEP_SHARE = 0.03
TOLERANCE = 1e-3  # of 1 + |x|: runs on a GPU depend on their batch in the last digits
SENTENCES = (
    "The cat sat on the mat because it was tired.",
    "A block takes what the layers before it wrote, and adds to it.",
    "It rained.",
    "Whoever looks inside sees which word each head reads, and what it writes where.",
)

_log = logging.getLogger(__name__)
_models: list["Model"] = []


class Body:
    """A prepared request, and what its answer must look like.

    Args:
        document: the request.
        ask: sends a body once, before the load; returns the answer's bytes.
    """

    def __init__(self, document: dict[str, Any], ask: Callable[[bytes], bytes]) -> None:
        self.data = json.dumps(document, separators=(",", ":")).encode()
        self._answer = ask(self.data)
        self._shape = _shape(self._answer)

    def fault(self, answer: bytes) -> str | None:
        """What is wrong with an answer, or None."""
        if _shape(answer) != self._shape:
            return "the answer has another shape than before the load"
        if random.random() < DEEP_SHARE and not _equal(json.loads(answer), json.loads(self._answer)):  # noqa: S311
            return "the answer has other values than before the load"
        return None


class Model:
    """A served model and its prepared bodies by kind; a kind that the model cannot take is missing.

    Args:
        description: of `GET /v1/models/{model}`.
        ask: sends a body to the model's forward route.
    """

    def __init__(self, description: dict[str, Any], ask: Callable[[bytes], bytes]) -> None:
        self.name: str = description["name"]
        self.path = f"/v1/models/{self.name}/forward"
        width, longest = description["hidden_size"], description["limits"]["max_sequence_length"] or math.inf
        rows = [[round(random.gauss(0, 1), 3) for _ in range(width)] for _ in range(64)]

        def sequence(length: float) -> list[list[float]]:
            return random.choices(rows, k=int(min(length, longest)))  # noqa: S311

        def ragged() -> list[list[list[float]]]:
            return [sequence(4 * 16 ** random.random()) for _ in range(random.randint(2, 8))]  # noqa: S311

        documents: dict[str, Callable[[], dict[str, Any]]] = {
            "short": lambda: {"hidden_states": [sequence(16)]},
            "ragged": lambda: {"hidden_states": ragged()},
        }
        addresses = [output["address"] for output in description["outputs"]]
        if maps := [address for address in addresses if address.endswith(".attention_weights")]:
            documents["attention"] = lambda: {"hidden_states": [sequence(32)], "outputs": maps[-1:]}
        if "text" in description["accepts"]:
            documents["text"] = lambda: {"text": random.sample(SENTENCES, 2)}
        self.bodies = {kind: [Body(make(), ask) for _ in range(BODIES_A_KIND)] for kind, make in documents.items()}


def _shape(answer: bytes) -> tuple[int, int]:
    return answer.count(b"["), answer.count(b",")


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(wanted, float):
        return bool(abs(found - wanted) <= TOLERANCE * (1 + abs(wanted)))
    return bool(found == wanted)


def _headers(options: Namespace) -> dict[str, str]:
    key = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    return {"Content-Type": "application/json", **key}


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="", help="Load this model alone, instead of all that are served.")
    parser.add_argument("--api-key", default="", env_var="LOAD_API_KEY", is_secret=True, help="Sent as a bearer token.")
    parser.add_argument("--timeout-s", type=float, default=10, help="A request not answered for so long has failed.")
    parser.add_argument("--max-p99-ms", type=float, default=5000, help="Exit with 1 if the 99th percentile is higher.")
    parser.add_argument(
        "--min-rate", type=float, default=2, help="Exit with 1 if fewer requests a second are answered."
    )


@events.init.add_listener
def _prepare_early(environment: Environment, **_: object) -> None:
    """Without a page the time of the run begins right after this, and must not be spent on the bodies."""
    if _options(environment).headless:
        try:
            _prepare(environment)
        except StopTest as error:
            sys.exit(str(error))


@events.test_start.add_listener
def _begin(environment: Environment, **_: object) -> None:
    """With the page, host and model are known when it is started."""
    options = _options(environment)
    if not options.headless:
        _prepare(environment)
    Client.connection_timeout = Client.network_timeout = options.timeout_s
    environment.stop_timeout = max(environment.stop_timeout, options.timeout_s + 1)  # so that each has an end


def _prepare(environment: Environment) -> None:
    options = _options(environment)
    environment.host = (environment.host or "").removesuffix("/")

    def fetch(path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{environment.host}{path}", data, _headers(options))  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())

    def describe(name: str) -> Model:
        return Model(json.loads(fetch(f"/v1/models/{name}")), partial(fetch, f"/v1/models/{name}/forward"))

    try:
        served = [model["name"] for model in json.loads(fetch("/v1/models"))["models"]]
        _models[:] = [describe(name) for name in ([options.model] if options.model else sorted(set(served)))]
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise StopTest(f"{environment.host} does not answer as a Glassblock does before the load: {error}") from error


def _options(environment: Environment) -> Namespace:
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    return options


@events.quitting.add_listener
def _stop(environment: Environment, **_: object) -> None:
    """A run that a person interrupts is judged as well."""
    assert environment.runner is not None
    environment.runner.stop()


@events.test_stop.add_listener
def _judge(environment: Environment, **_: object) -> None:
    options, total = _options(environment), environment.stats.total
    p99_ms = total.get_response_time_percentile(0.99) or 0
    rate = (total.num_requests - total.num_failures) / (time.time() - total.start_time)
    faults = [
        f"{total.num_failures} of {total.num_requests} requests failed" if total.num_failures else "",
        "nothing was answered" if total.num_requests == total.num_failures else "",
        f"the 99th percentile is {p99_ms:.0f} ms, above {options.max_p99_ms:g}" if p99_ms > options.max_p99_ms else "",
        f"{rate:.1f} answers a second, below {options.min_rate:g}" if rate < options.min_rate else "",
    ]
    for fault in filter(None, faults):
        _log.error(fault)
        environment.process_exit_code = 1


class Client(FastHttpUser):
    """Asks the models in every way that they can be asked."""

    def on_start(self) -> None:
        """What none of the models can be asked is not among this user's tasks."""
        self.headers = _headers(_options(self.environment))
        kinds = {kind for model in _models for kind in model.bodies}
        self.tasks = [task for task in self.tasks if getattr(task, "__name__", "") in kinds]

    @tag("short")
    @task(4)
    def short(self) -> None:
        """One sequence of 16 positions."""
        self._ask("short")

    @tag("ragged")
    @task(2)
    def ragged(self) -> None:
        """Two to eight sequences of 4 to 64 positions."""
        self._ask("ragged")

    @tag("attention")
    @task(2)
    def attention(self) -> None:
        """The last layer's attention weights of 32 positions."""
        self._ask("attention")

    @tag("text")
    @task(2)
    def text(self) -> None:
        """Two sentences."""
        self._ask("text")

    def _ask(self, kind: str) -> None:
        model = random.choice([model for model in _models if kind in model.bodies])  # noqa: S311
        body = random.choice(model.bodies[kind])  # noqa: S311
        try:
            with self.client.post(
                model.path,
                data=body.data,  # type: ignore[arg-type] # bytes are sent as they are
                headers=self.headers,
                name=f"{model.name}: {kind}",
                catch_response=True,
            ) as response:
                if response.status_code != 200:
                    said = response.text or response.error or ""
                    response.failure(f"{response.status_code or 'no answer:'} {said!s:.200}")
                elif fault := body.fault(response.content):
                    response.failure(fault)
        except GreenletExit:
            _log.error(f"{model.name}: {kind} had no whole answer when the run ended")
            self.environment.process_exit_code = 1
            raise
