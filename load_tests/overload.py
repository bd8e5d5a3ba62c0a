"""`make overload`: two, five and ten times what the server can do, and what is left of what it can do.

Each step is the peak in a closed loop and, right after it, so that a drift of the machine falls on both, an open loop
at a multiple of that rate, then a single connection. The server has one core and the generator another, so that
neither takes the other's time; goodput counts in seconds of the server's core that no other process took. The block
is slow for its width, some 40 requests a second, as many as the block 768/12/3072 has of 128 positions on one core;
but its bodies are small, so that a generator on one core can send ten times as many (`--bodies` has others). A step in
which the generator was late, or others took so much of the core that it was more than 1.2 times as much load as meant,
is thrown away, but for its codes. Half the peak is there for the picture. Probes are sent all the time.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from rich.console import Console

from load_tests.formats import OUTPUT, InferenceBinary
from load_tests.open_loop import GOOD, MOST_LATE_SHARE, Load, Run, closed_loop, forward_request, open_loop, print_run
from load_tests.overload_report import draw, lines
from load_tests.server import export_model, running_server
from load_tests.usage import cpu_s

SIZES = {
    "small": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 16384, "num_layers": 8},  # 9 kB of JSON
    "large": {"hidden_size": 640, "num_attention_heads": 4, "intermediate_size": 512, "num_layers": 8},  # 90 kB
    "block": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},  # 390 kB, binary
}
POSITIONS, BLOCK_POSITIONS = 32, 128
FACTORS = (0.5, 2, 5, 10)  # of the peak
LEAST_SHARE: dict[float, float] = {2: 0.95, 5: 0.90, 10: 0.85}  # of the peak's goodput
ROUNDS, TRIES_A_ROUND = 3, 3
RAMP_S = 3  # until queue and batches are as they stay
SECONDS, ALONE_S = 8, 2
USERS = 16
BATCH_TOKENS = USERS * POSITIONS // 2  # a batch is no larger than at the peak: 0.2 s, so a window cuts little
MOST_IN_FLIGHT = 64  # so none waits for longer than the peak takes for as many
IDLE_S = 60  # or a connection is closed while the generator, which sends nothing twice, takes it up again
LIMITS: dict[str, Any] = {"max_batch_tokens": BATCH_TOKENS, "max_in_flight": MOST_IN_FLIGHT, "idle_timeout_s": IDLE_S}
MOST_OF_FACTOR, SLOWER_AT_MOST = 1.2, 1.5
PROBES, PROBE_RATE, MOST_PROBE_MS = ("/livez", "/readyz"), 20, 100
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
        probes: the questions for liveness, and for readiness, within the window.
    """

    run: Run
    seconds: float
    good: int
    core_s: float
    probes: list[Run]

    @property
    def goodput(self) -> float:
        """Good answers for each second that the server could have had."""
        return self.good / self.core_s

    def figures(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "goodput_per_core_s": self.goodput,
            "core_share": self.core_s / self.seconds,
            "probe_p99_ms": max(probe.latencies_ms().get("p99", math.inf) for probe in self.probes),
            **self.run.figures(),
        }


class Watched:
    """A server that has a core of its own, as far as others leave it.

    Args:
        load: what it is asked.
        pid: of its process.
        core: on which it runs.
        seconds: of each window.
    """

    def __init__(self, load: Load, pid: int, core: int, seconds: float) -> None:
        self.load = load
        self._pid = pid
        self._core = core
        self._seconds = seconds

    def peak(self) -> Window:
        """A closed loop, for so long after its ramp."""
        return uvloop.run(self._watch(closed_loop(self.load, USERS, RAMP_S + self._seconds)))

    def offered(self, rate: float) -> Window:
        """An open loop, for so long after its ramp."""
        return uvloop.run(self._watch(open_loop(self.load, rate, RAMP_S + self._seconds)))

    def alone_ms(self) -> float:
        """The median latency of one connection."""
        return uvloop.run(closed_loop(self.load, 1, ALONE_S)).latencies_ms()["p50"]

    async def _watch(self, run: Coroutine[Any, Any, Run]) -> Window:
        task = asyncio.ensure_future(run)
        await asyncio.sleep(RAMP_S)
        start_s, free_s = time.perf_counter(), self._free_s()
        probing = asyncio.gather(*(open_loop(self._probe(path), PROBE_RATE, self._seconds) for path in PROBES))
        await asyncio.sleep(self._seconds)
        end_s, core_s = time.perf_counter(), self._free_s() - free_s
        done = await task
        good = sum(exchange.outcome == GOOD and start_s < exchange.done_s <= end_s for exchange in done.exchanges)
        return Window(done, end_s - start_s, good, core_s, await probing)

    def _probe(self, path: str) -> Load:
        return Load(self.load.address, f"GET {path} HTTP/1.1\r\nHost: {self.load.address}\r\n\r\n".encode())

    def _free_s(self) -> float:
        return cpu_s([self._pid]) + psutil.cpu_times(percpu=True)[self._core].idle


def measure(server: Watched, rounds: int, console: Console) -> dict[str, Any]:
    """Steps of every factor in turn, until each has been measured so often, undisturbed."""
    figures: dict[str, Any] = {"alone_before_p50_ms": server.alone_ms(), "rounds": rounds, "steps": [], "faults": []}
    for _ in range(TRIES_A_ROUND * rounds):
        measured = Counter(step["factor"] for step in figures["steps"])
        for factor in (one for one in FACTORS if measured[one] < rounds):
            _step(server, factor, figures, console)
    return figures


