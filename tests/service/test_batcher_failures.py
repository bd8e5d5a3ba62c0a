"""What fails in a batch fails alone, and a loop that ends tells everyone."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batcher import WATCH_EVERY_S
from service.errors import DeviceLostError, GlassblockError, IllegalRequestError, UnavailableError
from service.queue import Queue
from tests.service.fake_runs import FakeEngine, FakeJob, GatedRun, counted, started, take_all, until

RUN_FAILED = "the run failed; this is a bug of the server"
OUT_OF_MEMORY = "out of memory in this run; ask for less or later"
DEAD = "model fake can no longer run; the server is about to stop"


class FragileRun(GatedRun):
    """Raises for batches that hold the items it was told of."""

    def __init__(self, errors: dict[int, BaseException], *, is_open: bool = False) -> None:
        super().__init__(is_open=is_open)
        self._errors = errors

    def __call__(self, items: list[int]) -> list[int]:
        """Runs one batch, or fails."""
        results = super().__call__(items)
        for item in items:
            if item in self._errors:
                raise self._errors[item]
        return results


async def outcomes(run: GatedRun, items: list[int]) -> list[object]:
    """Values and errors of items that share a batch, run behind a first item 0."""
    async with started(run) as batcher:
        futures = [batcher.submit(0, "kind", 3)]
        await until(lambda: run.batches)
        futures += [batcher.submit(item, "kind", 3) for item in items]
        run.open()
        found = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
    return [outcome if isinstance(outcome, BaseException) else outcome.value for outcome in found[1:]]


def told(outcome: object) -> tuple[int, str, str]:
    """Status, code and sentence of an error."""
    assert isinstance(outcome, GlassblockError)
    return outcome.status, outcome.code, outcome.sentence


def test_a_failing_batch_is_retried_singly_once_and_only_the_culprit_fails() -> None:
    run = FragileRun({2: RuntimeError("a kernel broke")})
    one, culprit, three = asyncio.run(outcomes(run, [1, 2, 3]))
    assert (one, three) == (10, 30)
    assert told(culprit) == (500, "run_failed", RUN_FAILED)
    assert run.batches == [[0], [1, 2, 3], [1], [2], [3]]


def test_an_entry_that_fails_alone_is_not_tried_again() -> None:
    run = FragileRun({1: RuntimeError("a kernel broke")})
    (culprit,) = asyncio.run(outcomes(run, [1]))
    assert told(culprit) == (500, "run_failed", RUN_FAILED)
    assert run.batches == [[0], [1]]


def test_a_run_out_of_memory_is_503_for_who_does_not_fit_alone_either() -> None:
    run = FragileRun({3: MemoryError()})
    one, two, greedy = asyncio.run(outcomes(run, [1, 2, 3]))
    assert (one, two) == (10, 20)
    assert told(greedy) == (503, "out_of_memory", OUT_OF_MEMORY)


def test_a_run_that_failed_leaves_nothing_for_the_garbage_collector() -> None:
    class BrokenError(RuntimeError):
        """Can be looked at weakly."""

    left: list[weakref.ref[BaseException]] = []

    class BrokenRun(GatedRun):
        def __call__(self, items: list[int]) -> list[int]:
            super().__call__(items)
            error = BrokenError("a kernel broke")
            left.append(weakref.ref(error))
            raise error

    gc.disable()
    try:
        assert [told(outcome)[1] for outcome in asyncio.run(outcomes(BrokenRun(is_open=False), [1, 2]))] == [
            "run_failed"
        ] * 2
        assert [error() for error in left] == [None] * len(left)
    finally:
        gc.enable()


def test_an_error_of_our_own_tree_reaches_its_entry_as_it_is() -> None:
    error = IllegalRequestError("expected layer graphs to be on", code="layer_graphs_off")
    run = FragileRun({1: error})
    found = asyncio.run(outcomes(run, [1, 2]))
    assert found == [error, 20]


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]], ids=["none", "too few", "too many"])
def test_a_run_with_another_number_of_results_than_items_answers_nobody_with_a_neighbours_rows(
    results: list[int],
) -> None:
    class MiscountingRun(GatedRun):
        def __call__(self, items: list[int]) -> list[int]:
            right = super().__call__(items)
            return results if len(items) == 2 else right

    run = MiscountingRun(is_open=False)
    assert asyncio.run(outcomes(run, [1, 2])) == [10, 20]
    assert run.batches == [[0], [1, 2], [1], [2]]


def test_an_entry_cancelled_while_its_batch_fails_is_not_run_again() -> None:
    run = FragileRun({2: RuntimeError("a kernel broke")})

    async def scenario() -> int:
        async with started(run) as batcher:
            batcher.submit(0, "kind", 3)
            await until(lambda: run.batches)
            gone, _, stays = [batcher.submit(item, "kind", 3) for item in (1, 2, 3)]
            run.open(1)
            await until(lambda: len(run.batches) == 2)
            gone.cancel()
            run.open()
            return (await stays).value

    assert asyncio.run(scenario()) == 30
    assert [1] not in run.batches


def test_the_loop_goes_on_after_every_kind_of_failure() -> None:
    kinds = (RuntimeError, MemoryError, KeyError, StopIteration, asyncio.InvalidStateError, asyncio.CancelledError)
    errors: dict[int, BaseException] = {item: kind() for item, kind in enumerate(kinds)}
    run = FragileRun(errors, is_open=True)

    async def scenario() -> None:
        async with started(run) as batcher:
            for item in errors:
                with pytest.raises(GlassblockError):
                    await asyncio.wait_for(batcher.submit(item, "kind", 3), 5)
                assert (await batcher.submit(9, "kind", 3)).value == 90

    asyncio.run(scenario())


def test_a_dying_loop_fails_every_waiter_within_a_second_says_so_once_and_takes_no_more() -> None:
    deaths: list[str] = []
    run = GatedRun(is_open=False)

    def choose(lengths: list[int]) -> list[int]:
        if 7 in lengths:
            raise IndexError("choose is broken")
        return take_all(lengths)

    async def scenario() -> list[object]:
        async with started(run, choose, lambda: deaths.append("died")) as batcher:
            first = batcher.submit(0, "kind", 3)
            await until(lambda: run.batches)
            waiters = [batcher.submit(item, item % 2, 7) for item in range(1, 9)]
            run.open()
            found: list[object] = list(await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 1))
            assert (await first).value == 0
            await until(lambda: deaths)
            with pytest.raises(UnavailableError, match=f"^{DEAD}$"):
                batcher.submit(9, "kind", 3)
            return found

    assert [told(error) for error in asyncio.run(scenario())] == [(503, "dead", DEAD)] * 8
    assert deaths == ["died"]


def test_a_loop_that_dies_with_a_batch_in_hand_fails_that_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[str] = []
    run = FragileRun({1: RuntimeError()})
    make_job = FakeEngine.job

    def break_at_three(engine: FakeEngine, items: list[int]) -> FakeJob:
        if items == [3]:
            raise OSError("no room for another batch")
        return make_job(engine, items)

    monkeypatch.setattr(FakeEngine, "job", break_at_three)

    async def scenario() -> list[object]:
        async with started(run, on_death=lambda: deaths.append("died")) as batcher:
            futures = [batcher.submit(0, "kind", 3)]
            await until(lambda: run.batches)
            futures += [batcher.submit(item, "kind", 3) for item in (1, 2, 3)]
            run.open()
            return list(await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 1))

    first, culprit, answered, in_hand = asyncio.run(scenario())
    assert [getattr(answer, "value", None) for answer in (first, answered)] == [0, 20]
    assert told(culprit) == (500, "run_failed", RUN_FAILED)
    assert told(in_hand) == (503, "dead", DEAD)
    assert deaths == ["died"]


def test_the_loss_of_the_device_fails_every_waiter_and_nothing_is_tried_again() -> None:
    deaths: list[str] = []
    run = FragileRun({1: DeviceLostError("an illegal memory access")})

    async def scenario() -> list[object]:
        async with started(run, on_death=lambda: deaths.append("died")) as batcher:
            futures = [batcher.submit(0, "kind", 3)]
            await until(lambda: run.batches)
            futures += [batcher.submit(item, kind, 3) for item, kind in ((1, "kind"), (2, "kind"), (3, "another"))]
            run.open()
            found = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 1)
            await until(lambda: deaths)
            return list(found)

    first, *waiters = asyncio.run(scenario())
    assert getattr(first, "value", None) == 0
    assert [told(error) for error in waiters] == [(503, "dead", DEAD)] * 3
    assert run.batches == [[0], [1, 2]]
    assert deaths == ["died"]


def test_a_run_that_takes_too_long_is_ended_and_its_waiters_told() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> object:
        async with started(run, run_timeout_s=0.05) as batcher:
            future = batcher.submit(1, "kind", 3)
            (error,) = await asyncio.wait_for(asyncio.gather(future, return_exceptions=True), 2)
            run.open()
            assert (await batcher.submit(2, "kind", 3)).value == 20
            return error

    sentence = "expected a run of at most 0.05 s; this one was ended"
    assert told(asyncio.run(scenario())) == (504, "run_timeout", sentence)


def test_a_run_that_does_not_end_when_it_is_told_to_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.batcher.STOP_GRACE_S", 0.1)
    deaths: list[str] = []
    run = GatedRun(is_open=False)

    async def scenario() -> object:
        async with started(run, on_death=lambda: deaths.append("died"), run_timeout_s=0.05) as batcher:
            running = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            waiting = batcher.submit(2, "kind", 3)
            found = await asyncio.wait_for(asyncio.gather(running, waiting, return_exceptions=True), 3)
            with pytest.raises(UnavailableError, match=f"^{DEAD}$"):
                batcher.submit(3, "kind", 3)
            run.open()
            return found[1]

    assert told(asyncio.run(scenario())) == (503, "dead", DEAD)
    assert deaths == ["died"]


FATES = ("good", "good", "good", "fails", "out of memory", "gone early", "gone late")


@given(
    st.lists(
        st.tuples(st.sampled_from(FATES), st.integers(0, 2), st.integers(1, 70), st.booleans()), min_size=1, max_size=24
    ),
    st.integers(1, 6),
)
def test_every_live_entry_is_answered_exactly_once_with_its_own_value_whatever_the_others_do(
    plan: list[tuple[str, int, int, bool]], most: int
) -> None:
    def of_fate(fate: str) -> list[int]:
        return [item for item, (fate_of_item, *_) in enumerate(plan) if fate_of_item == fate]

    errors: dict[int, BaseException] = dict.fromkeys(of_fate("fails"), RuntimeError("a kernel broke"))
    run = FragileRun(errors | dict.fromkeys(of_fate("out of memory"), MemoryError()))
    before = counted("glassblock_cancelled_total", "random")

    async def scenario() -> list[object]:
        async with started(run, lambda lengths: take_all(lengths)[:most], name="random") as batcher:
            futures = []
            for item, (fate, kind, length, pause) in enumerate(plan):
                futures.append(batcher.submit(item, kind, length))
                if fate == "gone early":
                    futures[-1].cancel()
                if pause:
                    await asyncio.sleep(0)
            run.open()
            for item in of_fate("gone late"):
                await asyncio.sleep(0)
                futures[item].cancel()
            found = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
            await until(lambda: counted("glassblock_cancelled_total", "random") - before >= len(of_fate("gone early")))
            return list(found)

    found = asyncio.run(scenario())
    assert all(len({plan[item][1] for item in batch}) == 1 and len(batch) <= most for batch in run.batches)
    assert [getattr(found[item], "value", None) for item in of_fate("good")] == [item * 10 for item in of_fate("good")]
    assert {told(found[item]) for item in of_fate("fails")} <= {(500, "run_failed", RUN_FAILED)}
    assert {told(found[item]) for item in of_fate("out of memory")} <= {(503, "out_of_memory", OUT_OF_MEMORY)}
    assert all(isinstance(found[item], asyncio.CancelledError) for item in of_fate("gone early"))
    assert not {item for batch in run.batches for item in batch} & set(of_fate("gone early"))


@pytest.mark.parametrize(("early", "comes"), [(True, False), (True, True), (False, True)])
def test_a_batcher_that_closes_beside_its_threads_look_runs_who_came_and_ends(
    monkeypatch: pytest.MonkeyPatch, *, early: bool, comes: bool
) -> None:
    async def close_beside_a_look() -> list[Any]:
        loop, closed, take = asyncio.get_running_loop(), threading.Event(), Queue.take
        futures = list[asyncio.Future[Any]]()

        def come_and_close() -> None:
            if comes:
                futures.append(batcher.submit(1, "kind", 3))
            batcher.close()
            closed.set()

        def overtake() -> None:
            if armed.is_set() and not closed.is_set():
                loop.call_soon_threadsafe(come_and_close)
                assert closed.wait(5)

        def take_and_be_overtaken(queue: Any) -> list[Any]:
            if early:
                overtake()
            found: list[Any] = take(queue)
            overtake()
            return found

        monkeypatch.setattr(Queue, "take", take_and_be_overtaken)
        async with started(GatedRun()) as batcher:
            await asyncio.sleep(0.02)
            armed.set()
            batcher._queue.wake()
            await asyncio.wait_for(batcher.wait_closed(), 5)
            return [(await future).value for future in futures]

    armed = threading.Event()
    assert asyncio.run(close_beside_a_look()) == [10] * comes


def test_a_run_whose_waiters_leave_between_its_choice_and_its_start_is_told_to_end() -> None:
    async def leave() -> bool:
        async with started(GatedRun()) as batcher:
            engine, loop = vars(batcher)["_engine"], asyncio.get_running_loop()
            job, left = engine.job, threading.Event()

            def job_late(items: list[int]) -> FakeJob:
                loop.call_soon_threadsafe(batcher.withdraw, [future])
                loop.call_soon_threadsafe(left.set)
                assert left.wait(5)
                made: FakeJob = job(items)
                return made

            engine.job = job_late
            future = batcher.submit(1, "kind", 3)
            await until(lambda: engine.jobs and engine.jobs[0].stopped.is_set())
            return future.cancelled()

    assert asyncio.run(leave())


def test_what_a_run_waits_for_is_no_time_of_its_own() -> None:
    run = GatedRun(is_open=False)

    async def wait() -> tuple[int, bool]:
        async with started(run, run_timeout_s=0.1) as batcher:
            future = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            (job,) = vars(batcher)["_engine"].jobs
            job.waits = True
            await asyncio.sleep(3 * WATCH_EVERY_S)
            run.open()
            return (await asyncio.wait_for(future, 5)).value, job.stopped.is_set()

    assert asyncio.run(wait()) == (10, False)
