"""Sequences of different lengths to rectangles and back: pure functions.

A run is never shorter than 2 positions: the product of a single row takes another kernel in onnxruntime, whose last bit
differs, and an answer must not depend on its neighbours.
"""

import numpy as np

from service.manifest import SEQUENCE_AXES, TensorSpec
from service.tensors import Batch, Float32Array, Sequence

MIN_POSITIONS = 2


def length_class(length: int) -> int:
    """Class of lengths that may share a batch: at most half of the padded area is padding."""
    return max(length - 1, 1).bit_length()


def choose(lengths: list[int], max_batch_tokens: int) -> list[int]:
    """Chooses a batch from waiting entries of one kind.

    The oldest leads; entries of its length class join it in order of age while the padded area stays in the budget.

    Args:
        lengths: positions of each waiting entry, oldest first; not empty.
        max_batch_tokens: greatest padded area, in positions; the leader runs even if it alone exceeds it.

    Returns:
        Indices into `lengths`, ascending, 0 among them.
    """
    chosen, longest, wanted = [0], max(lengths[0], MIN_POSITIONS), length_class(lengths[0])
    for index in range(1, len(lengths)):
        if length_class(lengths[index]) != wanted:
            continue
        padded = max(longest, lengths[index])
        if padded * (len(chosen) + 1) <= max_batch_tokens:
            chosen.append(index)
            longest = padded
    return chosen


def pad(sequences: list[Sequence]) -> Batch:
    """Stacks sequences, padded on the right with zeros that the mask hides."""
    longest = max(MIN_POSITIONS, *(len(sequence) for sequence in sequences))
    if len(sequences) == 1 and len(sequences[0]) == longest:
        alone = sequences[0]
        return Batch(alone.hidden_states[None], alone.attention_mask[None].astype(np.int64))
    width = sequences[0].hidden_states.shape[1]
    hidden_states = np.zeros((len(sequences), longest, width), np.float32)
    attention_mask = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        hidden_states[row, : len(sequence)] = sequence.hidden_states
        attention_mask[row, : len(sequence)] = sequence.attention_mask
    return Batch(hidden_states, attention_mask)


def unpad(values: Float32Array, tensor: TensorSpec, row: int, length: int) -> Float32Array:
    """One sequence's part of a batched tensor: its row, cut to its length on every sequence axis (a view)."""
    cut = (slice(length) if axis in SEQUENCE_AXES else slice(None) for axis in tensor.axes[1:])
    part: Float32Array = values[(row, *cut)]
    return part
