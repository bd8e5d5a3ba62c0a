"""Stand-ins for a model's run, and a started batcher around them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.batcher import Batcher
from service.metrics import ModelMetrics

PATIENCE_S = 5.0


class GatedRun:
    """Gives each item times ten, but waits at its gate first; keeps the batches it was given.

    Attributes:
        batches: the items of every run so far, in order.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[list[int]] = []
        self._gate = threading.Semaphore(0)
        if is_open:
            self.open()

    def open(self, runs: int = 100) -> None:
        """Lets so many runs pass, the one that waits first."""
        self._gate.release(runs)

    def __call__(self, items: list[int]) -> list[int]:
        """Runs one batch."""
        self.batches.append(items)
        assert self._gate.acquire(timeout=PATIENCE_S)
        return [item * 10 for item in items]


class FakeJob:
    """One batch of a FakeEngine."""

    def __init__(self, run: Callable[[list[int]], list[int]], items: list[int]) -> None:
        self._run = run
        self._items = items
        self.stopped = threading.Event()
        self.waits = False

    def result(self) -> list[int]:
        return self._run(self._items)

    def stop(self) -> None:
        self.stopped.set()


class FakeEngine:
    """Runs a function of a batch's items; keeps the jobs it gave."""

    batch_tokens, takes_all_cores = 100, True

    def __init__(
        self,
        run: Callable[[list[int]], list[int]],
        choose: Callable[[list[int]], list[int]],
        second_a_position: float = 0.0,
    ) -> None:
        self._run = run
        self.choose = choose
        self._second_a_position = second_a_position
        self.jobs: list[FakeJob] = []

    def job(self, items: list[int]) -> FakeJob:
        self.jobs.append(FakeJob(self._run, items))
        return self.jobs[-1]

    def predict_s(self, length: int) -> float:
        return length * self._second_a_position


def take_all(lengths: list[int]) -> list[int]:
    """Chooses everything."""
    return list(range(len(lengths)))


@asynccontextmanager
async def started(
    run: Callable[[list[int]], list[int]],
    choose: Callable[[list[int]], list[int]] = take_all,
    on_death: Callable[[], None] = lambda: None,
    name: str = "fake",
    run_timeout_s: float = 60.0,
    second_a_position: float = 0.0,
    *,
    takes_all_cores: bool = True,
) -> AsyncIterator[Batcher[int, int]]:
    """A batcher at work in the running event loop."""
    engine = FakeEngine(run, choose, second_a_position)
    engine.takes_all_cores = takes_all_cores
    batcher: Batcher[int, int] = Batcher(name, ModelMetrics(name, "1"), engine, run_timeout_s, on_death)
    with capture_logs():
        batcher.start()
        try:
            yield batcher
        finally:
            batcher.stop()


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that happens soon."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


def counted(metric: str, model: str) -> float:
    """A metric of this process, 0 if it was never touched."""
    return REGISTRY.get_sample_value(metric, {"model": model, "version": "1"}) or 0.0
