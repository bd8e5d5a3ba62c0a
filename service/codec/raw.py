"""Tensors as bytes: little-endian, in C order, looked at where they lie."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.tensors import Float32Array

FLOAT32, FLOAT16, INT64 = np.dtype("<f4"), np.dtype("<f2"), np.dtype("<i8")
BFLOAT16 = np.dtype("<u2")  # the upper half of a float32; numpy has none of its own
BOOL = np.dtype("u1")  # a byte that may turn out to be neither 0 nor 1


def view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The bytes as an array; a copy if they do not lie as the machine wants them.

    Args:
        data: just as many bytes as the shape takes.
        dtype: one of this file's.
        shape: sizes, each at least 1.
    """
    values = np.frombuffer(data, dtype)
    if not values.flags.aligned:
        values = np.frombuffer(bytes(data), dtype)  # not copy(), which goes number by number, ten times as long
    return values.reshape(shape)


def widen(values: NDArray[Any]) -> Float32Array:
    """Exactly these numbers in float32, without a copy if they are of it already; NaN and infinities stay."""
    if values.dtype == BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
