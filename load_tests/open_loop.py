"""`make load-open`: requests at a rate that does not ask whether the server keeps up.

A closed loop, such as locust's users, sends nothing while it waits, so a server that stalls for a second spoils a
handful of its requests. Here every request has a time at which it is due, and its latency counts from then: what a
stall does to those who come meanwhile is seen. The generator's own lateness is measured the same way, and a run in
which it was late too often is invalid.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from load_tests.formats import Body
from load_tests.sender import Exchange, Sender
from load_tests.server import default_server
from load_tests.target import HOST_HELP, NO_ANSWER, key_headers, read_address

LATE_S = 0.05
MOST_LATE_SHARE = 0.01
PERCENTILES = (50, 90, 95, 99, 99.9, 100)
GOOD = "200"


@dataclass(frozen=True, slots=True)
class Load:
    """Where a request goes.

    Attributes:
        address: host:port.
        request: head and body.
        most_connections: open at once.
        timeout_s: from when a request is due to when it is given up.
    """

    address: str
    request: bytes
    most_connections: int = 512
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Run:
    """What became of every request.

    Attributes:
        seconds: for which requests were due.
        start_s: when the first one was.
        exchanges: all, in the order in which they were due.
        opened: connections that were opened.
    """

    seconds: float
    start_s: float
    exchanges: list[Exchange]
    opened: int

    @property
    def outcomes(self) -> Counter[str]:
        """How many requests ended in each way."""
        return Counter(exchange.outcome for exchange in self.exchanges)

    @property
    def goodput(self) -> float:
        """Requests a second whose 200 had come when the last request was due."""
        end_s = self.start_s + self.seconds
        return sum(e.outcome == GOOD and e.done_s <= end_s for e in self.exchanges) / self.seconds

    def late_share(self, late_s: float = LATE_S) -> float:
        """Share of requests that the generator got to more than so long after they were due."""
        return float(np.mean([e.sent_s - e.due_s > late_s for e in self.exchanges]))

    def lateness_ms(self) -> dict[str, float]:
        """Percentiles of how long after its due time the generator got to a request."""
        return _percentiles([e.sent_s - e.due_s for e in self.exchanges])

    def latencies_ms(self, outcome: str = GOOD) -> dict[str, float]:
        """Percentiles from due to done, of the requests that ended so."""
        return _percentiles([e.done_s - e.due_s for e in self.exchanges if e.outcome == outcome])

    def figures(self) -> dict[str, Any]:
        """All of the above, for JSON."""
        return {
            "seconds": self.seconds,
            "requests": len(self.exchanges),
            "outcomes": dict(self.outcomes),
            "goodput_per_s": self.goodput,
            "latency_ms": {outcome: self.latencies_ms(outcome) for outcome in self.outcomes},
            "lateness_ms": self.lateness_ms(),
            "late_share": self.late_share(),
            "connections_opened": self.opened,
        }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"p{share:g}": float(np.percentile(seconds, share) * 1e3) for share in PERCENTILES}


async def open_loop(load: Load, rate: float, seconds: float, *, poisson: bool = False) -> Run:
    """Sends `rate` requests a second, evenly or with exponential gaps, whatever becomes of them."""
    sender = Sender(load.address, load.request, load.most_connections, load.timeout_s)
    start_s = time.perf_counter() + 0.05
    exchanges = []
    for due_s in _arrivals(start_s, rate, seconds, poisson=poisson):
        await asyncio.sleep(0)  # the answers' turn, however late it is
        # uvloop, which counts in milliseconds, may leave half of one.
        while (early_s := due_s - time.perf_counter()) > 0:  # noqa: ASYNC110 - it waits for the time itself
            await asyncio.sleep(early_s)
        exchanges.append(sender.send(due_s))
    await sender.rest()
    await sender.close()
    return Run(seconds, start_s, exchanges, sender.opened)


def _arrivals(start_s: float, rate: float, seconds: float, *, poisson: bool) -> Iterator[float]:
    due_s = start_s
    for number in count(1):
        if due_s >= start_s + seconds:
            return
        yield due_s
        due_s = due_s + random.expovariate(rate) if poisson else start_s + number / rate


async def closed_loop(load: Load, users: int, seconds: float) -> Run:
    """Keeps so many requests under way: each that ends is followed by the next."""
    exchanges: list[Exchange] = []
    start_s = time.perf_counter()

    def follow(_: Exchange) -> None:
        now_s = time.perf_counter()
        if now_s < start_s + seconds:
            exchanges.append(sender.send(now_s))

    sender = Sender(load.address, load.request, users, load.timeout_s, follow)
    exchanges += [sender.send(start_s) for _ in range(users)]
    await sender.rest()
    await sender.close()
    return Run(seconds, start_s, exchanges, sender.opened)


def forward_request(address: str, positions: int, model: str = "", key: dict[str, str] | None = None) -> bytes:
    """A request of one sequence of small random numbers, for a model that the server names, or its first one.

    Args:
        address: host:port.
        positions: of the sequence.
        model: which one; empty for the first that is served.
        key: the header of a key, for the requests too.

    Raises:
        ValueError: the model is not served.
        OSError, LookupError, TypeError, http.client.HTTPException: what answers is no Glassblock, or refuses.
    """
    question = urllib.request.Request(f"http://{address}/v1/models", headers=key or {})
    with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310
        models = {described["name"]: described for described in json.load(answer)["models"]}
    name = model or next(iter(models), "")
    if name not in models:
        raise ValueError(f"expected one of its models, {', '.join(models) or 'of which it has none'}, got {name!r}")
    rows = [[random.randint(-9, 9) / 10 for _ in range(models[name]["hidden_size"])] for _ in range(positions)]  # noqa: S311
    data = json.dumps({"hidden_states": [rows]}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", **(key or {})}
    return Body(headers, data).request(address, f"/v1/models/{name}/forward")


def print_run(run: Run, console: Console) -> None:
    """A table of outcomes with their latencies, the generator's lateness under them."""
    table = Table("ms from due", "requests", *(f"p{share:g}" for share in PERCENTILES))
    for outcome, number in run.outcomes.most_common():
        table.add_row(outcome, str(number), *(f"{ms:.1f}" for ms in run.latencies_ms(outcome).values()))
    table.add_section()
    table.add_row("sent late by", str(len(run.exchanges)), *(f"{ms:.1f}" for ms in run.lateness_ms().values()))
    console.print(table)
    console.print(f"goodput {run.goodput:.1f}/s, {run.opened} connections opened", highlight=False)


