"""What a run costs, fitted to a clock of ours."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cost import Cost, measure

START_S, TOKEN_S, PAIR_S = 0.002, 0.0001, 1e-7


class Machine:
    """Takes `start_s`, TOKEN_S and PAIR_S for its runs, and is `slow` times slower."""

    def __init__(self, *, start_s: float = START_S, slow: float = 1.0) -> None:
        self.now_s = 0.0
        self.shapes: list[tuple[int, int]] = []
        self._start_s = start_s
        self._slow = slow

    def run(self, size: int, length: int) -> None:
        self.shapes.append((size, length))
        self.now_s += self._slow * (self._start_s + size * length * TOKEN_S + size * length**2 * PAIR_S)


def measured(machine: Machine, longest: int | None = None, most_tokens: int = 2048) -> Cost:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.cost.time", SimpleNamespace(perf_counter=lambda: machine.now_s))
        return measure(machine.run, longest, most_tokens)


@pytest.mark.parametrize(("size", "length"), [(1, 16), (4, 16), (8, 64), (1, 512), (32, 32)])
def test_runs_are_predicted_from_the_few_that_were_measured(size: int, length: int) -> None:
    cost = measured(Machine())
    truth_s = START_S + size * length * TOKEN_S + size * length**2 * PAIR_S
    assert cost.seconds(size, length) == pytest.approx(truth_s, rel=0.12)


@pytest.mark.parametrize(("start_s", "enough"), [(0.0, 256), (0.1, 512)])
def test_batches_grow_to_where_they_stop_paying(start_s: float, enough: int) -> None:
    assert measured(Machine(start_s=start_s, slow=0.01)).batch_tokens == enough


def test_a_slow_machine_is_measured_for_a_bounded_time_and_given_small_batches() -> None:
    machine = Machine(slow=1000)
    cost = measured(machine)
    assert len(set(machine.shapes)) == 2
    assert cost.batch_tokens == 256
    assert cost.seconds(1, 16) == pytest.approx(1000 * (START_S + 16 * TOKEN_S), rel=0.5)


def test_no_sequence_longer_than_the_model_takes_is_run() -> None:
    machine = Machine()
    measured(machine, longest=8)
    assert {length for _, length in machine.shapes} == {8}
    machine = Machine()
    measured(machine, longest=200)
    assert {length for _, length in machine.shapes} == {16, 128}


@given(st.integers(1, 5000), st.integers(2, 5000), st.floats(0.001, 1000))
def test_whatever_the_model_and_the_limits_runs_cost_something_and_more_if_they_are_larger(
    longest: int, most_tokens: int, slow: float
) -> None:
    cost = measured(Machine(slow=slow), longest, most_tokens)
    assert 0 < cost.seconds(1, 1) < cost.seconds(2, 1) <= cost.seconds(2, 2)
    assert 1 <= cost.batch_tokens <= most_tokens
