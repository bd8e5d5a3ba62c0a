"""Cuts and reductions as text: numpy's own indexing says what they mean."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.cut import check_lengths, read_cut, read_reduction, view_bytes
from service.errors import GlassblockError
from service.manifest import TensorSpec
from service.tensors import Output, Reduction, Top, View
from service.view import take
from tests.changes import text_of

HEADS, LENGTH = 3, 5
WEIGHTS = TensorSpec(
    name="attention_weights", dtype="float32", axes=["batch", "head", "query", "key"], shape=[-1, HEADS, -1, -1]
)
CELLS = np.random.default_rng(0).random((HEADS, LENGTH, LENGTH)).astype(np.float32)
OUTPUT = Output(0, "attention_weights")

integers = st.integers(-7, 7)
bounds = st.none() | integers
slices = st.builds(slice, bounds, bounds, bounds.filter(lambda step: step != 0))
items = st.lists(integers | slices, max_size=4)


def read(cut: str, lengths: list[int], reduction: str | None = None) -> View:
    items = read_cut(cut, WEIGHTS, "outputs[7]")
    view = View(OUTPUT, items, read_reduction(reduction, WEIGHTS, items, "outputs[7]"))
    check_lengths(view, WEIGHTS, lengths, "outputs[7]")
    return view


def numpy_says(cut: tuple[Any, ...], length: int) -> NDArray[np.float32] | None:
    try:
        found: NDArray[np.float32] = CELLS[:, :length, :length][cut]
    except IndexError:
        return None
    return found


@given(items, st.integers(0, 4) | st.none(), st.integers(1, LENGTH), st.sampled_from(["", " "]))
def test_a_cut_is_what_numpy_makes_of_it(cut: list[Any], dots: int | None, length: int, space: str) -> None:
    if dots is not None:
        cut.insert(min(dots, len(cut)), ...)
    text = ",".join(space + text_of(item) + space for item in cut)
    want = numpy_says(tuple(cut), length) if cut else None
    if want is None:
        with pytest.raises(GlassblockError):
            read(text, [length])
        return
    view = read(text, [length])
    found = take(CELLS[:, :length, :length], view)
    assert np.array_equal(found, want)
    assert view_bytes(view, WEIGHTS, {length: 1}, padded=False) == want.nbytes


@given(items.filter(bool), st.lists(st.integers(1, LENGTH), min_size=1), st.sampled_from([None, "norm", "top"]))
def test_an_answers_bytes_are_known_before_the_run(cut: list[Any], lengths: list[int], name: str | None) -> None:
    text = ",".join(map(text_of, cut))
    reduction = None if name is None else Reduction(name, k=2)
    try:
        view = read(text, lengths)._replace(reduction=reduction)
    except GlassblockError:
        return
    if reduction is not None and all(isinstance(item, int) for item in view.cut):
        return
    found = [take(CELLS[:, :length, :length], view) for length in lengths]
    parts: list[list[NDArray[Any]]] = [list(part) if isinstance(part, Top) else [part] for part in found]
    counted = {length: lengths.count(length) for length in lengths}
    assert view_bytes(view, WEIGHTS, counted, padded=False) == sum(array.nbytes for arrays in parts for array in arrays)
    widest = [np.max([arrays[i].shape for arrays in parts], axis=0, initial=0) for i in range(len(parts[0]))]
    padded = sum(int(np.prod(shape)) * parts[0][i].itemsize * len(lengths) for i, shape in enumerate(widest))
    assert view_bytes(view, WEIGHTS, counted, padded=True) == padded


CUT = "expected integers, slices A:B or A:B:STEP and ... between the brackets"
MANY = "expected at most 3 items (head, query, key) and one ..., got others"
WRONG_CUTS = {
    "": CUT, "a": CUT, "1.5": CUT, "None": CUT, "1:2:3:4": CUT, ",": CUT, "0,": CUT, "1 2": CUT, "+1": CUT, "--1": CUT,
    "\u0661": CUT, "1" * 10: CUT, "....": CUT, "[0]": CUT, "True": CUT, "0x1": CUT,
    "0,0,0,0": MANY, "...,...": MANY, "0,0,...,0,0": MANY,
    "::0": "expected a step other than 0",
    "3": "expected an index from -3 to 2 of axis head",
    "-4": "expected an index from -3 to 2 of axis head",
    "0,5": "expected an index from -5 to 4 of axis query in sequence 0",
    "...,4": "expected an index from -3 to 2 of axis key in sequence 1",
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG_CUTS.items())
def test_a_wrong_cut_is_refused_in_words(text: str, sentence: str) -> None:
    with pytest.raises(GlassblockError) as refused:
        read(text, [5, 3] if text == "...,4" else [5, 6])
    assert (str(refused.value), refused.value.at, refused.value.status) == (sentence, "outputs[7]", 422)


BAR = "expected entropy, norm, mean(AXIS), max(AXIS) or top(K) behind the bar"
LEFT = "expected an axis that is left, one of head, query, key"
TOP = "expected top(K) with K from 1 to 1,000,000"
WRONG_REDUCTIONS = {
    "": BAR, "min(head)": BAR, "norm()": BAR, "entropy(key)": BAR, "mean": BAR, "top": BAR,
    "norm|norm": f"{BAR}; did you mean norm?",
    "entropi": f"{BAR}; did you mean entropy?", "maxx(key)": f"{BAR}; did you mean max?",
    "mean()": LEFT, "mean(0)": LEFT, "max(batch)": LEFT, "max(Head)": LEFT,
    "top()": TOP, "top(0)": TOP, "top(-1)": TOP, "top(1.0)": TOP, "top(1000001)": TOP, "top(\u0661)": TOP,
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG_REDUCTIONS.items())
def test_a_wrong_reduction_is_refused_in_words(text: str, sentence: str) -> None:
    with pytest.raises(GlassblockError) as refused:
        read_reduction(text, WEIGHTS, (), "outputs[7]")
    assert (str(refused.value), refused.value.at, refused.value.status) == (sentence, "outputs[7]", 422)


UNFIT = {
    ("0,0,0", "norm"): "expected an axis to reduce, but the cut leaves a single number",
    ("0", "mean(head)"): "expected an axis that is left, one of query, key",
    ("..., 1:", "entropy"): "expected entropy of attention_weights whose axis key is not cut",
    ("..., 0", "entropy"): "expected entropy of attention_weights whose axis key is not cut",
    (":, 2:", "max(query)"): "expected something to take the max of, but the cut leaves nothing in sequence 1",
    ("3:", "mean(head)"): "expected something to take the mean of, but the cut leaves nothing in sequence 0",
}


@pytest.mark.parametrize(("texts", "sentence"), UNFIT.items())
def test_a_reduction_that_the_cut_leaves_no_place_for_is_refused(texts: tuple[str, str], sentence: str) -> None:
    with pytest.raises(GlassblockError) as refused:
        read(texts[0], [5, 2], texts[1])
    assert (str(refused.value), refused.value.at) == (sentence, "outputs[7]")
