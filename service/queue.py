"""What waits for a run, in order: the event loop puts in, the thread that runs takes out, and no lock is held.

An entry's place is fixed when it comes: its time of arrival, and on top of it seconds for its priority and for what its
run costs. So who asks for little overtakes who asks for much, and a higher priority a lower one, but only for a time
that can be told: whoever comes later than an entry's place is behind it for good, so nobody starves.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Generic, NamedTuple

from service.engine import Item, Result

PRIORITY_STEP_S = 1.0  # that one priority less may be overtaken for
PATIENCE = 10.0  # times its own run's cost that an entry may be overtaken for
_WINDOW_S, _DOUBT_S = 5.0, 0.1  # of runs that a pace is taken from, and that say little of it yet
_MOST_PACE = 100.0  # of one run: more is a stall
_REST_S = 0.02  # that the event loop's turns may take
_CANDIDATES = 512  # of one kind, first in line, that a batch is chosen from


class Answer(NamedTuple, Generic[Result]):
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
class Entry(Generic[Item, Result]):
    """One item that waits, and the future that its answer goes to.

    Attributes:
        item: what is run.
        kind: only entries of equal kind share a batch.
        length: positions.
        cost_s: predicted seconds of a run of it alone.
        priority: the least is served first.
        deadline_s: monotonic time after which nobody wants the answer.
        future: done as soon as nobody waits for the answer any more.
        submitted_s: monotonic time of arrival.
        place: in line; the least is served first.
    """

    item: Item
    kind: Hashable
    length: int
    cost_s: float
    priority: int
    deadline_s: float
    future: "asyncio.Future[Answer[Result]]"
    submitted_s: float
    place: float = field(init=False)

    def __post_init__(self) -> None:
        """Fixes its place."""
        self.place = self.submitted_s + PRIORITY_STEP_S * self.priority + PATIENCE * self.cost_s


_PLACE = attrgetter("place")


class Load(NamedTuple):
    """What waits for a model's runs.

    Attributes:
        tokens: positions.
        wait_s: predicted seconds until all of it has been run.
    """

    tokens: int = 0
    wait_s: float = 0.0


class Queue(Generic[Item, Result]):
    """Entries in order of place.

    Args:
        choose: from the lengths of entries of one kind, first in line first, to the indices of the next batch.
        on_gone: told the number of entries that are dropped because their waiter has gone.
    """

    def __init__(self, choose: Callable[[list[int]], list[int]], on_gone: Callable[[int], None]) -> None:
        self._choose = choose
        self._on_gone = on_gone
        self._inbox: deque[Entry[Item, Result]] = deque()
        self._line: list[Entry[Item, Result]] = []
        self._bell = threading.Lock()  # free: who waits may go on; the loop alone frees it, the thread alone takes it
        self._bell.acquire()
        self._hold: object | None = None  # while a rest is to go on: that rest
        # Each sum is written by one side alone: `+=` from two threads could lose one.
        self._tokens_in = self._tokens_out = 0
        self._seconds_in = self._seconds_out = 0.0

        self._ran_s = self._predicted_s = 0.0  # of the last runs

    @property
    def load(self) -> Load:
        """What waits, at the pace of the last runs."""
        waiting_s = max(0.0, self._seconds_in - self._seconds_out)
        return Load(self._tokens_in - self._tokens_out, waiting_s * self._ran_s / (self._predicted_s + _DOUBT_S))

    def keep_pace(self, batch: list[Entry[Item, Result]], run_s: float) -> None:
        """Learns how much longer, or shorter, runs take than was predicted of their entries one by one."""
        predicted_s = sum([entry.cost_s for entry in batch])
        kept = math.exp(-predicted_s / _WINDOW_S)
        self._ran_s = kept * self._ran_s + min(run_s, _MOST_PACE * predicted_s)
        self._predicted_s = kept * self._predicted_s + predicted_s

    def put(self, entry: Entry[Item, Result]) -> None:
        """Adds an entry; from the event loop."""
        self._tokens_in += entry.length
        self._seconds_in += entry.cost_s
        self._inbox.append(entry)
        if self._hold is None:
            self.wake()

    def wake(self) -> None:
        """Ends a `wait` or a `rest`, or the next `wait`; from the event loop."""
        if self._bell.locked():
            self._bell.release()

    def rest(self, tell_behind: Callable[[Callable[[], None]], None], most_s: float = _REST_S) -> None:
        """Waits until something is there and the event loop has had its turns, or for some time.

        Args:
            tell_behind: calls in the event loop after these turns.
            most_s: after which it returns in any case.
        """
        self._hold = held = object()
        self._bell.acquire(blocking=False)  # what was put in until now does not end it either
        tell_behind(partial(self._let_go, held))
        self._bell.acquire(timeout=min(most_s, _REST_S))
        self._hold = None

    def _let_go(self, held: object) -> None:
        if self._hold is held:
            self._hold = None
            if self._tokens_in != self._tokens_out:
                self.wake()

    def wait(self) -> None:
        """Returns once something has been put in since the last `take`, or someone has called `wake`."""
        self._bell.acquire()

    def take(self) -> list[Entry[Item, Result]]:
        """Removes the next batch, empty if nothing waits; entries that nobody waits for are dropped."""
        self._bell.acquire(blocking=False)
        while self._inbox:
            self._line.append(self._inbox.popleft())
        self._line.sort(key=_PLACE)
        now_s = time.monotonic()
        live: list[Entry[Item, Result]] = []
        gone: list[Entry[Item, Result]] = []
        for entry in self._line:  # looked at once, since the loop may cancel it at any moment
            (gone if entry.future.done() or entry.deadline_s <= now_s else live).append(entry)
        if gone:
            self._drop(gone)
        same = [entry for entry in live if entry.kind == live[0].kind][:_CANDIDATES]
        batch = [same[index] for index in self._choose([entry.length for entry in same])] if same else []
        taken = set(map(id, batch))
        self._line = [entry for entry in live if id(entry) not in taken]
        self._count_out(batch)
        return batch

    def drain(self) -> list[Entry[Item, Result]]:
        """Removes all; when no thread takes any more."""
        entries, self._line = [*self._line, *self._inbox], []
        self._inbox.clear()
        self._count_out(entries)
        return entries

    def _drop(self, entries: list[Entry[Item, Result]]) -> None:
        self._count_out(entries)
        if gone := sum(entry.future.cancelled() for entry in entries):
            self._on_gone(gone)

    def _count_out(self, entries: list[Entry[Item, Result]]) -> None:
        self._tokens_out += sum([entry.length for entry in entries])
        self._seconds_out += sum([entry.cost_s for entry in entries])
