"""`make overload`: five times what the server can do, and what is left of what it can do.

In turn, so that a drift of the machine falls on both: the peak in a closed loop, then an open loop at five times that
rate. The server has one core and the generator another, in both, so that neither takes the other's time. The block is
slow for its width, so that its bodies are small, the run is what limits the server, as with large blocks, and a
generator on one core can send five times as many.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from load_tests.open_loop import GOOD, MOST_LATE_SHARE, Load, Run, closed_loop, forward_request, open_loop, print_run
from load_tests.server import export_model, running_server

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 4096, "num_layers": 12}
POSITIONS = 16
ROUNDS = 3
PEAK_S, OVERLOAD_S = 5, 10
USERS = 32
FACTOR = 5
LEAST_SHARE = 0.85
SLOWER_AT_MOST = 1.5
SHED = "429"


def measure(load: Load, console: Console) -> dict[str, Any]:
    """Peak and overload in turn, a single connection before and after."""
    uvloop.run(closed_loop(load, USERS, 2))  # warm
    alone = [uvloop.run(closed_loop(load, 1, 2)).latencies_ms()["p50"]]
    peaks, overloads = [], []
    for _ in range(ROUNDS):
        peaks.append(uvloop.run(closed_loop(load, USERS, PEAK_S)))
        overloads.append(uvloop.run(open_loop(load, FACTOR * peaks[-1].goodput, OVERLOAD_S)))
        alone.append(uvloop.run(closed_loop(load, 1, 2)).latencies_ms()["p50"])
        console.print(f"peak {peaks[-1].goodput:.1f}/s, then {FACTOR} times as many a second:", highlight=False)
        print_run(overloads[-1], console)
    shares = [overload.goodput / peak.goodput for peak, overload in zip(peaks, overloads, strict=True)]
    return {
        "goodput_share": statistics.median(shares),
        "goodput_shares": shares,
        "alone_p50_ms": alone,
        "peaks": [peak.figures() for peak in peaks],
        "overloads": [overload.figures() for overload in overloads],
        "faults": [fault for run in (*peaks, *overloads) for fault in _faults(run)],
    }


def _faults(run: Run) -> list[str]:
    others = run.outcomes.keys() - {GOOD, SHED}
    lost = sum(e.outcome == SHED and not e.retry_after for e in run.exchanges)
    return [
        *([f"not only 200 and 429, but {', '.join(sorted(others))}"] if others else []),
        *([f"{lost} answers of 429 without Retry-After"] if lost else []),
        *([f"invalid: {run.late_share:.1%} were sent late"] if run.late_share > MOST_LATE_SHARE else []),
    ]


def judge(figures: dict[str, Any]) -> list[str]:
    """Sentences for what does not hold; none if all does."""
    share, (before_ms, *after_ms) = figures["goodput_share"], figures["alone_p50_ms"]
    slower = statistics.median(after_ms) / before_ms
    return [
        *figures["faults"],
        *([f"goodput is {share:.0%} of the peak, below {LEAST_SHARE:.0%}"] if share < LEAST_SHARE else []),
        *([f"a single request took {slower:.1f} times as long after it"] if slower > SLOWER_AT_MOST else []),
    ]


def main() -> None:
    """Prints tables and JSON; exits with 1 if goodput, codes or the latency afterwards are not as they should be."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("expected two cores: one for the server, one for the generator")
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        export_model(models, "small", **SIZES)
        os.sched_setaffinity(0, {cores[1]})
        with running_server(models, Path(name), frozenset(cores[:1])) as server:
            request = forward_request(server.address, POSITIONS)
            console.print(
                f"requests of {len(request):,} bytes; server on core {cores[0]}, generator on core {cores[1]}"
            )
            figures = measure(Load(server.address, request, most_connections=1024), console)
    console.print_json(json.dumps(figures))
    faults = judge(figures)
    console.print(f"goodput at {FACTOR} times the peak: {figures['goodput_share']:.0%} of the peak", highlight=False)
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
