"""The line: who is served first, what a batch is chosen from, and what is counted."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.queue import PATIENCE, PRIORITY_STEP_S, Entry, Queue
from tests.service.fake_runs import take_all


class Waiting:
    """Puts entries into a queue, whose futures belong to an event loop that does not run."""

    def __init__(self, choose: Callable[[list[int]], list[int]] = take_all) -> None:
        self.gone = 0
        self.queue = Queue[int, int](choose, self._count)
        self._loop = asyncio.new_event_loop()
        self._start_s = time.monotonic()

    def _count(self, gone: int) -> None:
        self.gone += gone

    def put(
        self, item: int, came_s: float = 0.0, priority: int = 5, cost_s: float = 0.0, timeout_s: float = math.inf
    ) -> Entry[int, int]:
        future = self._loop.create_future()
        submitted_s = self._start_s + came_s
        entry = Entry[int, int](item, "kind", 3, cost_s, priority, submitted_s + timeout_s, future, submitted_s)
        self.queue.put(entry)
        return entry

    def take_all(self) -> list[int]:
        items = []
        while batch := self.queue.take():
            items += [entry.item for entry in batch]
        self._loop.close()
        return items


def test_who_comes_first_is_served_first_where_priority_and_cost_are_equal() -> None:
    waiting = Waiting(lambda _: [0])
    for item in range(5):
        waiting.put(item, came_s=item / 1000)
    assert waiting.take_all() == [0, 1, 2, 3, 4]


def test_a_priority_less_is_overtaken_for_a_second_and_no_longer() -> None:
    waiting = Waiting(lambda _: [0])
    waiting.put(1, came_s=0, priority=2)
    waiting.put(2, came_s=0.9 * PRIORITY_STEP_S, priority=1)
    waiting.put(3, came_s=1.1 * PRIORITY_STEP_S, priority=1)
    assert waiting.take_all() == [2, 1, 3]


def test_who_asks_for_much_is_overtaken_for_ten_times_what_its_run_costs_and_no_longer() -> None:
    waiting = Waiting(lambda _: [0])
    waiting.put(1, came_s=0, cost_s=0.5)
    waiting.put(2, came_s=0.9 * PATIENCE * 0.5, cost_s=0.001)
    waiting.put(3, came_s=1.1 * PATIENCE * 0.5, cost_s=0.001)
    assert waiting.take_all() == [2, 1, 3]


def test_who_has_left_or_is_late_is_never_taken_and_only_who_has_left_is_counted_as_gone() -> None:
    waiting = Waiting()
    waiting.put(1).future.cancel()
    waiting.put(2, came_s=-2, timeout_s=1)
    waiting.put(3)
    assert waiting.take_all() == [3]
    assert waiting.gone == 1
    assert waiting.queue.load == (0, 0)


def test_what_comes_after_a_take_ends_the_next_wait() -> None:
    waiting = Waiting()
    waiting.put(1)
    assert [entry.item for entry in waiting.queue.take()] == [1]
    waiting.put(2)
    waiting.queue.wait()
    assert waiting.take_all() == [2]


def test_the_wait_is_predicted_from_what_waits_at_the_pace_of_the_last_runs() -> None:
    waiting = Waiting(lambda _: [0])
    for item in range(1600):
        waiting.put(item, cost_s=0.02)
    assert waiting.queue.load == (4800, 0)  # before any run has shown what a prediction is worth
    for _ in range(500):
        waiting.queue.keep_pace(waiting.queue.take(), 0.02)
    assert waiting.queue.load.wait_s == pytest.approx(1100 * 0.02, rel=0.05)
    for _ in range(1000):
        waiting.queue.keep_pace(waiting.queue.take(), 0.01)  # in half of the time that was predicted
    assert waiting.queue.load.tokens == 300
    assert waiting.queue.load.wait_s == pytest.approx(100 * 0.01, rel=0.05)
    waiting.take_all()


def test_one_short_run_that_stalls_says_little_of_what_waits() -> None:
    waiting = Waiting(lambda _: [0])
    waiting.put(0, cost_s=0.001)
    waiting.queue.keep_pace(waiting.queue.take(), 10)
    for item in range(10):
        waiting.put(item, cost_s=1)
    assert waiting.queue.load.wait_s < 10
    for _ in range(5):
        waiting.queue.keep_pace(waiting.queue.take(), 3)  # as that one said, but these are long
    assert waiting.queue.load.wait_s == pytest.approx(15, rel=0.1)
    waiting.take_all()


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 10), st.floats(0, 1), st.booleans()), max_size=40))
def test_whoever_comes_later_than_an_entrys_place_is_behind_it_for_good(
    plan: list[tuple[int, float, float, bool]],
) -> None:
    waiting = Waiting(lambda lengths: list(range(len(lengths)))[:2])
    entries = [waiting.put(item, came, priority, cost) for item, (priority, came, cost, _) in enumerate(plan)]
    for entry, (*_, leaves) in zip(entries, plan, strict=True):
        if leaves:
            entry.future.cancel()
    stay = [entry for entry in entries if not entry.future.cancelled()]
    assert waiting.queue.load.tokens == 3 * len(entries)
    served = waiting.take_all()
    assert sorted(served) == [entry.item for entry in stay]
    places = {entry.item: entry.place for entry in entries}
    arrivals = {entry.item: entry.submitted_s for entry in entries}
    assert all(arrivals[earlier] <= places[later] for earlier, later in itertools.combinations(served, 2))


class Leaving(asyncio.Future[Any]):
    """A future whose client leaves as soon as someone has looked whether it has."""

    def done(self) -> bool:
        """Whether it had left before."""
        before = super().done()
        self.cancel()
        return before


def test_who_leaves_while_a_batch_is_taken_is_counted_out_once() -> None:
    waiting = Waiting()
    loop = asyncio.new_event_loop()
    waiting.put(1).future.cancel()
    waiting.put(2).future = Leaving(loop=loop)
    waiting.take_all()
    loop.close()
    assert waiting.queue.load == (0, 0)
