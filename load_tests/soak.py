"""`make soak`: many clients for long, every answer compared bit for bit, and no memory lost.

Each of the requests is asked alone first. Then clients ask them at random, at the same time, in JSON and in bytes; one
in five leaves before its answer. An answer that differs in a bit from the one alone is a mismatch (on CUDA, by more
than 1e-5): whatever it was batched, padded or cancelled with must not show.

The server's memory is looked at from the middle on. It keeps as much as it needed at once at most, and when chance asks
for that is no one's matter here; so before they begin, all clients ask for the largest answers for a while. That the
look sees a leak is shown first, on a server that keeps every request.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import psutil
import uvloop

from load_tests.connection import Answer, Connection
from load_tests.scenarios import Float32Array
from load_tests.server import export_model, running_server

Reading = Callable[[bytes], Float32Array]
Canary = tuple[bytes, bytes, Reading]  # a request, the body of its answer alone, and how that is read
MODEL, HIDDEN_SIZE = "small", 64
SIZES = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": 4, "intermediate_size": 256}
LONGEST, SEQUENCES_A_LENGTH = 80, 3
CLIENTS = 32
LARGEST, LARGE_SHARE = 24, 5  # of the canaries, asked for first, by such a part of the requests
LEAVING_SHARE, LEAVE_WITHIN_S = 0.2, 0.02
LOOKS = 200
ATOL = {"cpu": 0.0, "cuda": 1e-5}  # CUDA's products depend on a batch's shape in their last bits
MOST_GROWTH = 0.02
LEAKING, LEAKING_REQUESTS = "tests.service.leaking_service", 4000


@dataclass(slots=True)
class Soaked:
    """What became of the requests.

    Attributes:
        outcomes: "equal", "near", "left", "other bits", "status 503" or an exception's name, each with its count.
        rss_bytes: of the server, every so many requests at random.
        seconds: that it took.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    rss_bytes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """By what share the server's memory grew in the second half: its last fifth against its first."""
        half = self.rss_bytes[len(self.rss_bytes) // 2 :]
        fifth = max(len(half) // 5, 1)
        return statistics.median(half[-fifth:]) / statistics.median(half[:fifth]) - 1

    def faults(self) -> list[str]:
        """Sentences for answers that were not as they are alone."""
        wrong = {name: count for name, count in self.outcomes.items() if name not in {"equal", "near", "left"}}
        return [f"expected the bits of the answer alone, got {name} {count} times" for name, count in wrong.items()]

    def leaks(self) -> list[str]:
        """A sentence if memory grew by more than MOST_GROWTH."""
        if self.growth <= MOST_GROWTH:
            return []
        return [f"memory grew by {self.growth:.1%} in the second half, more than {MOST_GROWTH:.0%}"]

    def describe(self) -> str:
        """One line for people."""
        outcomes = ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        middle, last = (self.rss_bytes[at] / 2**20 for at in (len(self.rss_bytes) // 2, -1))
        return (
            f"{self.outcomes.total():,} requests in {self.seconds:.0f} s: {outcomes}; "
            f"RSS {middle:.1f} MiB in the middle, {last:.1f} at the end, growth {self.growth:+.2%}"
        )


def canaries(address: str) -> list[tuple[bytes, Reading]]:
    """Requests of every length, no two alike, as JSON on /v1 and as bytes on /v2; each with how its answer is read."""
    generator = np.random.default_rng(0)
    requests: list[tuple[bytes, Reading]] = []
    for length in [*range(1, LONGEST + 1)] * SEQUENCES_A_LENGTH:
        states = generator.standard_normal((length, HIDDEN_SIZE)).astype("<f4")
        body = orjson.dumps({"hidden_states": [states.tolist()]})
        requests.append((_post(address, "v1", "forward", "Content-Type: application/json", body), _read_json))
        states = generator.standard_normal((length, HIDDEN_SIZE)).astype("<f4")
        raw = _post(address, "v2", "infer", "Inference-Header-Content-Length: 0", states.tobytes())
        requests.append((raw, partial(_read_bytes, count=states.size)))
    return requests


def _read_json(body: bytes) -> Float32Array:
    return np.asarray(orjson.loads(body)["outputs"]["block_output"][0], np.float32).ravel()


def _read_bytes(body: bytes, count: int) -> Float32Array:
    return np.frombuffer(body[-4 * count :], "<f4")


def _post(address: str, face: str, verb: str, header: str, body: bytes) -> bytes:
    head = f"POST /{face}/models/{MODEL}/{verb} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Soak:
    """Clients that ask a server until so many requests have been sent.

    Args:
        address: host:port.
        pid: of the server.
        requests: to send at random.
        atol: how far an answer may be from the one alone; 0: not a bit.
    """

    def __init__(self, address: str, pid: int, requests: int, atol: float = 0.0) -> None:
        self._address = address
        self._server = psutil.Process(pid)
        self._requests = requests
        self._atol = atol
        self._asked_alone: list[Canary] = []
        self.soaked = Soaked()

    async def run(self) -> Soaked:
        """Asks each request alone, then all of them at once, again and again."""
        connection = await Connection.open(self._address)
        for request, read in canaries(self._address):
            answer = await connection.ask(request)
            if answer.status != 200:
                raise RuntimeError(f"expected 200 for a request alone, got {answer.status}")
            self._asked_alone.append((request, answer.body, read))
        connection.leave()
        start_s = time.monotonic()
        largest = sorted(self._asked_alone, key=lambda canary: len(canary[1]))[-LARGEST:]
        await self._ask_all(largest, iter(range(self._requests // LARGE_SHARE)))
        start_s = time.monotonic()
        await self._ask_all(self._asked_alone, self._looks())
        self.soaked.seconds = time.monotonic() - start_s
        return self.soaked

    async def _ask_all(self, canaries: Sequence[Canary], turns: Iterator[int]) -> None:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                dice = random.Random(number)  # noqa: S311 - no secret
                clients.create_task(self._be_a_client(canaries, turns, dice))

    async def _be_a_client(self, canaries: Sequence[Canary], turns: Iterator[int], dice: random.Random) -> None:
        connection = None
        for _ in turns:
            connection = connection or await Connection.open(self._address)
            leaves = dice.random() < LEAVING_SHARE
            outcome, stays = await self._ask(connection, dice.choice(canaries), dice, leaves=leaves)
            self.soaked.outcomes[outcome] += 1
            if not stays:
                connection.leave()
                connection = None
        if connection is not None:
            connection.leave()

    def _looks(self) -> Iterator[int]:
        """The turns of the requests that count, with a look at the server's memory now and then."""
        for turn in range(self._requests):
            if turn % max(self._requests // LOOKS, 1) == 0:
                self.soaked.rss_bytes.append(self._server.memory_info().rss)
            yield turn

    async def _ask(
        self, connection: Connection, canary: Canary, dice: random.Random, *, leaves: bool
    ) -> tuple[str, bool]:
        """What became of one request, and whether its connection can carry another."""
        request, expected, read = canary
        if leaves:
            connection.send(request)
            await asyncio.sleep(dice.random() * LEAVE_WITHIN_S)
            return "left", False
        try:
            answer = await connection.ask(request)
        except (OSError, asyncio.IncompleteReadError) as fault:
            return type(fault).__name__, False
        return self._compare(answer, expected, read), not answer.closes

    def _compare(self, answer: Answer, expected: bytes, read: Reading) -> str:
        if answer.status != 200:
            return f"status {answer.status}"
        if answer.body == expected:
            return "equal"
        if self._atol and np.abs(read(answer.body) - read(expected)).max() <= self._atol:
            return "near"
        return "other bits"


def soak(models: Path, folder: Path, requests: int, program: str = "service", provider: str = "cpu") -> Soaked:
    """Soaks a server of this program, started for it."""
    with running_server(models, folder, program=program, provider=provider) as server:
        return uvloop.run(Soak(server.address, server.pid, requests, ATOL[provider]).run())


def main() -> None:
    """Prints what was seen; exits with 1 and a sentence if an answer differed or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--provider", choices=ATOL, default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        export_model(models, MODEL, **SIZES)
        leaking = soak(models, Path(name), LEAKING_REQUESTS, LEAKING)
        print(f"with a leak: {leaking.describe()}")
        if not leaking.leaks():
            sys.exit("invalid: a server that keeps every request was not found out")
        soaked = soak(models, Path(name), options.requests, provider=options.provider)
        print(soaked.describe())
    sys.exit("\n".join([*soaked.faults(), *soaked.leaks()]) or 0)


if __name__ == "__main__":
    main()
