"""`make chaos`: servers are stopped while clients ask, and no client notices; one is killed, and few do.

First one server, stopped under clients that keep their connections: what it had been sent before the signal is
answered with 200, what comes later with 200 or with a 503 that closes, and no connection breaks. Then two replicas
behind haproxy, stopped and started in turn: every request is answered with 200, on kept and on new connections. Last
one of two is killed (killed.py): what it had in hand is lost, and nothing else.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from load_tests.balancer import Balancer, balancing, find_haproxy
from load_tests.connection import Connection
from load_tests.killed import USERS, kill_behind
from load_tests.open_loop import GOOD, forward_request
from load_tests.replicas import Replica, free_address, replicas_of
from load_tests.sender import Exchange, Sender
from load_tests.server import export_model

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
POSITIONS = 16
CLIENTS, STOPS, ASKED_FOR_S = 16, 3, 1.0
RATE = 150
LEAST_REQUESTS_A_RESTART = 500


@dataclass(slots=True)
class Stop:
    """What clients saw of a stop: how often each thing, for requests sent before the signal and after it."""

    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    signal_s: float = float("inf")
    exit_code: int = 0

    def faults(self) -> list[str]:
        """Sentences for what no client may see."""
        early, late = self.before.keys() - {GOOD}, self.after.keys() - {GOOD, "503"}
        return [
            *([f"sent before the signal: expected 200 alone, got {', '.join(sorted(early))}"] if early else []),
            *([f"sent after the signal: expected 200 or 503, got {', '.join(sorted(late))}"] if late else []),
            *([f"expected exit code 0 after SIGTERM, got {self.exit_code}"] if self.exit_code else []),
        ]


async def stop_under_clients(replica: Replica) -> Stop:
    """Starts a server, stops it while clients ask, each again until it is told that the connection closes."""
    await asyncio.to_thread(replica.start)
    request = await asyncio.to_thread(forward_request, replica.address, POSITIONS)
    stop = Stop()
    clients = [asyncio.create_task(_ask_until_it_closes(replica.address, request, stop)) for _ in range(CLIENTS)]
    await asyncio.sleep(ASKED_FOR_S)
    stop.signal_s = time.perf_counter()
    replica.send(signal.SIGTERM)
    await asyncio.gather(*clients)
    stop.exit_code = await asyncio.to_thread(replica.wait)
    return stop


async def _ask_until_it_closes(address: str, request: bytes, stop: Stop) -> None:
    connection, closes = await Connection.open(address), False
    while not closes:
        sent_s = time.perf_counter()
        try:
            answer = await connection.ask(request)
            outcome, closes = str(answer.status), answer.closes
        except (OSError, asyncio.IncompleteReadError) as fault:
            outcome, closes = type(fault).__name__, True
        (stop.before if sent_s < stop.signal_s else stop.after)[outcome] += 1
    connection.leave()


@dataclass(slots=True)
class Rolling:
    """What became of the requests that went through the balancer while replicas were restarted.

    Attributes:
        kept: outcomes on connections that were kept.
        new: outcomes on a new connection each.
        exit_codes: of the replicas that were stopped.
        served: how many requests each replica was given.
        seconds: that it took.
    """

    kept: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    exit_codes: list[int] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def faults(self) -> list[str]:
        """Sentences for what clients or an orchestrator would notice."""
        lost = (self.kept + self.new).keys() - {GOOD}
        bad = [code for code in self.exit_codes if code]
        idle = [name for name, count in self.served.items() if not count]
        return [
            *([f"while replicas restarted: expected 200 alone, got {', '.join(sorted(lost))}"] if lost else []),
            *([f"expected exit code 0 after each SIGTERM, got {bad}"] if bad else []),
            *([f"invalid: {', '.join(idle)} was never asked"] if idle else []),
        ]


async def roll(replicas: list[Replica], balancer: Balancer, restarts: int) -> Rolling:
    """Restarts one replica after the other, while requests come at a rate, and until enough have."""
    rolling, start_s = Rolling(), time.perf_counter()
    kept_request = await asyncio.to_thread(forward_request, balancer.address, POSITIONS)
    new_request = kept_request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    senders = [Sender(balancer.address, request, 256, 30) for request in (kept_request, new_request)]
    exchanges: list[list[Exchange]] = [[], []]
    restarting = asyncio.create_task(asyncio.to_thread(_restart_in_turn, replicas, balancer, restarts))
    sent = 0
    while not restarting.done() or sent < restarts * LEAST_REQUESTS_A_RESTART:
        exchanges[sent % 2].append(senders[sent % 2].send(time.perf_counter()))
        sent += 1
        await asyncio.sleep(max(start_s + sent / RATE - time.perf_counter(), 0))
    for sender in senders:
        await sender.rest()
        await sender.close()
    rolling.kept, rolling.new = (Counter(exchange.outcome for exchange in one) for one in exchanges)
    rolling.exit_codes, rolling.served = await restarting, balancer.served()
    rolling.seconds = time.perf_counter() - start_s
    return rolling


def _restart_in_turn(replicas: list[Replica], balancer: Balancer, restarts: int) -> list[int]:
    codes = []
    for replica, _ in zip(cycle(replicas), range(restarts), strict=False):
        codes.append(replica.restart(signal.SIGTERM))
        balancer.wait_until_all_are_up()
    return codes


def stop_often(models: Path, folder: Path, stops: int) -> list[Stop]:
    """Stops one server so often under clients that keep their connections."""
    with replicas_of(folder, 0, models) as (replica,):
        return [asyncio.run(stop_under_clients(replica)) for _ in range(stops)]


def roll_behind(haproxy: str, models: Path, folder: Path, restarts: int, drain_delay_s: float) -> Rolling:
    """Restarts two replicas behind this haproxy, so often in all."""
    balancer = Balancer(free_address(), free_address())
    with replicas_of(folder, drain_delay_s, models, models) as replicas:
        for replica in replicas:
            replica.start()
        with balancing(haproxy, folder, balancer, [replica.address for replica in replicas]):
            return asyncio.run(roll(replicas, balancer, restarts))


def main() -> None:
    """Prints what clients saw; exits with 1 and a sentence if one noticed, with 2 if there is no haproxy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--drain-delay-s", type=float, default=1.0)
    options = parser.parse_args()
    haproxy = find_haproxy()
    if haproxy is None:
        print("expected haproxy, which is not installed: apt-get install haproxy", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        models, folder = Path(name, "models"), Path(name)
        export_model(models, "small", **SIZES)
        stops = stop_often(models, folder, STOPS)
        for stop in stops:
            print(f"stopped under {CLIENTS} clients: before the signal {dict(stop.before)}, after {dict(stop.after)}")
        rolling = roll_behind(haproxy, models, folder, options.restarts, options.drain_delay_s)
        killed = kill_behind(haproxy, models, folder)
    print(f"{len(rolling.exit_codes)} restarts in {rolling.seconds:.0f} s, served {rolling.served}:")
    print(f"on kept connections {dict(rolling.kept)}, on new ones {dict(rolling.new)}")
    print(f"one of two killed under {USERS} clients: {dict(killed.outcomes)}, given to each {killed.served}")
    faults = [*(fault for stop in stops for fault in stop.faults()), *rolling.faults(), *killed.faults()]
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
