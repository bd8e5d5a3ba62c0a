"""What is counted of arrays while they are there."""

import numpy as np

from service.memory import Held


def test_arrays_count_once_each_for_as_long_as_they_are_there() -> None:
    held, large = Held(), np.zeros(100_000, np.float32)
    small = [np.zeros(5, np.float32) for _ in range(3)]
    held.add([[large, small[0]], [large, small[1], small[2], small[1]]])
    assert held.bytes == 400_000 + 3 * 20
    del large
    assert held.bytes == 60
    del small
    assert held.bytes == 0


def test_the_small_ones_of_a_group_are_counted_as_one_so_that_their_end_is_no_work() -> None:
    held, group = Held(), [np.zeros(1, np.float32) for _ in range(1000)]
    held.add([group])
    assert (held.bytes, len(held._arrays)) == (4000, 1)
