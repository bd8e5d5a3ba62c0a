"""Between two runs the event loop has its turns, where a run would take its core; it does not sleep through them."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from service import bridge
from service.bridge import Bridge, doze
from tests.service.fake_runs import FakeEngine, GatedRun, started

FULL = FakeEngine.batch_tokens  # positions of a batch that a larger one is no faster than


@pytest.fixture(autouse=True)
def no_breath_of_another_test() -> None:
    while bridge._breathing:
        time.sleep(0.001)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


@pytest.mark.parametrize("takes_all_cores", [True, False])
def test_a_full_batch_waits_for_the_loops_turns_where_its_run_takes_all_cores(takes_all_cores: bool) -> None:  # noqa: FBT001
    gate = GatedRun()
    begun: list[int] = []

    def work_in_the_loop(_: object) -> None:
        time.sleep(0.01)
        begun.append(len(gate.batches))

    async def scenario() -> None:
        async with started(gate, lambda _: [0], takes_all_cores=takes_all_cores) as batcher:
            futures = [batcher.submit(item, None, FULL) for item in range(3)]
            futures[0].add_done_callback(work_in_the_loop)
            await asyncio.gather(*futures)

    run(scenario())
    assert (begun == [1]) == takes_all_cores


def test_it_dozes_until_a_thread_tells_it_something() -> None:
    told: list[int] = []

    async def scenario() -> None:
        way = Bridge()
        way.connect()
        threading.Timer(0.02, way.tell, (told.append, 1)).start()
        start_s = time.monotonic()
        doze(10)
        assert 0.01 < time.monotonic() - start_s < 5
        await asyncio.sleep(0)

    run(scenario())
    assert told == [1]


def test_it_dozes_no_longer_than_it_is_told_to() -> None:
    start_s = time.monotonic()
    doze(0.02)
    assert 0.015 < time.monotonic() - start_s < 5


def test_it_does_not_doze_while_a_thread_waits_for_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_BREATH_S", 10)

    async def scenario() -> None:
        way = Bridge()
        way.connect()
        waiting = threading.Thread(target=way.breathe)
        waiting.start()
        waiting.join(0.02)  # in which it asks for them
        start_s = time.monotonic()
        doze(10)
        assert time.monotonic() - start_s < 5
        await asyncio.to_thread(waiting.join)

    run(scenario())
