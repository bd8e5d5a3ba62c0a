"""After refusals the event loop rests: once nothing else comes, in proportion to what waits, and never for long."""

import asyncio

import pytest

from service.coalescing import LONGEST_REST_S, Coalescing


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has slept, which takes no time here."""
    slept: list[float] = []
    monkeypatch.setattr("service.coalescing.time.sleep", slept.append)
    return slept


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("wait_s", "rest_s"), [(0.1, 0.002), (0.5, 0.01), (1, LONGEST_REST_S), (3600, LONGEST_REST_S)])
def test_it_rests_for_a_fiftieth_of_what_waits_and_for_20_ms_at_most(
    slept_s: list[float], wait_s: float, rest_s: float
) -> None:
    async def refuse() -> None:
        Coalescing().rest(wait_s)
        await turn(3)

    asyncio.run(refuse())
    assert slept_s == pytest.approx([rest_s])


@pytest.mark.parametrize("more", ["comes", "is refused"])
def test_it_rests_when_no_more_comes_or_is_refused_and_once(slept_s: list[float], more: str) -> None:
    resting = Coalescing()

    async def refuse() -> None:
        resting.rest(0.5)
        for _ in range(20):
            await turn(1)
            if more == "comes":
                resting.stir()
            else:
                resting.rest(0.5)
            assert slept_s == []
        await turn(5)

    asyncio.run(refuse())
    assert slept_s == pytest.approx([0.01])


def test_after_its_rest_it_rests_again_behind_the_next_refusal(slept_s: list[float]) -> None:
    resting = Coalescing()

    async def refuse() -> None:
        for _ in range(3):
            resting.rest(0.5)
            await turn(5)

    asyncio.run(refuse())
    assert slept_s == pytest.approx([0.01] * 3)


def test_it_does_not_rest_where_nothing_waits_for_a_run_or_nobody_is_refused(slept_s: list[float]) -> None:
    resting = Coalescing()

    async def refuse() -> None:
        resting.stir()
        await turn(5)
        resting.rest(0.0)
        await turn(5)

    asyncio.run(refuse())
    assert slept_s == []
