"""`make overload`: five times what the server can do, and what is left of what it can do.

In turn, so that a drift of the machine falls on both: the peak in a closed loop, then an open loop at five times that
rate. The server has one core and the generator another, in both, so that neither takes the other's time; goodput counts
in seconds of the server's core that no other process took. The block is slow for its width, some 100 requests a second,
so that its bodies are small, the run is what limits the server, as with large blocks, and a generator on one core can
send five times as many. A round in which the generator was late, or others took so much of the core that it was
more than six times what the rest of it can do, is thrown away, but for its codes.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from rich.console import Console

from load_tests.open_loop import GOOD, MOST_LATE_SHARE, Load, Run, closed_loop, forward_request, open_loop, print_run
from load_tests.server import export_model, running_server
from load_tests.usage import cpu_s

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 8192, "num_layers": 12}
POSITIONS = 16
ROUNDS, MOST_ROUNDS = 5, 12
RAMP_S = 3  # until queue and batches are as they stay
PEAK_S, OVERLOAD_S, ALONE_S = 6, 10, 2
USERS = 32
BATCH_TOKENS = (
    USERS * POSITIONS
)  # a batch is no larger than at the peak: a quarter of a second, so a window cuts little
FACTOR, MOST_FACTOR = 5, 6
LEAST_SHARE = 0.85
SLOWER_AT_MOST = 1.5
SHED = "429"
LATE_S = 0.25  # what is late comes in bursts, which make it no easier for the server


@dataclass(frozen=True, slots=True)
class Window:
    """A run, what came of it after its ramp, and for how long the server's core was free meanwhile.

    Attributes:
        run: all of its requests.
        seconds: of the window.
        good: answers of 200 that came within the window.
        core_s: of the server's core that no other process took within the window.
    """

    run: Run
    seconds: float
    good: int
    core_s: float

    @property
    def goodput(self) -> float:
        """Good answers for each second that the server could have had."""
        return self.good / self.core_s


class Watched:
    """A server that has a core of its own, as far as others leave it.

    Args:
        load: what it is asked.
        pid: of its process.
        core: on which it runs.
    """

    def __init__(self, load: Load, pid: int, core: int) -> None:
        self.load = load
        self._pid = pid
        self._core = core

    def peak(self, seconds: float) -> Window:
        """A closed loop, for so long after its ramp."""
        return uvloop.run(self._watch(closed_loop(self.load, USERS, RAMP_S + seconds), seconds))

    def overload(self, rate: float, seconds: float) -> Window:
        """An open loop, for so long after its ramp."""
        return uvloop.run(self._watch(open_loop(self.load, rate, RAMP_S + seconds), seconds))

    def alone_ms(self) -> float:
        """The median latency of one connection."""
        return uvloop.run(closed_loop(self.load, 1, ALONE_S)).latencies_ms()["p50"]

    async def _watch(self, run: Coroutine[Any, Any, Run], seconds: float) -> Window:
        task = asyncio.ensure_future(run)
        await asyncio.sleep(RAMP_S)
        start_s, free_s = time.perf_counter(), self._free_s()
        await asyncio.sleep(seconds)
        end_s, core_s = time.perf_counter(), self._free_s() - free_s
        done = await task
        good = sum(exchange.outcome == GOOD and start_s < exchange.done_s <= end_s for exchange in done.exchanges)
        return Window(done, end_s - start_s, good, core_s)

    def _free_s(self) -> float:
        return cpu_s([self._pid]) + psutil.cpu_times(percpu=True)[self._core].idle


def measure(server: Watched, console: Console) -> dict[str, Any]:
    """Peak and overload in turn, a single connection before and after."""
    before_ms, rounds, faults = server.alone_ms(), [], []
    for _ in range(MOST_ROUNDS):
        peak = server.peak(PEAK_S)
        rate = FACTOR * peak.goodput
        overload = server.overload(rate, OVERLOAD_S)
        after_ms = server.alone_ms()
        faults += [*read_faults(peak.run), *read_faults(overload.run)]
        factor = rate * overload.seconds / (peak.goodput * overload.core_s)
        console.print(f"peak {peak.goodput:.1f}/s; {factor:.1f} times as many leave {overload.goodput:.1f}/s:")
        print_run(overload.run, console)
        if overload.run.late_share(LATE_S) > MOST_LATE_SHARE or factor > MOST_FACTOR:
            console.print(f"thrown away: {overload.run.late_share(LATE_S):.1%} late, {factor:.1f} times the peak")
            continue
        rounds.append(
            {
                "factor": factor,
                "goodput_share": overload.goodput / peak.goodput,
                "slower_alone": after_ms / before_ms,
                "peak": {"goodput_per_core_s": peak.goodput, **peak.run.figures()},
                "overload": {"goodput_per_core_s": overload.goodput, **overload.run.figures()},
            }
        )
        if len(rounds) == ROUNDS:
            break
    return {"rounds": rounds, "faults": faults, "alone_before_p50_ms": before_ms}


def read_faults(run: Run) -> list[str]:
    """Sentences for answers that an overloaded server must not give."""
    others = run.outcomes.keys() - {GOOD, SHED}
    lost = sum(exchange.outcome == SHED and not exchange.retry_after for exchange in run.exchanges)
    return [
        *([f"expected 200 and 429 alone, got {', '.join(sorted(others))}"] if others else []),
        *([f"{lost} answers of 429 had no Retry-After"] if lost else []),
    ]


def judge(figures: dict[str, Any]) -> list[str]:
    """Sentences for what does not hold; none if all does."""
    rounds = figures["rounds"]
    if len(rounds) < ROUNDS:
        return [*figures["faults"], f"invalid: {len(rounds)} rounds of {MOST_ROUNDS} were undisturbed"]
    share, slower = (statistics.median(r[name] for r in rounds) for name in ("goodput_share", "slower_alone"))
    return [
        *figures["faults"],
        *([f"goodput is {share:.0%} of the peak, below {LEAST_SHARE:.0%}"] if share < LEAST_SHARE else []),
        *([f"a single request took {slower:.1f} times as long afterwards"] if slower > SLOWER_AT_MOST else []),
    ]


def main() -> None:
    """Prints tables and JSON; exits with 1 if goodput, codes or the latency afterwards are not as they should be."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("expected two cores: one for the server, one for the generator")
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        export_model(models, "slow", **SIZES)
        os.sched_setaffinity(0, {cores[1]})
        with running_server(models, Path(name), frozenset(cores[:1]), max_batch_tokens=BATCH_TOKENS) as server:
            request = forward_request(server.address, POSITIONS)
            console.print(f"requests of {len(request):,} bytes; server on core {cores[0]}, generator on {cores[1]}")
            load = Load(server.address, request, most_connections=1024)
            figures = measure(Watched(load, server.pid, cores[0]), console)
    console.print_json(json.dumps(figures))
    shares = ", ".join(f"{r['goodput_share']:.0%}" for r in figures["rounds"])
    console.print(f"goodput at {FACTOR} times the peak, of the peak: {shares}")
    faults = judge(figures)
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
