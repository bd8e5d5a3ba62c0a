"""Forms batches of what waits, runs them one at a time, and hands each entry its own rows.

There is no waiting window: an idle runner takes at once what there is, and what arrives during a run becomes the next
batch. The queue is in order of priority, and of arrival where that is equal; its first entry leads the next batch, so
whoever keeps the runner busy with a higher priority keeps the rest waiting, until their deadlines if they have any. The
batcher is given callables; it knows neither HTTP nor onnxruntime.

An entry owns its future, so no two lists can be matched up wrongly. Entries whose waiter has gone are dropped before
the run. A failing batch is retried singly once, so that only the culprit fails. The loop survives every failure of a
run; if it ends all the same, it fails all waiters and says so.
"""

import asyncio
import bisect
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service import logs
from service.errors import DeadlineError, GlassblockError, RunFailedError, UnavailableError
from service.metrics import ModelMetrics

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logs.get("batcher")


@dataclass(frozen=True, slots=True)
class Answer(Generic[Result]):
    """One entry's result.

    Attributes:
        value: what the run gave for the entry.
        queue_s: seconds from submission to the start of its run.
        run_s: seconds of its run.
    """

    value: Result
    queue_s: float
    run_s: float


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    kind: Hashable
    length: int
    priority: int
    future: asyncio.Future[Answer[Result]]
    submitted_s: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """A queue and the one loop that empties it.

    Args:
        name: of the model, for logs.
        metrics: of the model.
        run: from the items of a batch to one result an item, in order; called in a thread of its own.
        choose: from the lengths of waiting entries of one kind, first in line first, to the indices of the next batch.
        on_death: called once if the loop ends without having been stopped.
    """

    def __init__(
        self,
        name: str,
        metrics: ModelMetrics,
        run: Callable[[list[Item]], list[Result]],
        choose: Callable[[list[int]], list[int]],
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._metrics = metrics
        self._run = run
        self._choose = choose
        self._on_death = on_death
        self._queue: list[_Entry[Item, Result]] = []
        self._batch: list[_Entry[Item, Result]] = []
        self._waiting = 0
        self._closing = False
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"run-{name}")
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the loop in the running event loop."""
        self._loop = asyncio.create_task(self._work(), name=f"batcher-{self._name}")
        self._loop.add_done_callback(self._ended)

    def submit(
        self, item: Item, kind: Hashable, length: int, priority: int = 1, timeout_s: float | None = None
    ) -> asyncio.Future[Answer[Result]]:
        """Queues an item; cancel the future to withdraw it.

        Args:
            item: what `run` takes.
            kind: only entries of equal kind share a batch.
            length: positions, for `choose`.
            priority: the least is served first.
            timeout_s: if no run of it has begun by then, the future fails with DeadlineError.

        Raises:
            UnavailableError: the loop has ended, or is closing.
        """
        if self._closing or self._loop is None or self._loop.done():
            raise self._gone()
        loop = asyncio.get_running_loop()
        entry = _Entry[Item, Result](item, kind, length, priority, loop.create_future())
        bisect.insort(self._queue, entry, key=lambda waiting: waiting.priority)
        self._waiting += length
        if timeout_s is not None:
            timer = loop.call_later(timeout_s, self._expire, entry)
            entry.future.add_done_callback(lambda _: timer.cancel())  # or it would hold the item until then
        self._arrived.set()
        return entry.future

    def _expire(self, entry: _Entry[Item, Result]) -> None:
        """Fails an entry whose time is over; once its run has begun, it has all the time it needs."""
        if not any(entry is begun for begun in self._batch):
            message = "expected a run to begin within the request's timeout, but others were before it"
            _fail(entry, DeadlineError(message, code="deadline_exceeded"))

    @property
    def waiting(self) -> int:
        """Positions of all entries that wait."""
        return self._waiting

    async def stop(self) -> None:
        """Ends the loop; what still waits is answered with 503."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    def close(self) -> None:
        """Takes no more; the loop ends once what waits has been run."""
        self._closing = True
        self._arrived.set()

    async def wait_closed(self) -> None:
        """Returns when the loop has ended."""
        if self._loop is not None:
            await asyncio.wait([self._loop])

    async def _work(self) -> None:
        while self._queue or not self._closing:
            await self._arrived.wait()
            self._batch = self._take()
            if self._batch:
                await self._answer(self._batch)
                self._batch = []  # or it would hold its tensors until the next one comes
            if not self._queue and not self._closing:
                self._arrived.clear()

    def _take(self) -> list[_Entry[Item, Result]]:
        """Removes the next batch from the queue; those whose waiter has gone are dropped and counted."""
        live = [entry for entry in self._queue if not entry.future.done()]
        self._metrics.count_cancelled(sum(entry.future.cancelled() for entry in self._queue))
        self._queue = live
        if not live:
            self._waiting = 0
            return []
        same = [entry for entry in live if entry.kind == live[0].kind]
        batch = [same[index] for index in self._choose([entry.length for entry in same])]
        taken = set(map(id, batch))
        self._queue = [entry for entry in live if id(entry) not in taken]
        self._waiting = sum(entry.length for entry in self._queue)
        return batch

    async def _answer(self, batch: list[_Entry[Item, Result]]) -> None:
        error = await self._try(batch)
        if error is None:
            return
        if len(batch) > 1:
            for entry in batch:
                alone = None if entry.future.done() else await self._try([entry])
                if alone is not None:
                    _fail(entry, alone)
        else:
            _fail(batch[0], error)

    async def _try(self, batch: list[_Entry[Item, Result]]) -> GlassblockError | None:
        """Runs a batch and answers its entries, or returns why it could not."""
        started_s = time.monotonic()
        items = [entry.item for entry in batch]
        results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run_caught, items)
        if isinstance(results, BaseException):
            return self._explain(results, len(batch))
        run_s = time.monotonic() - started_s
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(Answer(result, started_s - entry.submitted_s, run_s))
        longest, tokens = max(entry.length for entry in batch), sum(entry.length for entry in batch)
        self._metrics.observe_batch(len(batch), tokens, longest * len(batch), run_s)
        return None

    def _run_caught(self, items: list[Item]) -> list[Result] | BaseException:
        """In the thread of runs: one result an item, or what was raised, since StopIteration cannot cross a future."""
        try:
            return [result for _, result in zip(items, self._run(items), strict=True)]
        except BaseException as error:  # noqa: BLE001 - one of the three places: whatever a run raises, the loop goes on
            return error

    def _explain(self, error: BaseException, batch_size: int) -> GlassblockError:
        if isinstance(error, GlassblockError):
            return error
        if isinstance(error, MemoryError):
            return UnavailableError("out of memory in this run; ask for less or later", code="out_of_memory")
        _log.error("run failed", model=self._name, batch_size=batch_size, exc_info=error)
        return RunFailedError("the run failed; this is a bug of the server", code="run_failed")

    def _ended(self, loop: asyncio.Task[None]) -> None:
        for entry in (*self._batch, *self._queue):
            _fail(entry, self._gone())
        self._queue.clear()
        self._executor.shutdown(wait=False)  # a run cannot be interrupted; who waited for it has been answered
        error = None if loop.cancelled() else loop.exception()  # stop(), or the end of the event loop, cancels it
        if error is not None:
            _log.error("batcher died", model=self._name, exc_info=error)
            self._on_death()

    def _gone(self) -> UnavailableError:
        if self._closing:
            return UnavailableError(f"model {self._name} was just unloaded", code="unloaded")
        message = f"model {self._name} can no longer run; the server is about to stop"
        return UnavailableError(message, code="dead")


def _fail(entry: _Entry[Item, Result], error: GlassblockError) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
        entry.future.exception()  # counts as seen: of a request's sequences, only the first failure is awaited
