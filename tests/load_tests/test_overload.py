"""What `make overload` lets pass and what it does not."""

from typing import Any

import pytest

from load_tests.open_loop import Run
from load_tests.overload import MOST_ROUNDS, ROUNDS, judge, read_faults
from load_tests.sender import Exchange


def figures(shares: list[float], slower: float = 1.0, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    rounds = [{"goodput_share": share, "slower_alone": slower} for share in shares]
    return {"rounds": rounds, "faults": list(faults)}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (figures([0.2, 0.3, 0.86, 0.9, 1.0]), []),
        (figures([0.8, 0.8, 0.84, 0.9, 1.0]), ["goodput is 84% of the peak, below 85%"]),
        (figures([0.9] * ROUNDS, slower=1.6), ["a single request took 1.6 times as long afterwards"]),
        (figures([0.9] * ROUNDS, faults=("a fault",)), ["a fault"]),
        (figures([0.9] * 4), [f"invalid: 4 rounds of {MOST_ROUNDS} were undisturbed"]),
    ],
)
def test_the_median_round_decides_and_every_fault_is_said(found: dict[str, Any], said: list[str]) -> None:
    assert judge(found) == said


def test_other_codes_than_200_and_429_and_a_429_without_retry_after_are_faults() -> None:
    def run(*outcomes: tuple[str, bool]) -> Run:
        return Run(1, 0, [Exchange(0, 0, 1, outcome, retry_after) for outcome, retry_after in outcomes], 1)

    assert read_faults(run(("200", False), ("429", True))) == []
    assert read_faults(run(("200", False), ("429", False), ("503", True), ("broken", False))) == [
        "expected 200 and 429 alone, got 503, broken",
        "1 answers of 429 had no Retry-After",
    ]
