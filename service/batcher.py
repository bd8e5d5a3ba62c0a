"""Runs what waits, one batch at a time, and hands each entry its own rows.

There is no waiting window: an idle runner takes at once what there is, and what arrives during a run becomes the next
batch. A thread of its own takes, runs, lets the event loop have its turns, and takes again; the loop hears of a batch
once. Entries whose waiter has gone are dropped before the run, and a run that nobody waits for is ended. A failing
batch is retried singly once. The thread survives every failure of a run but the device's loss; if it ends, or a run
does not, all waiters are failed.
"""

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

from service import logs
from service.bridge import Bridge, has_refused
from service.engine import Engine, Item, Job, Result
from service.errors import DeadlineError, DeviceLostError, GlassblockError, RunFailedError, UnavailableError
from service.metrics import ModelMetrics
from service.queue import Answer, Entry, Load, Queue

_FULL_BREATH = 0.25  # of a run, that the event loop gets behind it where the next batch is full
WATCH_EVERY_S, STOP_GRACE_S = 0.5, 5.0  # a run that was told to end and has not by then ends the process

_log = logs.get("batcher")


@dataclass(slots=True)
class _Run(Generic[Item, Result]):
    """The batch that is being run."""

    batch: list[Entry[Item, Result]]
    job: Job[Result]
    started_s: float

    @property
    def wanted(self) -> bool:
        return any(not entry.future.done() for entry in self.batch)


