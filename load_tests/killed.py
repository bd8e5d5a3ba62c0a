"""The third part of `make chaos`: one of two replicas behind haproxy is killed while clients ask.

What it had in hand is lost, and nothing else: nothing is sent twice, so clients see it, and whoever asks later, also
before haproxy's next look, is answered by the other one.
"""

import asyncio
import re
import signal
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.balancer import Balancer, balancing
from load_tests.open_loop import GOOD, Load, closed_loop, forward_request
from load_tests.replicas import Replica, free_address, replicas_of
from load_tests.sender import Exchange

USERS, POSITIONS = 32, 64
MOST_LOST = 2 * USERS  # what each has in hand at the signal, and what it sends on while the system ends the process
BEFORE_S, AFTER_S = 1.0, 2.0
MOST_LATE_S = 0.2  # of a failure to be told, after the death


@dataclass(slots=True)
class Killed:
    """What clients saw of a death.

    Attributes:
        exchanges: all of them.
        signal_s: just before SIGKILL was sent; times are of `time.perf_counter`.
        dead_s: when the process had ended.
        exit_code: of it.
        given_up: requests to the other replica that the balancer gave up.
        served: how many requests each replica was given, those after the death included.
    """

    exchanges: list[Exchange]
    signal_s: float = 0.0
    dead_s: float = 0.0
    exit_code: int = 0
    given_up: int = 0
    served: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> list[Exchange]:
        """Those that were not answered with 200."""
        return [exchange for exchange in self.exchanges if exchange.outcome != GOOD]

    @property
    def outcomes(self) -> Counter[str]:
        """How many ended in each way."""
        return Counter(exchange.outcome for exchange in self.exchanges)

    def faults(self) -> list[str]:
        """Sentences for what must not be lost by a death."""
        others = [one for one in self.lost if one.sent_s > self.dead_s or one.done_s < self.signal_s]
        late = [one for one in self.lost if one.done_s > self.dead_s + MOST_LATE_S]
        return [
            *([f"{len(others)} requests failed that were not under way at the death"] if others else []),
            *([f"{len(self.lost)} requests of {USERS} clients failed"] if len(self.lost) > MOST_LOST else []),
            *([f"{self.given_up} requests to the other replica were given up"] if self.given_up else []),
            *([f"{len(late)} clients were told more than {MOST_LATE_S:g} s after the death"] if late else []),
            *(["invalid: the replica that was killed had nothing in hand"] if not self.lost else []),
        ]


async def _kill_under_clients(replica: Replica, address: str) -> Killed:
    """Clients ask; the replica is killed meanwhile, and started again."""
    request = await asyncio.to_thread(forward_request, address, POSITIONS)
    asking = asyncio.ensure_future(closed_loop(Load(address, request), USERS, BEFORE_S + AFTER_S))
    await asyncio.sleep(BEFORE_S)
    signal_s = time.perf_counter()
    replica.send(signal.SIGKILL)
    exit_code = await asyncio.to_thread(replica.wait)
    dead_s = time.perf_counter()
    await asyncio.to_thread(replica.start)
    return Killed((await asking).exchanges, signal_s, dead_s, exit_code)


def _left(address: str) -> int:
    """How many requests a server saw end before it had answered."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        found = re.findall(r'^glassblock_requests_total\{code="499".*\} (.+)$', answer.read().decode(), re.MULTILINE)
    return int(sum(map(float, found)))


def kill_behind(haproxy: str, models: Path, folder: Path) -> Killed:
    """Kills one of two replicas behind this haproxy, and starts it again, until it has been found ready."""
    balancer = Balancer(free_address(), free_address())
    with replicas_of(folder, 0, models, models) as replicas:
        for replica in replicas:
            replica.start()
        with balancing(haproxy, folder, balancer, [replica.address for replica in replicas]):
            killed = asyncio.run(_kill_under_clients(replicas[0], balancer.address))
            balancer.wait_until_all_are_up()
            killed.given_up, killed.served = _left(replicas[1].address), balancer.served()
            return killed
