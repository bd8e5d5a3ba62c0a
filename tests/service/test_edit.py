"""Changes of a batch's tensor, against numpy: cell by cell in float32 to the last bit, and as formulas in float64."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.edit import Edits, with_sources
from service.errors import IllegalRequestError
from service.intervention import read_interventions
from service.manifest import ModelSpec, read_manifest
from service.padding import unpad
from service.repository import load_model
from service.request import Intervention
from service.settings import read_settings
from service.tensors import Edit, Output, Sequence, View
from tests.changes import text_of

SITES, VERBS = ("attention_scores", "query", "resid_mid"), ("scale", "add", "set", "from")
Wish = tuple[str, tuple[Any, ...], str, NDArray[np.float32] | int]  # a site, numpy's index, a verb, a value


@pytest.fixture(scope="module")
def spec(artifact: Callable[[str], Path]) -> ModelSpec:
    return read_manifest((artifact("tiny") / "manifest.json").read_bytes(), "tiny")


@dataclass
class Asked:
    """Wishes of each sequence that the check lets pass, and what it makes of them."""

    spec: ModelSpec
    lengths: list[int]
    wishes: list[list[Wish]] = field(init=False)
    edits: tuple[tuple[Edit, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.wishes = [[] for _ in self.lengths]
        self.edits = ((),) * len(self.lengths)

    def shape(self, site: str, row: int) -> tuple[int, ...]:
        sizes = self.spec.tensor(Output(0, site)).shape[1:]
        return tuple(self.lengths[row] if size == -1 else size for size in sizes)

    def try_to_add(self, row: int, wish: Wish) -> None:
        more = [[*mine, wish] if index == row else mine for index, mine in enumerate(self.wishes)]
        try:
            self.edits = read_interventions([*self._written(more)], self.spec, self.lengths, 99)
        except IllegalRequestError:
            return
        self.wishes = more

    @staticmethod
    def _written(wishes: list[list[Wish]]) -> Iterator[Intervention]:
        for row, mine in enumerate(wishes):
            for site, cut, verb, value in mine:
                yield Intervention(row, f"layers.0.{site}[{','.join(map(text_of, cut))}]", verb, value, "here")

    def sequences(self) -> list[Sequence]:
        """As the pipeline makes them."""
        made: list[Sequence] = []
        for length, edits in zip(self.lengths, self.edits, strict=True):
            made.append(Sequence(np.zeros((length, 8), np.float32), np.ones(length, np.bool_), (), edits, made))
        return made


def draw_wishes(data: st.DataObject, spec: ModelSpec) -> Asked:
    """Several of one tensor, of few cuts, so that they meet in cells; half of the `set` take from another sequence."""
    asked = Asked(spec, data.draw(st.lists(st.integers(2, 3), min_size=1, max_size=4)))
    site, generator = data.draw(st.sampled_from(SITES)), np.random.default_rng(data.draw(st.integers(0, 999)))
    count, smallest = len(asked.lengths), asked.shape(site, int(np.argmin(asked.lengths)))
    indices = st.tuples(*(st.integers(-size, size - 1) | st.slices(size) for size in smallest))
    cuts = st.sampled_from(data.draw(st.lists(indices, min_size=1, max_size=2)))
    wishes = st.tuples(st.integers(0, count - 1), cuts, st.sampled_from(VERBS), st.integers(0, count - 1))
    for row, cut, verb, other in data.draw(st.lists(wishes, min_size=2, max_size=9)):
        cells = np.empty(asked.shape(site, row))[cut].shape
        shape = [size if generator.random() < 0.5 else 1 for size in cells[generator.integers(len(cells) + 1) :]]
        value = other if verb == "from" else generator.normal(0, 9, shape).astype(np.float32)
        asked.try_to_add(row, (site, cut, "set" if verb == "from" else verb, value))
    return asked


def plainly(asked: Asked, site: str, row: int, parts: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What is to be in a sequence's cells, of the dtype of `parts`, and how large the numbers were on the way."""
    cells, kind = parts[row].copy(), parts[row].dtype.type
    size = np.abs(cells)
    places = np.arange(cells.size).reshape(cells.shape)
    for wanted in ("scale", "add", "set"):
        for _, cut, verb, value in (wish for wish in asked.wishes[row] if (wish[0], wish[2]) == (site, wanted)):
            here = places[cut]
            if isinstance(value, int):
                value = plainly(asked, site, value, parts)[0][cut]  # noqa: PLW2901
            for place, number in zip(here.flat, np.broadcast_to(value, here.shape).flat, strict=True):
                at = np.unravel_index(place, cells.shape)
                old, new = cells[at], kind(number)
                cells[at] = {"scale": old * new, "add": old + new, "set": new}[verb]
                size[at] = {"scale": size[at] * abs(new), "add": size[at] + abs(new), "set": abs(new)}[verb]
    return cells, size


