"""Padding: what goes in comes out, and what `choose` promises."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from service.cost import Cost
from service.manifest import TensorSpec
from service.padding import MIN_POSITIONS, choose, pad, unpad
from service.tensors import Float32Array, Output, Sequence, View

HIDDEN_SIZE = 3
OUTPUTS = (View(Output(None, "block_output")),)
HIDDEN_STATES = TensorSpec(
    name="hidden_states", dtype="float32", axes=["batch", "sequence", "hidden"], shape=[-1, -1, HIDDEN_SIZE]
)
SCORES = TensorSpec(
    name="attention_scores", dtype="float32", axes=["batch", "head", "query", "key"], shape=[-1, 2, -1, -1]
)
lengths = st.integers(1, 300)


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """A checked sequence of any finite values and any mask."""
    length = draw(st.integers(1, 20))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(st_numpy.arrays(np.float32, (length, HIDDEN_SIZE), elements=finite))
    mask = draw(st_numpy.arrays(np.bool_, (length,)))
    return Sequence(values * mask[:, None], mask, OUTPUTS)


@given(st.lists(sequences(), min_size=1, max_size=8))
def test_unpad_gives_back_every_sequence_that_pad_stacked(batch: list[Sequence]) -> None:
    padded = pad(batch)
    for row, sequence in enumerate(batch):
        part = unpad(padded.hidden_states, HIDDEN_STATES, row, len(sequence))
        assert part.tobytes() == sequence.hidden_states.tobytes()
        mask = padded.attention_mask[row]
        assert mask[: len(sequence)].tolist() == sequence.attention_mask.tolist()
        assert not mask[len(sequence) :].any()
        assert not padded.hidden_states[row, len(sequence) :].any()


@given(st.lists(sequences(), min_size=1, max_size=8))
def test_pad_makes_what_the_graphs_declare_and_never_fewer_than_two_positions(batch: list[Sequence]) -> None:
    padded = pad(batch)
    positions = max(MIN_POSITIONS, *(len(sequence) for sequence in batch))
    assert padded.hidden_states.shape == (len(batch), positions, HIDDEN_SIZE)
    assert padded.attention_mask.shape == (len(batch), positions)
    assert (str(padded.hidden_states.dtype), str(padded.attention_mask.dtype)) == ("float32", "int64")
    assert padded.hidden_states.flags.c_contiguous
    assert padded.attention_mask.flags.c_contiguous


def test_positions_are_each_sequences_own_or_count_up_and_zero_in_padding() -> None:
    values, mask = np.ones((3, HIDDEN_SIZE), np.float32), np.ones(3, np.bool_)
    given_positions = Sequence(values, mask, OUTPUTS, position_ids=np.array([7, 7, 2]))
    counted, single = Sequence(values, mask, OUTPUTS), Sequence(values[:1], mask[:1], OUTPUTS)
    padded = pad([given_positions, counted, single], positions=True).position_ids
    assert padded is not None
    assert padded.dtype == np.int64
    assert padded.tolist() == [[7, 7, 2], [0, 1, 2], [0, 0, 0]]
    assert pad([counted]).position_ids is None


@given(st.lists(lengths, min_size=1, max_size=6))
def test_unpad_cuts_query_and_key_axes_alike_and_no_other_axis(sizes: list[int]) -> None:
    longest = max(sizes)
    cells: Float32Array = np.zeros((len(sizes), 2, longest, longest), np.float32)
    for row, length in enumerate(sizes):
        cells[row, :, :length, :length] = row + 1
    for row, length in enumerate(sizes):
        part = unpad(cells, SCORES, row, length)
        assert part.shape == (2, length, length)
        assert (part == row + 1).all()


costs = st.builds(Cost, st.floats(1e-5, 1e-2), st.floats(1e-7, 1e-3), st.floats(0, 1e-5), st.integers(2, 4096))


@given(st.lists(lengths, min_size=1, max_size=60), costs)
def test_the_first_in_line_is_always_chosen_and_indices_ascend_without_repetition(sizes: list[int], cost: Cost) -> None:
    chosen = choose(sizes, cost)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert chosen[-1] < len(sizes)


@given(st.lists(lengths, min_size=1, max_size=60), costs)
def test_the_padded_area_stays_in_the_budget_unless_the_first_alone_exceeds_it(sizes: list[int], cost: Cost) -> None:
    chosen = choose(sizes, cost)
    area = len(chosen) * max(MIN_POSITIONS, *(sizes[index] for index in chosen))
    assert area <= cost.batch_tokens or chosen == [0]


@given(st.lists(lengths, min_size=1, max_size=60), costs)
def test_a_batch_never_takes_longer_than_its_sequences_one_after_another(sizes: list[int], cost: Cost) -> None:
    chosen = [max(MIN_POSITIONS, sizes[index]) for index in choose(sizes, cost)]
    alone_s = sum(cost.seconds(1, length) for length in chosen)
    assert cost.seconds(len(chosen), max(chosen)) <= alone_s * (1 + 1e-9)


@given(st.lists(lengths, min_size=1, max_size=60))
def test_with_budget_to_spare_all_of_one_length_share_a_batch(sizes: list[int]) -> None:
    cost = Cost(start_s=1e-4, token_s=1e-3, pair_s=0, batch_tokens=10**9)  # one position of padding costs ten starts
    assert choose(sizes, cost) == [index for index, size in enumerate(sizes) if max(size, 2) == max(sizes[0], 2)]


@given(st.lists(lengths, min_size=1, max_size=60))
def test_where_a_start_costs_more_than_any_padding_everybody_goes(sizes: list[int]) -> None:
    cost = Cost(start_s=1e3, token_s=1e-6, pair_s=0, batch_tokens=10**9)
    assert choose(sizes, cost) == list(range(len(sizes)))


def test_of_one_length_who_is_first_in_line_joins_first() -> None:
    cost = Cost(start_s=1, token_s=1e-3, pair_s=0, batch_tokens=30)
    assert choose([10, 8, 12, 8, 10], cost) == [0, 1, 4]
    assert choose([10, 8, 12, 8], cost) == [0, 1, 3]
    assert choose([10, 30, 9, 9, 9], cost) == [0, 2, 3]
    assert choose([2, 1, 1, 2, 2, 1], replace(cost, batch_tokens=6)) == [0, 1, 2]  # which are run as one length
