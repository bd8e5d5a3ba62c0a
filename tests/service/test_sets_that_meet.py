"""Two `set` of one cell are refused: numpy says which cells a cut has."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import IllegalRequestError
from service.intervention import read_interventions
from service.manifest import ModelSpec, read_manifest
from service.request import Intervention
from tests.changes import text_of

LENGTHS = (2, 4)
HEADS = 2
ONE = np.ones((), np.float32)
sizes = (HEADS, min(LENGTHS), min(LENGTHS))
cuts = st.lists(st.tuples(*(st.integers(-size, size - 1) | st.slices(size) for size in sizes)), max_size=4)
rows = st.sampled_from([None, 0, 1])


@pytest.fixture(scope="module")
def spec(artifact: Callable[[str], Path]) -> ModelSpec:
    return read_manifest((artifact("tiny") / "manifest.json").read_bytes(), "tiny")


def sets(wanted: Sequence[tuple[int | None, tuple[Any, ...]]], name: str) -> list[Intervention]:
    return [Intervention(row, f"{name}[{','.join(map(text_of, cut))}]", "set", ONE, "here") for row, cut in wanted]


@given(cuts.flatmap(lambda found: st.tuples(*(st.tuples(rows, st.just(cut)) for cut in found))))
def test_they_are_refused_if_and_only_if_a_cell_of_some_sequence_is_in_two_of_them(
    spec: ModelSpec, wanted: tuple[tuple[int | None, tuple[Any, ...]], ...]
) -> None:
    counts = [np.zeros((HEADS, length, length), np.int64) for length in LENGTHS]
    for row, cut in wanted:
        for count in counts if row is None else [counts[row]]:
            count[cut] += 1
    twice = [index for index, count in enumerate(counts) if (count > 1).any()]
    asked = sets(wanted, "layers.0.attention_scores")
    if not twice:
        assert list(map(len, read_interventions(asked, spec, LENGTHS, 9))) == [
            sum(row in {None, index} for row, _ in wanted) for index in range(len(LENGTHS))
        ]
        return
    with pytest.raises(IllegalRequestError) as refused:
        read_interventions(asked, spec, LENGTHS, 9)
    message = f"expected each cell to be set once, but two of layers.0.attention_scores overlap in sequence {twice[0]}"
    assert (str(refused.value), refused.value.at) == (message, "interventions")


def test_many_in_sequences_of_many_lengths_are_looked_through_in_no_time(spec: ModelSpec) -> None:
    wanted = [(None, (slice(place, None, 200), head)) for place in range(100) for head in range(HEADS)]
    lengths, start_s = range(1, 60), time.process_time()
    assert len(read_interventions(sets(wanted, "layers.0.query"), spec, lengths, 256)) == len(lengths)
    assert time.process_time() - start_s < 2  # pair by pair, it was ten times that