@given(st.data())
def test_a_tensor_is_changed_as_numpy_changes_it_cell_by_cell(spec: ModelSpec, data: st.DataObject) -> None:
    asked = draw_wishes(data, spec)
    sequences, longest = asked.sequences(), max(asked.lengths)
    edits, generator = Edits(sequences, spec), np.random.default_rng(data.draw(st.integers(0, 99)))
    assert bool(edits) == any(asked.wishes)
    for site in edits.probes(0):
        tensor = spec.tensor(Output(0, site))
        shape = [len(sequences), *(longest if size == -1 else size for size in tensor.shape[1:])]
        values = generator.normal(0, 10, shape).astype(np.float32)
        before = values.copy()
        changed = edits.change(Output(0, site), values)
        assert values.tobytes() == before.tobytes()
        parts = [unpad(before, tensor, row, length) for row, length in enumerate(asked.lengths)]
        for row, length in enumerate(asked.lengths):
            found = unpad(changed, tensor, row, length)
            assert found.tobytes() == plainly(asked, site, row, parts)[0].tobytes()
            exact, size = plainly(asked, site, row, [part.astype(np.float64) for part in parts])
            assert (np.abs(found - exact) <= 1e-6 * size).all()
            unpad(changed, tensor, row, length)[...] = parts[row]  # and behind it nothing has changed, but
            if site == "attention_scores" and any(wish[0] == site for wish in asked.wishes[row]):
                assert (changed[row, ..., length:] == -np.inf).all()
                changed[row, ..., length:] = before[row, ..., length:]
        assert changed.tobytes() == before.tobytes()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), st.integers(0, 7))
def test_who_is_taken_from_comes_along_and_nobody_else(pairs: list[tuple[int, int]], row: int) -> None:
    made: list[Sequence] = []
    takes = np.eye(8, dtype=np.int64)
    for taker in range(8):
        edits = tuple(Edit(Output(0, "query"), (), "set", source) for one, source in pairs if one == taker)
        made.append(Sequence(np.zeros((1, 8), np.float32), np.ones(1, np.bool_), (), edits, made))
    for taker, source in pairs:
        takes[taker, source] = 1
    needed = np.flatnonzero(np.linalg.matrix_power(takes, 8)[row])
    found = with_sources([made[row]])
    assert found[0] is made[row]
    assert sorted(map(id, found)) == sorted(id(made[one]) for one in needed)


def test_who_changes_nothing_in_a_changed_request_may_share_a_batch_with_who_looks_inside(
    artifact: Callable[[str], Path],
) -> None:
    runner = load_model(artifact("tiny"), read_settings([]), lambda: None).runner
    states = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    wanted = [(View(Output(None, "block_output")),), (View(Output(1, "query")),)]
    batch = [Sequence(states, np.ones(3, np.bool_), views) for views in wanted]
    for (found,), sequence in zip(runner.run(batch), batch, strict=True):
        assert np.array_equal(found, runner.run([sequence])[0][0])
