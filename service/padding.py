"""Sequences of different lengths to rectangles and back: pure functions.

A run is never shorter than 2 positions: the product of a single row takes another kernel in onnxruntime, whose last bit
differs, and an answer must not depend on its neighbours.
"""

import numpy as np

from service.cost import Cost
from service.manifest import SEQUENCE_AXES, TensorSpec
from service.tensors import Batch, Float32Array, Int64Array, Sequence

MIN_POSITIONS = 2


def choose(lengths: list[int], cost: Cost) -> list[int]:
    """Chooses a batch from waiting entries of one kind.

    The first in line leads. Whoever is nearest to the batch in length joins, the shorter or the longer one, whichever
    saves more: a run of its own, less what it makes this one longer, padding included. It ends when nobody saves time.

    Args:
        lengths: positions of each waiting entry, first in line first; not empty.
        cost: of runs, and the padded area that a batch stays within; the leader runs even if it alone exceeds it.

    Returns:
        Indices into `lengths`, ascending, 0 among them.
    """
    if len(lengths) == 1:
        return [0]
    lengths = [max(length, MIN_POSITIONS) for length in lengths]  # as they are run
    # By length, and of one length the first in line nearest to the leader.
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i if lengths[i] >= lengths[0] else -i))
    low = order.index(0)
    # Those as long as the leader save a whole start each, more than any other can.
    within = cost.batch_tokens // lengths[0]
    high = low + max(1, min(lengths.count(lengths[0]), within)) - 1
    while True:
        size, longest = high - low + 1, lengths[order[high]]
        saved = {
            place: _saved_s(cost, size, longest, lengths[order[place]])
            for place in (low - 1, high + 1)
            if 0 <= place < len(order) and (size + 1) * max(longest, lengths[order[place]]) <= cost.batch_tokens
        }
        place = max(saved, key=saved.__getitem__, default=0)
        if saved.get(place, 0.0) <= 0:
            return sorted(order[low : high + 1])
        low, high = min(low, place), max(high, place)


def _saved_s(cost: Cost, size: int, longest: int, length: int) -> float:
    """Seconds that one more sequence saves by joining a batch instead of running alone."""
    joined_s = cost.seconds(size + 1, max(longest, length)) - cost.seconds(size, longest)
    return cost.seconds(1, length) - joined_s


def pad(sequences: list[Sequence], *, positions: bool = False) -> Batch:
    """Stacks sequences, padded on the right with zeros that the mask hides.

    Args:
        sequences: of one model.
        positions: whether the batch is to have `position_ids`: those of each sequence, or 0, 1, 2 and so on.
    """
    lengths = {len(sequence) for sequence in sequences}
    longest = max(MIN_POSITIONS, *lengths)
    position_ids = _positions(sequences, longest) if positions else None
    if len(sequences) == 1 and len(sequences[0]) == longest:
        alone = sequences[0]
        return Batch(alone.hidden_states[None], alone.attention_mask[None].astype(np.int64), position_ids)
    if lengths == {longest}:  # in half the time
        hidden_states = np.stack([sequence.hidden_states for sequence in sequences])
        masks = np.stack([sequence.attention_mask for sequence in sequences])
        return Batch(hidden_states, masks.astype(np.int64), position_ids)
    width = sequences[0].hidden_states.shape[1]
    hidden_states = np.empty((len(sequences), longest, width), np.float32)
    attention_mask = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        hidden_states[row, :length] = sequence.hidden_states
        hidden_states[row, length:] = 0
        attention_mask[row, :length] = sequence.attention_mask
    return Batch(hidden_states, attention_mask, position_ids)


def _positions(sequences: list[Sequence], longest: int) -> Int64Array:
    found = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in zip(found, sequences, strict=True):
        given = sequence.position_ids
        row[: len(sequence)] = np.arange(len(sequence)) if given is None else given
    return found


def unpad(values: Float32Array, tensor: TensorSpec, row: int, length: int) -> Float32Array:
    """One sequence's part of a batched tensor: its row, cut to its length on every sequence axis (a view)."""
    cut = (slice(length) if axis in SEQUENCE_AXES else slice(None) for axis in tensor.axes[1:])
    part: Float32Array = values[(row, *cut)]
    return part