class Batcher(Generic[Item, Result]):
    """A queue and the one thread that empties it.

    Args:
        name: of the model, for logs.
        metrics: of the model.
        engine: runs batches.
        run_timeout_s: after which a run is ended, and its waiters fail.
        on_death: called once if the thread ends without having been stopped, or a run cannot be ended.
    """

    def __init__(
        self,
        name: str,
        metrics: ModelMetrics,
        engine: Engine[Item, Result],
        run_timeout_s: float,
        on_death: Callable[[], None],
    ) -> None:
        self._name = name
        self._metrics = metrics
        self._engine = engine
        self._run_timeout_s = run_timeout_s
        self._on_death = on_death
        self._queue = Queue[Item, Result](engine.choose, metrics.count_cancelled)
        self._batch: list[Entry[Item, Result]] = []  # taken, and not answered yet
        self._running: _Run[Item, Result] | None = None
        self._loop = Bridge()
        self._watching: asyncio.TimerHandle | None = None
        self._closing, self._ended = False, asyncio.Event()

    def start(self) -> None:
        """Starts the thread; answers go to the running event loop."""
        self._loop.connect()
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"run-{self._name}")
        executor.submit(self._work).add_done_callback(lambda done: self._loop.tell(self._work_ended, done))
        executor.shutdown(wait=False)  # the thread ends with its work
        self._watch()

    def submit(
        self, item: Item, kind: Hashable, length: int, priority: int = 1, timeout_s: float | None = None
    ) -> "asyncio.Future[Answer[Result]]":
        """Queues an item; `withdraw` the future if its answer is not wanted any more.

        Args:
            item: what the engine runs.
            kind: only entries of equal kind share a batch.
            length: positions.
            priority: a step less overtakes for `queue.PRIORITY_STEP_S`.
            timeout_s: if it has not been run by then, the future fails with DeadlineError.

        Raises:
            UnavailableError: the thread has ended, or takes no more.
        """
        if not self._loop.is_connected or self._closing or self._ended.is_set():
            raise self._gone()
        now_s = time.monotonic()
        deadline_s = math.inf if timeout_s is None else now_s + timeout_s
        future, cost_s = asyncio.get_running_loop().create_future(), self._engine.predict_s(length)
        entry = Entry(item, kind, length, cost_s, priority, deadline_s, future, now_s)
        if timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, entry)
            future.add_done_callback(lambda _: timer.cancel())  # or it would hold the item until then
        self._queue.put(entry)
        return future

    def withdraw(self, futures: "list[asyncio.Future[Answer[Result]]]") -> None:
        """Takes back what was submitted; a run that nobody else waits for is ended."""
        for future in futures:
            future.cancel()
        self._stop_unwanted()

    @property
    def load(self) -> Load:
        """What waits."""
        return self._queue.load

    def stop(self) -> None:
        """Ends the thread, and a run; who still waits is answered with 503."""
        self._end(died=False)
        self._stop_unwanted()

    def close(self) -> None:
        """Takes no more; the thread ends once what waits has been run."""
        self._closing = True
        self._queue.wake()

    async def wait_closed(self) -> None:
        """Returns when the thread has ended."""
        await self._ended.wait()

    # In the thread of runs.

    def _work(self) -> None:
        while not self._ended.is_set():
            closing = self._closing  # asked before: what came until then is in the queue
            self._batch, taken_s = self._queue.take(), time.monotonic()
            if self._batch:
                self._answer(self._batch)
                if self._queue.load.tokens < self._engine.batch_tokens:  # the next batch may become larger by it
                    self._queue.rest(self._loop.tell_behind)
                elif self._engine.takes_all_cores and not has_refused():
                    self._queue.rest(self._loop.tell_behind, _FULL_BREATH * (time.monotonic() - taken_s))
            elif closing or self._ended.is_set():
                break
            elif not self._closing:  # else look again: a take may have cleared its wake
                self._queue.wait()

    def _answer(self, batch: list[Entry[Item, Result]]) -> None:
        error = self._try(batch)
        if error is not None and len(batch) == 1:
            self._loop.tell(_fail, batch, error)
        elif error is not None:
            for entry in batch:
                if not entry.future.done():
                    self._answer([entry])

    def _try(self, batch: list[Entry[Item, Result]]) -> GlassblockError | None:
        """Runs a batch and has its entries answered, or returns why it could not."""
        self._running = run = _Run(batch, self._engine.job([entry.item for entry in batch]), time.monotonic())
        self._stop_unwanted()  # they may have left before it was known here
        results = self._run_caught(run)
        run_s = time.monotonic() - run.started_s
        self._running = None  # or it would hold its tensors until the next one comes
        self._metrics.count_cancelled(sum([entry.future.cancelled() for entry in batch]))
        if isinstance(results, DeviceLostError):
            raise results
        if isinstance(results, BaseException):
            error, results.__traceback__ = self._explain(results, run), None  # whose frames hold it, and the batch
            return error
        self._loop.tell(self._deliver, run, results, run_s)
        return None

    def _run_caught(self, run: _Run[Item, Result]) -> list[Result] | BaseException:
        try:
            return [result for _, result in zip(run.batch, run.job.result(), strict=True)]
        except BaseException as error:  # noqa: BLE001 - whatever a run raises, the thread goes on
            return error

    def _explain(self, error: BaseException, run: _Run[Item, Result]) -> GlassblockError:
        if isinstance(error, GlassblockError):
            return error
        if isinstance(error, MemoryError):
            return UnavailableError("out of memory in this run; ask for less or later", code="out_of_memory")
        if run.wanted:  # else it was told to end
            _log.error("run failed", model=self._name, batch_size=len(run.batch), exc_info=error)
        return RunFailedError("the run failed; this is a bug of the server", code="run_failed")

    # In the event loop.

    def _deliver(self, run: _Run[Item, Result], results: list[Result], run_s: float) -> None:
        for entry, result in zip(run.batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(Answer(result, run.started_s - entry.submitted_s, run_s))
        asyncio.get_running_loop().call_soon(self._queue.keep_pace, run.batch, run_s)
        asyncio.get_running_loop().call_soon(self._metrics.observe_batch, [e.length for e in run.batch], run_s)

    def _expire(self, entry: Entry[Item, Result]) -> None:
        message = "expected an answer within the request's timeout, but it was not computed by then"
        _fail([entry], DeadlineError(message, code="deadline_exceeded"))
        self._stop_unwanted()

    def _stop_unwanted(self) -> None:
        if (running := self._running) is not None and not running.wanted:
            running.job.stop()

    def _watch(self) -> None:
        """Ends a run that takes too long; if it cannot be ended, nothing can be run any more."""
        if (running := self._running) is not None:
            running.started_s = time.monotonic() if running.job.waits else running.started_s
            late_s = time.monotonic() - running.started_s - self._run_timeout_s
            if late_s > STOP_GRACE_S:
                _log.error("a run does not end", model=self._name)
                self._end(died=True)
                return
            if late_s > 0:
                message = f"expected a run of at most {self._run_timeout_s:g} s; this one was ended"
                _fail(running.batch, DeadlineError(message, code="run_timeout"))
                running.job.stop()
        self._watching = asyncio.get_running_loop().call_later(WATCH_EVERY_S, self._watch)

    def _work_ended(self, done: "Future[None]") -> None:
        if error := done.exception():
            _log.error("batcher died", model=self._name, exc_info=error)
        self._end(died=error is not None)

    def _end(self, *, died: bool) -> None:
        """Fails all waiters; told again by the thread once it takes no more, for what it had in hand until then."""
        first = not self._ended.is_set()
        self._ended.set()
        if self._watching is not None:
            self._watching.cancel()
        self._queue.wake()
        _fail([*self._batch, *self._queue.drain()], self._gone())
        if died and first:
            self._on_death()

    def _gone(self) -> UnavailableError:
        if self._closing:
            return UnavailableError(f"model {self._name} was just unloaded", code="unloaded")
        return UnavailableError(f"model {self._name} can no longer run; the server is about to stop", code="dead")


def _fail(entries: list[Entry[Item, Result]], error: GlassblockError) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
