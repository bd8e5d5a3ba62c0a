"""How the batcher forms batches: no waiting window, equal kinds, what `choose` says, nobody run in vain."""

import asyncio

import pytest

from service.batcher import Batcher
from service.errors import UnavailableError
from service.metrics import ModelMetrics
from service.queue import Answer
from tests.service.fake_runs import FakeEngine, GatedRun, counted, started, take_all, until


def test_an_idle_runner_runs_a_single_entry_at_once() -> None:
    async def scenario() -> Answer[int]:
        async with started(GatedRun()) as batcher:
            return await asyncio.wait_for(batcher.submit(4, "kind", 3), 1)

    answer = asyncio.run(scenario())
    assert answer.value == 40
    assert 0 <= answer.queue_s < 0.5
    assert 0 <= answer.run_s < 0.5


def test_what_arrives_during_a_run_forms_the_next_batch() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> list[int]:
        async with started(run) as batcher:
            first = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            later = [batcher.submit(item, "kind", 3) for item in (2, 3, 4)]
            run.open()
            return [(await future).value for future in (first, *later)]

    assert asyncio.run(scenario()) == [10, 20, 30, 40]
    assert run.batches == [[1], [2, 3, 4]]


def test_only_entries_of_equal_kind_share_a_batch_and_the_oldest_leads() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> list[int]:
        async with started(run) as batcher:
            futures = [batcher.submit(0, "first", 3)]
            await until(lambda: run.batches)
            futures += [batcher.submit(i, "even" if i % 2 == 0 else "odd", 3) for i in range(1, 7)]
            run.open()
            return [(await future).value for future in futures]

    assert asyncio.run(scenario()) == [0, 10, 20, 30, 40, 50, 60]
    assert run.batches == [[0], [1, 3, 5], [2, 4, 6]]


def test_choose_sees_the_lengths_oldest_first_and_decides_who_goes() -> None:
    run, seen = GatedRun(is_open=False), list[list[int]]()

    def choose_shortest_two(lengths: list[int]) -> list[int]:
        seen.append(lengths)
        return sorted(sorted(range(len(lengths)), key=lambda i: lengths[i])[:2])

    async def scenario() -> list[int]:
        async with started(run, choose_shortest_two) as batcher:
            futures = [batcher.submit(0, "kind", 1)]
            await until(lambda: run.batches)
            futures += [batcher.submit(item, "kind", length) for item, length in ((1, 9), (2, 5), (3, 7), (4, 6))]
            run.open()
            return [(await future).value for future in futures]

    assert asyncio.run(scenario()) == [0, 10, 20, 30, 40]
    assert seen == [[1], [9, 5, 7, 6], [9, 7]]
    assert run.batches == [[0], [2, 4], [1, 3]]


def test_an_entry_cancelled_before_its_run_is_never_executed_and_is_counted() -> None:
    run, before = GatedRun(is_open=False), counted("glassblock_cancelled_total", "cancelling")

    async def scenario() -> list[int]:
        async with started(run, name="cancelling") as batcher:
            first = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            gone, stays = batcher.submit(2, "kind", 3), batcher.submit(3, "kind", 3)
            gone.cancel()
            run.open()
            return [(await first).value, (await stays).value]

    assert asyncio.run(scenario()) == [10, 30]
    assert run.batches == [[1], [3]]
    assert counted("glassblock_cancelled_total", "cancelling") - before == 1


def test_a_queue_of_cancelled_entries_alone_leads_to_no_run() -> None:
    run, before = GatedRun(is_open=False), counted("glassblock_cancelled_total", "cancelling")

    async def scenario() -> None:
        async with started(run, name="cancelling") as batcher:
            first = batcher.submit(1, "kind", 3)
            await until(lambda: run.batches)
            for item in (2, 3):
                batcher.submit(item, "kind", 3).cancel()
            run.open()
            await first
            await until(lambda: counted("glassblock_cancelled_total", "cancelling") - before == 2)
            assert (await batcher.submit(4, "kind", 3)).value == 40

    asyncio.run(scenario())
    assert run.batches == [[1], [4]]


def test_an_entry_cancelled_during_its_run_does_not_keep_its_neighbours_from_their_answers() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> list[int]:
        async with started(run) as batcher:
            futures = [batcher.submit(0, "kind", 3)]
            await until(lambda: run.batches)
            futures += [batcher.submit(item, "kind", 3) for item in (1, 2, 3)]
            futures[0].cancel()
            run.open()
            await until(lambda: len(run.batches) == 2)
            futures[2].cancel()
            neighbours = [(await futures[1]).value, (await futures[3]).value]
            return [*neighbours, (await batcher.submit(4, "kind", 3)).value]

    assert asyncio.run(scenario()) == [10, 30, 40]


def test_one_run_is_recorded_with_its_sequences_positions_and_padding() -> None:
    run = GatedRun(is_open=False)
    metrics = (
        "glassblock_batch_size_count",
        "glassblock_batch_size_sum",
        "glassblock_tokens_total",
        "glassblock_padded_tokens_total",
    )

    async def scenario() -> None:
        async with started(run, name="recorded") as batcher:
            futures = [batcher.submit(1, "kind", 4)]
            await until(lambda: run.batches)
            futures += [batcher.submit(2, "kind", 5), batcher.submit(3, "kind", 8)]
            run.open()
            await asyncio.gather(*futures)

    before = [counted(metric, "recorded") for metric in metrics]
    asyncio.run(scenario())
    after = [counted(metric, "recorded") for metric in metrics]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 3, 17, 20]


def test_stop_answers_what_waits_and_what_runs_with_503() -> None:
    run = GatedRun(is_open=False)

    async def scenario() -> list[object]:
        engine = FakeEngine(run, take_all)
        batcher: Batcher[int, int] = Batcher("stopped", ModelMetrics("stopped", "1"), engine, 60, lambda: None)
        batcher.start()
        futures = [batcher.submit(1, "kind", 3)]
        await until(lambda: run.batches)
        futures.append(batcher.submit(2, "kind", 3))
        batcher.stop()
        assert engine.jobs[0].stopped.is_set()
        run.open()
        return list(await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 1))

    errors = asyncio.run(scenario())
    assert [type(error) for error in errors] == [UnavailableError, UnavailableError]
    assert run.batches == [[1]]


def test_stop_does_not_count_as_a_death_and_nothing_can_be_submitted_after_it() -> None:
    deaths: list[str] = []

    async def scenario() -> None:
        async with started(GatedRun(), on_death=lambda: deaths.append("died")) as batcher:
            await batcher.submit(1, "kind", 3)
        with pytest.raises(UnavailableError):
            batcher.submit(2, "kind", 3)

    asyncio.run(scenario())
    assert deaths == []


def test_nothing_can_be_submitted_before_the_start() -> None:
    async def scenario() -> None:
        engine = FakeEngine(GatedRun(), take_all)
        batcher: Batcher[int, int] = Batcher("fake", ModelMetrics("fake", "1"), engine, 60, lambda: None)
        with pytest.raises(UnavailableError):
            batcher.submit(1, "kind", 3)

    asyncio.run(scenario())
