"""What `make overload` lets pass and what it does not, and what it writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from load_tests.open_loop import Run
from load_tests.overload import LEAST_SHARE, Window, judge, read_faults
from load_tests.overload_report import draw, lines
from load_tests.sender import Exchange

ROUNDS = 3
GOOD = {2: [0.99, 0.96, 0.2], 5: [0.9, 0.95, 0.91], 10: [0.85, 0.86, 1.0]}


def step(factor: float, share: float, slower: float = 1.0, probe_ms: float = 9.0) -> dict[str, Any]:
    latency_ms = {"200": {"p50": 1500.0, "p99": 2000.0}} | ({"429": {"p99": 12.0}} if factor > 1 else {})
    offered = {"probe_p99_ms": probe_ms, "latency_ms": latency_ms, "outcomes": dict.fromkeys(latency_ms, 1000)}
    return {
        "factor": factor, "goodput_share": share, "slower_alone": slower, "longest_wait_ms": 1900.0,
        "offered": offered,
    }  # fmt: skip


def figures(shares: dict[int, list[float]], *faults: str, **other: float) -> dict[str, Any]:
    steps = [step(factor, share, **other) for factor, found in shares.items() for share in found]
    return {"rounds": ROUNDS, "steps": steps, "faults": list(faults)}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (figures(GOOD), []),
        (figures(GOOD | {2: [0.94, 0.9, 1.0]}), ["goodput at 2 times the peak is 94% of the peak, below 95%"]),
        (figures(GOOD | {10: [0.8, 0.84, 0.9]}), ["goodput at 10 times the peak is 84% of the peak, below 85%"]),
        (
            figures(GOOD, slower=1.6),
            [f"a single request after {factor} times the peak took 1.6 times as long" for factor in LEAST_SHARE],
        ),
        (
            figures(GOOD, probe_ms=101.0),
            [f"the 99th percentile of probes at {factor} times the peak is 101 ms" for factor in LEAST_SHARE],
        ),
        (figures(GOOD, "a fault"), ["a fault"]),
        (figures(GOOD | {5: [0.99]}), ["invalid: 1 of 3 rounds at 5 times the peak were undisturbed"]),
    ],
)
def test_the_median_round_decides_and_every_fault_is_said(found: dict[str, Any], said: list[str]) -> None:
    assert judge(found) == said


def window(*outcomes: tuple[str, bool], probe: str = "200") -> Window:
    exchanges = [Exchange(0, 0, 1, outcome, retry_after) for outcome, retry_after in outcomes]
    return Window(Run(1, 0, exchanges, 1), 1, 1, 1, [Run(1, 0, [Exchange(0, 0, 1, probe)], 1)])


def test_other_codes_than_200_and_429_and_a_429_without_retry_after_are_faults() -> None:
    assert read_faults(window(("200", False), ("429", True))) == []
    assert read_faults(window(("200", False), ("429", False), ("503", True), ("broken", False))) == [
        "expected 200 and 429 alone, got 503, broken",
        "1 answers of 429 had no Retry-After",
    ]


def test_a_probe_that_fails_is_a_fault() -> None:
    assert read_faults(window(("200", False), probe="503")) == ["expected 200 of every probe, got 503"]


def test_the_table_has_medians_and_ranges_of_each_load() -> None:
    found = list(lines(figures({5: [0.9, 0.95, 0.91], 2: [0.99, 0.99, 0.99]})))
    assert found[2:] == [
        "| 2 | 99% | 1.50 | 2.00 | 12 | 9 | 1.00 | 3,000 of 200, 3,000 of 429 |",
        "| 5 | 91% (90% to 95%) | 1.50 | 2.00 | 12 | 9 | 1.00 | 3,000 of 200, 3,000 of 429 |",
    ]
    assert {line.count("|") for line in found} == {9}


@pytest.mark.long
@pytest.mark.parametrize("shares", [GOOD | {0.5: [0.5, 0.5, 0.49]}, {}])
def test_the_picture_is_small_enough_for_the_repository(shares: dict[int, list[float]], tmp_path: Path) -> None:
    draw(json.loads(json.dumps(figures(shares))), tmp_path / "overload.png")
    assert (tmp_path / "overload.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "overload.png").stat().st_size < 60_000