def main() -> None:
    """Prints the table; exits with 1 if a request failed or the run is invalid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--time", type=float, required=True, help="seconds")
    parser.add_argument("--poisson", action="store_true", help="exponential gaps instead of even ones")
    parser.add_argument("--positions", type=int, default=16, help="of the one sequence of a request")
    parser.add_argument("--model", default="", help="which model; without, the first that is served")
    parser.add_argument("--connections", type=int, default=512, help="open at once, at most")
    parser.add_argument("--timeout", type=float, default=10, help="seconds from due to given up")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("host", nargs="?", type=read_address, help=HOST_HELP)
    options = parser.parse_args()
    with default_server(options.host) as address:
        try:
            request = forward_request(address, options.positions, options.model, key_headers())
        except NO_ANSWER as error:
            sys.exit(f"http://{address} does not answer as a Glassblock does before the load: {error}")
        load = Load(address, request, options.connections, options.timeout)
        run = uvloop.run(open_loop(load, options.rate, options.time, poisson=options.poisson))
    print_run(run, Console())
    if options.json:
        options.json.write_text(json.dumps(run.figures(), indent=2))
    if run.late_share() > MOST_LATE_SHARE:
        sys.exit(f"invalid: {run.late_share():.1%} of the requests were sent more than {LATE_S * 1e3:g} ms late")
    if run.outcomes.keys() != {GOOD}:
        sys.exit("not every request was answered with 200")


if __name__ == "__main__":
    main()
