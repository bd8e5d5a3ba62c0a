"""Reductions against numpy in float64, wherever the tensor lies in memory."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.reduction import Rollout, reduce
from service.tensors import Reduction, Top

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9)
numbers = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, shapes, elements=numbers)
few = hnp.arrays(np.float32, shapes, elements=st.sampled_from([-1.0, 0.0, -0.0, 2.0, 2.5]))  # with many ties


def softmax(array: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp((array - array.max(-1, keepdims=True)) / 1e5)
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True), np.float32)


def assert_close(got: Any, want: NDArray[np.float64]) -> None:
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 1e-6 * np.abs(want) + 1e-7).all()


@given(arrays)
def test_entropy_is_in_nats_and_nothing_has_none(array: NDArray[np.float32]) -> None:
    weights = softmax(array)
    weights[..., :1] *= weights[..., :1] > 0.5  # some rows are no distributions, some cells are 0
    exact = weights.astype(np.float64)
    terms = [[-p * np.log(p) if p else 0.0 for p in row] for row in exact.reshape(-1, exact.shape[-1])]
    assert_close(reduce(weights, Reduction("entropy")), np.sum(terms, axis=1).reshape(exact.shape[:-1]))
    assert reduce(np.zeros((2, 3), np.float32), Reduction("entropy")).tobytes() == bytes(8)  # type: ignore[union-attr]


@given(arrays)
def test_norm_is_the_euclidean_one(array: NDArray[np.float32]) -> None:
    assert_close(reduce(array, Reduction("norm")), np.linalg.norm(array.astype(np.float64), axis=-1))


@given(arrays, st.data())
def test_mean_and_max_are_of_the_axis_that_is_named(array: NDArray[np.float32], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, array.ndim - 1))
    assert_close(reduce(array, Reduction("mean", axis)), array.astype(np.float64).mean(axis))
    assert np.array_equal(reduce(array, Reduction("max", axis)), array.max(axis))


@given(arrays | few, st.integers(1, 12))
def test_top_gives_the_largest_first_and_of_equal_ones_the_first(array: NDArray[np.float32], count: int) -> None:
    found = reduce(array, Reduction("top", k=count))
    assert isinstance(found, Top)
    rows = array.reshape(-1, array.shape[-1])
    want = [sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:count] for row in rows]  # type: ignore[misc]
    assert found.indices.dtype == np.int64
    assert np.array_equal(found.indices, np.reshape(want, (*array.shape[:-1], -1)))
    assert np.array_equal(found.values, np.take_along_axis(array, found.indices, -1))


def test_top_of_what_is_not_finite_takes_numbers_before_nan() -> None:
    row = np.array([np.nan, -np.inf, 1, np.inf, np.nan], np.float32)
    for count in range(1, 6):
        found = reduce(row, Reduction("top", k=count))
        assert isinstance(found, Top)
        assert found.indices.tolist()[:2] == [3, 2][:count]
        assert len(set(found.indices.tolist())) == count


def test_a_norm_beyond_float32_is_infinite_without_a_warning() -> None:
    assert reduce(np.full((1, 4), 3e38, np.float32), Reduction("norm")) == [np.inf]


@pytest.mark.parametrize("name", ["entropy", "norm", "mean", "max", "top"])
def test_the_bits_do_not_depend_on_where_the_tensor_lies(name: str) -> None:
    array = softmax(np.random.default_rng(0).normal(size=(3, 70, 41)).astype(np.float32) * 1e5)
    wide = np.full((3, 90, 97), 9, np.float32)
    wide[:, :70, :41] = array
    turned = np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
    reduction = Reduction(name, k=7)
    expected = bits(reduce(array, reduction))
    for lying in (wide[:, :70, :41], turned, array[::-1][::-1]):
        assert bits(reduce(lying, reduction)) == expected


def bits(found: Any) -> list[bytes]:
    return [part.tobytes() for part in ((found.values, found.indices) if isinstance(found, Top) else (found,))]


def test_rows_that_need_several_blocks_are_all_there() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 2**17)).astype(np.float32)
    assert_close(reduce(array, Reduction("norm")), np.linalg.norm(array.astype(np.float64), axis=-1))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_rollout_is_abnars_and_zuidemas(layers: int, heads: int, length: int, seed: int) -> None:
    maps = softmax(np.random.default_rng(seed).normal(size=(layers, heads, length, length)).astype(np.float32) * 1e5)
    maps[:, :, -1] = 0  # a query with nothing to attend to keeps to itself
    rollout, want = Rollout(), np.eye(length)
    for layer in maps:
        rollout.add(layer)
        mixed = 0.5 * layer.astype(np.float64).mean(0) + 0.5 * np.eye(length)
        want = mixed / mixed.sum(1, keepdims=True) @ want
    assert_close(rollout.result(), want)
    assert np.allclose(rollout.result().sum(1), 1)
