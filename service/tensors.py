"""What a model's runs are made of: tensors, what is wanted of them, sequences and batches.

What every request makes one of is a named tuple: a frozen dataclass takes several times as long to make, and to hash.
"""

from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Output(NamedTuple):
    """A tensor of a model: a probe of a layer, or of all (layer None) `block_output` or `attention_rollout`."""

    layer: int | None
    probe: str


class Span(NamedTuple):
    """A slice of an axis, as numpy's basic slicing reads it."""

    start: int | None = None
    stop: int | None = None
    step: int | None = None


Cut = tuple[int | Span, ...]  # an index or a slice for each axis of a tensor but the batch's; empty: all of it


class Reduction(NamedTuple):
    """What an address asks of the last axis, or of one that it names.

    Attributes:
        name: entropy, norm, mean, max or top.
        axis: counted in what the cut left.
        k: for top, how many.
    """

    name: str
    axis: int = -1
    k: int = 0


class View(NamedTuple):
    """What an address stands for: a tensor, and what is wanted of it.

    Attributes:
        output: the tensor.
        cut: of it.
        reduction: of what the cut left.
    """

    output: Output
    cut: Cut = ()
    reduction: Reduction | None = None


class Edit(NamedTuple):
    """A change of some cells of one sequence's tensor on its way through the layers.

    Attributes:
        output: the tensor.
        cut: the cells.
        verb: scale, add or set.
        value: float32 that broadcasts to the cells; or the sequence of the request whose same cells are taken.
    """

    output: Output
    cut: Cut
    verb: str
    value: Float32Array | int


class Top(NamedTuple):
    """The largest of an axis, the largest first.

    Attributes:
        values: float32 [..., k].
        indices: int64 [..., k], where they were in what the cut left.
    """

    values: Float32Array
    indices: Int64Array


Found = Float32Array | Top


@dataclass(frozen=True, slots=True)
class Sequence:
    """One checked sequence, the unit of batching.

    Attributes:
        hidden_states: float32 [sequence, hidden], finite, zero where `attention_mask` is False.
        attention_mask: bool [sequence], True = attend.
        views: what the runner is to give, in order.
        edits: what is changed on the way, in the order of the request.
        request: all sequences of its request, from which an edit may take; empty where none does.
        position_ids: int64 [sequence], of which the model has a rotation; None = 0, 1, 2 and so on.
    """

    hidden_states: Float32Array
    attention_mask: BoolArray
    views: tuple[View, ...]
    edits: tuple[Edit, ...] = ()
    request: abc.Sequence["Sequence"] = ()
    position_ids: Int64Array | None = None

    def __len__(self) -> int:
        """Positions, padding not counted."""
        return int(self.hidden_states.shape[0])


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of different lengths as one rectangle.

    Attributes:
        hidden_states: float32 [batch, sequence, hidden], zero where padded.
        attention_mask: int64 [batch, sequence], 1 = attend, 0 where padded.
        position_ids: int64 [batch, sequence], 0 where padded; None for a model that takes none.
    """

    hidden_states: Float32Array
    attention_mask: Int64Array
    position_ids: Int64Array | None = None
