"""What `make mixed` lets pass and what it does not, and what it asks of a real server."""

from pathlib import Path

import pytest
import uvloop

from load_tests import mixed
from load_tests.open_loop import Run
from load_tests.sender import Exchange
from load_tests.server import SIZES, export_model, running_server


def run(latency_s: float, outcome: str = "200", late_s: float = 0.0) -> Run:
    return Run(1, 0, [Exchange(0, late_s, latency_s, outcome)] * 10, 1)


def mix(short: Run, others: Run | None = None) -> mixed.Mix:
    return mixed.Mix("long ones", 512, [90.0, 100.0, 70.0], [short], [others or run(1)])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (mix(run(0.159)), []),
        (mix(run(0.161)), ["long ones: p99 is 161 ms, more than 160"]),
        (mix(run(0.1), run(1, "503")), ["long ones: expected 200 alone, got 200, 503"]),
        (mix(run(0.1, late_s=0.06)), ["invalid: 100.0% of the short requests were sent late"]),
    ],
)
def test_short_requests_may_wait_for_one_long_run(found: mixed.Mix, said: list[str]) -> None:
    assert found.faults(alone_p99_ms=20) == said


def test_the_table_has_a_row_a_mix() -> None:
    found = mix(run(0.159), run(1.2))
    assert found.line() == "| long ones | 10 | 159 | 159 | 100 | 10 | 1200 |"
    lines = (*mixed.HEADER, found.line(), mixed.Mix("nothing", short=[run(1)]).line())
    assert {line.count("|") for line in lines} == {8}


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("beside", [mixed.ask_for_long, mixed.ask_for_giants])
def test_both_kinds_are_answered(beside: mixed.Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "hidden-size", 48)
    export_model(tmp_path / "models")
    with running_server(tmp_path / "models", tmp_path) as server:
        short, others = uvloop.run(mixed.mix(server.address, 2, beside))
        assert len(mixed.runs_ms(server.address, mixed.GIANT)) == mixed.ASKED_ALONE
    assert [set(one.outcomes) for one in short] == [{"200"}] * len(mixed.SHORT)
    assert [set(one.outcomes) for one in others] == [{"200"}]
