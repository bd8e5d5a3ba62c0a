"""What reading and writing tensors costs, as the server's own `Server-Timing` says of single requests.

JSON is held against the standard library on the same numbers, timed here in turn with the requests; binary against the
run. The decode stage holds the server's checks too, so its share is the most that decoding can have been.
"""

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson

from load_tests.ceiling import output_names
from load_tests.formats import OUTPUT
from load_tests.goals import FLAT, NESTED
from load_tests.measure import Subject, WrongAnswerError, ask
from load_tests.scenarios import SCENARIOS, Float32Array
from load_tests.server import RunningServer

TURNS, IN_A_ROW = 30, 8
STAGES = ("decode", "encode")
_STAGE = re.compile(r"(\w+);dur=([\d.]+)")
_LAYOUTS: dict[str, Callable[[Float32Array], Float32Array]] = {NESTED: lambda array: array[None], FLAT: np.ravel}
_PLAIN = {"decode": "json.loads + np.array", "encode": "json.dumps(tolist())"}

Times = dict[str, float]  # ms by stage


def measure_codecs(subjects: Sequence[Subject], hidden_size: int, turns: int = TURNS) -> dict[str, dict[str, Any]]:
    """Medians by subject and stage: `ms`, what it is held `against`, that one's `against_ms`, and their `ratio`.

    Args:
        subjects: ways to speak to one server; the first one starts it.
        hidden_size: of its model. A request is the first of S1, at 768 98,304 numbers each way.
        turns: of each subject. Ratios are of a turn's own times, so that the machine's drift falls on both. A turn is
            some requests one right after the other, of which the last counts: what it is held against keeps one core
            busy for 50 ms, and a server that slept meanwhile takes twice as long for the first millisecond.

    Raises:
        WrongAnswerError: a request was not answered with 200.
        RuntimeError: the server did not start.
    """
    hidden_states = SCENARIOS[0].sequences(hidden_size)[0]
    with subjects[0].start() as server:
        takers = {subject.name: _prepare(subject, server, hidden_states) for subject in subjects}
        return {name: _figures(name, [take() for _ in range(turns)]) for name, take in takers.items()}


def _prepare(subject: Subject, server: RunningServer, hidden_states: Float32Array) -> Callable[[], tuple[Times, Times]]:
    """A turn: sends the request, and gives the last stages reported and what they are held against."""
    path, body = subject.path(SCENARIOS[0]), subject.format.write(hidden_states, output_names(SCENARIOS[0]))

    def request() -> tuple[dict[str, str], bytes]:
        status, headers, data = ask(server.address, path, body)
        if status != HTTPStatus.OK:
            raise WrongAnswerError(f"expected status 200 of a single request, got {status} - at {subject.title}")
        return headers, data

    def stages() -> Times:
        return [_stages(request()[0]) for _ in range(IN_A_ROW)][-1]

    answer = subject.format.read(*request())[OUTPUT]
    if subject.name not in _LAYOUTS:
        return lambda: _against_run(stages())
    lay_out = _LAYOUTS[subject.name]
    text = orjson.dumps(lay_out(hidden_states), option=orjson.OPT_SERIALIZE_NUMPY)
    return lambda: (stages(), _plain_ms(text, lay_out(answer)))


def _stages(headers: Mapping[str, str]) -> Times:
    return {stage: float(ms) for stage, ms in _STAGE.findall(headers["Server-Timing"])}


def _against_run(stages: Times) -> tuple[Times, Times]:
    return stages, dict.fromkeys(STAGES, stages["run"])


def _plain_ms(text: bytes, answer: Float32Array) -> Times:
    start_s = time.perf_counter()
    np.array(json.loads(text), np.float32)
    decoded_s = time.perf_counter()
    json.dumps(answer.tolist())
    return {"decode": 1e3 * (decoded_s - start_s), "encode": 1e3 * (time.perf_counter() - decoded_s)}


def _figures(name: str, turns: list[tuple[Times, Times]]) -> dict[str, Any]:
    return {
        stage: {
            "ms": statistics.median(reported[stage] for reported, _ in turns),
            "against": _PLAIN[stage] if name in _LAYOUTS else "the run",
            "against_ms": statistics.median(against[stage] for _, against in turns),
            "ratio": statistics.median(reported[stage] / against[stage] for reported, against in turns),
        }
        for stage in STAGES
    }