def _step(server: Watched, factor: float, figures: dict[str, Any], console: Console) -> None:
    """Peak, load and a single connection; kept in the figures unless it was disturbed."""
    peak = server.peak()
    rate = factor * peak.goodput
    offered = server.offered(rate)
    step = {
        "factor": factor,
        "factor_of_rest": rate * offered.seconds / (peak.goodput * offered.core_s),
        "goodput_share": offered.goodput / peak.goodput,
        "slower_alone": server.alone_ms() / figures["alone_before_p50_ms"],
        "longest_wait_ms": MOST_IN_FLIGHT / peak.goodput * offered.seconds / offered.core_s * 1e3,
        "peak": peak.figures(),
        "offered": offered.figures(),
    }
    figures["faults"] += [*read_faults(peak), *read_faults(offered)]
    console.print(f"peak {peak.goodput:.1f}/s; {step['factor_of_rest']:.1f} times as many: {offered.goodput:.1f}/s:")
    print_run(offered.run, console)
    if offered.run.late_share(LATE_S) > MOST_LATE_SHARE or step["factor_of_rest"] > MOST_OF_FACTOR * factor:
        late = offered.run.late_share(LATE_S)
        console.print(f"thrown away: {late:.1%} late, {step['factor_of_rest']:.1f} times the peak for {factor:g}")
    else:
        figures["steps"].append(step)


def read_faults(window: Window) -> list[str]:
    """Sentences for answers that an overloaded server must not give."""
    others = window.run.outcomes.keys() - {GOOD, SHED}
    lost = sum(exchange.outcome == SHED and not exchange.retry_after for exchange in window.run.exchanges)
    failed = {outcome for probe in window.probes for outcome in probe.outcomes} - {GOOD}
    return [
        *([f"expected 200 and 429 alone, got {', '.join(sorted(others))}"] if others else []),
        *([f"{lost} answers of 429 had no Retry-After"] if lost else []),
        *([f"expected 200 of every probe, got {', '.join(sorted(failed))}"] if failed else []),
    ]


def judge(figures: dict[str, Any]) -> list[str]:
    """Sentences for what does not hold; none if all does."""
    return [*figures["faults"], *(fault for factor in LEAST_SHARE for fault in _judge_factor(figures, factor))]


def _judge_factor(figures: dict[str, Any], factor: float) -> list[str]:
    steps = [step for step in figures["steps"] if step["factor"] == factor]
    if len(steps) < figures["rounds"]:
        return [f"invalid: {len(steps)} of {figures['rounds']} rounds at {factor:g} times the peak were undisturbed"]
    share, slower = (statistics.median(step[name] for step in steps) for name in ("goodput_share", "slower_alone"))
    probe_ms = statistics.median(step["offered"]["probe_p99_ms"] for step in steps)
    least = LEAST_SHARE[factor]
    at = f"at {factor:g} times the peak"
    return [
        *([f"goodput {at} is {share:.0%} of the peak, below {least:.0%}"] if share < least else []),
        *([f"a single request after {at[3:]} took {slower:.1f} times as long"] if slower > SLOWER_AT_MOST else []),
        *([f"the 99th percentile of probes {at} is {probe_ms:.0f} ms"] if probe_ms > MOST_PROBE_MS else []),
    ]


def _read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each window, after {RAMP_S} of ramp")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--bodies", choices=SIZES, default="small", help="9 kB of JSON, 90 (fault O2), or the bench's block"
    )
    parser.add_argument("--out", type=Path, default=Path("build/overload"), help="folder of figures, table and plot")
    return parser.parse_args()


def _request(address: str, bodies: str) -> bytes:
    if bodies != "block":
        return forward_request(address, POSITIONS)
    shape = BLOCK_POSITIONS, SIZES["block"]["hidden_size"]
    states = np.random.default_rng(0).standard_normal(shape, np.float32)
    return InferenceBinary().write(states, (OUTPUT,)).request(address, "/v2/models/slow/infer")


def main() -> None:
    """Prints tables, writes them with JSON and a plot; exits with 1 if something is not as it should be."""
    given = _read_flags()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("expected two cores: one for the server, one for the generator")
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        export_model(models, "slow", **SIZES[given.bodies])
        os.sched_setaffinity(0, {cores[1]})
        with running_server(models, Path(name), frozenset(cores[:1]), **LIMITS) as server:
            request = _request(server.address, given.bodies)
            console.print(f"requests of {len(request):,} bytes; server on core {cores[0]}, generator on {cores[1]}")
            load = Load(server.address, request, most_connections=1024, timeout_s=30)
            figures = measure(Watched(load, server.pid, cores[0], given.seconds), given.rounds, console)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "overload.json").write_text(json.dumps(figures, indent=2))
    (given.out / "overload.md").write_text("\n".join(lines(figures)) + "\n")
    draw(figures, given.out / "overload.png")
    print("\n".join(lines(figures)))
    print(f"{given.out}/overload.json, overload.md and overload.png are written")
    sys.exit("\n".join(judge(figures)) or 0)


if __name__ == "__main__":
    main()
