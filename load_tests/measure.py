"""One server under the scenarios: its answers held against raw runs first, then slices of raw and served in turn."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

import numpy as np

from load_tests.ceiling import Ceiling, Raw, output_names
from load_tests.formats import Body, Format
from load_tests.generator import Counted, Job
from load_tests.scenarios import Float32Array, Scenario
from load_tests.server import RunningServer
from load_tests.usage import MemoryWatch, process_ids

ATOL = 1e-5  # answers are about 5; onnxruntime's own batches differ by less than 1e-6
_ANSWER_TIMEOUT_S = 60


class WrongAnswerError(Exception):
    """A server answered otherwise than `session.run`, or not at all."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is measured.

    Attributes:
        name: for the command line and the report.
        title: for people, with what distinguishes its configuration.
        format: how it is spoken to.
        path: where a scenario's requests go.
        start: a context in which it runs.
    """

    name: str
    title: str
    format: Format
    path: Callable[[Scenario], str]
    start: Callable[[], AbstractContextManager[RunningServer]]

    def bodies(self, scenario: Scenario, hidden_size: int) -> list[Body]:
        """The request of each sequence of the scenario's cycle."""
        return [self.format.write(x, output_names(scenario)) for x in scenario.sequences(hidden_size)]


@dataclass(frozen=True, slots=True)
class Slice:
    """One round of one server in one scenario.

    Attributes:
        raw: raw runs just before, by batch size.
        served: what the generator counted.
        peak_rss_mib: of the server's processes, while served.
        pss_mib: at the end.
    """

    raw: dict[int, Raw]
    served: Counted
    peak_rss_mib: float
    pss_mib: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of a run shares.

    Attributes:
        ceiling: raw sessions of the graphs that are served.
        run_job: hands a load to the generator's process.
        window_s: of a served slice.
        warm_s: load before it.
        raw_s: of a raw slice, all batch sizes together.
    """

    ceiling: Ceiling
    run_job: Callable[[Job], Counted]
    window_s: float = 4.0
    warm_s: float = 1.0
    raw_s: float = 2.0

    def check(self, subject: Subject, server: RunningServer, scenario: Scenario) -> None:
        """Asks every request of the cycle once, as many at a time as the scenario has connections.

        Raises:
            WrongAnswerError: says how many answers differ from `session.run`, and how the first one does.
        """
        bodies = subject.bodies(scenario, self.ceiling.hidden_size)

        def difference(body: Body, right: dict[str, Float32Array]) -> str:
            return _difference(subject.format, ask(server.address, subject.path(scenario), body), right)

        with ThreadPoolExecutor(scenario.connections) as pool:
            found = [d for d in pool.map(difference, bodies, self.ceiling.answers(scenario)) if d]
        if found:
            raise WrongAnswerError(f"{len(found)} of {len(bodies)} answers are wrong: {found[0]}")

    def measure(self, subject: Subject, server: RunningServer, scenario: Scenario) -> Slice:
        """Raw, then served.

        Raises:
            OSError: the server ended, a connection broke, or an answer did not come.
        """
        each_s = self.raw_s / len(scenario.raw_batches)
        raw = {size: self.ceiling.measure(scenario, size, each_s) for size in scenario.raw_batches}
        path, bodies = subject.path(scenario), subject.bodies(scenario, self.ceiling.hidden_size)
        requests = tuple(body.request(server.address, path) for body in bodies)
        pids = process_ids(server.pid)
        job = Job(server.address, requests, scenario.connections, self.warm_s, self.window_s, tuple(pids))
        with MemoryWatch(pids) as memory:
            served = self.run_job(job)
        if not served.answered or not served.latencies_s:
            raise TimeoutError(f"no good answer within {self.window_s:g} s")
        return Slice(raw, served, memory.peak_rss_mib, memory.pss_mib)


Reply = tuple[int, dict[str, str], bytes]


def ask(address: str, path: str, body: Body) -> Reply:
    """One request on a connection of its own: status, headers, body; status 0 and the reason if there is no answer."""
    connection = HTTPConnection(address, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", path, body.data, body.headers)
        answer = connection.getresponse()
        return answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read()
    except (OSError, HTTPException) as error:
        return 0, {}, repr(error).encode()
    finally:
        connection.close()


def _difference(read_as: Format, reply: Reply, right: dict[str, Float32Array]) -> str:
    """What is wrong with a reply, in a few words; empty if nothing is."""
    status, headers, data = reply
    if status != 200:
        return f"status {status}: {data[:200].decode(errors='replace')}" if status else data.decode()
    try:
        tensors = read_as.read(headers, data)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return f"unreadable: {error!r}"
    for name, array in right.items():
        if name not in tensors or tensors[name].shape != array.shape:
            return f"{name} is missing or of another shape"
        if not np.allclose(tensors[name], array, rtol=0, atol=ATOL):
            return f"{name} is off by {np.abs(tensors[name] - array).max():.2g}"
    return ""
