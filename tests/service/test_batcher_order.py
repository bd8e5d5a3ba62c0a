"""Who is served first, and who has waited too long."""

import asyncio

import pytest

from service.batcher import Batcher
from service.errors import DeadlineError
from service.metrics import ModelMetrics
from tests.service.fake_runs import FakeEngine, GatedRun, counted, started, take_all, until

LATE = "expected an answer within the request's timeout, but it was not computed by then"


def test_the_least_priority_is_served_first_and_in_order_of_arrival_where_it_is_equal() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> None:
        async with started(run, lambda _: [0]) as batcher:
            futures = [batcher.submit(0, "kind", 3)]
            await until(lambda: run.batches)
            futures += [
                batcher.submit(item, "kind", 3, priority) for item, priority in enumerate((5, 5, 9, 1, 5, 1), 1)
            ]
            run.open()
            await asyncio.gather(*futures)

    asyncio.run(scenario())
    assert [item for (item,) in run.batches] == [0, 4, 6, 1, 2, 5, 3]


def test_a_batch_is_led_by_the_first_in_line_and_filled_by_who_follows_in_its_kind() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> None:
        async with started(run) as batcher:
            futures = [batcher.submit(0, "even", 3)]
            await until(lambda: run.batches)
            kinds = {1: "odd", 2: "even", 3: "odd", 4: "even"}
            futures += [batcher.submit(item, kind, 3, priority=5 - item) for item, kind in kinds.items()]
            run.open()
            await asyncio.gather(*futures)

    asyncio.run(scenario())
    assert run.batches == [[0], [4, 2], [3, 1]]


def test_an_entry_whose_time_passes_in_the_queue_fails_then_and_is_never_run() -> None:
    run, before = GatedRun(is_open=False), counted("glassblock_cancelled_total", "late")

    async def scenario() -> int:
        async with started(run, name="late") as batcher:
            first = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            late, other = batcher.submit(2, "kind", 3, timeout_s=0.02), batcher.submit(3, "kind", 3, timeout_s=60)
            with pytest.raises(DeadlineError, match=f"^{LATE}$"):
                await asyncio.wait_for(late, 1)  # while the run before it still goes on
            run.open()
            return (await first).value + (await other).value

    assert asyncio.run(scenario()) == 40
    assert run.batches == [[1], [3]]
    assert counted("glassblock_cancelled_total", "late") == before  # its client is still there


def test_an_entry_whose_time_passes_in_its_run_fails_then_and_its_neighbour_is_answered() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> int:
        async with started(run) as batcher:
            first = batcher.submit(0, "kind", 3)
            await until(lambda: run.batches)
            hasty, patient = batcher.submit(1, "kind", 3, timeout_s=0.1), batcher.submit(2, "kind", 3)
            run.open(1)
            await first
            with pytest.raises(DeadlineError, match=f"^{LATE}$"):
                await asyncio.wait_for(hasty, 1)
            run.open()
            return (await patient).value

    assert asyncio.run(scenario()) == 20
    assert run.batches == [[0], [1, 2]]


def test_a_run_is_told_to_stop_once_nobody_waits_for_it_and_not_before() -> None:
    run = GatedRun(is_open=False)
    engine = FakeEngine(run, take_all)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher("unwanted", ModelMetrics("unwanted", "1"), engine, 60, lambda: None)
        batcher.start()
        first = batcher.submit(0, "kind", 3)
        await until(lambda: run.batches)
        late, gone = batcher.submit(1, "kind", 3, timeout_s=0.1), batcher.submit(2, "kind", 3)
        run.open(1)
        await first
        await until(lambda: len(run.batches) == 2)
        batcher.withdraw([gone])
        assert not engine.jobs[1].stopped.is_set()
        with pytest.raises(DeadlineError):
            await late
        assert engine.jobs[1].stopped.is_set()
        run.open()
        assert (await batcher.submit(3, "kind", 3)).value == 30
        assert not engine.jobs[2].stopped.is_set()
        batcher.stop()

    asyncio.run(scenario())


def test_no_timer_holds_an_entry_that_has_been_answered() -> None:
    async def scenario() -> int:
        async with started(GatedRun()) as batcher:
            await batcher.submit(1, "kind", 3, timeout_s=3600)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            return sum(timer.when() > loop.time() + 60 for timer in timers)

    assert asyncio.run(scenario()) == 0
