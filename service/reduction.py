"""What stands for an axis: one number of its cells, or the largest of them (docs/addresses.md has the formulas).

All is computed over rows that lie one behind the other, a block at a time, and summed in float64: the same bits
wherever the tensor lay in a batch, and little memory beside a long sequence's maps.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.tensors import Float32Array, Found, Int64Array, Reduction, Top

_BLOCK_CELLS = 2**18
_TINY = np.float32(1e-45)  # the least above 0
Float64Array = NDArray[np.float64]


def reduce(array: Float32Array, reduction: Reduction) -> Found:
    """Reduces one axis of one sequence's tensor.

    Args:
        array: float32, any strides.
        reduction: which, and of what axis.

    Returns:
        float32 without the axis; for top, it is the last one and of size k.
    """
    rows = np.moveaxis(array, reduction.axis, -1)
    if reduction.name == "top":
        return _top(rows, reduction.k)
    found = np.empty(rows.shape[:-1], np.float32)
    with np.errstate(over="ignore"):  # a norm beyond float32's range is infinite
        _by_block(rows, _REDUCTIONS[reduction.name], found)
    return found


def _entropy(rows: Float32Array) -> Float64Array:
    """−Σ p·ln p in nats, where 0·ln 0 = 0; float32's logarithm, a quarter of the time of float64's."""
    terms = np.log(np.maximum(rows, _TINY))
    terms *= np.maximum(rows, 0)
    found: Float64Array = -terms.sum(axis=1, dtype=np.float64)
    return found + 0.0  # never −0


def _norm(rows: Float32Array) -> Float64Array:
    wide = rows.astype(np.float64)
    found: Float64Array = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return found


def _mean(rows: Float32Array) -> Float64Array:
    found: Float64Array = rows.mean(axis=1, dtype=np.float64)
    return found


def _max(rows: Float32Array) -> Float32Array:
    found: Float32Array = rows.max(axis=1)
    return found


_REDUCTIONS: dict[str, Callable[[Float32Array], NDArray[Any]]] = {
    "entropy": _entropy,
    "norm": _norm,
    "mean": _mean,
    "max": _max,
}


def _top(rows: Float32Array, count: int) -> Top:
    count = min(count, rows.shape[-1])
    values = np.empty((*rows.shape[:-1], count), np.float32)
    indices = np.empty(values.shape, np.int64)

    def choose(block: Float32Array) -> Int64Array:
        return _largest(block, count)

    _by_block(rows, choose, indices)
    for place in np.ndindex(rows.shape[:-1]):
        values[place] = rows[place][indices[place]]
    return Top(values, indices)


def _largest(rows: Float32Array, count: int) -> Int64Array:
    """Where the `count` largest of each row are, the largest first, of equal ones the first; NaN comes last."""
    ranked = np.where(np.isnan(rows), -np.inf, rows)
    if count in {0, rows.shape[1]}:
        return np.argsort(-ranked, axis=1, kind="stable")[:, :count]
    least = np.partition(ranked, -count, axis=1)[:, -count, None]
    above, equal = ranked > least, ranked == least
    room = count - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    places = np.nonzero(chosen)[1].reshape(len(rows), count)
    order = np.argsort(-np.take_along_axis(ranked, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def _by_block(rows: Float32Array, function: Callable[[Float32Array], NDArray[Any]], found: NDArray[Any]) -> None:
    """Fills `found` [..., or ..., k] with what the function says of the rows [..., n], some at a time."""
    if rows.ndim == 1:
        rows, found = rows[None], found[None]
    step = max(1, _BLOCK_CELLS // max(1, rows.shape[-1]))
    for place in np.ndindex(rows.shape[:-2]):
        for begin in range(0, rows.shape[-2], step):
            block = np.ascontiguousarray(rows[place][begin : begin + step])
            found[place][begin : begin + step] = function(block)


class Rollout:
    """Attention rollout over the layers of one sequence: Abnar and Zuidema, https://arxiv.org/abs/2005.00928.

    For each layer Â = ½·mean over heads of A + ½·I, its rows made to sum to 1; the rollout is Â_last · … · Â_0.
    """

    def __init__(self) -> None:
        self._product: Float64Array | None = None

    def add(self, attention_weights: Float32Array) -> None:
        """Takes the next layer's, float32 [head, query, key]."""
        mixed = np.zeros(attention_weights.shape[1:], np.float64)
        for head in attention_weights:
            mixed += head
        mixed /= 2 * len(attention_weights)
        mixed[np.diag_indices_from(mixed)] += 0.5
        mixed /= mixed.sum(axis=1, keepdims=True)
        self._product = mixed if self._product is None else mixed @ self._product

    def result(self) -> Float32Array:
        """Float32 [query, key]: how much of each position's stream each position's input is."""
        if self._product is None:
            raise ValueError("no layer was added")
        return self._product.astype(np.float32)
