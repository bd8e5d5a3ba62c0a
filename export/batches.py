"""The batches that a proof runs: lengths, masks, and padding as the server pads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Padding = Literal["none", "right", "left", "holes", "masked"]

MIN_POSITIONS = 2  # a product of one row takes another path in onnxruntime; the server never runs fewer either


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences that run together: their lengths, and how each one's own mask is padded."""

    lengths: tuple[int, ...]
    padding: Padding

    def cut_to(self, longest: int | None) -> Self:
        """The same batch for a model that takes no more than `longest` positions."""
        if longest is None:
            return self
        return replace(self, lengths=tuple(min(length, longest) for length in self.lengths))


BATCHES = (
    Batch((1,), "none"),
    Batch((2,), "none"),
    Batch((3, 1, 2), "none"),
    Batch((7, 5), "right"),
    Batch((16, 9, 4, 13), "left"),
    Batch((33, 20, 6), "holes"),
    Batch((8, 5), "masked"),
    Batch((63, 64, 65), "none"),
    Batch((5, 17, 31, 2, 40, 1, 12, 23), "holes"),
    Batch((128, 100), "left"),
    Batch((300, 40), "right"),
    Batch((512,), "none"),
)


def make_masks(batch: Batch) -> list[Array]:
    """The mask of each sequence, int64 [length], 1 = attend."""
    masks = [np.ones(length, np.int64) for length in batch.lengths]
    for mask in masks:
        part = len(mask) // 3
        if batch.padding == "right" and part:
            mask[-part:] = 0
        if batch.padding == "left":
            mask[:part] = 0
        if batch.padding == "holes":
            mask[1::3] = 0
    if batch.padding == "masked":
        masks[-1][:] = 0
    return masks


def pad(rows: Sequence[Array]) -> Array:
    """Rows of different lengths as one batch, zero on the right, of at least two positions: as the server pads."""
    length = max(MIN_POSITIONS, *(len(row) for row in rows))
    batch = np.zeros((len(rows), length, *rows[0].shape[1:]), rows[0].dtype)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    return batch
