"""Between two runs the event loop has its turns, where a run would take its core."""

import asyncio
import itertools
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from service.bridge import has_refused
from service.coalescing import Coalescing
from service.queue import _REST_S
from tests.service.fake_runs import FakeEngine, GatedRun, started, until

FULL = FakeEngine.batch_tokens  # positions of a batch that a larger one is no faster than
RUN_S = 0.04


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


class TimedRun(GatedRun):
    """Takes RUN_S.

    Attributes:
        spans: when each run began and ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[tuple[float, float]] = []

    def __call__(self, items: list[int]) -> list[int]:
        start_s, result = time.monotonic(), super().__call__(items)
        time.sleep(RUN_S)
        self.spans.append((start_s, time.monotonic()))
        return result


@pytest.mark.parametrize(
    ("takes_all_cores", "refused"),
    [(True, False), (False, False), (True, True)],
    ids=["takes all cores", "leaves cores", "takes all cores, others refused"],
)
def test_a_full_batch_waits_for_the_loops_turns_where_its_run_takes_all_cores_and_nobody_is_refused(
    takes_all_cores: bool,  # noqa: FBT001
    refused: bool,  # noqa: FBT001
) -> None:
    timed = TimedRun()
    begun: list[int] = []

    def work_in_the_loop(_: object) -> None:
        time.sleep(0.005)
        begun.append(len(timed.batches))

    async def scenario() -> None:
        async with started(timed, lambda _: [0], takes_all_cores=takes_all_cores) as batcher:
            futures = [batcher.submit(0, None, FULL)]
            await until(lambda: timed.batches)
            futures += [batcher.submit(item, None, FULL) for item in (1, 2)]  # while it is being run
            futures[0].add_done_callback(work_in_the_loop)
            has_refused()  # in another test
            if refused:
                Coalescing().rest(0)
            await asyncio.gather(*futures)

    run(scenario())
    assert (begun == [1]) == (takes_all_cores and not refused)


def test_what_is_left_in_line_is_run_right_behind_the_loops_turns() -> None:
    async def scenario() -> None:
        async with started(GatedRun(), lambda _: [0]) as batcher:
            start_s = time.monotonic()
            await asyncio.gather(*[batcher.submit(item, None, 1) for item in range(50)])
            assert time.monotonic() - start_s < 50 * _REST_S / 2

    run(scenario())


def test_a_full_batch_waits_for_a_busy_loop_no_longer_than_a_part_of_a_run() -> None:
    timed = TimedRun()

    async def scenario() -> None:
        async with started(timed, lambda _: [0]) as batcher:
            waiting = asyncio.gather(*[batcher.submit(item, None, FULL) for item in range(12)])
            while not waiting.done():  # eight such turns are as long as a run
                await asyncio.sleep(0)
                time.sleep(RUN_S / 8)  # noqa: ASYNC251

    run(scenario())
    waits_s = [later[0] - earlier[1] for earlier, later in itertools.pairwise(timed.spans[:-1])]
    assert min(waits_s) < RUN_S / 2
