"""`make mixed`: short requests alone, beside long ones, and with a few giants among them.

A block of 768/12/3072, the server on one core and the generator on another. Short requests, of 8 to 32 positions, come
at random moments at a rate far below what the server can do; beside them two clients ask for 512 positions again and
again, so that one always waits, or one request in a hundred has 2,048. A run that has begun is not interrupted, so a
short request may have to wait for one long run; no more may come of it than that, beside what a 99th percentile may
grow by the load itself: at most three times what it is alone, and the slowest of some long runs that are alone.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from load_tests.formats import OUTPUT, Body, InferenceBinary
from load_tests.open_loop import GOOD, MOST_LATE_SHARE, Load, Run, closed_loop, open_loop
from load_tests.server import MODEL, SIZES, export_model, running_server

SHORT, LONG, GIANT = (8, 16, 24, 32), 512, 2048  # positions
SHORT_RATE, GIANT_SHARE, LONG_USERS = 20, 0.01, 2
SECONDS, ROUNDS = 15, 3
ASKED_ALONE = 5
MOST_OF_ALONE = 3
Beside = Callable[[str, float], Coroutine[Any, Any, Run]]


@dataclass(slots=True, eq=False)
class Mix:
    """What short requests met beside others.

    Attributes:
        beside: what the others are, in words.
        positions: of each of the others; 0 where there are none.
        runs_ms: of the others, each alone.
        short: the short requests, a run for each of their lengths and rounds.
        others: theirs.
    """

    beside: str
    positions: int = 0
    runs_ms: list[float] = field(default_factory=list)
    short: list[Run] = field(default_factory=list)
    others: list[Run] = field(default_factory=list)

    @property
    def run_ms(self) -> float:
        """The slowest of the others' runs alone; 0 where there are none. A 99th percentile meets the slow ones."""
        return max(self.runs_ms, default=0.0)

    def latencies_ms(self) -> dict[str, float]:
        """Percentiles of the short requests that were answered with 200."""
        return _together(self.short).latencies_ms()

    def line(self) -> str:
        """A row of Markdown."""
        short, others = _together(self.short), _together(self.others)
        found = short.latencies_ms()
        cells = [self.beside, f"{len(short.exchanges):,}", f"{found['p50']:.0f}", f"{found['p99']:.0f}"]
        answered = [f"{others.outcomes[GOOD]:,}", f"{others.latencies_ms()['p50']:.0f}"] if self.others else ["", ""]
        return f"| {' | '.join([*cells, f'{self.run_ms:.0f}' if self.run_ms else '', *answered])} |"

    def faults(self, alone_p99_ms: float) -> list[str]:
        """Sentences for what does not hold, beside what short requests have alone."""
        short, lost = _together(self.short), (_together(self.short).outcomes + _together(self.others).outcomes).keys()
        late, most_ms = short.late_share(), MOST_OF_ALONE * alone_p99_ms + self.run_ms
        p99_ms = short.latencies_ms().get("p99", np.inf)
        return [
            *([f"{self.beside}: expected 200 alone, got {', '.join(sorted(lost))}"] if lost != {GOOD} else []),
            *([f"invalid: {late:.1%} of the short requests were sent late"] if late > MOST_LATE_SHARE else []),
            *([f"{self.beside}: p99 is {p99_ms:.0f} ms, more than {most_ms:.0f}"] if p99_ms > most_ms else []),
        ]


HEADER = (
    "| beside | short | p50, ms | p99, ms | one run at most, ms | others | their p50, ms |",
    "|---|--:|--:|--:|--:|--:|--:|",
)


def _together(runs: list[Run]) -> Run:
    exchanges = [exchange for run in runs for exchange in run.exchanges]
    return Run(sum(run.seconds for run in runs), 0.0, exchanges, sum(run.opened for run in runs))


def infer_body(positions: int) -> Body:
    """One sequence of random numbers, in binary both ways."""
    chance = np.random.default_rng(positions)
    return InferenceBinary().write(chance.standard_normal((positions, SIZES["hidden-size"]), np.float32), (OUTPUT,))


def load_of(address: str, positions: int) -> Load:
    """Where such a request goes, with its head."""
    request = infer_body(positions).request(address, f"/v2/models/{MODEL}/infer")
    return Load(address, request, timeout_s=60)


def runs_ms(address: str, positions: int) -> list[float]:
    """What the server says that a run of it alone takes, a few times over."""
    body, url = infer_body(positions), f"http://{address}/v2/models/{MODEL}/infer"
    found = []
    for _ in range(ASKED_ALONE):
        with urllib.request.urlopen(urllib.request.Request(url, body.data, body.headers), timeout=60) as answer:
            stages = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
        found.append(float(stages["run"]))
    return found


def ask_for_long(address: str, seconds: float) -> Coroutine[Any, Any, Run]:
    """Two clients, each again as soon as it has its answer."""
    return closed_loop(load_of(address, LONG), LONG_USERS, seconds)


def ask_for_giants(address: str, seconds: float) -> Coroutine[Any, Any, Run]:
    """One request for each hundred short ones."""
    return open_loop(load_of(address, GIANT), SHORT_RATE * GIANT_SHARE, seconds)


async def mix(address: str, seconds: float, beside: Beside | None) -> tuple[list[Run], list[Run]]:
    """Short requests for so long, a run for each of their lengths; and what came beside them."""
    loads = [load_of(address, positions) for positions in SHORT]
    others = asyncio.gather(*([beside(address, seconds)] if beside else []))
    rate = SHORT_RATE / len(SHORT)
    short = await asyncio.gather(*(open_loop(load, rate, seconds, poisson=True) for load in loads))
    return short, await others


def measure(address: str, seconds: float, rounds: int) -> list[Mix]:
    """Alone and both mixes in turn, so often."""
    mixes = {
        Mix("nothing"): None,
        Mix(f"two that always ask for {LONG} positions", LONG): ask_for_long,
        Mix(f"one in a hundred of {GIANT:,} positions", GIANT): ask_for_giants,
    }
    for _ in range(rounds):
        for found, beside in mixes.items():
            found.runs_ms += runs_ms(address, found.positions) if beside else []
            short, others = uvloop.run(mix(address, seconds, beside))
            found.short += short
            found.others += others
    return list(mixes)


def main() -> None:
    """Prints a table; exits with 1 and a sentence if short requests wait for more than one long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each mix in each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("expected two cores: one for the server, one for the generator")
    with tempfile.TemporaryDirectory() as name:
        export_model(Path(name, "models"))
        os.sched_setaffinity(0, {cores[1]})
        with running_server(Path(name, "models"), Path(name), frozenset(cores[:1])) as server:
            mixes = measure(server.address, given.seconds, given.rounds)
    print("\n".join([*HEADER, *(found.line() for found in mixes)]))
    alone_p99_ms = mixes[0].latencies_ms()["p99"]
    sys.exit("\n".join(fault for found in mixes for fault in found.faults(alone_p99_ms)) or 0)


if __name__ == "__main__":
    main()
